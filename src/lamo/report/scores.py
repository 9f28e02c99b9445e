"""From one method's evaluation episodes to its numbers: windows, checkpoints, curves, each with an interval.

Three numbers are told apart for every return target, because their order can differ:

* last window: mean over the evaluations in the last 20 000 steps or the last 20 % of the run, whichever is shorter (the
  paper averages its last 20 000 of 100 000 steps). A run of 10 000 steps so has a window of 2 000.
* best checkpoint: the best single evaluation of each run, averaged over runs. Chosen after the fact, so it flatters.
* final: the last evaluation.

The paper scores the *best* target, a choice its authors made outside the runs, after seeing them. The report makes that
choice the same way for each method, names the target, and shows all others beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lamo.report import stats
from lamo.report.collect import RunRecord, as_number

WINDOW_STEPS = 20_000
WINDOW_SHARE = 0.2
MIN_SEEDS = 3
"""From this many seeds on, intervals are over seeds; with fewer, over evaluation episodes (and say so)."""

Target = float | str | None
"""A return that was asked for, None for the policy's default, or the name of what each run asked for by itself (see
`by_own_rank`).
"""
ByStep = Mapping[int, Mapping[int, float]]
"""step -> episode number -> score or return, of one run at one return target"""


def nested_values(run: RunRecord, metric: str) -> dict[float | None, dict[int, dict[int, float]]]:
    """The run's evaluation episodes as target -> step -> episode -> value; a score that is missing is NaN."""
    values: dict[float | None, dict[int, dict[int, float]]] = {}
    for episode in run.episodes:
        value = episode.returned if metric == "return" else episode.score
        at_step = values.setdefault(episode.target, {}).setdefault(episode.step, {})
        at_step[episode.episode] = math.nan if value is None else value
    return values


def by_common_target(values: Sequence[Mapping[float | None, ByStep]]) -> dict[Target, list[ByStep]]:
    """From each run's values by target to, for each target that all runs were asked for, one ByStep per run."""
    known = dict.fromkeys(target for value in values for target in value)
    return {target: [value[target] for value in values] for target in known if all(target in value for value in values)}


def by_own_rank(values: Sequence[Mapping[float | None, ByStep]]) -> dict[Target, list[ByStep]]:
    """The same for runs whose targets are their own (each taken from its share of the data): "own #1" is the highest of
    each run, "own #2" the next, as far as all runs have one.
    """
    falling = [sorted(value, key=lambda t: -math.inf if t is None else t, reverse=True) for value in values]
    return {
        f"own #{i + 1}": [value[target] for value, target in zip(values, ranked, strict=True)]
        for i, ranked in enumerate(zip(*falling, strict=False))
    }


def target_text(target: Target) -> str:
    """ "76", "own #1", or "default" for None."""
    if target is None:
        return "default"
    return target if isinstance(target, str) else f"{target:g}"


def window_steps(steps: Sequence[int]) -> list[int]:
    """Of sorted evaluation steps, those in the last window: (last - min(20 000, 20 % of last), last]."""
    last = steps[-1]
    width = min(WINDOW_STEPS, WINDOW_SHARE * last)
    return [step for step in steps if step > last - width or step == last]


def mean_of(values: Sequence[float]) -> float:
    """Mean in float64; NaN if one value is."""
    return float(np.mean(np.asarray(values, dtype=np.float64)))


def _per_episode(by_step: ByStep, steps: Sequence[int]) -> np.ndarray:
    """Mean over `steps` for each episode number -> (E,).

    An episode number has the same start state at every evaluation of a run, so its values at several steps are one
    draw, not many.
    """
    numbers = sorted({number for step in steps for number in by_step[step]})
    return np.array([mean_of([by_step[s][n] for s in steps if n in by_step[s]]) for n in numbers])


def estimate(
    per_run: Sequence[float], per_episode: Sequence[np.ndarray], episodes: int, rng: np.random.Generator
) -> dict[str, Any]:
    """Mean over runs with its interval: over seeds from MIN_SEEDS on, else over episodes within each run.

    `per_run`: one value per run; `per_episode`: (E_r,) per run; `episodes`: how many episodes stand behind it, all
    told.
    """
    runs = np.asarray(per_run, dtype=np.float64)
    interval, over = None, None
    if len(runs) >= MIN_SEEDS:
        interval, over = stats.bootstrap([runs], stats.mean, rng), "seeds"
    elif sum(len(values) for values in per_episode) > len(runs):
        interval, over = stats.bootstrap(per_episode, stats.mean, rng), "episodes"
    return {
        "estimate": float(np.mean(runs)),
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "over": over,
        "runs": len(runs),
        "episodes": episodes,
        "values": runs.tolist(),
    }


def last_window(values: Sequence[ByStep], final: bool, rng: np.random.Generator) -> dict[str, Any]:
    """The mean over each run's last window (`final`: over its last evaluation alone), one ByStep per run; "steps" are
    those used.
    """
    per_run, per_episode, episodes, used = [], [], 0, []
    for by_step in values:
        steps = sorted(by_step)[-1:] if final else window_steps(sorted(by_step))
        per_run.append(mean_of([mean_of(list(by_step[step].values())) for step in steps]))
        per_episode.append(_per_episode(by_step, steps))
        episodes += sum(len(by_step[step]) for step in steps)
        used.append(steps)
    return estimate(per_run, per_episode, episodes, rng) | {"steps": used}


def best_checkpoint(values: Sequence[ByStep], rng: np.random.Generator) -> dict[str, Any]:
    """The best evaluation of each run; "steps" names it. The interval is of the chosen checkpoint: it does not know of
    the choice.
    """
    per_run, per_episode, episodes, chosen = [], [], 0, []
    for by_step in values:
        means = {step: mean_of(list(by_step[step].values())) for step in sorted(by_step)}
        finite = {step: value for step, value in means.items() if math.isfinite(value)}
        step = max(finite, key=finite.__getitem__) if finite else max(means)
        per_run.append(means[step])
        per_episode.append(_per_episode(by_step, [step]))
        episodes += len(by_step[step])
        chosen.append(step)
    return estimate(per_run, per_episode, episodes, rng) | {"steps": chosen}


def seconds_at(run: RunRecord, steps: Sequence[int]) -> np.ndarray | None:
    """Training seconds at each step, (n,), interpolated in timing.jsonl from (0, 0); beyond its end at the run's mean
    pace. None without times.
    """
    rows = [(row["step"], as_number(row.get("seconds"))) for row in run.timing]
    known = [(step, seconds) for step, seconds in rows if seconds is not None and step > 0]
    if not known:
        return None
    at, seconds = (np.array(column, dtype=np.float64) for column in zip(*known, strict=True))
    wanted = np.asarray(steps, dtype=np.float64)
    inside = np.interp(wanted, np.concatenate([[0.0], at]), np.concatenate([[0.0], seconds]))
    return np.where(wanted > at[-1], wanted * seconds[-1] / at[-1], inside)


def curve(runs: Sequence[RunRecord], values: Sequence[ByStep], rng: np.random.Generator) -> list[dict[str, Any]]:
    """One point per evaluation step that all runs have: step, mean seconds (or None), estimate, low, high."""
    steps = sorted(set.intersection(*(set(by_step) for by_step in values)))
    times = [time for run in runs if (time := seconds_at(run, steps)) is not None]
    seconds = np.mean(times, axis=0).tolist() if len(times) == len(runs) else [None] * len(steps)
    points = []
    for step, second in zip(steps, seconds, strict=True):
        per_episode = [_per_episode(by_step, [step]) for by_step in values]
        per_run = [float(np.mean(found)) for found in per_episode]
        point = estimate(per_run, per_episode, sum(map(len, per_episode)), rng)
        points.append({"step": step, "seconds": second, **{key: point[key] for key in ("estimate", "low", "high")}})
    return points


def best_target(targets: Sequence[Mapping[str, Any]], key: str) -> int | None:
    """Index of the target with the highest estimate; None where no target has a finite one."""
    finite = [(t[key]["estimate"], -i) for i, t in enumerate(targets) if math.isfinite(t[key]["estimate"])]
    return -max(finite)[1] if finite else None
