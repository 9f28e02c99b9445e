"""Data and an environment that no task has: what is asked of them instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lamo.collecting.collect import collect
from lamo.config import Experiment
from lamo.errors import LamoError
from lamo.prepare import prepare
from lamo.runs import Run
from lamo.train import train


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
    with pytest.raises(LamoError, match="8 numbers, but those of PointMaze_OpenDense-v3 have 4"):
        prepare(Experiment.of("dt", dataset=str(path), obs_keys=("observation",)))
