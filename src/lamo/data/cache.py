"""Packed copies of datasets whose format is slow to read: an HDF5 group per episode (Minari, robomimic).

The first time such a file is read it is written as a store into `$LAMO_CACHE` (else `lamo/datasets` in
`$XDG_CACHE_HOME` or `~/.cache`), from then on the store is opened. A copy is used only for the very file that it was
made of: path, read options, size, time of change, and a digest of pieces of its content are all compared.
`LAMO_CACHE=off` reads without copies. The folder may be removed at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from lamo import __version__
from lamo.data.episodes import Episodes
from lamo.data.sources.options import ReadOptions
from lamo.data.store import SUFFIX, VERSION, open_store
from lamo.errors import LamoError, warn

VARIABLE, OFF = "LAMO_CACHE", "off"
WORTHWHILE = 1 << 24
"""Bytes from which on a file is copied; smaller ones are read in no time."""
_PIECES, _PIECE = 64, 1 << 12  # what is compared of a file's content: so many pieces of so many bytes, evenly spread


def cache_folder() -> Path | None:
    """Where copies lie; None where there are to be none."""
    told = os.environ.get(VARIABLE)
    if told:
        return None if told.lower() == OFF else Path(told).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lamo" / "datasets"


def fingerprint(files: Iterable[Path]) -> list[list[Any]] | None:
    """Path, size, time of change and a digest of 64 pieces of each file; None where they are too small to be copied."""
    out, total = [], 0
    for path in files:
        status = path.stat()
        total += status.st_size
        sha = hashlib.sha256()
        with path.open("rb") as file:
            for piece in range(_PIECES):
                file.seek(max(0, status.st_size - _PIECE) * piece // (_PIECES - 1))
                sha.update(file.read(_PIECE))
        out.append([str(path.resolve()), status.st_size, status.st_mtime_ns, sha.hexdigest()])
    return out if total >= WORTHWHILE else None


def through_cache(
    files: Iterable[Path],
    name: str,
    options: ReadOptions,
    blocks: Callable[[], Iterable[Episodes]],
) -> Episodes | None:
    """The episodes of these files from their copy, which is made of `blocks()` if it is not there.

    None where no copy is to be made, or none can be made (then with a warning). What is wrong with the files themselves
    is raised by `blocks`. `metadata["cache"]` of the result is the copy's path.
    """
    folder = cache_folder()
    print_of = fingerprint(files) if folder is not None else None
    if folder is None or print_of is None:
        return None
    key = json.dumps([print_of[0][0], asdict(options), name, __version__, VERSION])
    place = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}{SUFFIX}"
    found = _use(place, print_of, name)
    return found if found is not None else _make(place, print_of, name, blocks)


def _use(place: Path, print_of: list[list[Any]], name: str) -> Episodes | None:
    """The copy, if it is whole and of this file."""
    if not place.is_dir():
        return None
    try:
        episodes = open_store(place, str(place))
    except LamoError as error:
        warn(f"{error}; made anew")
        return None
    told = episodes.metadata.get("cached")
    if not isinstance(told, Mapping) or told.get("files") != print_of or not isinstance(told.get("metadata"), dict):
        return None
    counted = {key: episodes.metadata[key] for key in ("ends_inside", "episode_names") if key in episodes.metadata}
    return replace(episodes, metadata={**told["metadata"], **counted, "source": name, "cache": str(place)})


def _make(
    place: Path, print_of: list[list[Any]], name: str, blocks: Callable[[], Iterable[Episodes]]
) -> Episodes | None:
    from lamo.data.store_writer import StoreWriter

    aside = place.with_name(f".{place.name}.{os.getpid()}.old")
    with suppress(OSError):  # nothing there, or another process was faster
        place.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)
    reading = False
    try:
        with StoreWriter(place) as writer:
            about: dict[str, Any] = {}
            reading = True
            for block in blocks():
                reading = False
                about = about or block.metadata
                writer.append(block)
                reading = True
            reading = False
            writer.finish({"cached": {"files": print_of, "metadata": about}})
    except LamoError as error:
        if reading:  # the source itself is at fault
            raise
        if (other := _use(place, print_of, name)) is not None:  # another process has made it meanwhile
            return other
        warn(f"no packed copy is kept: {error}")
        return None
    print(f"lamo: {name}: a packed copy is kept in {place} ({VARIABLE}={OFF} reads without)", file=sys.stderr)
    return _use(place, print_of, name)
