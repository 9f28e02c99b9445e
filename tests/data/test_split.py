"""Held-out episodes: whole, disjoint, the same for every seed, and as alike as can be for different shares of a log."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamo.data.episodes import Episodes
from lamo.data.hindsight import GoalColumns, Hindsight, within
from lamo.data.split import hold_out
from lamo.errors import LamoError


def episodes(lengths: list[int], ids: list[int] | None = None) -> Episodes:
    n, count = sum(lengths), len(lengths)
    return Episodes(
        observations=np.arange(n, dtype=np.float32)[:, None],
        actions=np.zeros((n, 1), np.float32),
        rewards=np.ones(n, np.float32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        terminated=np.zeros(count, bool),
        truncated=np.ones(count, bool),
        ids=np.arange(count) if ids is None else np.asarray(ids, np.int64),
    )


@given(st.lists(st.integers(1, 5), min_size=2, max_size=40), st.floats(0.01, 0.99))
def test_each_episode_is_on_one_side(lengths: list[int], share: float) -> None:
    whole = episodes(lengths)
    count = int(np.floor(share * len(lengths) + 1e-9))
    if count == 0:
        with pytest.raises(LamoError, match="less than one episode; the smallest that can be used is"):
            hold_out(whole, share)
        return
    train, held = hold_out(whole, share)
    assert len(held) == count and len(train) == len(lengths) - count >= 1
    assert sorted([*train.ids, *held.ids]) == list(range(len(lengths)))
    assert list(train.ids) == sorted(train.ids) and list(held.ids) == sorted(held.ids)
    rows = np.concatenate([train.observations, held.observations])
    assert sorted(rows[:, 0]) == list(range(whole.steps))
    again = hold_out(whole, share)
    assert again[0].digest() == train.digest() and again[1].digest() == held.digest()


@given(st.integers(2, 60), st.floats(0.05, 0.5), st.floats(0.05, 0.5))
def test_a_smaller_share_holds_out_a_subset(count: int, a: float, b: float) -> None:
    whole = episodes([1] * count)
    small, large = sorted((a, b))
    if int(small * count) >= 1:
        assert set(hold_out(whole, small)[1].ids) <= set(hold_out(whole, large)[1].ids)


def test_shares_of_one_log_hold_out_common_episodes() -> None:
    whole = episodes([1] * 1000)
    reference = set(hold_out(whole, 0.1)[1].ids)
    for seed in range(5):
        part = whole.subsample(0.3, seed)
        held = set(hold_out(part, 0.1)[1].ids)
        candidates = reference & set(part.ids)
        assert len(held & reference) >= 0.8 * min(len(held), len(candidates))


def test_the_keys_do_not_prefer_a_part_of_the_log() -> None:
    held = hold_out(episodes([1] * 10_000), 0.1)[1].ids
    counts = np.histogram(held, bins=10, range=(0, 10_000))[0]
    assert counts.min() > 60 and counts.max() < 140  # 100 each; four standard deviations
    odd = hold_out(episodes([1] * 4, [-5, 2**62, 7, 7]), 0.25)[1]  # any numbers will do, twice the same too
    assert len(odd) == 1


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_a_share_without_sense_is_refused(share: float) -> None:
    with pytest.raises(LamoError, match="outside"):
        hold_out(episodes([3, 3]), share)


def test_a_single_episode_cannot_be_split() -> None:
    with pytest.raises(LamoError, match="nothing would be left"):
        hold_out(episodes([3]), 0.9)


def test_the_smallest_share_that_is_named_works() -> None:
    whole = episodes([1] * 7)
    with pytest.raises(LamoError, match=r"the smallest that can be used is 0.142858"):
        hold_out(whole, 0.1)
    assert len(hold_out(whole, 0.142858)[1]) == 1


def test_copies_on_both_sides_are_spoken_of(make_episodes, capsys: pytest.CaptureFixture[str]) -> None:
    log = make_episodes([6] * 10, width=6)
    hold_out(log, 0.2)
    assert capsys.readouterr().err == ""
    copies = Hindsight(GoalColumns(slice(0, 2), slice(2, 4)), within(0.1))(log)
    assert copies is not None
    hold_out(copies, 0.2)
    assert "may be a copy of what is trained on" in capsys.readouterr().err
