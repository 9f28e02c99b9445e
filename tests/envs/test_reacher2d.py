"""Reacher2d is the task of its description, on a machine without a display."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import lamo.envs
from lamo.data.sources import load_episodes
from lamo.envs.reacher2d import Reacher2dEnv

UPPER, FORE = 0.6, 0.45


@pytest.fixture
def env() -> Reacher2dEnv:
    return gymnasium.make("Reacher2d-v0", disable_env_checker=True).unwrapped  # type: ignore[return-value]


def test_passes_the_checker_with_every_render_mode() -> None:
    check_env(gymnasium.make("Reacher2d-v0").unwrapped)


def test_registering_twice_changes_nothing() -> None:
    before = gymnasium.registry["Reacher2d-v0"]
    lamo.envs.register()
    assert gymnasium.registry["Reacher2d-v0"] is before


def test_importing_the_package_does_not_import_mujoco() -> None:
    code = "import sys, lamo.envs; sys.exit('mujoco' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_observation_is_of_the_described_parts(env: Reacher2dEnv, rng: np.random.Generator) -> None:
    observation, _ = env.reset(seed=1)
    for _ in range(30):
        shoulder, elbow = env.data.qpos
        fingertip = np.array(
            [
                UPPER * np.cos(shoulder) + FORE * np.cos(shoulder + elbow),
                UPPER * np.sin(shoulder) + FORE * np.sin(shoulder + elbow),
            ]
        )
        np.testing.assert_allclose(observation[0:2], np.sin(env.data.qpos))
        np.testing.assert_allclose(observation[2:4], np.cos(env.data.qpos))
        np.testing.assert_allclose(observation[4:6], 0.15 * env.data.qvel)
        np.testing.assert_allclose(observation[6:8], fingertip, atol=1e-9)  # of the joints now, not of a frame before
        np.testing.assert_allclose(observation[8:10], env.target)
        np.testing.assert_allclose(observation[10:12], fingertip - env.target, atol=1e-9)
        assert env.observation_space.contains(observation)
        observation, *_ = env.step(rng.uniform(-1, 1, 2))


def test_reward_is_one_within_a_tenth_of_a_metre_in_the_1_norm(env: Reacher2dEnv) -> None:
    for offset, expected in (((0.05, 0.04), 1.0), ((0.06, 0.05), 0.0), ((0.0, 0.0), 1.0), ((-0.09, 0.0), 1.0)):
        env.reset(seed=5)
        still = env.fingertip  # without torque and at rest the arm stays
        env.reset(seed=5, options={"target": still + offset})
        _, reward, terminated, truncated, info = env.step(np.zeros(2))
        assert reward == expected and info["is_success"] == bool(expected)
        assert not terminated and not truncated


def test_resets_follow_the_described_distribution(env: Reacher2dEnv) -> None:
    angles, radii = [], []
    for seed in range(300):
        env.reset(seed=seed)
        assert not env.data.qvel.any()
        angles.append(env.data.qpos.copy())
        radii.append(np.linalg.norm(env.target))
    assert np.abs(angles).max() <= 2.0 and np.abs(angles).max() > 1.9
    assert min(radii) >= 0.5 and max(radii) <= 1.0
    # Uniform by area: the radius inside of which half the targets lie is sqrt((0.5^2 + 1^2) / 2) = 0.79.
    assert abs(np.median(radii) - 0.79) < 0.03


def test_dynamics_are_as_described(env: Reacher2dEnv) -> None:
    assert env.dt == pytest.approx(0.15)
    assert env.model.opt.integrator == 1  # RK4
    assert list(env.model.dof_damping) == [1.0, 1.0] and list(env.model.dof_armature) == [0.05, 0.05]
    env.reset(seed=0)
    for _ in range(150):
        env.step(np.array([1.0, 0.0]))
    assert env.data.qvel[0] == pytest.approx(1.0, abs=0.02)  # torque 1 against damping 1
    assert env.data.qpos[0] > 5  # the shoulder has no limit
    for _ in range(60):
        env.step(np.array([0.0, 1.0]))
    assert env.data.qpos[1] == pytest.approx(3.5, abs=0.1)
    for _ in range(60):
        env.step(np.array([0.0, -1.0]))
    assert env.data.qpos[1] == pytest.approx(-2.0, abs=0.1)


def test_actions_beyond_the_bounds_are_clipped(env: Reacher2dEnv) -> None:
    ends = []
    for action in ([1.0, -1.0], [7.0, -3.0]):
        env.reset(seed=2)
        ends.append(env.step(np.array(action))[0])
    np.testing.assert_array_equal(*ends)


def test_episodes_are_truncated_after_100_steps() -> None:
    env = gymnasium.make("Reacher2d-v0")
    env.reset(seed=0)
    flags = [env.step(np.zeros(2, np.float32))[2:4] for _ in range(100)]
    assert flags == [(False, False)] * 99 + [(False, True)]


def test_copies_and_pickles(env: Reacher2dEnv) -> None:
    for other in (copy.deepcopy(env), pickle.loads(pickle.dumps(env))):
        np.testing.assert_array_equal(other.reset(seed=3)[0], env.reset(seed=3)[0])


def test_picture_shows_arm_and_target() -> None:
    env = gymnasium.make("Reacher2d-v0", render_mode="rgb_array")
    env.reset(seed=3, options={"target": (0.8, 0.6)})
    picture = env.render()
    assert isinstance(picture, np.ndarray) and picture.shape == (480, 480, 3) and picture.dtype == np.uint8
    row, column = int(480 * (1 - 0.6 / 1.25) / 2), int(480 * (1 + 0.8 / 1.25) / 2)
    assert tuple(picture[row, column]) == (214, 69, 61)  # y is up
    assert tuple(picture[240, 240]) == (64, 107, 158)  # the shoulder is in the middle


def test_embedded_dataset_replays_in_the_environment(env: Reacher2dEnv) -> None:
    episodes = load_episodes("reacher2d-medium")
    for e in (0, 1, 999):
        rows = slice(int(episodes.offsets[e]), int(episodes.offsets[e + 1]))
        observation, _ = env.reset(seed=int(episodes.ids[e]))
        for recorded, action, reward in zip(
            episodes.observations[rows], episodes.actions[rows], episodes.rewards[rows], strict=True
        ):
            np.testing.assert_allclose(observation, recorded, atol=1e-3)
            observation, earned, *_ = env.step(action)
            assert earned == reward
