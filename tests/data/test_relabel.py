"""Other rewards for the same episodes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamo.data.relabel import KEY, delayed, relabellings, scaled, sparse, true_of, warning
from lamo.errors import LamoError

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=6)
QUICK = settings(max_examples=80, deadline=None)


def same_but_rewards(one, two):
    for key in ("observations", "actions", "offsets", "terminated", "truncated", "ids"):
        np.testing.assert_array_equal(getattr(one, key), getattr(two, key), err_msg=key)


@QUICK
@given(LENGTHS, st.integers(0, 9), st.one_of(st.none(), st.integers(1, 40)))
def test_delayed_keeps_what_is_paid(make_episodes, lengths, seed, every):
    episodes = make_episodes(lengths, seed=seed)
    late = delayed(every)(episodes)
    same_but_rewards(episodes, late)
    np.testing.assert_allclose(late.returns, episodes.returns, rtol=1e-5, atol=1e-5)
    for start, end in zip(episodes.offsets[:-1], episodes.offsets[1:], strict=True):
        own, paid = episodes.rewards[start:end], late.rewards[start:end]
        at = np.arange(1, end - start + 1)
        pays = (at % every == 0) | (at == end - start) if every else at == end - start
        assert (paid[~pays] == 0).all()
        # what has been paid by then is what was earned by then
        np.testing.assert_allclose(np.cumsum(paid)[pays], np.cumsum(own, dtype=np.float64)[pays], rtol=1e-4, atol=1e-4)


def test_the_drawing_in_the_docstring(make_episodes):
    episodes = make_episodes([4, 2])
    episodes.rewards[:] = [1, 2, 0, 3, 1, 1]
    assert delayed(2)(episodes).rewards.tolist() == [0, 3, 0, 3, 0, 2]
    assert delayed()(episodes).rewards.tolist() == [0, 0, 0, 6, 0, 2]
    assert sparse(5)(episodes).rewards.tolist() == [0, 0, 0, 1, 0, 0]
    assert scaled(2, -1)(episodes).rewards.tolist() == [1, 3, -1, 5, 1, 1]
    assert scaled(clip=(0.5, 2))(episodes).rewards.tolist() == [1, 2, 0.5, 2, 1, 1]
    np.testing.assert_array_equal(delayed(1)(episodes).rewards, episodes.rewards)


@QUICK
@given(LENGTHS, st.integers(0, 9), st.floats(-5, 5))
def test_sparse_pays_for_success_at_the_end(make_episodes, lengths, seed, threshold):
    episodes = make_episodes(lengths, seed=seed)
    found = sparse(threshold)(episodes)
    same_but_rewards(episodes, found)
    np.testing.assert_array_equal(found.returns, (episodes.returns >= threshold).astype(float))
    inside = np.ones(episodes.steps, bool)
    inside[episodes.offsets[1:] - 1] = False
    assert (found.rewards[inside] == 0).all()


@QUICK
@given(
    LENGTHS,
    st.integers(0, 9),
    st.floats(-1e3, 1e3).filter(lambda x: x not in (0, 1)),
    st.floats(-1e3, 1e3),
    st.one_of(st.none(), st.tuples(st.floats(-9, -1), st.floats(1, 9))),
)
def test_scaled_is_exact(make_episodes, lengths, seed, scale, shift, clip):
    episodes = make_episodes(lengths, seed=seed)
    found = scaled(scale, shift, clip)(episodes)
    same_but_rewards(episodes, found)
    expected = [float(r) * scale + shift for r in episodes.rewards]
    expected = [r if clip is None else min(max(r, clip[0]), clip[1]) for r in expected]
    np.testing.assert_array_equal(found.rewards, np.array(expected).astype(np.float32))


@QUICK
@given(st.lists(st.integers(1, 9), min_size=2, max_size=8), st.integers(1, 5), st.data())
def test_blocks_are_relabelled_as_the_whole(make_episodes, lengths, every, data):
    episodes = make_episodes(lengths)
    at = data.draw(st.integers(1, len(lengths) - 1))
    parts = [episodes.select(range(at)), episodes.select(range(at, len(lengths)))]
    for change in (delayed(every), delayed(), sparse(0.0), scaled(2.0, 1.0)):
        apart = np.concatenate([change(part).rewards for part in parts])
        np.testing.assert_array_equal(apart, change(episodes).rewards)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: delayed(0), "--every 0"),
        (lambda: sparse(float("nan")), "not finite"),
        (lambda: scaled(), "changes nothing"),
        (lambda: scaled(0), "--scale 0"),
        (lambda: scaled(float("inf")), "finite"),
        (lambda: scaled(clip=(1, 1)), "lowest comes first"),
    ],
)
def test_what_makes_no_sense(make, words):
    with pytest.raises(LamoError, match=words):
        make()


def test_rewards_beyond_float32(make_episodes):
    with pytest.raises(LamoError, match="too large for float32"):
        scaled(1e300)(make_episodes([5]))


def test_metadata_stay_true():
    told = {"source": "a", "attributes": {"return_mean": 3.0, "policy": "random", "episodes": 5, "seed": 0}}
    assert true_of(told)["attributes"] == {"policy": "random", "episodes": 5, "seed": 0}
    assert true_of(told, episodes_stay=False)["attributes"] == {"policy": "random", "seed": 0}
    assert true_of({})["attributes"] == {} and "return_mean" in told["attributes"]


def test_python_says_so_too(make_episodes):
    episodes = make_episodes([4, 5], metadata={"attributes": {"return_mean": 1.0}})
    twice = scaled(2)(delayed()(episodes))
    assert [each.split(":")[0] for each in relabellings(twice.metadata)] == ["delayed", "scaled"]
    assert twice.metadata["attributes"] == {} and warning(episodes.metadata) is None


def test_what_was_done_is_found_in_the_history():
    one = {"history": [{"command": "x"}, {"command": "y", KEY: "scaled: …"}]}
    assert warning({}) is None and warning({"history": [{"command": "x"}]}) is None
    twice = {"history": [*one["history"], {KEY: "sparse: …"}]}
    assert "(scaled: …; then sparse: …)" in str(warning(twice))
    assert relabellings({"parts": [one, twice]}) == ["scaled: …", "sparse: …"]
    assert relabellings({"history": [{"command": "merge", "sources": [one, {"source": "b"}]}]}) == ["scaled: …"]
    loop: dict[str, object] = {}
    loop["parts"] = [loop]
    for odd in (loop, {"history": 3}, {"history": [3, {KEY: 5, "sources": "x"}]}, {"parts": {"history": []}}):
        assert relabellings(odd) == []
