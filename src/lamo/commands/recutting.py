"""`lamo data convert`, `merge`, `split` and `subsample`."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from lamo.commands import answer, parse, stdout_kept_clean
from lamo.data.sources.options import ReadOptions, WriteOptions


@dataclass
class Convert:
    """Write a dataset in another format, larger than memory or not."""

    source: Positional[str]
    """What to read: a file, a folder, a Minari id or an embedded name."""
    out: Positional[Path]
    """What to write, which must not exist: .lamo (a packed store, to train from directly), .hdf5 (D4RL's layout), .npz,
    .parquet, .csv or .tsv; or what --format says."""
    options: ReadOptions = field(default_factory=ReadOptions)
    target: WriteOptions = field(default_factory=WriteOptions)
    quiet: bool = False
    """No progress."""
    json: bool = False
    """Print one JSON object: out, format, episodes, steps, digest, sources."""


@dataclass
class Merge:
    """Write the episodes of several datasets as one."""

    sources: Positional[tuple[str, ...]]
    """What to read, two or more; their episodes come in this order."""
    out: Path
    """What to write, which must not exist; its suffix or --format says the format, as for `lamo data convert`."""
    options: ReadOptions = field(default_factory=ReadOptions)
    target: WriteOptions = field(default_factory=WriteOptions)
    quiet: bool = False
    """No progress."""
    json: bool = False
    """Print one JSON object: out, format, episodes, steps, digest, sources."""


@dataclass
class Split:
    """Write a dataset in several files: what is trained on and what is held out, or parts of about equal size."""

    source: Positional[str]
    """What to read."""
    out: Path
    """The folder to write, which must not exist: train and holdout, or part_0, part_1, …"""
    holdout: float | None = None
    """Share of the episodes, in (0, 1), that is held out: those that `lamo train --holdout` keeps from training."""
    parts: int | None = None
    """Number of parts, each a run of episodes."""
    suffix: str | None = None
    """Format of the files, as for `lamo data convert`, with or without the dot; by default .lamo, or what --format
    asks for."""
    options: ReadOptions = field(default_factory=ReadOptions)
    target: WriteOptions = field(default_factory=WriteOptions)
    quiet: bool = False
    """No progress."""
    json: bool = False
    """Print one JSON object: `parts`, each with out, format, episodes, steps, digest, sources."""


@dataclass
class Subsample:
    """Write a random share of a dataset's episodes: those that `lamo train --ratio` would use."""

    source: Positional[str]
    """What to read."""
    out: Path
    """What to write, which must not exist; its suffix or --format says the format, as for `lamo data convert`."""
    ratio: float | None = None
    """Share of the episodes, in (0, 1]."""
    episodes: int | None = None
    """Number of episodes, instead of --ratio."""
    seed: int = 0
    """Seed of the choice. With one seed fewer episodes are a subset of more."""
    options: ReadOptions = field(default_factory=ReadOptions)
    target: WriteOptions = field(default_factory=WriteOptions)
    quiet: bool = False
    """No progress."""
    json: bool = False
    """Print one JSON object: out, format, episodes, steps, digest, sources."""


def convert_verb(argv: list[str]) -> int:
    """`lamo data convert`."""
    chosen = parse(Convert, "data convert", argv)
    with stdout_kept_clean(chosen.json):
        from lamo.data.recut import convert

        result = convert(
            chosen.source,
            chosen.out,
            chosen.options,
            chosen.target,
            **_common("convert", argv, chosen.quiet, chosen.source, chosen.out),
        )
    return answer(result, chosen.json, lambda: _line(result))


def merge_verb(argv: list[str]) -> int:
    """`lamo data merge`."""
    chosen = parse(Merge, "data merge", argv)
    with stdout_kept_clean(chosen.json):
        from lamo.data.recut import merge

        result = merge(
            chosen.sources,
            chosen.out,
            chosen.options,
            chosen.target,
            **_common("merge", argv, chosen.quiet, *chosen.sources, chosen.out),
        )
    return answer(result, chosen.json, lambda: _line(result))


def split_verb(argv: list[str]) -> int:
    """`lamo data split`."""
    chosen = parse(Split, "data split", argv)
    with stdout_kept_clean(chosen.json):
        from lamo.data.recut import split

        results = split(
            chosen.source,
            chosen.out,
            chosen.options,
            chosen.target,
            holdout=chosen.holdout,
            parts=chosen.parts,
            suffix=chosen.suffix,
            **_common("split", argv, chosen.quiet, chosen.source, chosen.out),
        )
    return answer({"parts": results}, chosen.json, lambda: "\n".join(map(_line, results)))


def subsample_verb(argv: list[str]) -> int:
    """`lamo data subsample`."""
    chosen = parse(Subsample, "data subsample", argv)
    with stdout_kept_clean(chosen.json):
        from lamo.data.recut import subsample

        result = subsample(
            chosen.source,
            chosen.out,
            chosen.options,
            chosen.target,
            ratio=chosen.ratio,
            episodes=chosen.episodes,
            seed=chosen.seed,
            **_common("subsample", argv, chosen.quiet, chosen.source, chosen.out),
        )
    return answer(result, chosen.json, lambda: _line(result))


def _common(verb: str, argv: list[str], quiet: bool, *places: str | Path) -> dict[str, Any]:
    return {"command": without_places(verb, argv, places), "progress": steps_done(quiet)}


def without_places(verb: str, argv: list[str], places: Sequence[str | Path | None]) -> str:
    """The command line with names instead of places: a dataset should not tell of the machine that made it."""
    known = {str(place) for place in places} | {os.path.normpath(str(place)) for place in places}

    def named(word: str) -> str:
        option, equals, value = word.rpartition("=") if word.startswith("--") else ("", "", word)
        return option + equals + Path(value).name if {value, os.path.normpath(value)} & known else word

    return shlex.join(["lamo", "data", verb, *map(named, argv)])


def steps_done(quiet: bool) -> Callable[[int, int | None], None]:
    """Steps done on a line of a terminal, which is cleared at the end."""

    def show(done: int, total: int | None) -> None:
        if quiet or not sys.stderr.isatty():
            return
        told = f"{done:,} steps" if total is None else f"{done:,} of {total:,} steps"
        print(f"\r{told:<40}", end="\r" if done == total else "", file=sys.stderr, flush=True)

    return show


def _line(result: dict[str, Any]) -> str:
    return (
        f"{result['out']}: {result['episodes']:,} episodes, {result['steps']:,} steps, digest {result['digest'][:12]}…"
    )
