from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamo.data import Episodes, Statistics
from lamo.data.transitions import TransitionBatch, Transitions, best_episodes, return_range_scale
from lamo.errors import LamoError

KINDS = ("terminated", "truncated", "unfinished")
SHAPES = st.lists(st.tuples(st.integers(1, 6), st.sampled_from(KINDS), st.booleans()), min_size=1, max_size=6)


def build(make_episodes, shapes, *, actions=2, seed=0) -> Episodes:
    """Episodes of (length, how it ended, whether its final observation is known)."""
    episodes = make_episodes(
        [length for length, _, _ in shapes],
        ends=[end for _, end, _ in shapes],
        actions=actions,
        seed=seed,
        final=True,
    )
    known = np.array([final for _, _, final in shapes])
    return replace(
        episodes, final_observations=np.where(known[:, None], episodes.final_observations, np.nan).astype(np.float32)
    )


def naive(episodes: Episodes) -> dict[int, tuple[np.ndarray, float]]:
    """Row -> (next observation, terminated) of every usable transition, one after the other; 0 where it is unknown."""
    mean, std = episodes.statistics()
    out = {}
    for e in range(len(episodes)):
        for row in range(int(episodes.offsets[e]), int(episodes.offsets[e + 1])):
            if row + 1 < episodes.offsets[e + 1]:
                out[row] = ((episodes.observations[row + 1] - mean) / std, 0.0)
                continue
            final = episodes.final_observations[e]
            if not np.isnan(final).any():
                out[row] = ((final - mean) / std, float(episodes.terminated[e]))
            elif episodes.terminated[e]:
                out[row] = (np.zeros_like(mean), 1.0)
    return out


@given(shapes=SHAPES, discrete=st.booleans(), seed=st.integers(0, 100))
def test_every_transition_equals_the_naive_one(make_episodes, shapes, discrete, seed):
    episodes = build(make_episodes, shapes, actions=0 if discrete else 2, seed=seed)
    expected = naive(episodes)
    if not expected:
        with pytest.raises(LamoError, match="--preset bc"):
            Transitions(episodes)
        return
    transitions = Transitions(episodes, reward_scale=2.0, reward_shift=-1.0)
    assert transitions.count == len(expected)
    rows = np.array(sorted(expected))
    batch = transitions.at(rows)
    mean, std = episodes.statistics()
    np.testing.assert_allclose(batch.observations, (episodes.observations[rows] - mean) / std, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(batch.actions, episodes.actions[rows])
    np.testing.assert_array_equal(batch.rewards, episodes.rewards[rows] * 2 - 1)
    for i, row in enumerate(rows):
        np.testing.assert_allclose(batch.next_observations[i], expected[row][0], rtol=1e-4, atol=1e-5)
        assert batch.terminated[i] == expected[row][1]


@given(shapes=SHAPES)
def test_all_usable_transitions_are_drawn_and_no_other(make_episodes, shapes):
    episodes = build(make_episodes, shapes)
    usable = naive(episodes)
    if not usable:
        return
    episodes.observations[:, 0] = np.arange(episodes.steps)
    drawn = Transitions(episodes, normalise=False).sample(np.random.default_rng(0), 200 * episodes.steps)
    counts = np.bincount(drawn.observations[:, 0].astype(int), minlength=episodes.steps)
    assert set(np.flatnonzero(counts)) == set(usable)
    mean = 200 * episodes.steps / len(usable)
    assert np.abs(counts[sorted(usable)] - mean).max() < 7 * np.sqrt(mean)


def test_imitation_uses_every_step(make_episodes):
    episodes = build(make_episodes, [(1, "unfinished", False), (3, "truncated", False)])
    transitions = Transitions(episodes, following=False)
    assert transitions.count == 4
    batch = transitions.at(np.arange(4))
    assert not batch.next_observations.any() and not batch.terminated.any()


def test_without_any_final_observation(make_episodes):
    episodes = make_episodes([3, 2, 4], ends=["terminated", "truncated", "unfinished"])
    transitions = Transitions(episodes)
    assert transitions.count == 7
    batch = transitions.at(np.array([2]))
    assert batch.terminated[0] == 1 and not batch.next_observations.any()


def test_types_and_shapes(make_episodes, rng):
    batch = Transitions(make_episodes([30, 40], width=5, actions=3)).sample(rng, 64)
    assert isinstance(batch, TransitionBatch)
    shapes = [(64, 5), (64, 3), (64,), (64, 5), (64,)]
    assert [(x.shape, x.dtype) for x in batch] == [(shape, np.float32) for shape in shapes]
    discrete = Transitions(make_episodes([30], actions=0)).sample(rng, 4)
    assert (discrete.actions.shape, discrete.actions.dtype) == ((4,), np.int64)


def test_batches_belong_to_the_caller(make_episodes, rng):
    episodes = build(make_episodes, [(9, "terminated", True), (30, "truncated", True)])
    before = episodes.digest()
    for array in Transitions(episodes).sample(rng, 60):
        array[:] = 1
    assert episodes.digest() == before


@given(seed=st.integers(0, 2**32))
def test_equal_seeds_give_equal_batches(make_episodes, seed):
    transitions = Transitions(make_episodes([9, 30, 2]))
    for x, y in zip(*(transitions.sample(np.random.default_rng(seed), 20) for _ in range(2)), strict=True):
        np.testing.assert_array_equal(x, y, strict=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reward_scale": 0.0}, "reward scale 0.0"),
        ({"reward_scale": float("nan")}, "reward scale nan"),
        ({"statistics": Statistics(np.zeros(2, np.float32), np.ones(2, np.float32))}, "the data has 3"),
    ],
)
def test_impossible_settings(make_episodes, options, message):
    with pytest.raises(LamoError, match=message):
        Transitions(make_episodes([9]), **options)


def with_returns(make_episodes, returns) -> Episodes:
    episodes = make_episodes([2] * len(returns))
    episodes.rewards[:] = np.repeat(returns, 2) / 2
    return episodes


def test_return_range_scale(make_episodes):
    assert return_range_scale(with_returns(make_episodes, [10.0, 30.0, 50.0]), 1000) == pytest.approx(25.0)
    assert return_range_scale(with_returns(make_episodes, [7.0, 7.0]), 1000) == 1.0
    assert return_range_scale(with_returns(make_episodes, [0.0, 0.0]), 1000) == 1.0


@given(returns=st.lists(st.integers(-5, 5), min_size=1, max_size=20), share=st.floats(0.01, 1.0))
def test_best_episodes(make_episodes, returns, share):
    episodes = with_returns(make_episodes, returns)
    best = best_episodes(episodes, share)
    assert len(best) == max(1, int(share * len(returns) + 1e-9))
    assert list(best.ids) == sorted(best.ids)
    left = np.delete(np.asarray(returns, float), best.ids)
    assert len(left) == 0 or best.returns.min() >= left.max() - 1e-6


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, float("nan")])
def test_best_episodes_refuses(make_episodes, share):
    with pytest.raises(LamoError, match="--top-fraction"):
        best_episodes(make_episodes([2, 2]), share)
