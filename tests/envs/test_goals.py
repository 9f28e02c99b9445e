"""What goal environments pay, for many goals at once."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from lamo.envs.goals import GoalRewards
from lamo.errors import LamoError


class Reach(gymnasium.Env):
    """Pays 0 within 0.1, else -1, and ends there."""

    observation_space = spaces.Dict(
        achieved_goal=spaces.Box(-1, 1, (2,)), desired_goal=spaces.Box(-1, 1, (2,)), observation=spaces.Box(-1, 1, (5,))
    )
    action_space = spaces.Box(-1, 1, (2,))

    def __init__(self, manner: str = "many") -> None:
        self.manner = manner

    def compute_reward(self, achieved, desired, info):
        far = np.linalg.norm(achieved - desired, axis=-1) > 0.1
        if self.manner == "one":
            return -1.0 if np.any(far) else 0.0
        if self.manner == "wrong":  # looks as if it took many, and does not
            return -np.full(np.shape(achieved)[:-1], np.any(far), float)
        if self.manner == "broken":
            raise KeyError("is_success")
        return -(far.astype(np.float32))

    def compute_terminated(self, achieved, desired, info):
        return bool(np.linalg.norm(achieved - desired) <= 0.1)


@pytest.fixture
def env_id():
    name = "LamoTestReach-v0"
    gymnasium.register(name, entry_point=lambda **_: Reach(), max_episode_steps=10)
    yield name
    del gymnasium.registry[name]


ACHIEVED = np.array([[0, 0], [0, 0.05], [1, 1], [0.5, 0], [0, 0]], np.float32)
DESIRED = np.zeros((5, 2), np.float32)


def test_many_at_once(env_id):
    with GoalRewards(env_id) as goals:
        assert goals.reward(ACHIEVED, DESIRED).tolist() == [0, 0, -1, -1, 0]
        assert goals.reached(ACHIEVED, DESIRED).tolist() == [True, True, False, False, True]
        assert goals.sizes == {"achieved_goal": 2, "desired_goal": 2, "observation": 5}


@pytest.mark.parametrize(
    ("manner", "words"),
    [("one", "many goals at once"), ("wrong", "many goals at once"), ("broken", "failed on 5 goals")],
)
def test_what_does_not_take_many(env_id, monkeypatch, manner, words):
    with GoalRewards(env_id) as goals:
        monkeypatch.setattr(goals._goal, "manner", manner)
        with pytest.raises(LamoError, match=words):
            goals.reward(ACHIEVED, DESIRED)


def test_an_environment_without_goals():
    with pytest.raises(LamoError, match="has no achieved_goal and desired_goal"):
        GoalRewards("Reacher2d-v0")


@pytest.mark.parametrize("env", ["PointMaze_UMaze-v3", "FetchReach-v4"])
def test_robotics(env):
    pytest.importorskip("gymnasium_robotics")
    with GoalRewards(env) as goals:
        size = goals.sizes["achieved_goal"]
        achieved = np.zeros((6, size), np.float32)
        desired = achieved + np.array([0, 0, 3, 3, 0, 3], np.float32)[:, None]
        paid = goals.reward(achieved, desired)
        assert (paid == paid[0]).tolist() == [True, True, False, False, True, False]
        assert paid[0] > paid[2]
