"""robomimic's HDF5."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamo.data import Episodes, load_episodes
from lamo.errors import LamoError

KEYS = {"robot0_eef_pos": slice(1, 3), "object": slice(0, 1)}  # alphabetical order is not that of writing


def write_robomimic(episodes: Episodes, path: Path, *, images: bool = False, env: Any = None) -> Path:
    """The layout of robomimic's documentation; the observations' columns are divided among two keys."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = episodes.steps
        data.attrs["env_args"] = json.dumps(
            env or {"env_name": "Lift", "env_type": 1, "env_kwargs": {"robots": ["Panda"]}}
        )
        for e in range(len(episodes)):
            start, stop = map(int, episodes.offsets[e : e + 2])
            demo = data.create_group(f"demo_{episodes.ids[e]}")
            demo.attrs["num_samples"] = stop - start
            demo.attrs["model_file"] = "<mujoco/>" * 100
            demo["states"] = np.zeros((stop - start, 5))
            demo["actions"], demo["rewards"] = episodes.actions[start:stop], episodes.rewards[start:stop]
            demo["dones"] = (np.arange(start, stop) == stop - 1) & episodes.terminated[e]
            for key, part in KEYS.items():
                demo[f"obs/{key}"] = episodes.observations[start:stop, part]
                if episodes.final_observations is not None:
                    following = [*episodes.observations[start + 1 : stop], episodes.final_observations[e]]
                    demo[f"next_obs/{key}"] = np.stack(following)[:, part]
            if images:
                demo["obs/agentview_image"] = np.zeros((stop - start, 8, 8, 3), np.uint8)
        file["mask/train"] = np.array([b"demo_0"])
    return path


def refused(path: Path, *words: str, **options) -> str:
    with pytest.raises(LamoError) as caught:
        load_episodes(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in (path.name, *words):
        assert word in message, message
    return message


@given(
    kinds=st.lists(
        st.tuples(st.integers(1, 5), st.sampled_from(["terminated", "unfinished"])), min_size=1, max_size=12
    ),
    final=st.booleans(),
)
@settings(max_examples=25)
def test_round_trip(make_episodes, assert_same, tmp_path_factory, kinds, final):
    lengths, ends = zip(*kinds, strict=True)
    episodes = make_episodes(lengths, ends=ends, final=final)  # twelve: demo_10 comes after demo_9
    back = load_episodes(write_robomimic(episodes, tmp_path_factory.mktemp("robomimic") / "a.hdf5"))
    assert_same(back, episodes)
    assert back.ids.tolist() == episodes.ids.tolist()


def test_keys(make_episodes, tmp_path, capsys):
    episodes = make_episodes([3, 4], final=True, ends=["terminated", "unfinished"])
    path = write_robomimic(episodes, tmp_path / "a.hdf5", images=True)
    plain = load_episodes(path)
    assert "agentview_image are images and are left out" in capsys.readouterr().err
    assert plain.metadata["observation_keys"] == ["object", "robot0_eef_pos"]
    one = load_episodes(path, obs_keys=["robot0_eef_pos"])
    np.testing.assert_array_equal(one.observations, episodes.observations[:, 1:])
    np.testing.assert_array_equal(one.final_observations, episodes.final_observations[:, 1:])
    refused(path, "'objekt' is no key of the observations; did you mean object", obs_keys=["objekt"])
    refused(path, "obs/agentview_image are images (8, 8, 3)", obs_keys=["agentview_image"])


def test_environments(make_episodes, tmp_path):
    episodes = make_episodes([3])
    lift = load_episodes(write_robomimic(episodes, tmp_path / "a.hdf5")).metadata
    assert lift["env"] is None and lift["attributes"]["env_args"]["env_name"] == "Lift"
    gym = {"env_name": "Hopper-v5", "env_type": 2, "env_kwargs": {}}
    metadata = load_episodes(write_robomimic(episodes, tmp_path / "b.hdf5", env=gym)).metadata
    assert metadata["env"] == "Hopper-v5"
    assert json.loads(json.dumps(metadata, allow_nan=False)) == metadata


def change(path: Path, **changes: Any) -> None:
    """Replace what lies in the second demonstration; None removes it."""
    with h5py.File(path, "a") as file:
        for key, value in changes.items():
            key = key.replace("__", "/")
            del file[f"data/demo_1/{key}"]
            if value is not None:
                file[f"data/demo_1/{key}"] = value


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"actions": None}, "demo_1: key 'actions' is missing; the keys present are dones, obs, rewards, states"),
        ({"rewards": None}, "demo_1: key 'rewards' is missing"),
        ({"obs": None}, "demo_1: key 'obs/object' is missing"),
        ({"obs__object": None}, "demo_1: key 'obs/object' is missing"),
        ({"obs__object": np.zeros((4, 2))}, "demo_1: obs/object has 2 numbers per step, others 1"),
        ({"obs__object": np.zeros((3, 1))}, "demo_1: arrays have different lengths (obs/object 3, rewards 4)"),
        ({"obs__object": np.full((4, 1), np.nan)}, "observations holds nan at [3, 0] (episode 1, step 0)"),
        ({"actions": np.zeros((4, 3))}, "demo_1: actions (4, 3) float64 differ from those before"),
        ({"actions": np.zeros((4, 2), np.int64)}, "--actions continuous"),
        ({"actions": np.array([b"a"] * 4)}, "type |S1"),
        ({"dones": np.zeros((4, 2))}, "demo_1: dones has shape (4, 2)"),
        ({"rewards": 1.0}, "demo_1: rewards is not an array"),
    ],
)
def test_bad_demonstrations(make_episodes, tmp_path, changes, words):
    path = write_robomimic(make_episodes([3, 4]), tmp_path / "bad.hdf5")
    change(path, **changes)
    refused(path, words)


def test_files_that_are_not_complete(make_episodes, tmp_path):
    path = write_robomimic(make_episodes([3, 4]), tmp_path / "bad.hdf5")
    with h5py.File(path, "a") as file:
        del file["data/demo_0/rewards"]
    refused(path, "demo_0 has no rewards", "dataset_states_to_obs.py", "--reward none")
    assert not load_episodes(path, reward="none").rewards.any()
    with h5py.File(path, "a") as file:
        del file["data/demo_0/obs"]
    refused(path, "demo_0 has no observations", "dataset_states_to_obs.py")
    with h5py.File(path, "a") as file:
        file["data/demo_00"] = file["data/demo_1"]
    refused(path, "demo_0 and demo_00 are the same episode number")


def test_attributes(make_episodes, tmp_path, capsys):
    path = write_robomimic(make_episodes([3, 4]), tmp_path / "bad.hdf5")
    with h5py.File(path, "a") as file:
        file["data"].attrs["total"] = 9
    assert load_episodes(path).steps == 7
    assert "speaks of 9 steps in all, 7 are there" in capsys.readouterr().err
    for text, words in (("{", "is not JSON"), ("[]", "is not a JSON object"), ('{"a": NaN}', "is not JSON")):
        with h5py.File(path, "a") as file:
            file["data"].attrs["env_args"] = text
        refused(path, f"attribute env_args {words}")
    with h5py.File(path, "w", libver="latest") as file:
        file.create_group("data/demo_0").attrs["x"] = 1
        file["data"].attrs["env_args"] = np.zeros(1 << 18)
    refused(path, "no observations")


def test_nothing_outside_the_file_is_read(make_episodes, tmp_path):
    write_robomimic(make_episodes([3, 4]), tmp_path / "other.hdf5")
    path = write_robomimic(make_episodes([3, 4]), tmp_path / "bad.hdf5")
    change(path, actions=h5py.ExternalLink("other.hdf5", "data/demo_1/actions"))
    refused(path, "actions links to another file")
    change(path, actions=h5py.SoftLink("/away/actions"))
    with h5py.File(path, "a") as file:
        file["away"] = h5py.ExternalLink("other.hdf5", "data/demo_1")
    refused(path, "links to another file")
    change(path, actions=h5py.SoftLink("/data/demo_1/actions"))
    refused(path, "a link that leads nowhere")
    change(path, actions=h5py.SoftLink("/data/demo_0/actions"))
    refused(path, "different lengths (actions 3, rewards 4)")  # inside the file links are followed
    (tmp_path / "secret").write_bytes(bytes(64))
    change(path, actions=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("data/demo_1/actions", (4, 2), "f8", external=[(str(tmp_path / "secret"), 0, 64)])
    refused(path, "keeps its values in another file")
    change(path, actions=None)
    layout = h5py.VirtualLayout((4, 2), "f4")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.hdf5"), "data/demo_1/actions", (4, 2))
    with h5py.File(path, "a") as file:
        file.create_virtual_dataset("data/demo_1/actions", layout)
    refused(path, "keeps its values in another file")
