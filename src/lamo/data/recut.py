"""Datasets cut anew: converted, merged, split, subsampled. All read in blocks, write beside their result, and say in
its metadata what was done.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from lamo.data.convert import FORMATS, NAMED, Format, Progress, check_target, opened, write
from lamo.data.episodes import Episodes
from lamo.data.join import join, lineage
from lamo.data.relabel import true_of
from lamo.data.sources.beside import new_folder
from lamo.data.sources.options import ReadOptions, WriteOptions
from lamo.data.split import hold_out
from lamo.data.stream import of_episodes, stream
from lamo.errors import LamoError

Source = str | Path


def quiet(done: int, total: int | None) -> None:
    """Progress that nobody hears."""


def convert(
    source: Source,
    out: Source,
    options: ReadOptions | None = None,
    target: WriteOptions | None = None,
    *,
    command: str | None = None,
    progress: Progress = quiet,
) -> dict[str, Any]:
    """Write a dataset in the format of `out`'s suffix, or of `target`.

    Returns what was written: path, format, counts, digest.
    Raises `LamoError`, as all of these do, for what cannot be read, a result that exists, or one that cannot be
    written; then nothing is left.
    """
    path = check_target(out, target)
    found = stream(source, options or ReadOptions())
    about = {"source": found.source}
    return _told(write(found, path, target, command=command, sources=[about], progress=progress), path, [about], target)


def merge(
    sources: Sequence[Source],
    out: Source,
    options: ReadOptions | None = None,
    target: WriteOptions | None = None,
    *,
    command: str | None = None,
    progress: Progress = quiet,
) -> dict[str, Any]:
    """Write the episodes of all sources, one source after the other, as one dataset.

    Numbers of episodes are kept where no two are alike, else counted on. Raises `LamoError` where observations or
    actions are not of one kind, naming both.
    """
    path = check_target(out, target)
    if len(sources) < 2:
        raise LamoError(f"{len(sources)} datasets are nothing to merge; name two or more")
    with ExitStack() as stack:
        parts = [stack.enter_context(opened(each, options or ReadOptions(), path, progress)) for each in sources]
        whole = join(parts)
        told = [{**described(part), **_made(part)} for part in parts]
        whole.metadata.pop("parts", None)  # `told` says of each how it was made
        return _told(
            write(of_episodes(whole), path, target, command=command, sources=told, progress=progress),
            path,
            told,
            target,
        )


def subsample(
    source: Source,
    out: Source,
    options: ReadOptions | None = None,
    target: WriteOptions | None = None,
    *,
    ratio: float | None = None,
    episodes: int | None = None,
    seed: int = 0,
    command: str | None = None,
    progress: Progress = quiet,
) -> dict[str, Any]:
    """Write a random share of the episodes, those that `Episodes.subsample` draws: `ratio` of them, or so many."""
    path = check_target(out, target)
    if (ratio is None) == (episodes is None):
        raise LamoError("how many episodes? give --ratio (0.1: a tenth of them) or --episodes, one of the two")
    with opened(source, options or ReadOptions(), path, progress) as whole:
        if episodes is not None and not 1 <= episodes <= len(whole):
            raise LamoError(f"--episodes {episodes} is not within 1 … {len(whole)}, the episodes of {whole.source}")
        share = ratio if ratio is not None else (episodes or 0) / len(whole)
        told = [described(whole)]
        chosen = _fewer(whole, whole.subsample(share, seed))
        return _told(
            write(of_episodes(chosen), path, target, command=command, sources=told, progress=progress),
            path,
            told,
            target,
        )


def split(
    source: Source,
    out: Source,
    options: ReadOptions | None = None,
    target: WriteOptions | None = None,
    *,
    holdout: float | None = None,
    parts: int | None = None,
    suffix: str | None = None,
    command: str | None = None,
    progress: Progress = quiet,
) -> list[dict[str, Any]]:
    """Write a dataset in several files of a new folder `out`: `train` and `holdout` with the episodes that
    `--holdout` keeps from training, or `part_0` … with runs of episodes of about equally many steps. `suffix` (with
    or without its dot) is by default that of `target`, else `.lamo`.
    """
    folder = Path(out)
    if (holdout is None) == (parts is None):
        raise LamoError("split how? give --holdout (0.1: a tenth is held out) or --parts, one of the two")
    if folder.exists() or folder.is_symlink():
        raise LamoError(f"{folder} exists already; remove it, or give another name")
    if suffix is None:
        suffix = next(iter(_format(target).suffixes), "")
    elif suffix and not suffix.startswith("."):
        suffix = f".{suffix}"
    check_target(folder / f"train{suffix}", target)
    with opened(source, options or ReadOptions(), folder, progress) as whole, new_folder(folder) as place:
        told = [described(whole)]
        if holdout is not None:
            pieces = dict(zip(("train", "holdout"), hold_out(whole, holdout), strict=True))
        else:
            pieces = {f"part_{i}": whole.select(run) for i, run in enumerate(_runs(whole, parts or 0))}
        results = []
        for name, piece in pieces.items():
            path = place / f"{name}{suffix}"
            written = write(
                of_episodes(_fewer(whole, piece)), path, target, command=command, sources=told, progress=progress
            )
            results.append(_told(written, folder / path.name, told, target))
        del written
    return results


def _format(target: WriteOptions | None) -> Format:
    return NAMED[target.format] if target is not None and target.format is not None else FORMATS["lamo"]


def _runs(whole: Episodes, parts: int) -> Iterator[np.ndarray]:
    """Positions of the episodes of each part: runs of about equally many steps, none empty."""
    if not 1 < parts <= len(whole):
        raise LamoError(f"--parts {parts} is not within 2 … {len(whole)}, the episodes of {whole.source}")
    ends = np.searchsorted(whole.offsets, np.arange(1, parts) * (whole.steps / parts))
    bounds = [0]
    for i, end in enumerate(ends.tolist()):  # each part has at least one episode, and leaves one for each to come
        bounds.append(min(max(end, bounds[-1] + 1), len(whole) - (parts - 1 - i)))
    bounds.append(len(whole))
    return (np.arange(a, b) for a, b in pairwise(bounds))


def _fewer(whole: Episodes, chosen: Episodes) -> Episodes:
    """Some of the episodes without what the attributes say of all: mean return, number, seeds."""
    if len(chosen) == len(whole):
        return chosen
    return replace(chosen, metadata=true_of(chosen.metadata, episodes_stay=False))


def described(episodes: Episodes) -> dict[str, Any]:
    """What `history` says of a source: what it was called, and the digest of its data."""
    return {"source": episodes.source, "digest": episodes.digest()}


def _made(episodes: Episodes) -> dict[str, Any]:
    """How a source was made itself, where it says."""
    history = lineage(episodes.metadata)
    return {"history": history} if history else {}


def _told(
    written: Episodes, path: Path, sources: Sequence[dict[str, Any]], target: WriteOptions | None
) -> dict[str, Any]:
    return {
        "out": str(path),
        "format": (target and target.format) or path.suffix.lower().removeprefix("."),
        "episodes": len(written),
        "steps": written.steps,
        "digest": written.digest(),
        "sources": [each["source"] for each in sources],
    }
