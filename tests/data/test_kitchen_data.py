"""Kitchen recordings from elsewhere: D4RL's running counts become what the environment pays."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamo.cli import main
from lamo.config import Experiment
from lamo.data import load_episodes
from lamo.data.inspect import inspect, render
from lamo.data.kitchen import MOST, adapt, counts_subtasks, pay_once
from lamo.data.sources.d4rl import write_d4rl
from lamo.prepare import prepare

SLIDER, BURNER = "KitchenMicrowaveKettleLightSlider-v1", "KitchenMicrowaveKettleBottomBurnerLight-v1"


@st.composite
def paid_once(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Rewards of a kitchen as the environment pays them -> (rewards, offsets)."""
    rewards, lengths = [], []
    for _ in range(draw(st.integers(1, 5))):
        length = draw(st.integers(1, 40))
        own = np.zeros(length)
        for step in draw(st.lists(st.integers(0, length - 1), max_size=MOST)):
            own[step] += 1
        rewards.append(own)
        lengths.append(length)
    return np.concatenate(rewards), np.concatenate([[0], np.cumsum(lengths)])


def running(rewards: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """D4RL's way: how many are finished by each step."""
    return np.concatenate([np.cumsum(rewards[a:b]) for a, b in pairwise(offsets)])


@given(paid_once())
def test_counts_become_payments(data: tuple[np.ndarray, np.ndarray]) -> None:
    rewards, offsets = data
    paid, fell = pay_once(running(rewards, offsets), offsets)
    np.testing.assert_array_equal(paid, rewards)
    assert paid.dtype == np.float32 and fell == 0


@given(paid_once())
def test_what_the_environment_pays_is_never_taken_for_counts(data: tuple[np.ndarray, np.ndarray]) -> None:
    assert not counts_subtasks(*data)


@given(paid_once())
def test_counts_are_told_by_a_sum_that_payments_cannot_have(data: tuple[np.ndarray, np.ndarray]) -> None:
    rewards, offsets = data
    counts = running(rewards, offsets)
    sums = [counts[a:b].sum() for a, b in pairwise(offsets)]
    assert counts_subtasks(counts, offsets) == (max(sums) > MOST)


@given(st.lists(st.integers(0, MOST), min_size=1, max_size=30))
def test_a_count_that_falls_and_comes_back_is_not_paid_again(counts: list[int]) -> None:
    paid, fell = pay_once(np.array(counts), np.array([0, len(counts)]))
    assert paid.min() >= 0 and paid.sum() == max(counts)
    assert fell == (counts != sorted(counts))


@pytest.mark.parametrize("rewards", [[0.5, 9.0], [-1, 9], [0, 8, 8], [0, np.nan, 9]])
def test_other_rewards_are_left_alone(rewards: list[float]) -> None:
    assert not counts_subtasks(np.array(rewards), np.array([0, len(rewards)]))


@pytest.fixture
def counted(make_episodes) -> Any:
    """Two episodes of a kitchen in D4RL's way of counting, 59 numbers."""
    episodes = make_episodes([12, 9], width=59, actions=9, final=True, metadata={"env": "kitchen-mixed-v0"})
    return replace(episodes, rewards=np.array([0] * 6 + [1] * 4 + [2] * 2 + [0] * 4 + [1, 2, 2, 3, 4], np.float32))


def test_a_file_is_relabelled_and_inspect_says_so(
    counted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_d4rl(counted, tmp_path / "kitchen_mixed.hdf5")
    episodes = load_episodes(path)
    assert episodes.returns.tolist() == [2.0, 4.0]
    assert np.flatnonzero(episodes.rewards).tolist() == [6, 10, 16, 17, 19, 20]
    assert episodes.metadata["env"] == BURNER
    np.testing.assert_array_equal(episodes.observations, counted.observations)
    assert main(["data", "inspect", str(path)]) == 0
    said = capsys.readouterr().out
    assert "relabelled: each is paid once" in said and f"recorded in kitchen-mixed-v0; scored in {BURNER}" in said
    assert main(["data", "inspect", str(path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert len(report["notes"]) == 2 and report["return_max"] == 4.0


def test_reading_again_what_was_relabelled_changes_nothing(counted: Any, tmp_path: Path) -> None:
    once = adapt(counted)
    again = load_episodes(write_d4rl(once, tmp_path / "kitchen-complete.hdf5"))
    assert again.digest() == once.digest() and again.metadata["env"] == BURNER and "notes" not in again.metadata
    assert inspect(again)["notes"] == [] and "note" not in render(inspect(again))


@pytest.mark.parametrize("env", [None, "Hopper-v5", "LamoKitchenette-v0"])
def test_no_kitchen_no_change(counted: Any, env: str | None) -> None:
    episodes = replace(counted, metadata={"source": "logs/hopper.hdf5", "env": env})
    assert adapt(episodes) is episodes


@pytest.mark.parametrize("env", [None, "CartPole-v1"])
def test_the_name_of_a_file_alone_changes_no_rewards(make_episodes: Any, tmp_path: Path, env: str | None) -> None:
    """Rewards of 1 at each of twelve steps look like counts; what is no kitchen's in size or name keeps them."""
    episodes = make_episodes([12, 9], width=59 if env else 4, metadata={"env": env})
    episodes = replace(episodes, rewards=np.ones(21, np.float32))
    read = load_episodes(write_d4rl(episodes, tmp_path / "kitchen_cartpole.hdf5"))
    assert read.returns.tolist() == [12.0, 9.0] and read.metadata["env"] == env and "notes" not in read.metadata


def test_training_says_what_was_changed(counted: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_d4rl(counted, tmp_path / "mine.hdf5")
    prepare(Experiment.of("lamo", dataset=str(path), eval_episodes=0))
    assert "mine.hdf5: rewards counted the finished subtasks at every step" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("env", "source", "expected"),
    [
        (None, "downloads/kitchen_microwave_kettle_light_slider-v0.hdf5", SLIDER),
        (None, "mini_kitchen_microwave_kettle_light_slider-v0.hdf5", SLIDER),
        (None, "kitchen_microwave_kettle_bottomburner_light-v0.hdf5", BURNER),
        ("kitchen-partial-v0", "x.hdf5", SLIDER),
        ("FrankaKitchen-v1", "D4RL/kitchen/complete-v2", SLIDER),
        ("FrankaKitchen-v1", "my.hdf5", "FrankaKitchen-v1"),
        (SLIDER, "kitchen-mixed.hdf5", SLIDER),
    ],
)
def test_the_environment_is_that_of_the_same_four(counted: Any, env: str | None, source: str, expected: str) -> None:
    episodes = adapt(replace(counted, metadata={"source": source, "env": env}))
    assert episodes.metadata["env"] == expected and episodes.returns.tolist() == [2.0, 4.0]


def test_other_sizes_keep_their_environment(counted: Any) -> None:
    """D4RL's first version saw 60 numbers: positions and the goal. No environment of today has them."""
    wide = np.zeros((counted.steps, 60), np.float32)
    episodes = adapt(replace(counted, observations=wide, final_observations=None))
    assert episodes.observations.shape[1] == 60 and episodes.metadata["env"] == "kitchen-mixed-v0"


def test_minari_s_goals_are_left_out(tmp_path: Path, rng: np.random.Generator) -> None:
    """The layout of Minari's D4RL/kitchen sets: goals in dicts, FrankaKitchen-v1 with four tasks, running counts."""
    data = tmp_path / "sets" / "data"
    data.mkdir(parents=True)
    names = {"microwave": 1, "kettle": 7, "light switch": 2, "slide cabinet": 1}

    def box(size: int) -> dict[str, Any]:
        return {"type": "Box", "dtype": "float64", "shape": [size], "low": [-1e9] * size, "high": [1e9] * size}

    goal = {"type": "Dict", "subspaces": {name: box(names[name]) for name in sorted(names)}}
    space = {"type": "Dict", "subspaces": {"achieved_goal": goal, "desired_goal": goal, "observation": box(59)}}
    notes = {"observation_space": json.dumps(space), "env_spec": json.dumps({"id": "FrankaKitchen-v1"})}
    (data / "metadata.json").write_text(json.dumps(notes))
    seen = rng.normal(size=(2, 6, 59)).astype(np.float32)
    with h5py.File(data / "main_data.hdf5", "w") as file:
        for number in range(2):
            group = file.create_group(f"episode_{number}")
            for kind in ("achieved_goal", "desired_goal"):
                for name, size in names.items():
                    group[f"observations/{kind}/{name}"] = rng.normal(size=(6, size))
            group["observations/observation"] = seen[number]
            group["actions"] = rng.uniform(-1, 1, (5, 9))
            group["rewards"] = np.array([0.0, 2.0, 3.0, 2.0, 4.0])
            group["terminations"] = np.array([False] * 5)
            group["truncations"] = np.array([False] * 4 + [True])
    episodes = load_episodes(tmp_path / "sets")
    np.testing.assert_array_equal(episodes.observations, seen[:, :5].reshape(10, 59))
    np.testing.assert_array_equal(episodes.final_observations, seen[:, 5])
    assert episodes.rewards.tolist() == [0, 2, 1, 0, 1] * 2 and episodes.metadata["env"] == SLIDER
    assert "in 2 episodes a count fell" in " ".join(episodes.metadata["notes"])
    chosen = load_episodes(tmp_path / "sets", obs_keys=["observation"])
    assert chosen.metadata["env"] == "FrankaKitchen-v1", "whoever chooses keys chooses the environment's as well"
    np.testing.assert_array_equal(chosen.observations, episodes.observations)
