"""Whether an environment, made by its id alone, is the one that data were recorded in: its arguments and its limit."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

import gymnasium

_UNSEEN = ("render_mode", "disable_env_checker")
"""Arguments that change nothing of what is recorded."""
_SHOWN = 60  # characters of a value


def differences(env: gymnasium.Env[Any, Any], metadata: Mapping[str, Any]) -> list[str]:
    """What the metadata of a recording (`env_kwargs`, `env_limit`: steps) say otherwise than this environment, such as
    `g is 9.0 there, 10.0 here`. Arguments that are left to the class are compared with its defaults.
    """
    here = dict(env.spec.kwargs) if env.spec is not None else {}
    parameters = inspect.signature(type(env.unwrapped).__init__).parameters
    found = []
    for key, value in (metadata.get("env_kwargs") or {}).items():
        default = parameters[key].default if key in parameters else inspect.Parameter.empty
        own = here.get(key, None if default is inspect.Parameter.empty else default)
        if key not in _UNSEEN and _plain(own) != value:
            found.append(f"{key} is {_short(value)} there, {_short(own)} here")
    limit, own = metadata.get("env_limit"), env.spec.max_episode_steps if env.spec is not None else None
    if limit is not None and limit != own:
        found.append(f"episodes have at most {limit} steps there, {'any number' if own is None else own} here")
    return found


def _plain(value: Any) -> Any:
    """As JSON gives it back; what it has no words for is itself."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
