"""Writing a stream of episodes into a file of any format, with what was done to it in the metadata."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from lamo import __version__
from lamo.data.episodes import Episodes
from lamo.data.sources.d4rl import write_d4rl
from lamo.data.sources.tables import SUFFIXES as TABLES
from lamo.data.sources.tables import write_table
from lamo.data.store import SUFFIX
from lamo.data.store_writer import StoreWriter
from lamo.data.stream import Stream
from lamo.errors import LamoError

FORMATS = (SUFFIX, ".hdf5", ".h5", *TABLES)
Progress = Callable[[int, int | None], None]


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
    progress: Progress = lambda done, total: None,
) -> Episodes:
    """Write blocks of episodes into a file or store that does not exist yet, its format by the suffix; return them,
    opened.

    Metadata is that of the first block; `history` grows by `command` and `sources` (what each is and its digest).
    `progress` hears of steps written, and in all where that is known. Formats other than the store are written from a
    store beside the result, which is removed: memory stays bounded. Raises `LamoError`; then nothing is left.
    """
    path = check_target(path)
    total = blocks.steps if isinstance(blocks, Stream) else None
    entry = {"command": command, "lamo": __version__, "sources": list(sources)}
    final = path.suffix.lower() == SUFFIX
    with _place(path, final) as place, StoreWriter(place) as writer:
        metadata: dict[str, Any] | None = None
        for block in blocks:
            if metadata is None:
                metadata = {**block.metadata, "history": [*block.metadata.get("history", []), entry]}
            writer.append(block)
            progress(writer.steps, total)
        stored = writer.finish(metadata or {})
        if final:
            return stored
        named = replace(stored, metadata={**stored.metadata, "source": str(path)})
        write_table(named, path) if path.suffix.lower() in TABLES else write_d4rl(named, path)
    return named


@contextmanager
def _place(path: Path, final: bool):
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
