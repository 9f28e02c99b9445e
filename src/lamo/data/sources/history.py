"""`history`: which commands made the data, as text in formats that have a place for some."""

from __future__ import annotations

import json
from typing import Any

HISTORY = "history"


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
