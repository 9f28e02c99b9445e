# mujoco's names come from a compiled module, which a type checker cannot look into.
from typing import Any

def __getattr__(name: str) -> Any: ...
