"""Importance sampling where probabilities and values are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from problems import bandit

from lamo.data.episodes import Episodes
from lamo.errors import LamoError
from lamo.selection.bootstrap import Bootstrap, interval
from lamo.selection.importance import log_likelihood, weighted_return

ARMS = np.array([0.6, 0.3, 0.1])
MEANS = np.array([1.0, 2.0, 7.0])


def weigh(episodes: Episodes, arm: int, epsilon: float, bootstrap: Bootstrap | None = None):
    asked = np.full(episodes.steps, arm)
    likely = log_likelihood(asked, episodes.actions, epsilon=epsilon, sigma=1.0, choices=(3,))
    return weighted_return(episodes, likely, 0.9, bootstrap)


@pytest.mark.parametrize("arm", [0, 1, 2])
@pytest.mark.parametrize("epsilon", [0.0, 0.3])
def test_a_bandit_with_known_probabilities(arm: int, epsilon: float, rng: np.random.Generator) -> None:
    episodes = bandit(3000, ARMS, lambda arms: MEANS[arms] + rng.normal(size=len(arms)), rng)
    truth = (1 - epsilon) * MEANS[arm] + epsilon * MEANS.mean()
    found = weigh(episodes, arm, epsilon)
    assert found.value == pytest.approx(truth, abs=0.25)
    probabilities = (1 - epsilon) * np.eye(3)[arm] + epsilon / 3
    expected_size = 3000 / np.sum(np.square(probabilities) / ARMS)  # of an infinite log, per episode
    assert found.effective_size == pytest.approx(expected_size, rel=0.2)


def test_the_interval_covers_the_truth(rng: np.random.Generator) -> None:
    covered = 0
    for seed in range(100):
        episodes = bandit(200, ARMS, lambda arms: MEANS[arms] + rng.normal(size=len(arms)), rng)
        found = weigh(episodes, 1, 0.3, Bootstrap(200, (seed,), resamples=200))
        said = interval(found.value, found.resampled)
        covered += said["low"] < 0.7 * 2 + 0.3 * MEANS.mean() < said["high"]
    assert 88 <= covered <= 100


def two_steps() -> Episodes:
    """Three episodes; the last ends after one step."""
    return Episodes(
        observations=np.zeros((5, 1), np.float32),
        actions=np.array([0, 1, 0, 0, 1]),
        rewards=np.array([1, 2, 3, 4, 5], np.float32),
        offsets=np.array([0, 2, 4, 5]),
        terminated=np.ones(3, bool),
        truncated=np.zeros(3, bool),
        ids=np.arange(3),
        log_probs=np.log(np.array([0.5, 0.25, 0.8, 0.5, 0.5], np.float32)),
    )


def test_by_hand() -> None:
    # π takes choice 0 with 0.9: ratios 0.9/0.5, 0.1/0.25 | 0.9/0.8, 0.9/0.5 | 0.1/0.5, and then 1 for ever
    episodes, pi = two_steps(), np.log(np.where(two_steps().actions == 0, 0.9, 0.1))
    first = np.array([1.8, 1.125, 0.2])
    second = np.array([1.8 * 0.4, 1.125 * 1.8, 0.2])
    expected = first @ [1, 3, 5] / first.sum() + 0.9 * second @ [2, 4, 0] / second.sum()
    found = weighted_return(episodes, pi, 0.9)
    assert found.value == pytest.approx(expected, rel=1e-6)
    assert found.effective_size == pytest.approx(second.sum() ** 2 / np.square(second).sum(), rel=1e-6)


def test_the_behaviour_itself_is_worth_what_it_earned() -> None:
    episodes = two_steps()
    assert episodes.log_probs is not None
    found = weighted_return(episodes, episodes.log_probs.astype(np.float64), 0.9)
    assert found.value == pytest.approx((1 + 3 + 5) / 3 + 0.9 * (2 + 4) / 3)
    assert found.effective_size == pytest.approx(3)


def test_no_episode_acts_as_the_policy_does() -> None:
    found = weighted_return(two_steps(), np.full(5, -np.inf), 0.9, Bootstrap(3, (0,), resamples=10))
    assert found.value is None and found.effective_size == 0 and np.isnan(found.resampled).all()
    assert interval(found.value, found.resampled) == {"estimate": None, "low": None, "high": None}


def test_long_episodes_do_not_underflow(rng: np.random.Generator) -> None:
    """A thousand steps at a thousandth of the probability: the weights' common size cancels."""
    n = 1000
    episodes = Episodes(
        observations=np.zeros((3 * n, 1), np.float32),
        actions=np.zeros(3 * n, np.int64),
        rewards=np.ones(3 * n, np.float32),
        offsets=np.arange(4) * n,
        terminated=np.ones(3, bool),
        truncated=np.zeros(3, bool),
        ids=np.arange(3),
        log_probs=np.zeros(3 * n, np.float32),
    )
    found = weighted_return(episodes, np.full(3 * n, np.log(1e-3)), 0.99)
    assert found.value == pytest.approx((1 - 0.99**n) / 0.01)


def test_vectors(rng: np.random.Generator) -> None:
    logged, asked = rng.normal(size=(50, 2)).astype(np.float32), np.zeros((50, 2), np.float32)
    from scipy.stats import norm

    scale = 0.5 * logged.std(axis=0, dtype=np.float64)
    expected = norm.logpdf(logged.astype(np.float64), scale=scale).sum(axis=1)
    np.testing.assert_allclose(log_likelihood(asked, logged, epsilon=0, sigma=0.5), expected)


def test_refusals() -> None:
    with pytest.raises(LamoError, match="does not hold the log-probabilities"):
        weighted_return(replace(two_steps(), log_probs=None), np.zeros(5), 0.9)


def test_draws_repeat_whether_or_not_they_are_kept(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    values = rng.normal(size=(30, 2))
    kept = Bootstrap(30, (1, 2), resamples=50)
    monkeypatch.setattr("lamo.selection.bootstrap.KEPT", 300)
    fresh = Bootstrap(30, (1, 2), resamples=50)
    assert fresh._kept is None and kept._kept is not None
    assert np.array_equal(fresh.sums(values), fresh.sums(values))
    assert kept.means(np.ones((30, 1))) == pytest.approx(np.ones((50, 1)))
    assert np.std(kept.means(values), axis=0) == pytest.approx(values.std(axis=0) / np.sqrt(30), rel=0.35)


def test_draws_without_the_top_episode(rng: np.random.Generator) -> None:
    """One episode is likelier than the others by more than a float can say: a draw without it rests on the next."""
    gaps = np.array([0.0, -2_000.0, -4_000.0])
    episodes = bandit(3, ARMS, lambda arms: np.array([1.0, 5.0, 9.0]), rng)
    assert episodes.log_probs is not None
    bootstrap = Bootstrap(3, (0,), resamples=400)
    found = weighted_return(episodes, episodes.log_probs + gaps, 0.9, bootstrap)
    first = (np.concatenate(list(bootstrap.counts())) > 0).argmax(axis=1)  # the likeliest episode of each draw
    np.testing.assert_allclose(found.resampled, np.array([1.0, 5.0, 9.0])[first])
    assert interval(found.value, found.resampled) == {"estimate": 1.0, "low": 1.0, "high": 9.0}
    # where none of them acts so, there is still no estimate
    never = weighted_return(episodes, np.array([0.0, -np.inf, -np.inf]), 0.9, bootstrap)
    assert (np.isnan(never.resampled) == (first > 0)).all()
