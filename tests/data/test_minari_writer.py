"""Minari datasets written by lamo: read back bit for bit, and by Minari's own library."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lamo.config import Experiment
from lamo.data import Episodes, load_episodes
from lamo.data.sources import minari_writer
from lamo.data.sources.minari_writer import write_minari
from lamo.data.sources.robomimic_writer import write_robomimic
from lamo.errors import LamoError
from lamo.prepare import prepare

ENDS = ("terminated", "truncated", "unfinished")
KINDS = st.lists(st.tuples(st.integers(1, 6), st.sampled_from(ENDS), st.booleans()), min_size=1, max_size=12)
BOUNDS: dict[str, Any] = {"action_low": [-1.0, -2.0], "action_high": [1.0, 0.5]}
GOALS: dict[str, Any] = {
    "observation_keys": ["achieved_goal/kettle", "achieved_goal/burner", "observation"],
    "observation_sizes": [1, 1, 1],
}


@pytest.fixture
def minari(tmp_path, monkeypatch):
    """The library, its local store in a folder of the test."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("minari")


def drawn(make_episodes, kinds, actions: int, seed: int, metadata: dict[str, Any] | None = None) -> Episodes:
    """Episodes with any numbers, of some of which it is known what was seen last."""
    lengths, ends, known = zip(*kinds, strict=True)
    episodes = make_episodes(lengths, ends=ends, actions=actions, final=True, seed=seed, metadata=metadata)
    episodes.final_observations[~np.array(known)] = np.nan
    numbers = np.random.default_rng(seed).permutation(1000)[: len(lengths)] if seed % 2 else np.arange(len(lengths))
    return replace(
        episodes, ids=numbers.astype(np.int64), final_observations=episodes.final_observations if any(known) else None
    )


@given(
    kinds=KINDS,
    actions=st.sampled_from([2, 0, -2, -1]),
    seed=st.integers(0, 9),
    told=st.sampled_from([{}, BOUNDS, GOALS, {"env": "Hopper-v5"}, {"env": "elsewhere/Thing-v3"}]),
)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_round_trip(make_episodes, assert_same, tmp_path_factory, kinds, actions, seed, told) -> None:
    told = {} if actions <= 0 and told is BOUNDS else told
    history = [{"command": "made", "sources": []}]
    episodes = drawn(make_episodes, kinds, actions, seed, {**told, "history": history})
    back = load_episodes(write_minari(episodes, tmp_path_factory.mktemp("minari") / "set-v0"))
    assert_same(back, episodes)
    assert back.digest() == episodes.digest()
    assert back.ids.tolist() == episodes.ids.tolist()
    assert back.choices == episodes.choices
    for key in ("env", "action_low", "action_high"):
        assert back.metadata[key] == episodes.metadata.get(key)
    assert back.metadata["observation_keys"] == told.get("observation_keys", [])
    assert back.metadata["history"] == history
    json.dumps(back.metadata, allow_nan=False)


@pytest.mark.parametrize("actions", [2, 0, -2])
@pytest.mark.parametrize("goals", [False, True])
def test_the_library_reads_it(make_episodes, minari, tmp_path, capsys, actions, goals) -> None:
    told = {**(BOUNDS if actions > 0 else {}), **(GOALS if goals else {}), "env": "Hopper-v5"}
    ends = ["terminated", "truncated", "unfinished"]
    episodes = make_episodes([4, 1, 3], ends=ends, actions=actions, final=True, metadata=told)
    episodes.final_observations[1] = np.nan
    episodes = replace(episodes, ids=np.array([7, 3, 5]))
    path = write_minari(episodes, tmp_path / "store" / "made" / "set-v2")
    assert "of 1 episodes that is not known: their last observation is repeated" in capsys.readouterr().err
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = minari.load_dataset("made/set-v2")
        assert list(minari.list_local_datasets()) == ["made/set-v2"]
    assert (found.id, found.total_episodes, found.total_steps) == ("made/set-v2", 3, 8)
    assert found.spec.version == 2 and found.env_spec == gymnasium.spec("Hopper-v5")
    assert [int(each["total_steps"]) for each in found.storage.get_episode_metadata(range(3))] == [4, 1, 3]
    wanted: spaces.Space[Any] = {
        2: spaces.Box(np.array([-1, -2], np.float32), np.array([1, 0.5], np.float32)),
        0: spaces.Discrete(4),
        -2: spaces.MultiDiscrete([4, 4]),
    }[actions]
    assert found.action_space == wanted
    box = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    space = spaces.Dict({"achieved_goal": spaces.Dict(kettle=box, burner=box), "observation": box})
    assert found.observation_space == (space if goals else spaces.Box(-np.inf, np.inf, (3,), np.float32))
    for e, each in enumerate(found):
        start, end = map(int, episodes.offsets[e : e + 2])
        seen = each.observations
        if goals:
            inner = seen["achieved_goal"]
            seen = np.concatenate([inner["kettle"], inner["burner"], seen["observation"]], axis=1)
        last = episodes.observations[end - 1] if e == 1 else episodes.final_observations[e]
        np.testing.assert_array_equal(seen, [*episodes.observations[start:end], last])
        np.testing.assert_array_equal(each.actions, episodes.actions[start:end])
        np.testing.assert_array_equal(each.rewards, episodes.rewards[start:end])
        last_only = np.arange(end - start) == end - start - 1
        np.testing.assert_array_equal(each.terminations, last_only & episodes.terminated[e])
        np.testing.assert_array_equal(each.truncations, last_only & episodes.truncated[e])
    assert minari.MinariDataset(path / "data").total_steps == 8


def test_the_library_can_go_on_with_it(make_episodes, assert_same, minari, tmp_path) -> None:
    """What lamo marks does not stand in the way of Minari's own writing."""
    episodes = make_episodes([4, 2], ends=["terminated", "unfinished"])
    path = write_minari(replace(episodes, ids=np.array([0, 7])), tmp_path / "set-v0")
    from minari.data_collector import EpisodeBuffer

    minari.MinariDataset(path / "data").update_dataset_from_buffer(
        [
            EpisodeBuffer(
                observations=list(np.zeros((3, 3), np.float32)),
                actions=list(np.zeros((2, 2), np.float32)),
                rewards=[1.0, 2.0],
                terminations=[False, True],
                truncations=[False, False],
                infos={},
            )
        ]
    )
    back = load_episodes(path)
    assert back.final_observations is not None
    assert back.ids.tolist() == [0, 7, 2] and back.lengths.tolist() == [4, 2, 2]
    assert np.isnan(back.final_observations).all(axis=1).tolist() == [True, True, False]


def test_a_set_of_the_library_goes_through(make_episodes, assert_same, tmp_path) -> None:
    """What is known of authors and scores is kept; what is counted is counted again."""
    episodes = make_episodes([3, 2], ends=["terminated", "truncated"], final=True)
    first = write_minari(episodes, tmp_path / "first-v0")
    notes = first / "data" / "metadata.json"
    told = {"author": ["A"], "algorithm_name": "SAC", "ref_max_score": 3.5, "requirements": [1], "description": "d"}
    notes.write_text(json.dumps({**json.loads(notes.read_text()), **told, "total_steps": 5}))
    second = write_minari(load_episodes(first).select([1]), tmp_path / "second-v0")
    again = json.loads((second / "data" / "metadata.json").read_text())
    assert {key: again.get(key) for key in told} == {**told, "requirements": None}
    assert (again["total_episodes"], again["total_steps"], again["dataset_id"]) == (1, 2, "second-v0")


def test_equal_data_give_equal_bytes(make_episodes, tmp_path) -> None:
    episodes = make_episodes([3, 2], metadata={**GOALS, "env": "Hopper-v5"})
    one, two = (write_minari(episodes, tmp_path / name / "a-v0") for name in "xy")
    for file in ("data/main_data.hdf5", "data/metadata.json"):
        assert (one / file).read_bytes() == (two / file).read_bytes()


@pytest.mark.parametrize(
    ("keys", "sizes"),
    [
        (["a", "b"], [1, 1]),  # not all columns
        (["a", "a"], [1, 2]),
        (["a", "a/b"], [1, 2]),
        (["a/b", "c", "a/d"], [1, 1, 1]),  # a dict cannot have its parts apart
        (["a", ""], [1, 2]),
        (["a", "../b"], [1, 2]),
    ],
)
def test_names_that_are_no_tree_are_one_array(make_episodes, assert_same, tmp_path, keys, sizes) -> None:
    episodes = make_episodes([3], final=True, metadata={"observation_keys": keys, "observation_sizes": sizes})
    path = write_minari(episodes, tmp_path / "a")
    with h5py.File(path / "data" / "main_data.hdf5") as file:
        written = isinstance(file["episode_0/observations"], h5py.Dataset)
    assert written or keys[-1] == "../b"  # `..` is a name like others in HDF5
    assert_same(load_episodes(path), episodes)


def test_a_name_that_is_no_id(make_episodes, tmp_path, capsys) -> None:
    path = write_minari(make_episodes([3], metadata={"env": "my robot!"}), tmp_path / "my set.1")
    assert "'my robot!' is no id of an environment" in capsys.readouterr().err
    notes = json.loads((path / "data" / "metadata.json").read_text())
    assert "env_spec" not in notes and notes["dataset_id"] == "my-set-1-v0"
    assert load_episodes(path).metadata["env"] is None


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_fails_leaves_nothing(make_episodes, tmp_path, monkeypatch, failure) -> None:
    write = minari_writer._array

    def some(group, name, value) -> None:
        if group.name == "/episode_1" and name == "rewards":
            raise failure
        write(group, name, value)

    monkeypatch.setattr(minari_writer, "_array", some)
    with pytest.raises((LamoError, KeyboardInterrupt)) as caught:
        write_minari(make_episodes([3, 2]), tmp_path / "a-v0")
    if isinstance(failure, OSError):
        assert str(caught.value) == f"cannot write {tmp_path / 'a-v0'}: No space left on device"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "words"), [(0, "episode_1 has the number 0 of one before"), ("x", "attribute lamo_id is not a whole")]
)
def test_damaged_marks_are_one_line(make_episodes, tmp_path, value, words) -> None:
    episodes = replace(make_episodes([3, 2]), ids=np.array([0, 4]))
    path: Path = write_minari(episodes, tmp_path / "a-v0")
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        file["episode_1"].attrs["lamo_id"] = value
    with pytest.raises(LamoError, match=words):
        load_episodes(path)


def test_arguments_and_limit_of_the_environment(make_episodes, minari, tmp_path, capsys) -> None:
    """They go along, and training says where what evaluates is another; equal ones, also by default, say nothing."""
    told = {"env": "Pendulum-v1", "action_low": [-2.0], "action_high": [2.0]}

    def said(folder: Path, **metadata: Any) -> str:
        write_minari(make_episodes([4, 3], actions=1, metadata={**told, **metadata}), folder)
        capsys.readouterr()
        prepare(Experiment.of("bc", dataset=str(folder), eval_episodes=1))
        return capsys.readouterr().err

    root = tmp_path / "store" / "made"
    line = said(root / "other-v0", env_kwargs={"g": 9.0, "maze_map": [[1, 0]]}, env_limit=40)
    assert "was recorded in another Pendulum-v1 than the one that evaluates: g is 9.0 there, 10.0 here" in line
    assert "maze_map is [[1, 0]] there" in line and "at most 40 steps there, 200 here" in line and "--env" in line
    assert said(root / "same-v0", env_kwargs={"g": 10.0, "render_mode": "rgb_array"}, env_limit=200) == ""
    assert said(root / "silent-v0") == ""
    spec = minari.load_dataset("made/other-v0").env_spec
    assert (spec.kwargs, spec.max_episode_steps) == ({"g": 9.0, "maze_map": [[1, 0]]}, 40)
    episodes = load_episodes(root / "other-v0")
    assert load_episodes(write_robomimic(episodes, tmp_path / "x.hdf5")).metadata["env_kwargs"] == spec.kwargs
