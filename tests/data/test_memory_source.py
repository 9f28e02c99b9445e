"""`lamo.episodes_from`: arrays, and one episode after another."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lamo
from lamo.data import Episodes
from lamo.data.sources.options import UnstatedActions
from lamo.errors import LamoError

KINDS = st.lists(
    st.tuples(st.integers(1, 5), st.sampled_from(["terminated", "truncated", "unfinished"])), min_size=1, max_size=6
)


def parts(episodes: Episodes, e: int, final: bool) -> dict[str, Any]:
    """Episode e as a user has it after recording."""
    span = slice(int(episodes.offsets[e]), int(episodes.offsets[e + 1]))
    seen = episodes.observations[span]
    if final:
        seen = np.concatenate([seen, episodes.final_observations[e : e + 1]])
    return {
        "observations": seen,
        "actions": episodes.actions[span],
        "rewards": episodes.rewards[span],
        "terminated": bool(episodes.terminated[e]),
        "truncated": bool(episodes.truncated[e]),
    }


@given(kinds=KINDS, actions=st.sampled_from([2, 0, -3]), final=st.booleans(), lists=st.booleans())
@settings(max_examples=40)
def test_one_episode_after_another(make_episodes, assert_same, kinds, actions, final, lists):
    lengths, ends = zip(*kinds, strict=True)
    episodes = make_episodes(lengths, ends=ends, actions=actions, final=final)
    given = (parts(episodes, e, final) for e in range(len(episodes)))
    if lists:
        given = ({k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in each.items()} for each in given)
    bounds: dict[str, Any] = {"action_low": [-1, -1], "action_high": (1, 1)}
    meant = None if actions > 0 else "discrete"
    back = lamo.episodes_from(given, env="Hopper-v5", **bounds, name="mine", actions=meant)
    assert_same(back, episodes)
    assert back.metadata["env"] == "Hopper-v5" and back.metadata["action_low"] == [-1.0, -1.0]
    assert back.source == "mine"


@given(kinds=KINDS, actions=st.sampled_from([2, 0, -3]))
@settings(max_examples=40)
def test_flat_arrays(make_episodes, flat_arrays, assert_same, kinds, actions):
    lengths, ends = zip(*kinds, strict=True)
    ends = [end if end != "unfinished" or i == len(ends) - 1 else "truncated" for i, end in enumerate(ends)]
    episodes = make_episodes(lengths, ends=ends, actions=actions)
    meant = None if actions > 0 else "discrete"
    assert_same(lamo.episodes_from(flat_arrays(episodes), actions=meant), episodes)
    numbers = np.repeat([9, 3, 5, 8, 1, 2][: len(episodes)], episodes.lengths)
    by_number = lamo.episodes_from({**flat_arrays(episodes), "episode": numbers}, actions=meant)
    assert_same(by_number, episodes)
    assert by_number.ids.tolist() == [9, 3, 5, 8, 1, 2][: len(episodes)]


def test_the_last_of_the_next_observations(make_episodes, flat_arrays, assert_same):
    episodes = make_episodes([3, 1, 4], final=True)
    following = np.concatenate([episodes.observations[1:], episodes.observations[:1]])
    following[episodes.offsets[1:] - 1] = episodes.final_observations
    given = {**flat_arrays(episodes), "next_observations": following}
    numbers = np.repeat([0, 1, 2], episodes.lengths)
    for data in (given, {**given, "episode": numbers}):
        assert_same(lamo.episodes_from(data), episodes)
        assert_same(lamo.episodes_from({**data, "next_observations": {"a": following}}), episodes)
    one_by_one = [parts(episodes, e, False) | {"next_observations": following[numbers == e]} for e in range(3)]
    assert_same(lamo.episodes_from(one_by_one), episodes)


def test_arrays_are_copied(make_episodes, flat_arrays):
    arrays = flat_arrays(make_episodes([3, 4]))
    for data in (arrays, {**arrays, "episode": [0] * 3 + [1] * 4}, [{k: v for k, v in arrays.items() if k[0] != "t"}]):
        episodes = lamo.episodes_from(data)
        before = episodes.observations.copy()
        arrays["observations"][:] += 1
        np.testing.assert_array_equal(episodes.observations, before)


def test_dicts_of_observations():
    goals = {"b": np.ones((4, 2)), "a": {"y": np.arange(4), "x": np.zeros((4, 1), bool)}}
    given = {"actions": np.zeros((3, 1)), "rewards": np.ones(3), "terminals": [0, 0, 1]}
    episodes = lamo.episodes_from([{**given, "observations": goals}])
    assert episodes.metadata["observation_keys"] == ["a/x", "a/y", "b"]
    assert episodes.observations[2].tolist() == [0, 2, 1, 1]
    assert episodes.final_observations.tolist() == [[0, 3, 1, 1]]
    some = lamo.episodes_from([{**given, "observations": goals}], obs_keys=["a/y"])
    assert some.observations.tolist() == [[0], [1], [2]]
    flat = {key: value[:3] for key, value in {"b": goals["b"], **goals["a"]}.items()}
    assert lamo.episodes_from({**given, "observations": flat}).metadata["observation_keys"] == ["b", "x", "y"]


def test_minari_s_episodes():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from minari import EpisodeData
    ends = {"terminations": np.array([False, False]), "truncations": np.array([False, True]), "infos": {}}
    given = EpisodeData(id=7, observations=np.eye(3), actions=np.ones((2, 1)), rewards=np.ones(2), **ends)
    episodes = lamo.episodes_from([given])
    assert episodes.ids.tolist() == [7] and episodes.truncated.tolist() == [True]
    assert episodes.final_observations.tolist() == [[0, 0, 1]]


def test_what_whole_numbers_mean_and_no_rewards():
    given = {"observations": np.zeros((3, 1)), "actions": [0, 1, 2], "rewards": np.ones(3), "terminals": [0, 0, 1]}
    for data in (given, [given], {**given, "episode": [0, 0, 0]}):
        with pytest.raises(UnstatedActions, match="whole numbers.*discrete.*--actions continuous") as question:
            lamo.episodes_from(data, env="CartPole-v1")
        assert question.value.env == "CartPole-v1"
    assert lamo.episodes_from(given, actions="discrete").discrete
    pairs = {**given, "actions": np.array([[0, 3], [1, 0], [0, 2]], np.int8)}
    assert lamo.episodes_from(pairs, actions="discrete").choices == (2, 4)
    floats = {**given, "actions": np.array([[0.0, 3.0], [1.0, 0.0], [0.0, 2.0]])}
    assert lamo.episodes_from(floats, actions="discrete").action_kind == "multidiscrete"
    assert lamo.episodes_from(floats).action_kind == "continuous"
    switches = {**given, "actions": np.array([[True, False]] * 3)}
    assert lamo.episodes_from(switches, actions="discrete").actions.tolist() == [[1, 0]] * 3
    assert lamo.episodes_from(given, actions="continuous").actions.tolist() == [[0], [1], [2]]
    assert lamo.episodes_from([given], actions="continuous").actions.shape == (3, 1)
    del given["rewards"]
    for data in (given, [given]):
        assert lamo.episodes_from(data, actions="discrete", reward="none").rewards.tolist() == [0, 0, 0]


SOUND = {"observations": np.zeros((3, 2)), "actions": np.zeros((3, 1)), "rewards": np.zeros(3), "terminals": [0, 0, 1]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rewards": None}, "'rewards' is missing"),
        ({"actions": np.zeros((2, 1))}, "different lengths"),
        ({"observations": [[1], [1, 2], [3]]}, "observations is not an array of numbers"),
        ({"observations": "abc"}, "observations has type <U3"),
        ({"observations": np.zeros((3, 0))}, "no numbers in a step"),
        ({"rewards": [1, 2, np.nan]}, "rewards holds nan at [2]"),
        ({"rewards": np.zeros((3, 2))}, "rewards has shape (3, 2)"),
        ({"actions": [-1, 0, 1]}, "actions holds -1 at [0], but choices are counted from 0"),
        ({"actions": np.zeros((3, 1), complex)}, "type complex128"),
        ({"observations": {"a": np.zeros(3), "b": np.zeros(4)}}, "different lengths"),
        ({"observations": {}}, "different lengths"),
        ({"next_observations": np.zeros((2, 2))}, "different lengths"),
        ({"next_observations": np.zeros((3, 3))}, "next_observations"),
        ({"next_observations": [[0, 0], [0, 0], [0, np.inf]]}, "after the last action of episode"),
    ],
)
@pytest.mark.parametrize("form", ["flat", "numbered", "iterable"])
def test_what_is_wrong(changes, words, form):
    given: Any = {key: value for key, value in {**SOUND, **changes}.items() if value is not None}
    if form == "numbered":
        given["episode"] = [0, 0, 1]
    with pytest.raises(LamoError) as caught:
        meant = "discrete" if "choices" in words else None
        lamo.episodes_from([given] if form == "iterable" else given, name="mine", actions=meant)
    assert words in str(caught.value).replace("key ", "") and str(caught.value).startswith("mine: ")


def test_what_is_no_data_at_all():
    for data, words in (
        ([], "holds no episodes"),
        (3, "a dict of arrays, or an iterable of episodes, not a int"),
        (np.zeros(3), "not a ndarray"),
        ([3], "episode 0 has no observations"),
        ({**SOUND, "reward": 1}, "'reward' is not known"),
        ({**SOUND, "rewards": 1.0}, "rewards is a single value"),
        ([{**SOUND, "id": 1}] * 2, "two episodes have the same id"),
        ({**SOUND, "episode": [0, 1, 0]}, "episode 0 goes on at row 2"),
        ({**SOUND, "episode": [0.5, 1, 0]}, "it holds whole numbers"),
    ):
        with pytest.raises(LamoError, match=words.replace("(", r"\(")):
            lamo.episodes_from(data)
    with pytest.raises(LamoError, match="action_low must be finite"):
        lamo.episodes_from(SOUND, action_low=[-np.inf])


def test_load_episodes_takes_them_too(make_episodes, assert_same):
    episodes = make_episodes([3, 1, 4], final=True)
    given = [parts(episodes, e, True) for e in range(3)]
    for source in (given, tuple(given), iter(given), (each for each in given)):
        assert_same(lamo.load_episodes(source), episodes)
    assert lamo.load_episodes(SOUND, actions="continuous").steps == 3
    with pytest.raises(LamoError, match="--columns does not apply"):
        lamo.load_episodes(given, columns=["obs=x"])
    with pytest.raises(LamoError, match="no dataset is named"):
        lamo.load_episodes([])
    with pytest.raises(LamoError, match="a dict of arrays, or an iterable of episodes, not a int"):
        lamo.load_episodes(3)


def test_what_a_generator_raises_comes_through():
    def broken():
        yield SOUND
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        lamo.episodes_from(broken())
