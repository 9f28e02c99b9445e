"""`lamo data relabel` and `lamo data score --out`: a source, read in blocks, written anew with what was done to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from lamo.data.convert import Progress, check_target, format_of, opened, write
from lamo.data.episodes import Episodes
from lamo.data.hindsight import Counts, Hindsight
from lamo.data.recut import described, quiet
from lamo.data.relabel import KEY, Relabelling, true_of
from lamo.data.score import in_metadata, score
from lamo.data.sources.options import ReadOptions, WriteOptions
from lamo.data.stream import BLOCK_BYTES
from lamo.errors import LamoError


def check_result(path: str | Path, target: WriteOptions | None = None) -> Path:
    """The path of a result that has to say what was done. Raises `LamoError` as `check_target` does, and for a format
    without a place for the history.
    """
    path = check_target(path, target)
    if format_of(path, target or WriteOptions()).silent:
        raise LamoError(
            f"{path}: {path.suffix} has no place to say what was done to it; give .lamo, .hdf5, .npz or .parquet"
        )
    return path


def relabel(
    source: str | Path,
    out: str | Path,
    change: Relabelling,
    options: ReadOptions | None = None,
    target: WriteOptions | None = None,
    *,
    command: str | None = None,
    progress: Progress = quiet,
) -> Episodes:
    """Write `source` into `out` with the rewards that `change` makes of its own; return the result, opened.

    Block by block; the history of the result says what was done, by which command, to data of which digest. Raises
    `LamoError` for what cannot be read or written, and for an `out` that exists; then nothing is left.
    """
    path = check_result(out, target)

    def changed(block: Episodes) -> Episodes:
        return replace(change(block), metadata=true_of(block.metadata))

    with opened(source, options or ReadOptions(), path, progress) as episodes:
        return write(
            map(changed, episodes.blocks(BLOCK_BYTES)),
            path,
            target,
            command=command,
            sources=[described(episodes)],
            entry=lambda: {KEY: change.description},
            progress=progress,
        )


def relabel_goals(
    source: str | Path,
    out: str | Path,
    make: Callable[[Episodes], Hindsight],
    options: ReadOptions | None = None,
    target: WriteOptions | None = None,
    *,
    command: str | None = None,
    progress: Progress = quiet,
) -> tuple[Episodes, Counts]:
    """Write `source` into `out` with copies of its episodes whose goals are those that they reached; return the result,
    opened, and what came of it.

    `make` gives the change for the episodes. Raises `LamoError` as `relabel` does, and where no episode is left.
    """
    path = check_result(out, target)
    counts = Counts()
    with opened(source, options or ReadOptions(), path, progress) as episodes:
        change = make(episodes)

        def blocks() -> Iterator[Episodes]:
            first = 0
            for block in episodes.blocks(max(1, BLOCK_BYTES // change.multiple)):
                found = change(block, first, counts)
                first += len(block)
                if found is not None:
                    yield replace(found, metadata=true_of(block.metadata, episodes_stay=False))

        result = write(
            blocks(),
            path,
            target,
            command=command,
            sources=[described(episodes)],
            entry=lambda: {KEY: change.describe(counts), "hindsight": vars(counts)},
            progress=progress,
        )
    return result, counts


def write_scored(
    source: str | Path,
    out: str | Path,
    task: str | None = None,
    options: ReadOptions | None = None,
    target: WriteOptions | None = None,
    *,
    command: str | None = None,
    progress: Progress = quiet,
) -> dict[str, Any]:
    """Score `source` and write a copy of it into `out` whose history holds the scores; return the report of `score`.

    Raises `LamoError` as `score` and `relabel` do.
    """
    path = check_result(out, target)
    with opened(source, options or ReadOptions(), path, progress) as episodes:
        report = score([episodes], episodes.metadata, task)
        write(
            episodes.blocks(BLOCK_BYTES),
            path,
            target,
            command=command,
            sources=[described(episodes)],
            entry=lambda: {"score": in_metadata(report)},
            progress=progress,
        )
    return report
