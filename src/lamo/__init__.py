"""lamo: control policies from small logs of behaviour, starting from a pretrained language model.

    import lamo
    episodes = lamo.load_episodes("walker2d-medium.hdf5").subsample(0.01, seed=0)
    run = lamo.train(lamo.Experiment(task="reacher2d-medium", ratio=0.1), "runs/a")
    policy = lamo.load_policy("runs/a")

The public names load what they need when they are first used, so that `import lamo` costs nothing.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lamo.config import Experiment as Experiment
    from lamo.data.sources import load_episodes as load_episodes
    from lamo.data.sources.memory import episodes_from as episodes_from
    from lamo.evaluate_run import evaluate as evaluate
    from lamo.policy import load_policy as load_policy
    from lamo.train import train as train

__version__ = "0.1.0"
__all__ = ["Experiment", "episodes_from", "evaluate", "load_episodes", "load_policy", "train"]

_HOMES = {
    "Experiment": "lamo.config",
    "episodes_from": "lamo.data.sources.memory",
    "load_episodes": "lamo.data.sources",
    "load_policy": "lamo.policy",
}
# Modules that share their name with a public function.
_CALLABLE = {"train": "lamo.train", "evaluate": "lamo.evaluate_run"}


class _CallableModule(ModuleType):
    """`lamo.train` is the module, and calling it calls `lamo.train.train`: the name means one thing however reached."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        name = self.__name__.rpartition(".")[2]
        return getattr(importlib.import_module(_CALLABLE[name]), name)(*args, **options)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        if name in _CALLABLE and type(value) is ModuleType:  # the import system binds a submodule here
            value.__class__ = _CallableModule
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name in _CALLABLE:
        return importlib.import_module(f"lamo.{name}")
    if name in _HOMES:
        value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
        return value
    raise AttributeError(f"module 'lamo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
