"""Writing a stream of episodes into a file of any format, with what was done to it in the metadata."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from lamo import __version__
from lamo.data.episodes import Episodes
from lamo.data.relabel import warning
from lamo.data.sources.arrays import write_npz
from lamo.data.sources.d4rl import write_d4rl
from lamo.data.sources.options import ReadOptions
from lamo.data.sources.tables import SUFFIXES as TABLES
from lamo.data.sources.tables import write_table
from lamo.data.store import SUFFIX
from lamo.data.store_writer import StoreWriter
from lamo.data.stream import Stream, stream
from lamo.errors import LamoError, warn

Progress = Callable[[int, int | None], None]
"""Hears how many steps are written, and how many there are, where that is known."""
_WRITERS: dict[str, Callable[[Episodes, Path], object]] = {
    ".hdf5": write_d4rl,
    ".h5": write_d4rl,
    ".npz": write_npz,
    **dict.fromkeys(TABLES, write_table),
}
FORMATS = (SUFFIX, *_WRITERS)
SILENT = (".csv", ".tsv", ".npz")
"""Formats without a place for the history."""


def check_target(path: str | Path) -> Path:
    """The path of a result. Raises `LamoError` where something lies there, or its suffix names no format."""
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise LamoError(
            f"{path}: {path.suffix or 'no suffix'} is not a format that is written; give {', '.join(FORMATS)}"
        )
    if path.exists() or path.is_symlink():
        raise LamoError(f"{path} exists already; remove it, or give another name")
    return path


def write(
    blocks: Stream | Iterable[Episodes],
    path: str | Path,
    *,
    command: str | None = None,
    sources: Sequence[dict[str, Any]] = (),
    entry: Callable[[], dict[str, Any]] = dict,
    progress: Progress = lambda done, total: None,
) -> Episodes:
    """Write blocks of episodes into a file or store that does not exist yet, its format by the suffix; return them,
    opened.

    Metadata is that of the first block; `history` grows by `command`, `sources` (what each is and its digest, which is
    the result's where it is not given) and what `entry` says when all is written. `progress` hears of steps written,
    and in all where that is known. Formats other than the store are written from a store beside the result, which is
    removed: memory stays bounded. Raises `LamoError`; then nothing is left.
    """
    path = check_target(path)
    total = blocks.steps if isinstance(blocks, Stream) else None
    about: dict[str, Any] = {}

    def described(digest: str) -> dict[str, Any]:
        told = [{**each, "digest": each.get("digest", digest)} for each in sources]
        done = {"command": command, "lamo": __version__, "sources": told, **entry()}
        return {**about, "history": [*about.get("history", []), done]}

    final = path.suffix.lower() == SUFFIX
    with _place(path, final) as place, StoreWriter(place) as writer:
        for block in blocks:
            about = about or block.metadata
            writer.append(block)
            progress(writer.steps, total)
        stored = writer.finish(described)
        if final:
            return stored
        named = replace(stored, metadata={**stored.metadata, "source": path.name})
        if path.suffix.lower() in SILENT and (said := warning(named.metadata)):
            warn(f"{path.name}: {path.suffix} has no place to say it: {said}")
        _WRITERS[path.suffix.lower()](named, path)
    return named


@contextmanager
def opened(source: str | Path, options: ReadOptions, beside: Path, progress: Progress) -> Iterator[Episodes]:
    """Any source as Episodes whose steps need no memory: a store as it is, else one written beside `beside` for as long
    as it is needed. What its reader holds in memory anyway is used from there.
    """
    found = stream(source, options)
    if found.whole is not None:
        yield found.whole
        return
    with _place(beside, False) as place, StoreWriter(place) as writer:
        for block in found:
            writer.append(block)
            progress(writer.steps, found.steps)
        stored = writer.finish(found.metadata)
        yield replace(stored, metadata={**stored.metadata, "source": found.source})


@contextmanager
def _place(path: Path, final: bool) -> Iterator[Path]:
    """Where the store is written: the path itself, or a folder beside it that goes away."""
    if final:
        yield path
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    except OSError as error:
        raise LamoError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        yield folder / f"whole{SUFFIX}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
