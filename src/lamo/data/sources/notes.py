"""What formats of others have no field for: bounds and kinds of actions, the environment, the commands that made the
data. lamo leaves it as JSON where they have room, and reads it back.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from lamo.data.episodes import Episodes
from lamo.errors import LamoError

HISTORY = "history"
NOTES_BYTES = 1 << 20
"""Longer notes are none of lamo's."""
CARRIED = ("env", "action_low", "action_high", "action_choices", "action_nvec", HISTORY)
PARTS = ("observation_keys", "observation_sizes")


def history_text(history: list[Any], limit: int) -> str:
    """As JSON of at most about `limit` characters, so that it is read again: where it is too long, without sources."""
    text = json.dumps(history)
    if len(text) > limit:
        text = json.dumps([{**each, "sources": []} for each in history if isinstance(each, dict)])
    return text


def history_in(text: Any) -> dict[str, Any]:
    """What `history_text` wrote, as an entry of the metadata; none where it is anything else."""
    try:
        value = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        value = None
    return {HISTORY: value} if isinstance(value, list) else {}


def notes_text(episodes: Episodes, *, parts: bool = False) -> str:
    """What the metadata of the episodes knows, as JSON; `parts`: of the parts of an observation as well."""
    told: dict[str, Any] = {key: episodes.metadata.get(key) or None for key in (*CARRIED, *(PARTS if parts else ()))}
    told["actions"] = None if episodes.action_kind == "continuous" else "discrete"
    if counts := list(episodes.choices):
        told |= {"action_choices": counts[0]} if episodes.discrete else {"action_nvec": counts}
    if told[HISTORY]:
        told[HISTORY] = json.loads(history_text(told[HISTORY], NOTES_BYTES // 2))
    return json.dumps(told)


def read_notes(raw: str | bytes | None, name: str) -> dict[str, Any]:
    """What `notes_text` left, without what is None; nothing where there are none (files of others).

    Raises `LamoError` for notes that it cannot have left.
    """
    if raw is None:
        return {}
    try:
        notes = json.loads(raw) if len(raw) <= NOTES_BYTES else None
    except (ValueError, RecursionError):
        notes = None
    checks: dict[str, Callable[[Any], bool]] = {
        "env": _is_text,
        "action_low": _is_bound,
        "action_high": _is_bound,
        "action_choices": _is_count,
        "action_nvec": _are_counts,
        "actions": "discrete".__eq__,
        HISTORY: lambda value: isinstance(value, list),
        "observation_keys": lambda value: isinstance(value, list) and all(map(_is_text, value)),
        "observation_sizes": _are_counts,
    }
    if not isinstance(notes, dict) or not all(notes.get(key) is None or checks[key](notes[key]) for key in checks):
        raise LamoError(f"{name}: its notes under 'lamo' are damaged; write the file again")
    return {key: notes[key] for key in checks if notes.get(key) is not None}


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value < 1 << 62


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_count, value))


def _is_bound(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(number, int | float) for number in value)
