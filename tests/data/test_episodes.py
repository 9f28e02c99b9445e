from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamo.data import Episodes
from lamo.errors import LamoError

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=8)


@given(lengths=LENGTHS, seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1e-6, 1.0, 1e6]))
def test_return_to_go_equals_a_naive_loop(make_episodes, lengths, seed, scale):
    made = make_episodes(lengths, seed=seed)
    episodes = replace(made, rewards=made.rewards * np.float32(scale))
    naive = []
    for start, end in zip(episodes.offsets[:-1], episodes.offsets[1:], strict=True):
        total, backwards = 0.0, []
        for reward in episodes.rewards[start:end][::-1].tolist():  # Python floats are float64
            total += reward
            backwards.append(total)
        naive += backwards[::-1]
    np.testing.assert_array_equal(episodes.returns_to_go, np.array(naive))  # not nearly: exactly
    assert episodes.returns_to_go.dtype == np.float64
    np.testing.assert_array_equal(episodes.returns, np.array(naive)[episodes.offsets[:-1]])


def test_return_to_go_does_not_lose_small_rewards_behind_large_ones(make_episodes):
    """A difference of sums over the whole log would: 1e9 in one episode must not eat the 1e-7 of the next."""
    rewards = np.array([1e9, 1e9, 1e-7, 1e-7], np.float32)
    episodes = replace(make_episodes([2, 2]), rewards=rewards)
    assert episodes.returns_to_go[3] == float(np.float32(1e-7))
    assert episodes.returns_to_go is episodes.returns_to_go  # computed once


def test_shape_of_the_log(make_episodes):
    episodes = make_episodes([3, 1, 4], ends=["terminated", "truncated", "unfinished"])
    assert (len(episodes), episodes.steps) == (3, 8)
    assert episodes.lengths.tolist() == [3, 1, 4]
    assert episodes.unfinished.tolist() == [False, False, True]
    assert not episodes.discrete
    assert make_episodes([2], actions=0).discrete


def test_statistics_are_those_of_float64_and_floored(make_episodes):
    episodes = make_episodes([500, 70])
    episodes.observations[:, 0] = 1e4 + episodes.observations[:, 0]  # where float32 sums would drift
    episodes.observations[:, 1] = 0.1
    mean, std = episodes.statistics()
    exact = episodes.observations.astype(np.float64)
    np.testing.assert_array_equal(mean, exact.mean(axis=0).astype(np.float32))
    np.testing.assert_allclose(std[[0, 2]], exact.std(axis=0)[[0, 2]], rtol=1e-7)
    assert std[1] == np.float32(1e-6)
    assert mean[1] == np.float32(0.1)  # a dimension that never changes is exactly zero once scaled
    assert mean.dtype == std.dtype == np.float32


@given(lengths=LENGTHS, ratio=st.floats(0.01, 1), seed=st.integers(0, 1000))
def test_subsample_keeps_whole_episodes(make_episodes, lengths, ratio, seed):
    episodes = make_episodes(lengths, final=True)
    count = int(np.floor(ratio * len(lengths) + 1e-9))
    if count == 0:
        with pytest.raises(LamoError, match="leaves none"):
            episodes.subsample(ratio, seed)
        return
    part = episodes.subsample(ratio, seed)
    assert len(part) == count
    assert part.ids.tolist() == sorted(set(part.ids.tolist()))
    for index, number in enumerate(part.ids.tolist()):
        for key in ("observations", "actions", "rewards"):
            mine = getattr(part, key)[part.offsets[index] : part.offsets[index + 1]]
            theirs = getattr(episodes, key)[episodes.offsets[number] : episodes.offsets[number + 1]]
            np.testing.assert_array_equal(mine, theirs)
        assert part.terminated[index] == episodes.terminated[number]
        np.testing.assert_array_equal(part.final_observations[index], episodes.final_observations[number])
    assert episodes.subsample(ratio, seed).digest() == part.digest()


def test_subsample_is_seeded_nested_and_recorded(make_episodes):
    episodes = make_episodes([2] * 100)
    tenth, third = episodes.subsample(0.1, seed=3), episodes.subsample(0.3, seed=3)
    assert set(tenth.ids.tolist()) < set(third.ids.tolist())
    assert tenth.ids.tolist() != episodes.subsample(0.1, seed=4).ids.tolist()
    assert (tenth.metadata["ratio"], tenth.metadata["ratio_seed"]) == (0.1, 3)
    assert len(episodes.subsample(0.29, seed=0)) == 29  # 0.29 * 100 is below 29 in floating point
    assert tenth.subsample(0.5, seed=0).ids.tolist() == [n for n in tenth.ids if n in tenth.subsample(0.5, 0).ids]
    assert json.loads(json.dumps(tenth.metadata)) == tenth.metadata


def test_the_best_episode_is_as_likely_as_any_other(make_episodes):
    episodes = make_episodes([3] * 10)
    best = int(np.argmax(episodes.returns))
    hits = sum(best in episodes.subsample(0.5, seed).ids for seed in range(400))
    assert 150 < hits < 250


@pytest.mark.parametrize("ratio", [0, -0.1, 1.0001, 2, float("nan"), float("inf")])
def test_ratio_outside_its_range(make_episodes, ratio):
    with pytest.raises(LamoError, match=r"outside \(0, 1\]"):
        make_episodes([2, 2]).subsample(ratio, seed=0)


@pytest.mark.parametrize("count", [3, 7, 30, 1503])
def test_ratio_that_leaves_none_names_the_smallest_usable_one(make_episodes, count):
    episodes = make_episodes([1] * count)
    with pytest.raises(LamoError, match="leaves none") as caught:
        episodes.subsample(1 / count - 1e-4, seed=0)
    smallest = str(caught.value).rsplit(" ", 1)[1]
    assert len(episodes.subsample(float(smallest), seed=0)) == 1  # it works as typed


def test_select(make_episodes):
    episodes = make_episodes([2, 3, 4])
    part = episodes.select([2, 0])
    assert part.ids.tolist() == [2, 0]
    assert part.lengths.tolist() == [4, 2]
    np.testing.assert_array_equal(part.rewards[:4], episodes.rewards[5:])
    assert episodes.select(range(3)) is episodes  # nothing to copy
    for bad in ([], [3], [-1]):
        with pytest.raises(LamoError):
            episodes.select(bad)


def test_digest_changes_with_the_data_and_only_with_it(make_episodes):
    episodes = make_episodes([2, 3], final=True)
    assert episodes.digest() == replace(episodes, metadata={}, ids=episodes.ids + 7).digest()
    digests = {episodes.digest()}
    for key in ("observations", "actions", "rewards", "final_observations"):
        changed = getattr(episodes, key).copy()
        changed.flat[-1] += 1
        digests.add(replace(episodes, **{key: changed}).digest())
    digests.add(replace(episodes, offsets=np.array([0, 1, 5])).digest())
    digests.add(replace(episodes, terminated=~episodes.terminated).digest())
    digests.add(replace(episodes, final_observations=None).digest())
    assert len(digests) == 8
    assert len(episodes.digest()) == 64


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("key", ["observations", "actions", "rewards"])
def test_validate_names_source_key_and_first_index(make_episodes, key, value):
    episodes = make_episodes([4, 5])
    array = getattr(episodes, key)
    array[6:] = value
    with pytest.raises(LamoError) as caught:
        episodes.validate("walker.hdf5")
    index = "[6]" if array.ndim == 1 else "[6, 0]"
    assert f"walker.hdf5: {key} holds {value} at {index} (episode 1, step 2)" in str(caught.value)


def test_validate_of_what_was_seen_last(make_episodes):
    episodes = make_episodes([4, 5], final=True)
    episodes.final_observations[0] = np.nan  # not known: fine
    assert episodes.validate() is episodes
    episodes.final_observations[1, 2] = np.nan
    with pytest.raises(LamoError, match="after the last action of episode 1 is not finite"):
        episodes.validate()


@settings(max_examples=20)
@given(wrong=st.sampled_from(["observations", "actions", "offsets", "terminated", "ids", "dtype", "empty", "final"]))
def test_the_constructor_refuses_what_does_not_fit(make_episodes, wrong):
    episodes = make_episodes([2, 3])
    bad = {
        "observations": {"observations": episodes.observations[:-1]},
        "actions": {"actions": episodes.actions[:-1]},
        "offsets": {"offsets": np.array([0, 3, 3, 5])},
        "terminated": {"terminated": np.array([True])},
        "ids": {"ids": np.array([0.0, 1.0])},
        "dtype": {"observations": episodes.observations.astype(np.float64)},
        "final": {"final_observations": episodes.observations},
        "empty": {
            "observations": episodes.observations[:0],
            "actions": episodes.actions[:0],
            "rewards": episodes.rewards[:0],
        },
    }[wrong]
    with pytest.raises(LamoError, match=r"^made: "):
        replace(episodes, **bad)


def test_episodes_are_not_compared_by_accident(make_episodes):
    assert make_episodes([2]) != make_episodes([2])  # arrays have no single truth; `digest` is the comparison
    assert isinstance(make_episodes([2]), Episodes)
