"""Writing a stream of episodes into a file of any format, with what was done to it in the metadata."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lamo import __version__
from lamo.data.episodes import Episodes
from lamo.data.join import lineage
from lamo.data.relabel import warning
from lamo.data.sources.arrays import write_npz
from lamo.data.sources.beside import name_beside
from lamo.data.sources.d4rl import recorded_attributes, write_d4rl
from lamo.data.sources.lerobot_writer import write_lerobot
from lamo.data.sources.minari_writer import write_minari
from lamo.data.sources.options import ReadOptions, WriteOptions
from lamo.data.sources.robomimic_writer import write_robomimic
from lamo.data.sources.tables import write_table
from lamo.data.store import SUFFIX
from lamo.data.store_writer import StoreWriter
from lamo.data.stream import Stream, stream
from lamo.errors import LamoError, warn

Progress = Callable[[int, int | None], None]
"""Hears how many steps are written, and how many there are, where that is known."""


@dataclass(frozen=True)
class Format:
    """A format that is written."""

    suffixes: tuple[str, ...]
    """Of its files, the first where nobody chooses; none: it is a folder."""
    write: Callable[..., object]
    """(episodes, path), and `fps` where it is given."""
    silent: bool = False
    """It has no place for the history."""


def _is_written_as_it_is(episodes: Episodes, path: Path) -> None:
    """The store: what other formats are written from."""


def _write_d4rl(episodes: Episodes, path: Path) -> None:
    """D4RL's layout, with the attributes of the recording."""
    write_d4rl(episodes, path, recorded_attributes(episodes, path.name))


FORMATS = {
    "lamo": Format((SUFFIX,), _is_written_as_it_is),
    "hdf5": Format((".hdf5", ".h5"), _write_d4rl),
    "npz": Format((".npz",), write_npz),
    "csv": Format((".csv", ".tsv"), write_table, silent=True),
    "parquet": Format((".parquet", ".pq"), write_table),
}
"""Formats that the suffix tells."""
NAMED = {
    "minari": Format((), write_minari),
    "lerobot": Format((), write_lerobot),
    "robomimic": Format((".hdf5", ".h5"), write_robomimic),
}
"""Those that `--format` tells."""
SUFFIXES = tuple(suffix for each in FORMATS.values() for suffix in each.suffixes)


def format_of(path: Path, options: WriteOptions) -> Format:
    """How a result is written. Raises `LamoError` where its suffix names no format, or not the one asked for."""
    suffix = path.suffix.lower()
    if options.format is None:
        found = next((each for each in FORMATS.values() if suffix in each.suffixes), None)
        if found is None:
            raise LamoError(
                f"{path}: {path.suffix or 'no suffix'} is not a format that is written; give {', '.join(SUFFIXES)}, "
                f"or --format {', '.join(NAMED)}"
            )
        return found
    found = NAMED[options.format]
    if found.suffixes and suffix not in found.suffixes:
        raise LamoError(f"{path}: --format {options.format} is a file; give it the suffix {found.suffixes[0]}")
    if not found.suffixes and suffix in SUFFIXES:
        raise LamoError(f"{path}: --format {options.format} is a folder; give it a name without {path.suffix}")
    return found


def check_target(path: str | Path, options: WriteOptions | None = None) -> Path:
    """The path of a result. Raises `LamoError` where something lies there, or as `format_of` does."""
    path = Path(path)
    format_of(path, options or WriteOptions())
    if path.exists() or path.is_symlink():
        raise LamoError(f"{path} exists already; remove it, or give another name")
    return path


def write(
    blocks: Stream | Iterable[Episodes],
    path: str | Path,
    options: WriteOptions | None = None,
    *,
    command: str | None = None,
    sources: Sequence[dict[str, Any]] = (),
    entry: Callable[[], dict[str, Any]] = dict,
    progress: Progress = lambda done, total: None,
) -> Episodes:
    """Write blocks of episodes into a file or store that does not exist yet, its format by the suffix or `options`;
    return them, opened.

    Metadata is that of the first block; `history` grows by `command`, `sources` (what each is and, where it is known,
    its digest: that of an unchanged stream is worked out) and what `entry` says when all is written. `progress` hears
    of steps written, and in all where that is known. Formats other than the store are written from a store beside the
    result, which is removed, and read back into another: memory stays bounded, and what is returned is what the format
    holds. Raises `LamoError`; then nothing is left.
    """
    path = check_target(path, options)
    form = format_of(path, options or WriteOptions())
    total = blocks.steps if isinstance(blocks, Stream) else None
    as_it_was = isinstance(blocks, Stream) and not blocks.changed and len(sources) == 1
    about: dict[str, Any] = {}

    def described(digest: str) -> dict[str, Any]:
        told = [{**each, "digest": each.get("digest", digest)} if as_it_was else each for each in sources]
        done = {"command": command, "lamo": __version__, "sources": told, **entry()}
        kept = {key: value for key, value in about.items() if key not in ("parts", "cache")}
        return {**kept, "history": [*lineage(about), done]}

    final = form is FORMATS["lamo"]
    with _place(path, final) as place, StoreWriter(place) as writer:
        for block in blocks:
            about = about or block.metadata
            writer.append(block)
            progress(writer.steps, total)
        stored = writer.finish(described)
        if final:
            return stored
        named = replace(stored, metadata={**stored.metadata, "source": path.name})
        if form.silent and (said := warning(named.metadata)):
            warn(f"{path.name}: {path.suffix} has no place to say it: {said}")
        asked = {} if options is None or options.fps is None else {"fps": options.fps}
        form.write(named, path, **asked)
    return _read_back(path, ReadOptions(actions="continuous" if named.action_kind == "continuous" else "discrete"))


def _read_back(path: Path, options: ReadOptions) -> Episodes:
    """What lies at `path` now: most formats have no place for something (last observations, attributes, history)."""
    try:
        with opened(path.absolute(), options, path, lambda done, total: None) as episodes:
            return episodes
    except BaseException:  # a signal, too: nothing is left
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise


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
        named = {"source": found.source, "format": found.metadata.get("format")}
        yield replace(stored, metadata={**stored.metadata, **named})


@contextmanager
def _place(path: Path, final: bool) -> Iterator[Path]:
    """Where the store is written: the path itself, or a folder beside it that goes away."""
    if final:
        yield path
        return
    folder = name_beside(path)
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
        except OSError as error:
            raise LamoError(f"cannot write {path}: {error.strerror or error}") from error
        yield folder / f"whole{SUFFIX}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
