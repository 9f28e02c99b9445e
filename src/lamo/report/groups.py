"""Runs into methods (equal settings, different seeds), and methods into sections that may be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lamo.errors import LamoError
from lamo.report.collect import RunRecord, as_number, clean_text


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}. Lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


@dataclass(frozen=True, eq=False)
class Group:
    """Runs of one method: equal settings, different seeds, sorted by seed."""

    label: str
    runs: Sequence[RunRecord]

    @property
    def config(self) -> Mapping[str, Any]:
        return self.runs[0].config


@dataclass(frozen=True, eq=False)
class Section:
    """Groups that may be compared: same task, environment, dataset and share of the data."""

    title: str
    groups: Sequence[Group]

    @property
    def config(self) -> Mapping[str, Any]:
        return self.groups[0].config


SECTION_KEYS = ("task", "env", "dataset", "ratio")
LOCAL_KEYS = (
    *("targets", "columns", "obs_keys", "actions", "reward"),
    *("eval_every", "eval_episodes", "checkpoint_every", "log_every", "device"),
)
"""Settings that say how a task's data are read and how a run is watched: they tell methods of one section apart, and
none of two tasks.
"""
PUBLISHED = "as published"
"""In place of a value that preset and task give by themselves."""


def group_runs(runs: Sequence[RunRecord]) -> list[list[RunRecord]]:
    """Runs whose configs are equal but for "seed", in order of first appearance.

    Raises LamoError for two runs with equal settings and equal seed: they are one measurement, and counting them as two
    seeds would make the interval a lie.
    """
    groups: dict[str, list[RunRecord]] = {}
    for run in runs:
        key = _canonical({name: value for name, value in run.config.items() if name != "seed"})
        for other in groups.setdefault(key, []):
            if other.seed == run.seed:
                raise LamoError(
                    f"{other.path} and {run.path} have the same settings and the same seed {run.seed}: "
                    "they are one measurement, so give one of the two"
                )
        groups[key].append(run)
    return [sorted(group, key=lambda run: run.seed) for group in groups.values()]


def _section_title(config: Mapping[str, Any]) -> str:
    task, env, dataset = (config.get(key) for key in ("task", "env", "dataset"))
    dataset = " + ".join(map(str, dataset)) if isinstance(dataset, list) else dataset
    name = clean_text(task or " on ".join(str(part) for part in (dataset, env) if part) or "unnamed task", 120)
    ratio = as_number(config.get("ratio"))
    return name if ratio is None or ratio == 1 else f"{name}, {100 * ratio:g} % of the data"


class _Method(NamedTuple):
    """The settings of one group, as they are compared with those of the same name."""

    section: int
    settings: Mapping[str, Any]  # flat key -> value, without what is the section's
    told: Mapping[str, str]  # flat key -> canonical value, or PUBLISHED


def _name(run: RunRecord) -> str:
    algorithm = run.config.get("algorithm")
    fallback = algorithm.get("name") if isinstance(algorithm, dict) else None
    return clean_text(run.config.get("preset") or fallback or "run", 40)


def _method(section: int, run: RunRecord, published: Mapping[str, Any]) -> _Method:
    plain = {key: value for key, value in run.config.items() if key not in (*SECTION_KEYS, "seed", "preset")}
    settings = flatten(plain)
    told = {key: _canonical(value) for key, value in settings.items() if value is not None}
    for name, value in flatten(published).items():
        for key in (name, f"algorithm.{name}"):
            if told.get(key) == _canonical(value):
                told[key] = PUBLISHED
    return _Method(section, settings, told)


def _differing(peers: Sequence[_Method]) -> list[dict[str, str | None]]:
    """For each of the methods of one name the settings in which some of them differ, in any section; those in
    LOCAL_KEYS only where methods of its own section differ.
    """
    told: list[dict[str, str]] = []
    for peer in peers:
        beside = [other.told for other in peers if other.section == peer.section]
        alike = {key for key in LOCAL_KEYS if len({other.get(key) for other in beside}) == 1}
        told.append({key: value for key, value in peer.told.items() if key not in alike})
    keys = [key for key in dict.fromkeys(key for own in told for key in own) if len({own.get(key) for own in told}) > 1]
    return [{key: own.get(key) for key in keys} for own in told]


def _label(name: str, own: Mapping[str, str | None], alike: Sequence[_Method], peers: Sequence[_Method]) -> str:
    """The label of one method: "lamo (context 5)". `own`: what _differing says of it; `alike`: its groups in all
    sections; `peers`: all groups of its name.
    """
    parts = []
    for key, told in own.items():
        values = {_canonical(one.settings[key]): one.settings[key] for one in alike if key in one.settings}
        if not values:
            continue
        canonical, value = next(iter(values.items()))
        # One number for all, unless the tables differ or another method has chosen the number that a table gives.
        if len(values) > 1 or (told == PUBLISHED and any(peer.told.get(key) == canonical for peer in peers)):
            value = PUBLISHED
        parts.append(f"{key.rsplit('.', 1)[-1]} {value}")
    return clean_text(f"{name} ({', '.join(parts[:3])})" if parts else name, 70)


def _labels(sections: Sequence[Sequence[Sequence[RunRecord]]]) -> list[list[str]]:
    """The preset's name, with the settings in which methods of one preset differ: "lamo", or "lamo (context 5)" beside
    "lamo (context 20)". Equal labels in two sections are one method: equal settings, or those of each task's own table.
    """
    by_name: dict[str, list[tuple[int, RunRecord]]] = {}
    for i, groups in enumerate(sections):
        for group in groups:
            by_name.setdefault(_name(group[0]), []).append((i, group[0]))
    owners: dict[str, list[tuple[Any, ...]]] = {}  # label -> the methods that would have it
    found: dict[RunRecord, tuple[str, tuple[Any, ...]]] = {}  # a group's first run -> label, method
    for name, runs in by_name.items():
        tables = [run.provenance.get("published") for _, run in runs]
        # Folders of older versions do not say what their task's table gave: then numbers are compared, for all alike.
        known = [table for table in tables if isinstance(table, Mapping)]
        tables = known if len(known) == len(runs) else [{}] * len(runs)
        peers = [_method(i, run, table) for (i, run), table in zip(runs, tables, strict=True)]
        differing = _differing(peers)
        for place, ((i, run), own) in enumerate(zip(runs, differing, strict=True)):
            label = _label(
                name, own, [peer for peer, other in zip(peers, differing, strict=True) if other == own], peers
            )
            # A setting that only one of two configs has can leave two groups of a section alike.
            twin = sum(other == own and j == i for (j, _), other in zip(runs[:place], differing, strict=False))
            method = (name, _canonical(own), twin)
            if method not in owners.setdefault(label, []):
                owners[label].append(method)
            found[run] = label, method

    def numbered(run: RunRecord) -> str:
        label, method = found[run]
        return f"{label} #{owners[label].index(method) + 1}" if len(owners[label]) > 1 else label

    return [[numbered(group[0]) for group in groups] for groups in sections]


def make_sections(runs: Sequence[RunRecord]) -> list[Section]:
    """Sections of comparable groups, in order of first appearance. Raises LamoError for a seed that is there twice (see
    group_runs).
    """
    sections: dict[str, list[list[RunRecord]]] = {}
    for group in group_runs(runs):
        key = _canonical([group[0].config.get(name) for name in SECTION_KEYS])
        sections.setdefault(key, []).append(group)
    made = []
    for groups, labels in zip(sections.values(), _labels(list(sections.values())), strict=True):
        labelled = [Group(label, group) for label, group in zip(labels, groups, strict=True)]
        made.append(Section(_section_title(groups[0][0].config), labelled))
    return made
