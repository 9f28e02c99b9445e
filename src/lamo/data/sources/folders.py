"""Datasets that are folders: what they may point to, and the JSON that describes them."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from lamo.errors import LamoError

JSON_BYTES = 1 << 24
"""A description larger than this describes nothing; those of known datasets are below 1 MiB."""


def inside(path: Path, root: Path, source: str) -> Path:
    """`path`, if it lies in the folder `root` once all links are followed. Raises `LamoError` where it does not.

    The Hugging Face cache keeps a snapshot as links into `blobs` beside it; those count as inside.
    """
    try:
        real, home = path.resolve(), root.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, a null byte
        raise LamoError(f"{source}: {path.name} cannot be followed ({error})") from error
    homes = [home]
    if home.parent.name == "snapshots":
        homes.append(home.parent.parent / "blobs")
    if not any(real.is_relative_to(each) for each in homes):
        raise LamoError(f"{source}: {path.name} leads out of the dataset's folder, which is not followed")
    return real


def read_object(path: Path, root: Path, source: str) -> dict[str, Any]:
    """The JSON object in a file of a dataset; NaN and infinities, which are not JSON, come as text.

    Raises `LamoError` where there is none, or one of more than 16 MiB.
    """
    try:
        text = _text(inside(path, root, source), path.name, source)
        value = json.loads(text, parse_constant=str, parse_float=_number)
    except (OSError, ValueError, RecursionError) as error:
        raise LamoError(f"{source}: {path.name} is not readable ({error})") from error
    if not isinstance(value, dict):
        raise LamoError(f"{source}: {path.name} is not a JSON object")
    return value


def _number(text: str) -> float | str:
    return value if math.isfinite(value := float(text)) else text


def _text(path: Path, name: str, source: str) -> str:
    if not path.is_file():
        raise LamoError(f"{source}: {name} is no file")
    if path.stat().st_size > JSON_BYTES:
        raise LamoError(f"{source}: {name} has {path.stat().st_size} bytes, more than any description needs")
    return path.read_text(encoding="utf-8")


def natural(name: str) -> list[Any]:
    """A sort key by which `run_2` comes before `run_10`."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d{1,18})", name)]
