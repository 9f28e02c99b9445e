"""Data and an environment that no task has: what is asked of them instead."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from lamo.collecting.collect import collect
from lamo.config import Experiment
from lamo.data import load_episodes
from lamo.data.sources.d4rl import write_d4rl
from lamo.errors import LamoError
from lamo.evaluate_run import evaluate
from lamo.prepare import asked_for, prepare
from lamo.runs import Run
from lamo.train import resume, train


@pytest.mark.parametrize(
    ("env", "limit", "size"),
    [("PointMaze_OpenDense-v3", 300, 8), ("MountainCarContinuous-v0", 999, 2), ("FrozenLake-v1", 100, 16)],
)
def test_targets_scale_and_horizon(env: str, limit: int, size: int, tmp_path: Path) -> None:
    """Of a goal environment's dicts, of vectors, and of observations that are choices."""
    path = tmp_path / "data.hdf5"
    returns = collect(env, 6, path, policy="random", horizon=40).returns
    setup = prepare(Experiment.of("dt", dataset=str(path), eval_episodes=1))
    task, spec = setup.task, setup.spec
    asked = sorted({float(f"{np.quantile(returns, 0.9):.3g}"), float(f"{returns.max():.3g}")})
    assert task.targets == spec.targets == tuple(asked)
    assert (task.horizon, spec.horizon) == (limit, limit) and task.score_range is None
    largest = np.abs(returns).max()
    assert task.return_scale <= largest < 10 * task.return_scale or (largest == 0 and task.return_scale == 1)
    assert spec.env == env and spec.observation_dim == size
    assert "0.9 quantile" in task.description


def test_a_goal_environment_end_to_end(tmp_path: Path) -> None:
    """Its keys chosen in the environment that the data, recorded with the same keys, does not name."""
    path = tmp_path / "data.hdf5"
    collect("PointMaze_OpenDense-v3", 3, path, policy="random", horizon=30)
    settings: dict[str, Any] = {
        "steps": 3,
        "eval_episodes": 1,
        "batch_size": 4,
        "device": "cpu",
        "layers": 1,
        "context": 2,
    }
    run = train(Experiment.of("dt", dataset=str(path), **settings), tmp_path / "run", quiet=True)
    rows = Run.open(run.path).read_episodes()
    assert len(rows) == 2 and all(row["score"] is None for row in rows)
    assert list(run.provenance["task"]["targets"]) == [row["target"] for row in rows]
    assert "0.9 quantile" in run.provenance["task"]["description"]
    whole = load_episodes(path)
    setup = prepare(Experiment.of("dt", dataset=str(path), obs_keys=("observation",)))
    np.testing.assert_array_equal(setup.episodes.observations, whole.observations[:, 4:])
    narrow = write_d4rl(replace(setup.episodes, metadata={"env": None}), tmp_path / "narrow.hdf5")
    told: dict[str, Any] = {"dataset": str(narrow), "env": "PointMaze_OpenDense-v3"}
    again = prepare(Experiment.of("dt", **told, obs_keys=("observation",)))
    np.testing.assert_array_equal(again.episodes.observations, setup.episodes.observations)
    with pytest.raises(LamoError, match="4 numbers, but those of PointMaze_OpenDense-v3 have 6"):
        prepare(Experiment.of("dt", **told, obs_keys=("observation", "desired_goal")))


def test_seeds_and_shares_are_asked_for_the_same_returns(tmp_path: Path) -> None:
    """The whole dataset says which, but for what is held out of it."""
    steps = np.full(40, 5)
    offsets = np.concatenate([[0], np.cumsum(steps)])
    rewards = np.repeat(np.random.default_rng(0).lognormal(3, 2, 40), 5)
    fields = {"observations": np.zeros((200, 2)), "actions": np.zeros((200, 1)), "rewards": rewards}
    ends = np.zeros(200, bool)
    ends[offsets[1:] - 1] = True
    path = tmp_path / "data.npz"

    def write() -> None:
        np.savez(path, **fields, terminals=ends, timeouts=np.zeros(200, bool))

    def prepared(**changes: Any) -> Any:
        return prepare(Experiment.of("dt", dataset=str(path), eval_episodes=0, **changes))

    write()
    whole = prepared()
    for seed in range(3):
        few = prepared(ratio=0.1, seed=seed)
        assert (few.spec.targets, few.spec.return_scale) == (whole.spec.targets, whole.spec.return_scale)
    held = prepared(holdout=0.1)
    assert held.held_out is not None
    unseen = held.held_out.ids
    assert len(unseen) == 4
    for number in unseen:
        rewards[offsets[number] : offsets[number + 1]] = 1e6
    write()
    assert prepared(holdout=0.1).spec == held.spec
    assert prepared().spec != held.spec


def test_a_run_goes_on_with_the_returns_it_began_with(tmp_path: Path) -> None:
    """Also one of before, when they were those of its own share of the data."""
    path = tmp_path / "data.hdf5"
    collect("PointMaze_OpenDense-v3", 3, path, policy="random", horizon=30)
    small = {"steps": 2, "eval_episodes": 0, "batch_size": 4, "device": "cpu", "layers": 1, "context": 2}
    run = train(Experiment.of("dt", dataset=str(path), **small), tmp_path / "run", quiet=True)  # type: ignore[arg-type]
    notes = json.loads((run.path / "provenance.json").read_text())
    notes["spec"] |= {"targets": [7.0], "return_scale": 1000.0}
    (run.path / "provenance.json").write_text(json.dumps(notes))
    on = resume(run.path, steps=3, quiet=True)
    spec = json.loads((on.path / "policy" / "policy.json").read_text())["spec"]
    assert (spec["targets"], spec["return_scale"]) == ([7.0], 1000.0)


def test_an_environment_without_a_limit_is_stopped_after_the_longest_episode(tmp_path: Path) -> None:
    gymnasium.register("LimitlessPendulum-v0", "gymnasium.envs.classic_control:PendulumEnv")
    try:
        path = tmp_path / "data.hdf5"
        collect("LimitlessPendulum-v0", 2, path, policy="random", horizon=7)
        small = {"steps": 2, "eval_episodes": 1, "batch_size": 4, "device": "cpu", "layers": 1, "context": 2}
        run = train(Experiment.of("dt", dataset=str(path), **small), tmp_path / "run", quiet=True)  # type: ignore[arg-type]
        assert {row["length"] for row in run.read_episodes()} == {7}
        assert {row["length"] for row in evaluate(run.path, episodes=1)["records"]} == {7}
    finally:
        del gymnasium.registry["LimitlessPendulum-v0"]


def test_choices_that_are_stored_as_fractions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The error names the option that helps, and without an environment a warning does."""
    steps = {"observations": np.eye(6, 4), "rewards": np.ones(6), "terminals": np.arange(6) % 3 == 2}
    for name, action in {"whole": np.arange(6) % 2, "not": np.arange(6) / 4}.items():
        np.savez(tmp_path / f"{name}.npz", actions=action.astype(np.float32), env_id="CartPole-v1", **steps)
    whole, other = ({"dataset": str(tmp_path / f"{name}.npz")} for name in ("whole", "not"))
    with pytest.raises(LamoError, match="give --actions discrete if its whole numbers are choices, or another --env"):
        prepare(Experiment.of("dt", **whole))
    with pytest.raises(LamoError, match="are choices; give another --env"):
        prepare(Experiment.of("dt", **other))
    assert prepare(Experiment.of("dt", **whole, actions="discrete")).spec.action_dim == 2
    capsys.readouterr()
    prepare(Experiment.of("dt", **whole, eval_episodes=0))
    assert "give --actions discrete if they are choices" in capsys.readouterr().err
    prepare(Experiment.of("dt", **other, eval_episodes=0))
    prepare(Experiment.of("dt", **whole, eval_episodes=0, actions="continuous"))
    assert "--actions" not in capsys.readouterr().err


def test_a_line_says_what_the_policy_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    steps = {"observations": np.eye(6, 2), "actions": np.eye(6, 1) / 2, "terminals": np.arange(6) % 3 == 2}
    steps["timeouts"] = np.zeros(6, bool)
    np.savez(tmp_path / "data.npz", rewards=np.array([1, 1, 1, 4, 4, 4.0]), env_id="Mine-v0", **steps)
    settings: dict[str, Any] = {"dataset": str(tmp_path / "data.npz"), "eval_episodes": 0}

    def said(preset: str = "dt", **more: Any) -> str:
        experiment = Experiment.of(preset, **settings, **more)
        return asked_for(experiment, prepare(experiment).task) or ""

    line = said()
    assert "targets are the 0.9 quantile and the largest of its returns: targets 11.1, 12, return scale 10" in line
    assert "horizon 3; --targets asks for others" in line and "\n" not in line
    assert "Mine-v0: targets 5 as given, return scale 10, horizon 3" in said(targets=(5.0,))
    assert "targets, scale and score as in hopper" in said(env="Hopper-v5")
    assert said("bc") == "", "who is not asked for a return has none"
    capsys.readouterr()
    small = {"steps": 1, "layers": 1, "width": 8, "context": 2, "device": "cpu"}
    for quiet in (False, True):
        train(Experiment.of("dt", **settings, **small), tmp_path / f"run-{quiet}", quiet=quiet)
        assert (f"lamo: {line}\n" in capsys.readouterr().err) is not quiet
