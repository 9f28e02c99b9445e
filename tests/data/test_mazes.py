"""Recordings of mazes are cut at the goal, where the goal stayed; everything else is left alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamo.data.episodes import Episodes
from lamo.data.inspect import inspect
from lamo.data.mazes import end_at_goal
from lamo.data.sources import load_episodes


def maze(rewards: list[list[float]], **metadata: Any) -> Episodes:
    """Episodes of these rewards; the observation counts the rows, final observations continue the count by halves."""
    lengths = [len(each) for each in rewards]
    steps = sum(lengths)
    ends = np.cumsum(lengths)
    return Episodes(
        observations=np.arange(steps, dtype=np.float32)[:, None],
        actions=np.arange(steps, dtype=np.float32)[:, None],
        rewards=np.concatenate(rewards).astype(np.float32),
        offsets=np.concatenate([[0], ends]).astype(np.int64),
        terminated=np.zeros(len(rewards), bool),
        truncated=np.ones(len(rewards), bool),
        ids=np.arange(len(rewards)),
        final_observations=(ends - 0.5).astype(np.float32)[:, None],
        metadata={"format": "minari", "env": "AntMaze_UMaze-v4", "env_kwargs": {"reset_target": False}, **metadata},
    )


def test_steps_after_the_goal_are_left_out() -> None:
    found = end_at_goal(maze([[0, 0, 1, 1], [0, 0], [1], [0, 1, 0, 1]]))
    assert found.rewards.tolist() == [0, 0, 1, 0, 0, 1, 0, 1]
    assert found.observations[:, 0].tolist() == [0, 1, 2, 4, 5, 6, 7, 8]
    assert found.lengths.tolist() == [3, 2, 1, 2] and found.returns.tolist() == [1, 0, 1, 1]
    assert found.terminated.tolist() == [True, False, True, True]
    assert found.truncated.tolist() == [False, True, False, False]
    assert found.final_observations is not None
    assert found.final_observations[:, 0].tolist() == [3, 5.5, 6.5, 9]  # what came next, where it is in the log
    assert found.metadata["env"] == "AntMazeUMaze-v0"
    notes = inspect(found)["notes"]
    assert "2 episodes went on after the goal" in notes[0] and "(3 steps)" in notes[0] and "AntMazeUMaze-v0" in notes[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"env_kwargs": {"reset_target": True}},
        {"env_kwargs": {}},
        {"env": "AntMaze_UMazeDense-v4"},
        {"env": "Hopper-v5"},
        {"format": "d4rl"},
    ],
)
def test_others_are_untouched(changes: dict[str, Any]) -> None:
    episodes = maze([[0, 1, 1], [0, 0]], **changes)
    assert end_at_goal(episodes) is episodes
    dense = maze([[0.2, 0.9, 1]])
    assert end_at_goal(dense) is dense
    nothing = maze([[0, 0]])
    assert end_at_goal(nothing) is nothing


def test_an_end_at_the_goal_is_a_termination() -> None:
    found = end_at_goal(maze([[0, 0, 1], [0, 0]], env="PointMaze_Large-v3", env_kwargs={"reset_target": True}))
    assert found.steps == 5 and found.terminated.tolist() == [True, False]
    assert found.metadata["env"] == "PointMazeLarge-v0"
    newer = end_at_goal(maze([[0, 1, 1]], env="AntMaze_UMaze-v5"))
    assert newer.steps == 2 and newer.metadata["env"] == "AntMaze_UMaze-v5"  # its ant has other numbers


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=6), min_size=1, max_size=5))
def test_every_return_is_one_or_nothing(rewards: list[list[float]]) -> None:
    found = end_at_goal(maze(rewards))
    assert found.returns.tolist() == [max(each) for each in rewards]
    for number, each in enumerate(rewards):
        start, end = found.offsets[number], found.offsets[number + 1]
        assert end - start == (each.index(1) + 1 if 1 in each else len(each))
        first = sum(map(len, rewards[:number]))
        assert found.actions[start:end, 0].tolist() == list(range(first, first + end - start))
    assert end_at_goal(found).digest() == found.digest()


def test_a_recording_of_minari(tmp_path: Path) -> None:
    """The layout and the description that Minari writes for D4RL/antmaze."""
    data = tmp_path / "data"
    data.mkdir()
    box = {"type": "Box", "dtype": "float64", "shape": [2], "low": [-9.0] * 2, "high": [9.0] * 2}
    spec = {"id": "AntMaze_UMaze-v4", "kwargs": {"continuing_task": True, "reset_target": False, "maze_map": [[1]]}}
    keys = ("achieved_goal", "desired_goal", "observation")
    space = {"type": "Dict", "subspaces": {key: box for key in keys}}
    described = {"observation_space": space, "action_space": box, "env_spec": spec}
    notes = {key: json.dumps(value) for key, value in described.items()}
    (data / "metadata.json").write_text(json.dumps({"data_format": "hdf5", **notes}))
    with h5py.File(data / "main_data.hdf5", "w") as file:
        group = file.create_group("episode_0")
        for key in keys:
            group[f"observations/{key}"] = np.arange(10.0).reshape(5, 2)
        group["actions"], group["rewards"] = np.zeros((4, 2)), np.array([0.0, 1.0, 1.0, 1.0])
        group["terminations"], group["truncations"] = np.zeros(4, bool), np.array([0, 0, 0, 1], bool)
    found = load_episodes(tmp_path)
    assert found.lengths.tolist() == [2] and found.terminated.all() and found.metadata["env"] == "AntMazeUMaze-v0"
    assert found.final_observations is not None and found.final_observations[0].tolist() == [4, 5] * 3
