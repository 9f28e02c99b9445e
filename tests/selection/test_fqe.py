"""Fitted Q evaluation against values that are known by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import CHOICES, DISCOUNT, KNOWN, TablePolicy, two_states

from lamo.data.episodes import Episodes
from lamo.errors import LamoError
from lamo.replay import replay
from lamo.selection.fqe import (
    CriticSettings,
    bootstrap_pools,
    discounted,
    first_values,
    fit,
    next_answers,
    next_logged,
    transitions,
)

SETTINGS = CriticSettings(fqe_steps=500, members=2, discount=DISCOUNT, width=32, learning_rate=1e-2, target_rate=0.05)


def value(episodes: Episodes, name: str, discrete: bool = True, settings: CriticSettings = SETTINGS) -> float:
    """The mean estimate of the value of state 0."""
    replayed = replay(TablePolicy(CHOICES[name], discrete), episodes)
    pools = bootstrap_pools(len(episodes), settings.members, np.random.default_rng(0))
    answers = next_answers(episodes, replayed)
    critics = fit(episodes, answers, pools, settings, 0, choices=(2,) if discrete else ())
    values = first_values(critics, episodes, replayed.actions)
    assert values.shape == (settings.members, len(episodes))
    return float(values[:, episodes.observations[episodes.offsets[:-1], 0] == 1].mean())


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("discrete", [True, False])
def test_known_values(name: str, discrete: bool, rng: np.random.Generator) -> None:
    episodes = two_states(80, 6, rng, discrete=discrete)
    assert value(episodes, name, discrete) == pytest.approx(KNOWN[name], abs=0.15)


@pytest.mark.parametrize("offset", [0.0, 293.0])
def test_actions_that_lie_far_from_zero_are_told_apart(offset: float, rng: np.random.Generator) -> None:
    """A set-point of 293 ± 1: the best lever pays 10, the worst -5."""
    n = 400
    lever = rng.uniform(-1, 1, (n, 1)).astype(np.float32)
    episodes = Episodes(
        observations=rng.normal(size=(n, 1)).astype(np.float32),
        actions=lever + np.float32(offset),
        rewards=10 - 10 * np.abs(lever[:, 0] - 0.5),
        offsets=np.arange(n + 1),
        terminated=np.ones(n, bool),
        truncated=np.zeros(n, bool),
        ids=np.arange(n),
    )
    for answer, worth in ((0.5, 10), (-1.0, -5)):
        answers = np.full((n, 1), answer + offset, np.float32)
        critics = fit(episodes, answers, [np.arange(n)], SETTINGS, 0)
        assert first_values(critics, episodes, answers).mean() == pytest.approx(worth, abs=1)


def test_time_limits_do_not_end_the_return_and_terminals_do(rng: np.random.Generator) -> None:
    """Both mistakes change the value by far more than the estimate is off."""
    episodes = two_states(80, 3, rng)
    right = value(episodes, "go round")
    assert right == pytest.approx(KNOWN["go round"], abs=0.2)
    every_end_is_one = replace(episodes, terminated=np.ones(80, bool), truncated=np.zeros(80, bool))
    assert value(every_end_is_one, "go round") < right - 2
    # "end" earns 1 and then nothing; if its terminals were time limits, what follows would be worth something
    none_is = replace(episodes, terminated=np.zeros(80, bool), truncated=np.ones(80, bool))
    assert value(episodes, "end") == pytest.approx(1, abs=0.15)
    assert value(none_is, "end") > 1.5


def test_without_the_last_observation_cut_off_steps_are_left_out(rng: np.random.Generator) -> None:
    episodes = two_states(80, 6, rng, final=False)
    steps = transitions(episodes)
    cut = episodes.offsets[1:][~episodes.terminated] - 1
    assert set(range(episodes.steps)) - set(steps.rows) == set(cut)
    assert value(episodes, "go round") == pytest.approx(KNOWN["go round"], abs=0.2)
    single = replace(two_states(3, 1, np.random.default_rng(1), final=False), terminated=np.zeros(3, bool))
    with pytest.raises(LamoError, match="no step says what came after it"):
        transitions(replace(single, truncated=np.ones(3, bool)))


def test_a_critic_of_the_behaviour_knows_what_it_earned(rng: np.random.Generator) -> None:
    """V of uniformly random choices, by hand: V0 = ½ (1 + γ V1) + ½ γ V0,  V1 = ½ (2 + γ V0)."""
    g = DISCOUNT
    v0 = (0.5 + 0.5 * g) / (1 - 0.5 * g - 0.25 * g * g)
    episodes = two_states(300, 12, rng)
    actions, known = next_logged(episodes)
    critics = fit(episodes, actions, [np.arange(300)] * 2, SETTINGS, 0, known=known, choices=(2,))
    states = np.eye(2, dtype=np.float32)[[0, 0]]
    found = critics(states, np.array([0, 1])).mean(axis=0)
    assert found.mean() == pytest.approx(v0, abs=0.2)
    assert found[0] == pytest.approx(g * v0, abs=0.25)


def test_seeds_repeat_and_members_differ(rng: np.random.Generator) -> None:
    episodes = two_states(20, 4, rng)
    few = replace(SETTINGS, fqe_steps=20)
    answers = next_answers(episodes, replay(TablePolicy(CHOICES["end"]), episodes))
    pools = bootstrap_pools(20, 2, np.random.default_rng(0))
    first, again, other = (fit(episodes, answers, pools, few, seed, choices=(2,)) for seed in (0, 0, 1))
    asked = episodes.observations, episodes.actions
    assert np.array_equal(first(*asked), again(*asked))
    assert not np.array_equal(first(*asked), other(*asked))
    assert not np.array_equal(first(*asked)[0], first(*asked)[1])


def test_values_stay_within_reach_of_the_rewards(rng: np.random.Generator) -> None:
    """However wild the fit, no target is above the largest reward for ever."""
    episodes = two_states(10, 4, rng)
    answers = next_answers(episodes, replay(TablePolicy(CHOICES["go round"]), episodes))
    wild = replace(SETTINGS, learning_rate=0.5, fqe_steps=200, target_rate=1.0)
    critics = fit(episodes, answers, [np.arange(10)], wild, 0, choices=(2,))
    assert np.abs(critics(episodes.observations, episodes.actions)).max() < 3 * 2 / (1 - DISCOUNT)


def test_a_small_log_that_nothing_ends_is_worth_no_less_than_its_least_reward_for_ever(
    rng: np.random.Generator,
) -> None:
    """Every step pays 1: with γ = 0.99 anything is worth 100, where twenty steps earn 18."""
    steps = 20 * 20
    episodes = Episodes(
        observations=rng.normal(size=(steps, 6)).astype(np.float32),
        actions=rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        rewards=np.ones(steps, np.float32),
        offsets=np.arange(21) * 20,
        terminated=np.zeros(20, bool),
        truncated=np.ones(20, bool),
        ids=np.arange(20),
    )
    settings = replace(SETTINGS, discount=0.99)
    pools = bootstrap_pools(20, 2, np.random.default_rng(0))
    critics = fit(episodes, rng.uniform(-1, 1, (steps, 2)).astype(np.float32), pools, settings, 0)
    assert first_values(critics, episodes, episodes.actions).mean() == pytest.approx(100, rel=0.05)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.floats(0, 0.99), st.integers(0, 99))
def test_discounted_sums(lengths: list[int], discount: float, seed: int) -> None:
    n, rng = sum(lengths), np.random.default_rng(seed)
    episodes = Episodes(
        observations=np.zeros((n, 1), np.float32),
        actions=np.zeros((n, 1), np.float32),
        rewards=rng.normal(size=n).astype(np.float32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        terminated=np.ones(len(lengths), bool),
        truncated=np.zeros(len(lengths), bool),
        ids=np.arange(len(lengths)),
    )
    found = discounted(episodes, discount)
    for a, b in zip(episodes.offsets[:-1], episodes.offsets[1:], strict=True):
        for t in range(a, b):
            expected = sum(discount ** (u - t) * float(episodes.rewards[u]) for u in range(t, b))
            assert found[t] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"discount": 1.0}, r"--discount 1.0 lies outside \[0, 1\)"),
        ({"members": 0}, "--members 0 must be at least 1"),
        ({"target_rate": 0.0}, "--target-rate 0.0"),
        ({"learning_rate": -1.0}, "--learning-rate -1.0 must be"),
    ],
)
def test_settings_without_sense(settings: dict, message: str) -> None:
    with pytest.raises(LamoError, match=message):
        CriticSettings(**settings)
