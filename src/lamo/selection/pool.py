"""The runs to choose from, and the episodes that they are judged on: one dataset, read once and checked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lamo.config import Experiment, Spec, flag, read_dataclass
from lamo.data.actions import KIND_WORDS
from lamo.data.episodes import Episodes
from lamo.data.split import hold_out
from lamo.errors import LamoError
from lamo.prepare import READ_BY, Parts, as_components, read
from lamo.runs import Run


@dataclass(frozen=True)
class Entrant:
    """A run whose policy can be chosen."""

    path: Path
    experiment: Experiment
    spec: Spec
    trained_on: frozenset[int]
    """Numbers of the episodes that it was trained on."""
    given: frozenset[int]
    """Those, and the ones that it held out."""


@dataclass(frozen=True)
class Pool:
    """What the entrants are judged on."""

    entrants: tuple[Entrant, ...]
    dataset: str
    digest: str
    """Of the whole dataset."""
    episodes: Episodes
    """All that any of the runs was given, trained on or held out."""
    unseen: Episodes | None
    """Those of them that no run was trained on; None where there are none."""


def gather(runs: Sequence[str | Path], dataset: str | Path | None = None) -> Pool:
    """Read the runs and their data. `dataset` says where the data lies now, if it has moved.

    Raises `LamoError` for no run, a run that has not finished, runs of different data (which, and whose), and data that
    is no longer what a run was trained on.
    """
    unique = {Path(run).resolve(): Path(run) for run in reversed(list(runs))}
    folders = [Run.open(path) for path in reversed(unique.values())]
    if not folders:
        raise LamoError("no run to choose from: give one run folder or more")
    entrants: list[Entrant] = []
    known: dict[str, tuple[Episodes, str]] = {}
    first = ""
    for folder in folders:
        where = str(folder.path)
        experiment = Experiment.of_run(folder.config, f"{where}/config.json")
        spec = read_dataclass(Spec, folder.provenance.get("spec"), f"{where}/provenance.json: spec")
        if folder.summary() is None:
            raise LamoError(f"{where}: has not finished; go on with it (lamo train --resume {where}) or leave it out")
        if dataset is not None:
            experiment = replace(experiment, dataset=str(dataset))
        name = str(experiment.dataset_name)
        options = [getattr(experiment, option) for option in READ_BY]
        parts = _parts(folder)
        reading = json.dumps([name, *options, spec.action_kind, spec.observation_dim, parts])
        if reading not in known:
            whole = read(experiment, spec, parts)
            if len(np.unique(whole.ids)) < len(whole):
                raise LamoError(f"{whole.source}: several episodes have one number, so they cannot be told apart")
            if whole.discrete and spec.action_kind == "multidiscrete":
                whole = as_components(whole)  # the form that the run was trained on
            known[reading] = whole, whole.digest()
        whole, digest = known[reading]
        first = first or reading
        if digest != known[first][1]:
            if name == str(entrants[0].experiment.dataset_name):
                raise LamoError(
                    f"{entrants[0].path} and {where} read {name} in two ways ({_ways(entrants[0], experiment, spec)}): "
                    "policies are ranked on one form of the data, so rank these apart, or train them alike"
                )
            raise LamoError(
                f"{entrants[0].path} was trained on {entrants[0].experiment.dataset_name} "
                f"(digest {known[first][1][:8]}…), {where} on {name} ({digest[:8]}…): policies are ranked on one "
                "dataset, so give runs of one"
            )
        share = whole.subsample(experiment.ratio, experiment.seed)
        train, held = hold_out(share, experiment.holdout) if experiment.holdout else (share, None)
        _check_same(folder, name, train, held)
        entrants.append(Entrant(folder.path, experiment, spec, _numbers(train), _numbers(share)))
    whole, digest = known[first]
    given = frozenset[int]().union(*(entrant.given for entrant in entrants))
    seen = frozenset[int]().union(*(entrant.trained_on for entrant in entrants))
    name = str(entrants[0].experiment.dataset_name)
    return Pool(tuple(entrants), name, digest, _of(whole, given), _of(whole, given - seen) if given - seen else None)


def _parts(run: Run) -> Parts | None:
    """The parts of observations that the run recorded. Raises `LamoError` for what is none."""
    recorded = run.provenance.get("dataset")
    parts = recorded.get("parts_of_env") if isinstance(recorded, dict) else None
    if parts is None:
        return None
    match parts:
        case [[*keys], [*sizes]] if len(keys) == len(sizes):
            if all(type(key) is str for key in keys) and all(type(size) is int and size > 0 for size in sizes):
                return keys, sizes
    raise LamoError(f"{run.path}/provenance.json: damaged (dataset.parts_of_env must be names and their sizes)")


def _ways(first: Entrant, experiment: Experiment, spec: Spec) -> str:
    """In what the readings of one dataset differ."""
    ways = [flag(name) for name in READ_BY if getattr(first.experiment, name) != getattr(experiment, name)]
    if first.spec.action_kind != spec.action_kind:
        ways.append(f"actions that are {KIND_WORDS[first.spec.action_kind]}, and {KIND_WORDS[spec.action_kind]}")
    if first.spec.observation_dim != spec.observation_dim:
        ways.append(f"observations of {first.spec.observation_dim}, and {spec.observation_dim} numbers")
    return "; ".join(ways) or "the parts of its observations"


def _numbers(episodes: Episodes) -> frozenset[int]:
    return frozenset(episodes.ids.tolist())


def _of(episodes: Episodes, numbers: frozenset[int]) -> Episodes:
    return episodes.select(np.flatnonzero(np.isin(episodes.ids, sorted(numbers))))


def _check_same(folder: Run, name: str, train: Episodes, held: Episodes | None) -> None:
    """That the data is still what the run's provenance says."""
    known = folder.provenance.get("dataset")
    if not isinstance(known, dict) or "digest" not in known:
        raise LamoError(f"{folder.path}/provenance.json: damaged (it has no dataset.digest); leave this run out")
    held_known = known.get("holdout") or {}
    if (train.digest(), held and held.digest()) != (known["digest"], held_known.get("digest")):
        raise LamoError(f"{folder.path}: {name} is not the data that the run was trained on; put the old file back")


def within(episodes: Episodes, steps: int, rng: np.random.Generator) -> np.ndarray:
    """Positions of episodes drawn at random, rising, while they have no more than `steps` steps together; at least two
    where there are two.
    """
    if episodes.steps <= steps:
        return np.arange(len(episodes))
    order = rng.permutation(len(episodes))
    count = int(np.searchsorted(np.cumsum(episodes.lengths[order]), steps, side="right"))
    return np.sort(order[: max(count, 2)])
