"""Goals that were reached, asked for afterwards."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamo.data.hindsight import Counts, GoalColumns, Hindsight, goal_columns, within
from lamo.data.relabel import warning
from lamo.errors import LamoError

GOALS = GoalColumns(slice(1, 3), slice(3, 5))  # of observations x | achieved | desired | y
LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=5)
QUICK = settings(max_examples=60, deadline=None)


def recorded(make_episodes, lengths, seed=0, final=True):
    """Every achieved goal is there once, so that each tells the step it comes from."""
    episodes = make_episodes(lengths, width=6, seed=seed, final=final)
    for e, (start, end) in enumerate(zip(episodes.offsets[:-1], episodes.offsets[1:], strict=True)):
        episodes.observations[start:end, 3:5] = [e, -1]  # one desired goal per episode, which is never reached
        episodes.observations[start:end, 1] = 100 + e
        episodes.observations[start:end, 2] = np.arange(end - start)
        if episodes.final_observations is not None:
            episodes.final_observations[e, 1:5] = [100 + e, end - start, e, -1]
    return episodes


def spans(episodes):
    return [slice(int(a), int(b)) for a, b in zip(episodes.offsets[:-1], episodes.offsets[1:], strict=True)]


def made(episodes, **options):
    counts = Counts()
    found = Hindsight(GOALS, within(0.5), **options)(episodes, 0, counts)
    assert found is not None
    return found.validate(), counts


@QUICK
@given(LENGTHS, st.integers(0, 9), st.integers(1, 6))
def test_future_goals_come_from_the_same_episode_and_later(make_episodes, lengths, seed, copies):
    episodes = recorded(make_episodes, lengths, seed)
    found, counts = made(episodes, copies=copies, seed=seed, originals=False)
    assert found.final_observations is not None
    assert counts.copies == len(found) == sum(min(copies, length) for length in lengths)
    assert counts.cut == counts.without == 0
    for index, (e, span) in enumerate(zip(found.ids // copies, spans(found), strict=True)):
        length = span.stop - span.start
        own = slice(int(episodes.offsets[e]), int(episodes.offsets[e]) + length)
        goal = found.observations[span.start, 3:5]
        assert (found.observations[span, 3:5] == goal).all() and goal[0] == 100 + e
        # achieved after the last step of the copy, so later than every step in it
        assert goal[1] == length and length <= lengths[e]
        np.testing.assert_array_equal(found.final_observations[index, 1:5], [goal[0], goal[1], goal[0], goal[1]])
        # all but the goal is what was recorded
        np.testing.assert_array_equal(found.actions[span], episodes.actions[own])
        rest = [0, 1, 2, 5]
        np.testing.assert_array_equal(found.observations[span][:, rest], episodes.observations[own][:, rest])
        # paid at the last step alone, where the goal is reached
        assert found.rewards[span].tolist() == [0.0] * (length - 1) + [1.0]
        assert bool(found.truncated[index] or found.terminated[index])
        if length < lengths[e]:
            assert found.truncated[index] and not found.terminated[index]
    for e in range(len(lengths)):  # different goals of one episode
        ends = found.lengths[found.ids // copies == e]
        assert len(set(ends.tolist())) == len(ends)


@QUICK
@given(LENGTHS, st.integers(0, 9))
def test_the_final_goal_is_reached_at_the_last_step(make_episodes, lengths, seed):
    episodes = recorded(make_episodes, lengths, seed)
    found, _ = made(episodes, strategy="final", copies=1)
    assert len(found) == 2 * len(lengths) and found.ids.tolist() == list(range(2 * len(lengths)))
    copies, originals = found.select(range(1, len(found), 2)), found.select(range(0, len(found), 2))
    np.testing.assert_array_equal(originals.observations, episodes.observations)
    assert (originals.rewards == 0).all()  # rewards by the same function, and no goal was reached
    np.testing.assert_array_equal(copies.offsets, episodes.offsets)
    np.testing.assert_array_equal(copies.terminated, episodes.terminated)
    assert (copies.rewards[copies.offsets[1:] - 1] == 1).all()
    np.testing.assert_array_equal(copies.returns, 1)


@QUICK
@given(st.lists(st.integers(1, 9), min_size=2, max_size=6), st.data())
def test_goals_do_not_depend_on_blocks(make_episodes, assert_same, lengths, data):
    episodes = recorded(make_episodes, lengths)
    at = data.draw(st.integers(1, len(lengths) - 1))
    change = Hindsight(GOALS, within(0.5), copies=3, seed=5)
    whole = change(episodes, 0, Counts())
    one, two = episodes.select(range(at)), episodes.select(range(at, len(lengths)))
    parts = [change(one, 0, Counts()), change(two, at, Counts())]
    for key in ("observations", "rewards", "ids", "final_observations", "truncated"):
        apart = np.concatenate([getattr(part, key) for part in parts])
        np.testing.assert_array_equal(apart, getattr(whole, key))


def test_future_goals_are_uniform_over_what_follows(make_episodes):
    """HER's `future`: the goal of a step is uniform over what was achieved after it."""
    episodes = recorded(make_episodes, [4] * 6000)
    found, _ = made(episodes, copies=1, originals=False)
    second = np.array([found.observations[span.start + 1, 4] for span in spans(found) if span.stop > span.start + 1])
    shares = np.bincount(second.astype(int), minlength=5)[2:] / len(second)
    np.testing.assert_allclose(shares, 1 / 3, atol=0.03)


@pytest.mark.parametrize("final", [True, False])
def test_what_is_not_recorded_is_not_made_up(make_episodes, final):
    """Where it is not known what was achieved after the last step, that step is left out."""
    episodes = recorded(make_episodes, [4, 1, 3], final=final)
    if final:
        assert episodes.final_observations is not None
        episodes.final_observations[[0, 1]] = np.nan
    found, counts = made(episodes, strategy="final", copies=1)
    assert (counts.cut, counts.without) == ((1, 1) if final else (2, 1))
    assert found.lengths.tolist() == ([3, 3, 3, 3] if final else [3, 3, 2, 2])
    assert found.final_observations is not None and found.final_observations[0, 2] == 3
    assert found.truncated[:2].all() and not found.terminated[:2].any()
    assert made_nothing(make_episodes)


def made_nothing(make_episodes) -> bool:
    lone = recorded(make_episodes, [1], final=False)
    return Hindsight(GOALS, within(0.5))(lone, 0, Counts()) is None


def test_an_episode_may_end_at_its_goal(make_episodes):
    episodes = recorded(make_episodes, [6])
    episodes.observations[:, 1:3] = [[0, 0], [9, 9], [0, 0], [0, 0], [9, 9], [0, 0]]
    assert episodes.final_observations is not None
    episodes.final_observations[0, 1:3] = 9  # where it was after its first step, too
    change = Hindsight(GOALS, within(0.5), "final", 1, reached=lambda a, g: np.linalg.norm(a - g, axis=-1) < 0.5)
    found = change(episodes, 0, Counts())
    assert found is not None and found.lengths.tolist() == [6, 1]
    assert found.terminated.tolist()[1] and not found.truncated[1] and found.rewards[-1] == 1
    assert found.final_observations is not None
    np.testing.assert_array_equal(found.final_observations[1, 1:5], 9)


def test_copies_that_begin_at_their_goal_are_counted(make_episodes):
    episodes = recorded(make_episodes, [3, 3])
    episodes.observations[:3, 1:3] = 7
    assert episodes.final_observations is not None
    episodes.final_observations[0, 1:3] = 7
    found, counts = made(episodes, strategy="final", copies=1)
    assert "1 begin at their goal" in str(warning(found.metadata)) and warning(episodes.metadata) is None
    assert counts.at_goal == 1 and found.returns.tolist() == [0, 3, 0, 1]


def test_where_goals_lie():
    told = {"observation_keys": ["achieved_goal", "desired_goal", "observation"]}
    sized = {**told, "observation_sizes": [2, 2, 3]}
    expected = GoalColumns(slice(0, 2), slice(2, 4))
    assert goal_columns(sized, 7) == expected
    assert goal_columns(told, 7, sizes={"achieved_goal": 2, "desired_goal": 2, "observation": 3, "more": 9}) == expected
    assert goal_columns({}, 7, sizes={"achieved_goal": 2, "desired_goal": 2, "observation": 3}) == expected
    assert goal_columns({}, 7, achieved="0:2", desired="2:4") == expected
    cases: list[tuple[dict[str, Any], dict[str, Any], str]] = [
        (told, {}, "is not told"),
        (told, {"sizes": {"achieved_goal": 2}}, "is not told"),
        ({**sized, "observation_sizes": [2, 2, 9]}, {}, "is not told"),
        ({}, {"achieved": "0:2"}, "give both"),
        ({}, {"achieved": "0:2", "desired": "1:3"}, "share columns"),
        ({}, {"achieved": "0:2", "desired": "2:5"}, "as many"),
        ({}, {"achieved": "0:2", "desired": "6:8"}, "there are columns 0:7"),
        ({}, {"achieved": "2", "desired": "6:8"}, "FIRST:END"),
    ]
    for metadata, options, words in cases:
        with pytest.raises(LamoError, match=words):
            goal_columns(metadata, 7, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"copies": 0}, "--copies 0"),
        ({"strategy": "final", "copies": 2}, "one goal per episode"),
        ({"seed": -1}, "negative"),
    ],
)
def test_what_makes_no_sense(options, words):
    with pytest.raises(LamoError, match=words):
        Hindsight(GOALS, within(0.5), **options)


def test_rewards_that_are_none(make_episodes):
    episodes = recorded(make_episodes, [4])
    for reward, words in (
        (lambda a, g: np.full(len(a), np.nan), "finite"),
        (lambda a, g: np.zeros((len(a), 1)), "one each"),
    ):
        with pytest.raises(LamoError, match=words):
            Hindsight(GOALS, reward, copies=1)(episodes, 0, Counts())
    for options in ((-1.0,), (float("nan"),), (0.5, 1, 1)):
        with pytest.raises(LamoError):
            within(*options)


def test_how_likely_actions_were_is_not_carried_over(make_episodes):
    episodes = replace(recorded(make_episodes, [4]), log_probs=np.zeros(4, np.float32))
    found, _ = made(episodes, copies=1)
    assert found.log_probs is None
