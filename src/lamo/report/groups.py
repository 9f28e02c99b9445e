"""Runs into methods (equal settings, different seeds), and methods into sections that may be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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


def _labels(groups: Sequence[Sequence[RunRecord]]) -> list[str]:
    """The preset's name, with the settings in which groups of one preset differ: "lamo", or "lamo (context 5)" beside
    "lamo (context 20)".
    """
    flats = [
        flatten({k: v for k, v in group[0].config.items() if k not in (*SECTION_KEYS, "seed")}) for group in groups
    ]
    names = []
    for group in groups:
        algorithm = group[0].config.get("algorithm")
        fallback = algorithm.get("name") if isinstance(algorithm, dict) else None
        names.append(clean_text(group[0].config.get("preset") or fallback or "run", 40))
    labels = []
    for name, flat in zip(names, flats, strict=True):
        peers = [other for other_name, other in zip(names, flats, strict=True) if other_name == name]
        differing = [key for key in flat if len({_canonical(peer.get(key)) for peer in peers}) > 1]
        parts = [f"{key.rsplit('.', 1)[-1]} {flat[key]}" for key in differing if key != "preset"]
        labels.append(clean_text(f"{name} ({', '.join(parts[:3])})" if parts else name, 70))
    # A setting that only the other group has, or a fourth difference, can leave two labels equal.
    return [
        f"{label} #{labels[: i + 1].count(label)}" if labels.count(label) > 1 else label
        for i, label in enumerate(labels)
    ]


def make_sections(runs: Sequence[RunRecord]) -> list[Section]:
    """Sections of comparable groups, in order of first appearance. Raises LamoError for a seed that is there twice (see
    group_runs).
    """
    sections: dict[str, list[list[RunRecord]]] = {}
    for group in group_runs(runs):
        key = _canonical([group[0].config.get(name) for name in SECTION_KEYS])
        sections.setdefault(key, []).append(group)
    made = []
    for groups in sections.values():
        labelled = [Group(label, group) for label, group in zip(_labels(groups), groups, strict=True)]
        made.append(Section(_section_title(groups[0][0].config), labelled))
    return made
