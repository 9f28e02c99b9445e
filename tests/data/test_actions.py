"""Kinds of actions, their scaling, and the actions that follow a step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamo.data.actions import action_scaling, choices_of, future_actions, off_the_bounds, one_hot, unbounded
from lamo.data.episodes import Episodes
from lamo.data.windows import Windows
from lamo.errors import LamoError

FINITE = st.floats(-1e3, 1e3, width=32)


@given(st.lists(st.tuples(FINITE, st.floats(0.125, 100, width=32)), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_scaling_there_and_back(box, seed) -> None:
    low = np.array([each[0] for each in box], np.float32)
    high = low + np.array([each[1] for each in box], np.float32)
    scaling = action_scaling(low, high, (low, high))
    inside = np.random.default_rng(seed).uniform(low, high, (20, len(low))).astype(np.float32)
    unit = scaling.to_unit(inside)
    assert np.abs(unit).max() <= 1 + 1e-2  # a narrow box far from zero has few digits
    tolerance = 1e-5 * np.maximum(np.abs(low), np.abs(high)) + 1e-6
    assert (np.abs(scaling.from_unit(unit) - inside) <= tolerance).all()
    assert scaling.from_unit(np.full(len(low), 7)).tolist() == high.tolist()  # what is beyond is cut
    assert scaling.to_unit(scaling.from_unit(np.zeros(len(low)))) == pytest.approx(0, abs=1e-2)


def test_the_unit_box_is_itself() -> None:
    scaling = action_scaling((-1.0, -1.0), (1.0, 1.0), (np.zeros(2), np.zeros(2)))
    assert scaling.identity
    values = np.random.default_rng(0).uniform(-2, 2, (50, 2)).astype(np.float32)
    np.testing.assert_array_equal(scaling.to_unit(values), values)
    assert not action_scaling((-1.0, -2.0), (1.0, 1.0), (np.zeros(2), np.zeros(2))).identity


@given(
    st.lists(st.floats(-2, 2, width=32) | st.sampled_from([-1.0, 1.0]), min_size=1, max_size=30),
    st.floats(0, 1),
    st.integers(0, 2**32 - 1),
)
def test_only_what_lies_at_a_bound_is_drawn_anew(numbers: list[float], margin: float, seed: int) -> None:
    before = np.array(numbers, np.float32)
    after = off_the_bounds(before, margin, np.random.default_rng(seed))
    at = np.abs(before) >= np.float32(1 - 1e-4)
    assert after.dtype == np.float32
    np.testing.assert_array_equal(after[~at], before[~at])
    np.testing.assert_array_equal(np.sign(after[at & (np.abs(after) > 0)]), np.sign(before[at & (np.abs(after) > 0)]))
    assert (np.abs(after[at]) <= 1).all() and (np.abs(after[at]) >= 1 - margin - 1e-6).all()


def test_the_margin_is_filled_evenly() -> None:
    after = off_the_bounds(np.full(10_000, -1, np.float32), 0.2, np.random.default_rng(0))
    shares = np.histogram(after, 4, (-1, -0.8))[0] / len(after)
    assert shares == pytest.approx(0.25, abs=0.02)


def test_where_there_is_no_bound_the_data_s_extremes_stand() -> None:
    extremes = np.array([-3.0, 0.5, 2.0], np.float32), np.array([4.0, 0.5, 5.0], np.float32)
    free = action_scaling(None, None, extremes)
    assert free.low.tolist() == [-3, -0.5, 2] and free.high.tolist() == [4, 1.5, 5]  # what never changes may move by 1
    half = action_scaling((-np.inf, 0.0, 0.0), (9.0, 1.0, np.inf), extremes)
    assert half.low.tolist() == [-3, 0, 0] and half.high.tolist() == [9, 1, 5]
    assert unbounded((-np.inf, 0.0, 0.0), (9.0, 1.0, np.inf), 3).tolist() == [True, False, True]
    assert unbounded(None, (1.0,), 1).tolist() == [True]


def test_the_largest_of_a_number_format_is_no_bound() -> None:
    most, extremes = np.finfo(np.float32).max, np.array([[-1.0, 0.0], [1.0, 2.0]], np.float32)
    box = action_scaling((-most, -1.0), (most, float("inf")), extremes)
    assert box.low.tolist() == [-1, -1] and box.high.tolist() == [1, 2]
    assert unbounded((-most, -1.0), (most, 1.0), 2).tolist() == [True, False]
    assert action_scaling((-1e308,), (1e308,), extremes[:, :1]).high.tolist() == [1]


def test_a_bound_is_known_in_a_narrow_box_far_from_zero() -> None:
    box = action_scaling((20.1,), (20.3,), (np.float32([20.1]), np.float32([20.3])))
    ends = box.to_unit(np.float32([[20.1], [20.3]]))
    assert (np.abs(off_the_bounds(ends, 0.5, np.random.default_rng(0))) < 0.99).all()


@given(st.lists(st.integers(1, 7), min_size=1, max_size=5), st.integers(1, 6), st.booleans())
def test_future_actions(lengths: list[int], count: int, vectors: bool) -> None:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    steps = int(offsets[-1])
    actions = np.arange(steps) if not vectors else np.arange(steps, dtype=np.float32)[:, None] * [1, 10]
    found, real = future_actions(actions, offsets, np.arange(steps), count)
    for row in range(steps):
        end = int(offsets[np.searchsorted(offsets, row, side="right")])
        wanted = list(range(row, min(end, row + count)))
        assert real[row].tolist() == [True] * len(wanted) + [False] * (count - len(wanted))
        np.testing.assert_array_equal(found[row][: len(wanted)], actions[wanted])
    square = np.arange(steps)[None].repeat(2, 0)
    np.testing.assert_array_equal(future_actions(actions, offsets, square, count)[0][1], found)


@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.integers(1, 5), st.integers(1, 4))
def test_futures_of_windows(lengths: list[int], context: int, count: int) -> None:
    """The first of each chunk is the window's own action; padding has none."""
    steps = sum(lengths)
    episodes = Episodes(
        observations=np.zeros((steps, 1), np.float32),
        actions=np.arange(1, steps + 1),
        rewards=np.zeros(steps, np.float32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        terminated=np.ones(len(lengths), bool),
        truncated=np.zeros(len(lengths), bool),
        ids=np.arange(len(lengths)),
    )
    windows = Windows(episodes, context)
    batch, (wanted, real) = windows.at(np.arange(steps)), windows.futures(np.arange(steps), count)
    assert wanted.shape == real.shape == (steps, context, count)
    np.testing.assert_array_equal(real[..., 0], batch.mask)
    np.testing.assert_array_equal(wanted[..., 0] * batch.mask, batch.actions)
    inside = real[..., 1:]
    np.testing.assert_array_equal((wanted[..., 1:] - wanted[..., :1])[inside], np.nonzero(inside)[2] + 1)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_one_hot(choices: list[int], seed: int) -> None:
    actions = np.random.default_rng(seed).integers(0, choices, (6, len(choices)))
    rows = one_hot(actions, choices)
    assert rows.shape == (6, sum(choices)) and rows.sum() == 6 * len(choices)
    for part, (column, n) in enumerate(zip(actions.T, choices, strict=True)):
        first = sum(choices[:part])
        np.testing.assert_array_equal(rows[:, first : first + n].argmax(1), column)
    np.testing.assert_array_equal(one_hot(actions[:, 0], choices[:1]), one_hot(actions[:, :1], choices[:1]))


@pytest.mark.parametrize(
    ("said", "found"),
    [(None, (3, 2)), ([5, 2], (5, 2)), ([1, 1], (3, 2)), ([9], (3, 2)), ("x", (3, 2)), ([10**30, 1], (3, 2))],
)
def test_the_data_s_choices_are_there_whatever_is_said(said, found) -> None:
    assert choices_of(np.array([2, 1]), said) == found


def test_episodes_know_their_kind(make_episodes) -> None:
    kinds = {2: "continuous", 0: "discrete", -3: "multidiscrete"}
    for actions, kind in kinds.items():
        assert make_episodes([4, 5], actions=actions).action_kind == kind
    several = make_episodes([20, 20], actions=-3, metadata={"action_nvec": [9, 4, 4]})
    assert several.choices == (9, 4, 4) and several.select([1]).choices == (9, 4, 4)
    several.actions[7, 1] = -1
    with pytest.raises(LamoError, match=r"actions holds -1 at \[7\], but choices are counted from 0"):
        several.validate()
