"""Environments by name, stepped together."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest

from lamo.envs import pool as pools
from lamo.envs.pool import EVALUATION_SEED_BASE, EnvPool, collection_seed, evaluation_seed
from lamo.errors import LamoError


def test_evaluation_and_collection_seeds_never_meet() -> None:
    evaluated = {evaluation_seed(s, e) for s in (0, 1, 2) for e in (0, 1, 9_999)}
    assert len(evaluated) == 9 and min(evaluated) == EVALUATION_SEED_BASE
    assert collection_seed(999, 999_999) == EVALUATION_SEED_BASE - 1
    assert collection_seed(0, 999_999) < collection_seed(1, 0)


@pytest.mark.parametrize(
    ("seeds", "seed", "episode"),
    [
        (collection_seed, 1_000, 0),
        (collection_seed, 0, 1_000_000),
        (collection_seed, -1, 0),
        (evaluation_seed, 0, 10_000),
    ],
)
def test_seeds_out_of_range_are_refused(seeds, seed: int, episode: int) -> None:
    with pytest.raises(LamoError, match=f"got seed {seed}, episode {episode}"):
        seeds(seed, episode)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Hopper-v9", "Hopper-v4 or Hopper-v5"),
        ("Hopper", "Hopper-v5"),
        ("walker2d-v5", "Walker2d-v5"),
        ("Reacher2-v0", "Reacher2d-v0"),
        ("Reacher3d-v0", "Reacher2d-v0"),
        ("Nowhere/Xyzzy-v7", "pprint_registry"),
    ],
)
def test_unknown_environment_names_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(LamoError, match=hint):
        EnvPool(name)


@pytest.mark.parametrize("name", ["Reacher-v2", "not an id-v0", "no_such_module:X-v0"])
def test_environments_that_cannot_be_made_say_why(name: str) -> None:
    with pytest.raises(LamoError, match=r"cannot be made|unknown environment"), warnings.catch_warnings():
        EnvPool(name)


def test_old_versions_are_made_without_advice_to_upgrade(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with EnvPool("Reacher-v4") as old, EnvPool("Reacher-v5") as new:
            assert (old.observation_dim, new.observation_dim) == (11, 10)
            old.reset([0, 1])
            old.step(np.array([1]), np.zeros((1, 2)))
    assert capfd.readouterr().err == ""


def test_environments_are_kept_between_resets() -> None:
    with EnvPool("CartPole-v1") as pool:
        pool.reset([1, 2, 3])
        kept = list(pool.envs)
        first = pool.reset([1, 2])
        assert pool.envs == kept and len(kept) == 3
        np.testing.assert_array_equal(first, pool.reset([1, 2]))
    assert pool.envs == []


def test_only_the_rows_named_are_stepped() -> None:
    with EnvPool("Pendulum-v1") as pool:
        start = pool.reset([1, 2, 3])
        after, rewards, terminated, truncated = pool.step(np.array([2, 0]), np.array([[1.0], [-1.0]]))
        assert after.shape == (2, 3) and after.dtype == np.float32 and rewards.dtype == np.float64
        assert not terminated.any() and not truncated.any()
        assert not np.array_equal(after[0], start[2])
        np.testing.assert_array_equal(pool.envs[1].unwrapped._get_obs(), start[1])  # type: ignore[attr-defined]


def test_actions_are_clipped_and_checked() -> None:
    with EnvPool("Pendulum-v1") as pool:
        np.testing.assert_array_equal(
            pool.clip(np.array([[5.0], [-5.0], [0.5]])), np.array([[2.0], [-2.0], [0.5]], np.float32)
        )
        with pytest.raises(LamoError, match="not finite"):
            pool.clip(np.array([[np.nan]]))
        with pytest.raises(LamoError, match="takes 1 action values"):
            pool.clip(np.zeros((2, 2)))
    with EnvPool("CartPole-v1") as pool:
        assert pool.discrete and pool.action_dim == 2 and pool.action_low is None
        with pytest.raises(LamoError, match="0 to 1"):
            pool.clip(np.array([2]))


class Odd(gymnasium.Env):
    """Observations in a dict, choices that begin at 5."""

    def __init__(self) -> None:
        box = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = gymnasium.spaces.Dict({"b": box, "a": gymnasium.spaces.Discrete(3)})
        self.action_space = gymnasium.spaces.Discrete(2, start=5)

    def reset(self, *, seed=None, options=None):
        return {"b": np.array([0.5, -0.5], np.float32), "a": 1}, {}

    def step(self, action):
        assert self.action_space.contains(action)
        return self.reset()[0], float(action), True, False, {}


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(gymnasium.registry, "Odd-v0", gymnasium.envs.registration.EnvSpec("Odd-v0", entry_point=Odd))
    return "Odd-v0"


def test_dict_observations_are_flattened_and_choices_shifted(odd: str) -> None:
    with EnvPool(odd) as pool:
        assert pool.observation_dim == 5 and pool.max_episode_steps is None
        np.testing.assert_array_equal(pool.reset([0]), [[0, 1, 0, 0.5, -0.5]])
        assert pool.step(np.array([0]), np.array([1]))[1] == [6.0]


def test_an_action_space_of_another_kind_is_refused(odd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    space = gymnasium.spaces.Text(3)
    real = pools.make

    def made(*args, **kwargs):
        env = real(*args, **kwargs)
        env.unwrapped.action_space = space
        return env

    monkeypatch.setattr(pools, "make", made)
    with pytest.raises(LamoError, match="Text"):
        EnvPool(odd)
