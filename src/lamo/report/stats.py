"""Statistics of few runs, as in rliable (Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice",
section 4).

Pure functions over *strata*: a sequence of arrays, one per task, whose last axis holds that task's scores (one per
run). Leading axes are batch axes, equal for all strata; that is how a bootstrap hands in all its resamples at once.
Randomness is a passed generator.

How far to trust an interval: the percentile bootstrap of a mean is too narrow for few runs. Its nominal 95 % covers,
for normal scores, 0.76 at 3 runs, 0.84 at 5, 0.90 at 10 and 0.92 at 20 (`tests/report/test_report_stats.py` measures
it). The report says so where it shows one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Strata = Sequence[np.ndarray]
Statistic = Callable[[Strata], np.ndarray]

COVERAGE = {3: 0.76, 5: 0.84, 10: 0.90, 20: 0.92}
"""Measured coverage of the nominal 95 % interval of a mean: number of normal scores -> share of intervals that hold the
true mean.
"""


@dataclass(frozen=True)
class Interval:
    """A point estimate and the percentile interval around it."""

    estimate: float
    low: float
    high: float


def mean(strata: Strata) -> np.ndarray:
    """Mean over tasks of the mean over runs. Strata (…, n_k) -> (…). Tasks weigh the same, whatever their runs."""
    return np.mean(np.stack([np.mean(scores, axis=-1) for scores in strata]), axis=0)


def interquartile_mean(strata: Strata) -> np.ndarray:
    """Mean of the middle half of all scores of all tasks together. Strata (…, n_k) -> (…).

    Trims floor(n / 4) scores at each end, as rliable does (scipy.stats.trim_mean, whose import alone takes a second):
    below four scores it is the plain mean. rliable asks for equal numbers of runs per task; with unequal ones a task
    weighs by its runs.
    """
    scores = np.sort(np.concatenate(strata, axis=-1), axis=-1)  # NaN sorts last
    cut = scores.shape[-1] // 4
    middle = np.mean(scores[..., cut : scores.shape[-1] - cut], axis=-1)
    return np.where(np.isnan(scores[..., -1]), np.nan, middle)


def probability_of_improvement(x: Strata, y: Strata) -> np.ndarray:
    """Mean over tasks of P(X > Y) + P(X = Y) / 2, for a run X of the one method and a run Y of the other (Mann-Whitney
    U / nm).

    Strata (…, n_k) and (…, m_k), task by task -> (…) in [0, 1].
    """
    wins = [
        np.mean((a[..., :, None] > b[..., None, :]) + 0.5 * (a[..., :, None] == b[..., None, :]), axis=(-2, -1))
        for a, b in zip(x, y, strict=True)
    ]
    return np.mean(np.stack(wins), axis=0)


def resample(strata: Strata, rng: np.random.Generator, resamples: int) -> list[np.ndarray]:
    """Draw each stratum's scores with replacement, stratum by stratum: (n_k,) -> (resamples, n_k)."""
    return [scores[rng.integers(0, len(scores), size=(resamples, len(scores)))] for scores in strata]


def bootstrap(
    strata: Strata, statistic: Statistic, rng: np.random.Generator, resamples: int = 2_000, level: float = 0.95
) -> Interval:
    """Stratified percentile bootstrap of `statistic` over runs.

    `strata`: one (n_k,) array per task, n_k >= 1. `statistic` maps strata with batch axes to an array of the batch's
    shape. A score that is NaN makes all three numbers NaN: nothing is dropped in silence.
    """
    arrays = [np.asarray(scores, dtype=np.float64) for scores in strata]
    drawn = np.asarray(statistic(resample(arrays, rng, resamples)))
    return _interval(float(statistic(arrays)), drawn, level)


def bootstrap_improvement(
    x: Strata, y: Strata, rng: np.random.Generator, resamples: int = 2_000, level: float = 0.95
) -> Interval:
    """Probability of improvement of x over y with its interval; runs of x and of y are drawn independently, task by
    task.
    """
    xs = [np.asarray(scores, dtype=np.float64) for scores in x]
    ys = [np.asarray(scores, dtype=np.float64) for scores in y]
    drawn = probability_of_improvement(resample(xs, rng, resamples), resample(ys, rng, resamples))
    return _interval(float(probability_of_improvement(xs, ys)), drawn, level)


def _interval(estimate: float, drawn: np.ndarray, level: float) -> Interval:
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(estimate, float(low), float(high))
