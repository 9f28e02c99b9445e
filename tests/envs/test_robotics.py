"""gymnasium-robotics' environments, and those that lamo makes of them and of Ant-v4 for D4RL's data."""

from __future__ import annotations

import sys
from typing import Any

import gymnasium
import numpy as np
import pytest

from lamo.envs.pool import EnvPool, make
from lamo.envs.robotics import is_robotics
from lamo.errors import LamoError

MAZES = [f"{robot}Maze{maze}-v0" for robot in ("Ant", "Point") for maze in ("UMaze", "Medium", "Large")]


def test_they_are_known_without_an_import_of_ones_own() -> None:
    with EnvPool("PointMaze_UMaze-v3", obs_keys=["desired_goal", "observation"]) as pool:
        assert pool.observation_dim == 6 and pool.reset([0]).shape == (1, 6)
    assert is_robotics("AdroitHandPen-v1") and not is_robotics("Hopper-v5")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    monkeypatch.delitem(gymnasium.registry, "AntMaze_UMaze-v4", raising=False)
    for name in ("AntMaze_UMaze-v4", "AdroitHandPen100-v1", "PointMazeLarge-v0"):
        with pytest.raises(LamoError, match=r'not installed: pip install "lamo\[robotics\]"'):
            make(name)


@pytest.mark.parametrize("name", MAZES)
def test_mazes_end_at_the_goal_and_pay_once(name: str) -> None:
    with EnvPool(name) as pool:
        pool.reset([1])
        env: Any = pool.envs[0].unwrapped
        _, rewards, terminated, _ = pool.step(np.arange(1), np.zeros((1, pool.action_dim)))
        assert rewards[0] == 0 and not terminated[0]
        state = (env.point_env if name.startswith("Point") else env.ant_env).unwrapped.data
        state.qpos[:2] = env.goal
        _, rewards, terminated, _ = pool.step(np.arange(1), np.zeros((1, pool.action_dim)))
        assert rewards[0] == 1 and terminated[0]


def test_the_ant_goes_from_one_corner_and_the_point_from_anywhere() -> None:
    def spread(name: str, cell: float) -> float:
        with EnvPool(name, obs_keys=["desired_goal"]) as pool:
            goals = np.concatenate([pool.reset([seed]) for seed in range(8)])
            return float(np.ptp(goals, axis=0).max() / cell)

    assert 0 < spread("AntMazeMedium-v0", 4) < 0.6  # noise within one cell of the map
    assert spread("PointMazeMedium-v0", 1) > 1.5


def test_the_pen_is_scored_on_a_hundred_steps() -> None:
    with EnvPool("AdroitHandPen100-v1") as pool, EnvPool("AdroitHandPen-v1") as longer:
        assert (pool.max_episode_steps, longer.max_episode_steps) == (100, 200)
        np.testing.assert_array_equal(pool.reset([5]), longer.reset([5]))


def test_the_ant_of_d4rl_is_ant_v4_with_zeros() -> None:
    with EnvPool("AntD4RL-v0") as pool, EnvPool("Ant-v4") as plain:
        assert (pool.observation_dim, pool.max_episode_steps) == (111, 1000)
        a, b, row = pool.reset([3]), plain.reset([3]), np.arange(1)
        for step in range(20):
            np.testing.assert_array_equal(a, np.pad(b, ((0, 0), (0, 84))))
            action = np.full((1, 8), 0.3 * (-1) ** step, np.float32)
            (a, reward, *_), (b, other, *_) = pool.step(row, action), plain.step(row, action)
            assert reward[0] == other[0]
