"""robomimic files written by lamo: read back bit for bit, and laid out as its documentation says."""

from __future__ import annotations

import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamo.data import load_episodes
from lamo.data.sources import robomimic_writer
from lamo.data.sources.robomimic_writer import write_robomimic
from lamo.errors import LamoError

KINDS = st.lists(
    st.tuples(st.integers(1, 6), st.sampled_from(["terminated", "truncated", "unfinished"]), st.booleans()),
    min_size=1,
    max_size=12,
)
PARTS = [
    {},
    {"observation_keys": ["achieved_goal", "object"], "observation_sizes": [1, 2]},
    {"observation_keys": ["object", "achieved_goal"], "observation_sizes": [1, 2]},  # would be read in another order
    {"observation_keys": ["goal/kettle", "object"], "observation_sizes": [1, 2]},
]


@given(kinds=KINDS, seed=st.integers(0, 9), parts=st.sampled_from(PARTS), env=st.sampled_from([None, "Hopper-v5"]))
@settings(max_examples=50)
def test_round_trip(make_episodes, assert_same, tmp_path_factory, kinds, seed, parts, env) -> None:
    lengths, ends, known = zip(*kinds, strict=True)
    bounds = {"action_low": [-1.0, -1.0], "action_high": [1.0, 1.0]}
    told = {**parts, **bounds, "env": env, "history": [{"command": "made", "sources": []}]}
    episodes = make_episodes(lengths, ends=ends, final=True, seed=seed, metadata=told)
    episodes.final_observations[~np.array(known)] = np.nan
    ids = np.random.default_rng(seed).permutation(1000)[: len(lengths)]
    ids = np.sort(ids) if seed % 2 else ids
    episodes = replace(episodes, ids=ids, final_observations=episodes.final_observations if any(known) else None)
    back = load_episodes(write_robomimic(episodes, tmp_path_factory.mktemp("robomimic") / "a.hdf5"))
    assert_same(back, episodes)
    assert back.digest() == episodes.digest()
    assert back.ids.tolist() == ids.tolist()
    for key in ("env", "action_low", "action_high", "history"):
        assert back.metadata[key] == told[key]
    for key in ("observation_keys", "observation_sizes"):
        assert back.metadata[key] == parts.get(key, [])
    json.dumps(back.metadata, allow_nan=False)


def test_the_layout(make_episodes, tmp_path, capsys) -> None:
    episodes = make_episodes(
        [3, 1, 2], ends=["terminated", "truncated", "unfinished"], final=True, metadata={**PARTS[1], "env": "Hopper-v5"}
    )
    episodes.final_observations[2] = np.nan
    episodes.actions[0] = 1.5
    path = write_robomimic(replace(episodes, ids=np.array([2, 5, 11])), tmp_path / "a.hdf5")
    said = capsys.readouterr().err
    assert "of 1 episodes it is not known what was seen after the last action" in said and "… 1.5;" in said
    arrays: dict[str, np.ndarray] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: arrays.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
        data = file["data"]
        assert isinstance(data, h5py.Group) and list(data) == ["demo_11", "demo_2", "demo_5"]
        assert data.attrs["total"] == 6
        args = json.loads(str(data.attrs["env_args"]))
        assert file["data/demo_2"].attrs["num_samples"] == 3
    assert args == {"env_name": "Hopper-v5", "env_type": 2, "env_kwargs": {}}
    seen = np.concatenate([episodes.observations[1:3], episodes.final_observations[:1]])
    np.testing.assert_array_equal(arrays["data/demo_2/obs/object"], episodes.observations[:3, 1:])
    np.testing.assert_array_equal(arrays["data/demo_2/next_obs/object"], seen[:, 1:])
    np.testing.assert_array_equal(arrays["data/demo_2/next_obs/achieved_goal"], seen[:, :1])
    flags = {name: arrays[f"data/{name}"].tolist() for name in ("demo_2/dones", "demo_2/timeouts", "demo_5/timeouts")}
    assert flags == {"demo_2/dones": [0, 0, 1], "demo_2/timeouts": [0, 0, 0], "demo_5/timeouts": [1]}
    assert "data/demo_11/obs/object" in arrays and "data/demo_11/next_obs/object" not in arrays


def test_what_robomimic_said_of_its_environment_stays(make_episodes, tmp_path) -> None:
    args = {"env_name": "Lift", "env_type": 1, "env_kwargs": {"robots": ["Panda"]}}
    first = write_robomimic(make_episodes([3], metadata={"attributes": {"env_args": args}}), tmp_path / "a.hdf5")
    found = load_episodes(first)
    assert found.metadata["attributes"]["env_args"] == args and found.metadata["env"] is None
    second = write_robomimic(found, tmp_path / "b.hdf5")
    assert first.read_bytes() == second.read_bytes()  # nothing is lost, and equal data give equal bytes


@pytest.mark.parametrize("actions", [0, -2])
def test_choices_are_refused(make_episodes, tmp_path, actions) -> None:
    with pytest.raises(LamoError, match="actions are vectors, these are choices"):
        write_robomimic(make_episodes([3], actions=actions), tmp_path / "a.hdf5")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_fails_leaves_nothing(make_episodes, tmp_path, monkeypatch, failure) -> None:
    write = robomimic_writer._array

    def some(demo, name, value) -> None:
        if demo.name == "/data/demo_1" and name == "rewards":
            raise failure
        write(demo, name, value)

    monkeypatch.setattr(robomimic_writer, "_array", some)
    with pytest.raises((LamoError, KeyboardInterrupt)):
        write_robomimic(make_episodes([3, 2]), tmp_path / "a.hdf5")
    assert list(tmp_path.iterdir()) == []
