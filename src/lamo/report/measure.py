"""From sections of run records to the numbers of a report: one JSON-able dict that table, Markdown, figures and page
all read.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lamo.errors import LamoError
from lamo.report import stats
from lamo.report.collect import RunRecord, as_number, clean_text
from lamo.report.groups import Group, Section
from lamo.report.scores import (
    MIN_SEEDS,
    WINDOW_SHARE,
    WINDOW_STEPS,
    Target,
    best_checkpoint,
    best_target,
    by_common_target,
    by_own_rank,
    curve,
    last_window,
    mean_of,
    nested_values,
    target_text,
)

LOSS_KEYS = ("action_loss", "loss")
"""Keys of metrics.jsonl to draw, the first that all methods of a section have. The action loss leaves out λ times the
language loss.
"""
HOLDOUT_KEY = "holdout_action_error"
"""Key of the rows of metrics.jsonl that evaluations of a run with held-out episodes leave."""
MAX_POINTS = 200
"""Points of a loss curve; beyond that, neighbours are averaged."""


def _loss(group: Group, key: str) -> list[tuple[int, float]]:
    """(step, the logged loss), mean over runs at the steps which all runs have."""
    by_run = [{row["step"]: as_number(row[key]) for row in run.metrics if key in row} for run in group.runs]
    steps = sorted(set.intersection(*(set(rows) for rows in by_run)))
    points = []
    for step in steps:
        at_step = [value for rows in by_run if (value := rows[step]) is not None]
        if len(at_step) == len(by_run):
            points.append((step, mean_of(at_step)))
    return points


def _thinned(points: Sequence[tuple[int, float]]) -> list[dict[str, float]]:
    """A curve of at most MAX_POINTS means of neighbours."""
    size = max(1, -(-len(points) // MAX_POINTS))
    chunks = [points[i : i + size] for i in range(0, len(points), size)]
    return [{"step": mean_of([s for s, _ in chunk]), "loss": mean_of([v for _, v in chunk])} for chunk in chunks]


def _numbers(value: Any, keys: Sequence[str]) -> dict[str, float]:
    if not isinstance(value, Mapping):
        return {}
    found = {key: as_number(value.get(key)) for key in keys}
    return {key: number for key, number in found.items() if number is not None}


def common_means(dicts: Sequence[Mapping[str, float]]) -> dict[str, float] | None:
    """Means, key by key, over those dicts that are not empty, of the keys that all of these have; None without any."""
    dicts = [entry for entry in dicts if entry]
    keys = [key for key in (dicts[0] if dicts else {}) if all(key in entry for entry in dicts)]
    return {key: mean_of([entry[key] for entry in dicts]) for key in keys} or None


def _seconds(run: RunRecord) -> float | None:
    times = [seconds for row in run.timing if (seconds := as_number(row.get("seconds"))) is not None]
    return max(times) if times else as_number((run.summary or {}).get("seconds"))


def _last_step(run: RunRecord) -> int:
    return max([row["step"] for row in run.metrics[-1:]] + [episode.step for episode in run.episodes[-1:]], default=0)


def measure_run(run: RunRecord) -> dict[str, Any]:
    """The facts of one run which are not scores."""
    seconds, last = _seconds(run), _last_step(run)
    rates = [rate for row in run.timing if (rate := as_number(row.get("steps_per_second"))) is not None]
    return {
        "name": run.name,
        "seed": run.seed,
        "finished": run.finished,
        "last_step": last,
        "planned_steps": run.planned_steps,
        "seconds": seconds,
        # Seconds count evaluations and checkpoints too; the rate is of training alone.
        "steps_per_second": float(np.median(rates)) if rates else None,
    }


def measure_group(group: Group, metric: str, rng: np.random.Generator) -> tuple[dict[str, Any], list[str]]:
    """One method's numbers, and the notes a reader must see."""
    notes = [f"{group.label}, seed {run.seed}: {note}." for run in group.runs for note in run.notes]
    evaluated = [run for run in group.runs if run.episodes]
    for run in group.runs:
        if not run.episodes:
            notes.append(f"{group.label}, seed {run.seed}: no evaluation yet, so it counts in no score.")
    last = {run.seed: _last_step(run) for run in evaluated}
    if len(set(last.values())) > 1:
        stops = ", ".join(f"seed {seed} at step {step:,}" for seed, step in last.items())
        notes.append(f"{group.label}: its runs end at different steps ({stops}); curves end where the shortest does.")
    unfinished = [run.seed for run in group.runs if not run.finished]
    if unfinished:
        notes.append(f"{group.label}: {_seeds_are(unfinished)} not finished.")

    values = [nested_values(run, metric) for run in evaluated]
    by_target = by_common_target(values) or by_own_rank(values)
    notes += [f"{group.label}: {note}" for note in _targets_left_out(evaluated, values, by_target)]
    targets, curves = [], []
    for name, of_target in by_target.items():
        targets.append(
            {
                "target": name,
                "last_window": last_window(of_target, False, rng),
                "best_checkpoint": best_checkpoint(of_target, rng),
                "final": last_window(of_target, True, rng),
            }
        )
        curves.append(curve(evaluated, of_target, rng))
        if not all(math.isfinite(v) for v in targets[-1]["last_window"]["values"]):
            notes.append(
                f"{group.label}, target {target_text(name)}: an episode of the last window has no finite {metric}; "
                "no mean is given."
            )
    runs = [measure_run(run) for run in group.runs]
    # A run knows its model when it begins, and says it again when it ends.
    told = [(run.summary or {}, run.provenance.get("model")) for run in group.runs]
    sizes = [
        summary.get("parameters") or (model.get("parameters") if isinstance(model, Mapping) else None)
        for summary, model in told
    ]
    return {
        "label": group.label,
        "seeds": [run.seed for run in group.runs],
        "evaluated_seeds": [run.seed for run in evaluated],
        "runs": runs,
        "targets": targets,
        "best_target": best_target(targets, "last_window"),
        "best_checkpoint_target": best_target(targets, "best_checkpoint"),
        "curves": curves,
        "parameters": common_means([_numbers(size, ("total", "frozen", "trainable", "lora_share")) for size in sizes]),
        "perplexity": common_means([_numbers(summary.get("perplexity"), ("before", "after")) for summary, _ in told]),
        "auto_targets": [found for run in group.runs if (found := _auto_target(run, metric))],
        "seconds": mean_of([r["seconds"] for r in runs]) if all(r["seconds"] is not None for r in runs) else None,
    }, notes


def _targets_left_out(
    runs: Sequence[RunRecord], values: Sequence[Mapping[float | None, Any]], kept: Mapping[Target, Any]
) -> list[str]:
    """What to say where not every run was asked for the same returns."""
    if all(value.keys() == kept.keys() for value in values):
        return []
    if any(value.keys() & kept.keys() for value in values):
        return ["some return targets were evaluated in some of its runs only, and are left out."]
    asked = "; ".join(
        f"seed {run.seed}: {', '.join(map(target_text, value))}" for run, value in zip(runs, values, strict=True)
    )
    rest = (
        "; what only some of them were asked for beyond that is left out"
        if len({len(value) for value in values}) > 1
        else ""
    )
    return [f"its return targets differ by seed ({asked}); own #1 is each run's highest, and so on{rest}."]


def _auto_target(run: RunRecord, metric: str) -> dict[str, Any] | None:
    """The return target that a run chose from its data (`--targets auto`), and what its policy got with it."""
    choice = (run.summary or {}).get("auto_target")
    target = as_number(choice.get("target")) if isinstance(choice, Mapping) else None
    if target is None or not isinstance(choice, Mapping):
        return None
    got = _numbers(choice.get("evaluation"), (f"{metric}_mean", "episodes"))
    return {"seed": run.seed, "target": target, "mean": got.get(f"{metric}_mean"), "episodes": got.get("episodes")}


def _seeds_are(seeds: Sequence[int]) -> str:
    return f"seed {seeds[0]} is" if len(seeds) == 1 else f"seeds {', '.join(map(str, seeds))} are"


def measure_data(section: Section) -> dict[str, Any] | None:
    """What the training data itself achieves: the reference to read a score against. Means over runs, whose subsets may
    differ by seed.
    """
    rows, bests = [], []
    for run in (run for group in section.groups for run in group.runs):
        dataset = run.provenance.get("dataset")
        rows.append(_numbers(dataset, ("episodes", "steps", "return_mean", "return_max", "score_mean")))
        task = run.provenance.get("task")
        span = task.get("score_range") if isinstance(task, Mapping) else None
        ends = [end for value in span if (end := as_number(value)) is not None] if isinstance(span, list) else []
        if "return_max" in rows[-1] and len(ends) == 2 and ends[0] != ends[1]:
            bests.append(100 * (rows[-1]["return_max"] - ends[0]) / (ends[1] - ends[0]))
    means = common_means(rows)
    if means is None:
        return None
    varies = len({tuple(sorted(row.items())) for row in rows if row}) > 1
    return means | ({"score_max": mean_of(bests)} if bests else {}) | {"varies_by_seed": varies}


def _relabelled(section: Section) -> list[str]:
    """What was done to the rewards of the training data: what these achieve is then not what an evaluation pays."""
    done: list[str] = []
    for run in (run for group in section.groups for run in group.runs):
        dataset = run.provenance.get("dataset")
        told = dataset.get("relabelled") if isinstance(dataset, Mapping) else None
        done += [clean_text(each, 300) for each in told] if isinstance(told, list) else []
    what = "; then ".join(dict.fromkeys(done))
    return [f"The data's rewards are relabelled ({what}); an evaluation pays the environment's own."] if done else []


def compare_pairs(by_label: Mapping[str, stats.Strata], rng: np.random.Generator) -> list[dict[str, Any]]:
    """Probability of improvement and difference of means for each pair of methods, the one ahead first.

    `by_label`: one array of run scores per task, the same tasks for all. "separated_by_luck" is given where on every
    task each run of the one method lies above each run of the other: how often that happens, either way round, to two
    equal methods. The bootstrap interval has no width then, and says nothing.
    """
    pairs = []
    for a, b in itertools.combinations(by_label, 2):
        if stats.probability_of_improvement(by_label[a], by_label[b]) < 0.5:
            a, b = b, a
        x, y = by_label[a], by_label[b]
        won = stats.bootstrap_improvement(x, y, rng)
        deals = math.prod(math.comb(len(a) + len(b), len(a)) for a, b in zip(x, y, strict=True))
        pairs.append(
            {
                "a": a,
                "b": b,
                "difference": float(stats.mean(x) - stats.mean(y)),
                "probability": won.estimate,
                "low": won.low,
                "high": won.high,
                "separated_by_luck": 2 / deals if won.estimate == 1 else None,
            }
        )
    return pairs


def seed_values(method: Mapping[str, Any]) -> np.ndarray | None:
    """The method's last window at its best target, one value per run (n,); None with fewer than MIN_SEEDS runs or a
    missing value.
    """
    values = np.asarray(headline(method).get("values", []), dtype=np.float64)
    return values if len(values) >= MIN_SEEDS and np.isfinite(values).all() else None


def headline(method: Mapping[str, Any]) -> dict[str, Any]:
    """The last window at the method's best target, {} where it has none."""
    best = method["best_target"]
    return {} if best is None else method["targets"][best]["last_window"]


def measure_section(section: Section, rng: np.random.Generator) -> dict[str, Any]:
    """The numbers of comparable methods: scores, data, who beats whom, and notes. Scores if every episode has one, else
    returns.
    """
    episodes = [e for group in section.groups for run in group.runs for e in run.episodes]
    metric = "score" if episodes and all(e.score is not None for e in episodes) else "return"
    methods, notes = [], []
    for group in section.groups:
        method, said = measure_group(group, metric, rng)
        methods.append(method)
        notes += said
    losses = {key: [_loss(group, key) for group in section.groups] for key in LOSS_KEYS}
    key = next((key for key, curves in losses.items() if all(curves)), None)
    for i, (method, group) in enumerate(zip(methods, section.groups, strict=True)):
        method["loss"] = {"key": key, "points": _thinned(losses[key][i])} if key else None
        held_out = _loss(group, HOLDOUT_KEY)
        told = {"key": HOLDOUT_KEY, "points": _thinned(held_out), "last": held_out[-1][1]} if held_out else None
        method["holdout"] = told
    if metric == "return" and any(e.score is not None for e in episodes):
        notes.append("Some episodes have no score, so returns are shown in its place, for every method alike.")
    notes += _relabelled(section)
    machines = {_machine(run) for group in section.groups for run in group.runs}
    if len(machines) > 1:
        notes.append("These runs were made on different machines: their seconds do not compare.")
    usable = {method["label"]: seed_values(method) for method in methods}
    return {
        "title": section.title,
        **{name: section.config.get(name) for name in ("task", "env", "dataset", "ratio")},
        "metric": metric,
        "data": measure_data(section),
        "methods": methods,
        "comparisons": compare_pairs({label: [values] for label, values in usable.items() if values is not None}, rng),
        "notes": notes,
    }


def _machine(run: RunRecord) -> tuple[str, str]:
    machine = run.provenance.get("machine")
    known = machine if isinstance(machine, Mapping) else {}
    return repr(known.get("cpu")), repr((known.get("cores"), run.provenance.get("device")))


def aggregate(sections: Sequence[Mapping[str, Any]], rng: np.random.Generator) -> dict[str, Any] | None:
    """Over tasks, for the methods that every section scores with MIN_SEEDS seeds or more: mean, interquartile mean, and
    who beats whom; and a note for each method that is left out. Equal labels are one method (see `make_sections`).

    None with one section, or without scores (returns of different tasks have no common unit), or with too few seeds of
    every method.
    """
    if len(sections) < 2 or any(section["metric"] != "score" for section in sections):
        return None
    by_label: dict[str, dict[int, np.ndarray]] = {}
    for i, section in enumerate(sections):
        for method in section["methods"]:
            values, scored = seed_values(method), by_label.setdefault(method["label"], {})
            if values is not None:
                scored[i] = values
    if not any(by_label.values()):
        return None
    complete, rows, notes = {}, [], []
    for label, scored in by_label.items():
        lacking = [section["title"] for i, section in enumerate(sections) if i not in scored]
        if lacking:
            notes.append(f"{label}: left out, for it has no scores of {MIN_SEEDS} seeds on {', '.join(lacking)}.")
        else:
            complete[label] = list(scored.values())
    for label, strata in complete.items():
        row: dict[str, Any] = {"label": label, "runs": sum(map(len, strata))}
        for name, statistic in (("mean", stats.mean), ("iqm", stats.interquartile_mean)):
            interval = stats.bootstrap(strata, statistic, rng)
            row[name] = {"estimate": interval.estimate, "low": interval.low, "high": interval.high}
        rows.append(row)
    return {"tasks": len(sections), "methods": rows, "comparisons": compare_pairs(complete, rng), "notes": notes}


def measure(sections: Sequence[Section], seed: int = 0) -> dict[str, Any]:
    """All numbers of a report. `seed` seeds the bootstrap and nothing else. May hold NaN; `jsonable` turns those into
    None. Raises LamoError for a negative seed.
    """
    if seed < 0:
        raise LamoError(f"--seed {seed} must be at least 0")
    rng = np.random.default_rng(seed)
    measured = [measure_section(section, rng) for section in sections]
    return {
        "format": 1,
        "protocol": {
            "window_steps": WINDOW_STEPS,
            "window_share": WINDOW_SHARE,
            "min_seeds": MIN_SEEDS,
            "level": 0.95,
            "resamples": 2_000,
            "seed": seed,
        },
        "sections": measured,
        "aggregate": aggregate(measured, rng),
    }


def jsonable(value: Any) -> Any:
    """A copy in which every number that strict JSON cannot say (NaN, infinity) is None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    return value
