"""Statistics against cases done by hand, against scipy, and against distributions whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats as scipy_stats

from lamo.report import stats

scores = arrays(np.float64, st.integers(1, 30), elements=st.floats(-1e3, 1e3))


def test_mean_weighs_tasks_not_runs() -> None:
    # (1 + 3) / 2 = 2 and 10, so 6; over all four runs it would be 4.
    assert stats.mean([np.array([1.0, 3.0]), np.array([10.0])]) == 6.0


def test_interquartile_mean_by_hand() -> None:
    assert stats.interquartile_mean([np.array([0.0, 1.0, 3.0, 100.0])]) == 2.0
    # Of 0 … 7, a quarter is cut at each end: (2 + 3 + 4 + 5) / 4; the strata are pooled.
    assert stats.interquartile_mean([np.array([7.0, 0.0, 6.0, 1.0]), np.array([3.0, 4.0, 5.0, 2.0])]) == 3.5
    # Three scores: nothing to cut.
    assert stats.interquartile_mean([np.array([0.0, 0.0, 9.0])]) == 3.0


@given(scores)
def test_interquartile_mean_is_scipys_trimmed_mean(values: np.ndarray) -> None:
    assert stats.interquartile_mean([values]) == pytest.approx(scipy_stats.trim_mean(values, 0.25), abs=1e-9)


def test_statistics_of_a_batch_are_those_of_its_rows(rng: np.random.Generator) -> None:
    strata = [rng.normal(size=(5, 7)), rng.normal(size=(5, 4))]
    others = [rng.normal(size=(5, 3)), rng.normal(size=(5, 6))]
    for row in range(5):
        one, two = [s[row] for s in strata], [s[row] for s in others]
        assert stats.mean(strata)[row] == pytest.approx(float(stats.mean(one)))
        assert stats.interquartile_mean(strata)[row] == pytest.approx(float(stats.interquartile_mean(one)))
        whole = stats.probability_of_improvement(strata, others)[row]
        assert whole == pytest.approx(float(stats.probability_of_improvement(one, two)))


def test_probability_of_improvement_by_hand() -> None:
    # Pairs: 1 > 0, 1 = 1, 3 > 0, 3 > 1, so (1 + 1/2 + 1 + 1) / 4.
    assert stats.probability_of_improvement([np.array([1.0, 3.0])], [np.array([0.0, 1.0])]) == 0.875
    # Two tasks, one won and one lost.
    x, y = [np.array([1.0]), np.array([0.0])], [np.array([0.0]), np.array([1.0])]
    assert stats.probability_of_improvement(x, y) == 0.5


@given(scores, scores)
def test_probability_of_improvement_is_mann_whitneys(x: np.ndarray, y: np.ndarray) -> None:
    u = scipy_stats.mannwhitneyu(x, y, method="asymptotic").statistic if len({*x, *y}) > 1 else len(x) * len(y) / 2
    ours = float(stats.probability_of_improvement([x], [y]))
    assert ours == pytest.approx(u / (len(x) * len(y)))
    assert ours + float(stats.probability_of_improvement([y], [x])) == pytest.approx(1)


def test_probability_of_improvement_of_two_normals(rng: np.random.Generator) -> None:
    # P(X > Y) for N(1, 1) and N(0, 1) is Φ(1 / √2).
    x, y = rng.normal(1, 1, 2000), rng.normal(0, 1, 2000)
    assert stats.probability_of_improvement([x], [y]) == pytest.approx(scipy_stats.norm.cdf(1 / math.sqrt(2)), abs=0.02)


def test_bootstrap_of_two_scores_is_the_known_distribution(rng: np.random.Generator) -> None:
    # The mean of two draws from {0, 1} is 0, 1/2, 1 with 1/4, 1/2, 1/4.
    drawn = stats.mean(stats.resample([np.array([0.0, 1.0])], rng, 20_000))
    assert [np.mean(drawn == value) for value in (0.0, 0.5, 1.0)] == pytest.approx([0.25, 0.5, 0.25], abs=0.015)
    found = stats.bootstrap([np.array([0.0, 1.0])], stats.mean, rng)
    assert (found.low, found.estimate, found.high) == (0.0, 0.5, 1.0)
    found = stats.bootstrap([np.array([0.0, 1.0])], stats.mean, rng, level=0.4)  # 30 % to 70 %: inside the middle half
    assert (found.low, found.high) == (0.5, 0.5)


def test_bootstrap_is_stratified(rng: np.random.Generator) -> None:
    # Within each task all runs are equal, so there is nothing to vary; runs pooled over tasks would vary.
    found = stats.bootstrap([np.full(3, 1.0), np.full(3, 9.0)], stats.mean, rng)
    assert (found.low, found.estimate, found.high) == (5.0, 5.0, 5.0)


def test_bootstrap_of_many_normal_scores_is_the_normal_interval(rng: np.random.Generator) -> None:
    values = rng.normal(size=4000)
    found = stats.bootstrap([values], stats.mean, rng, resamples=1000)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert found.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_bootstrap_improvement_by_hand(rng: np.random.Generator) -> None:
    apart = stats.bootstrap_improvement([np.array([2.0, 3.0])], [np.array([0.0, 1.0])], rng)
    assert (apart.low, apart.estimate, apart.high) == (1.0, 1.0, 1.0)
    mixed = stats.bootstrap_improvement([np.array([0.0, 1.0])], [np.array([0.0, 1.0])], rng)
    assert (mixed.low, mixed.estimate, mixed.high) == (0.0, 0.5, 1.0)


def test_randomness_is_the_generators() -> None:
    values = np.random.default_rng(1).normal(size=9)
    found = [stats.bootstrap([values], stats.mean, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]


def test_nan_is_not_dropped(rng: np.random.Generator) -> None:
    values = [np.array([1.0, math.nan, 3.0, 4.0])]
    for statistic in (stats.mean, stats.interquartile_mean):
        found = stats.bootstrap(values, statistic, rng)
        assert math.isnan(found.estimate) and math.isnan(found.low) and math.isnan(found.high)


@pytest.mark.parametrize("runs", [3, 10])
def test_coverage_is_as_the_report_says(runs: int, rng: np.random.Generator) -> None:
    trials, held = 1500, 0
    for _ in range(trials):
        found = stats.bootstrap([rng.normal(size=runs)], stats.mean, rng, resamples=400)
        held += found.low <= 0 <= found.high
    assert held / trials == pytest.approx(stats.COVERAGE[runs], abs=0.035)  # 3 standard errors of a share of 1500
