"""Environments held open and stepped together, and the seeds they are reset with.

A plain list beats Gymnasium's vector classes here: rows finish at different times and drop out, every row has its own
seed. `lamo.envs.spread` puts such lists into several processes, whole.
"""

from __future__ import annotations

import re
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from lamo.envs import register
from lamo.envs.robotics import import_robotics, is_robotics
from lamo.errors import LamoError
from lamo.tasks import nearest

# Collected episodes are reset with seeds below this number, evaluated ones with seeds from it on: no policy is scored
# on a start it was trained on.
EVALUATION_SEED_BASE = 1_000_000_000
_VERSIONED = re.compile(r"-v\d+$")
_EVALUATION_STRIDE = 10_000
_COLLECTION_STRIDE = 1_000_000


def evaluation_seed(seed: int, episode: int) -> int:
    """The reset seed of evaluation episode `episode` of a run with `seed`.

    It is the same for every target and every method, so these are compared in pairs.
    """
    if seed < 0 or not 0 <= episode < _EVALUATION_STRIDE:
        limit = f"a seed from 0 and at most {_EVALUATION_STRIDE} episodes"
        raise LamoError(f"evaluation takes {limit}; got seed {seed}, episode {episode}")
    return EVALUATION_SEED_BASE + _EVALUATION_STRIDE * seed + episode


def collection_seed(seed: int, episode: int) -> int:
    """The reset seed of collected episode `episode`, below `EVALUATION_SEED_BASE`; `LamoError` where there is none."""
    if not 0 <= seed < EVALUATION_SEED_BASE // _COLLECTION_STRIDE or not 0 <= episode < _COLLECTION_STRIDE:
        limit = f"seeds 0 to 999 and at most {_COLLECTION_STRIDE} episodes"
        raise LamoError(f"collection takes {limit}; got seed {seed}, episode {episode}")
    return _COLLECTION_STRIDE * seed + episode


def make(env_id: str, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    """`gymnasium.make` without its checker and its advice to upgrade; what it cannot make is a `LamoError`.

    gymnasium-robotics, where it is installed, is imported when one of its environments is asked for; those of other
    packages are named `package:Env-v0`.
    """
    register()
    if env_id not in gymnasium.registry and is_robotics(env_id):
        import_robotics()
    if env_id not in gymnasium.registry and ":" not in env_id and not _VERSIONED.search(env_id):
        # Gymnasium would take the newest version, and another one next year.
        raise LamoError(f"unknown environment {env_id!r}; {_nearest_env(env_id)}")
    with warnings.catch_warnings():
        # Old versions are asked for on purpose: data recorded with them has their observations.
        warnings.filterwarnings("ignore", message=".*is out of date.*")
        try:
            return gymnasium.make(env_id, disable_env_checker=True, **kwargs)
        except gymnasium.error.UnregisteredEnv as error:
            raise LamoError(f"unknown environment {env_id!r}; {_nearest_env(env_id)}") from error
        except (gymnasium.error.Error, ImportError) as error:  # a package that is missing, a malformed id
            raise LamoError(f"environment {env_id!r} cannot be made: {error}") from error


def _nearest_env(env_id: str) -> str:
    # Same name in other capitals or another version first: that is the common slip.
    plain = env_id.rpartition("-v")[0].lower() or env_id.lower()
    same = [name for name in gymnasium.registry if name.rpartition("-v")[0].lower() == plain]
    if same:
        return f"did you mean {' or '.join(sorted(same)[-3:])}?"
    close = nearest(env_id, list(gymnasium.registry))
    return close if close.startswith("did") else "Gymnasium lists what it knows with `gymnasium.pprint_registry()`"


def _leaves(space: spaces.Space[Any], prefix: str = "") -> dict[str, spaces.Space[Any]]:
    if not isinstance(space, spaces.Dict):
        return {prefix.rstrip("/"): space} if prefix else {}
    return {
        name: part for key, inner in space.spaces.items() for name, part in _leaves(inner, f"{prefix}{key}/").items()
    }


def _only(space: spaces.Space[Any], keys: Sequence[str], known: Sequence[str], env_id: str) -> spaces.Space[Any]:
    """The space with the parts that `keys` name and no others; their order stays."""
    if not isinstance(space, spaces.Dict):
        raise LamoError(f"--obs-keys {' '.join(keys)}: the observations of {env_id} are not a dict; leave it out")
    for key in keys:
        if not any(name == key or name.startswith(f"{key}/") for name in known):
            raise LamoError(f"{env_id} has no observation key {key!r}; {nearest(key, list(known))}")

    def reduced(space: spaces.Dict, prefix: str) -> spaces.Dict:
        kept: OrderedDict[str, spaces.Space[Any]] = OrderedDict()  # of a plain dict Gymnasium would sort the keys
        for key, inner in space.spaces.items():
            name = f"{prefix}{key}"
            if name in keys:
                kept[key] = inner
            elif isinstance(inner, spaces.Dict) and any(wanted.startswith(f"{name}/") for wanted in keys):
                kept[key] = reduced(inner, f"{name}/")
        return spaces.Dict(kept)

    return reduced(space, "")


class EnvPool:
    """Any number of copies of one environment, made when first needed and kept until `close`.

    Observations come out as (n, S) float32, flattened by Gymnasium's rules where they are not vectors; of dicts only
    the keys `obs_keys` (`achieved_goal`, or a part of it, `achieved_goal/kettle`), in the space's order, where given.
    Actions go in as (n, A) float32, flattened and clipped to the bounds (Box; an integer Box rounds them), as (n,)
    int64 (Discrete) or as (n, A) int64 (MultiDiscrete; MultiBinary as one of two), counted from 0 whatever the space's
    `start`. Raises `LamoError` for an unknown environment, a key that it does not have, and another action space.
    """

    def __init__(self, env_id: str, *, obs_keys: Sequence[str] | None = None, **kwargs: Any) -> None:
        self.env_id, self._kwargs = env_id, kwargs
        self.envs: list[gymnasium.Env[Any, Any]] = [make(env_id, **kwargs)]
        self.observation_space: spaces.Space[Any] = self.envs[0].observation_space
        self.action_space: spaces.Space[Any] = self.envs[0].action_space
        leaves = _leaves(self.observation_space)
        self.observation_keys = list(leaves)
        """Names of the parts of dict observations, `achieved_goal/kettle`; empty where they are none."""
        self.observation_sizes = [spaces.flatdim(part) for part in leaves.values()]
        """Numbers of each of these."""
        if obs_keys is not None:
            try:
                self.observation_space = _only(self.observation_space, obs_keys, self.observation_keys, env_id)
            except LamoError:
                self.close()
                raise
        self._flat = isinstance(self.observation_space, spaces.Box) and len(self.observation_space.shape) == 1
        self.observation_dim: int = spaces.flatdim(self.observation_space)
        self._action: Any = self.envs[0].action_space
        self.action_low: NDArray[np.float32] | None = None
        self.action_high: NDArray[np.float32] | None = None
        self.action_kind: Literal["continuous", "discrete", "multidiscrete"] = "discrete"
        self.choices: tuple[int, ...] = tuple[int, ...]()
        """How many choices each component of an action has, none for vectors."""
        self.action_start = np.zeros(1, np.int64)
        if isinstance(self._action, spaces.Discrete):
            self.choices, self.action_start = (int(self._action.n),), np.array([int(self._action.start)])
        elif isinstance(self._action, spaces.MultiDiscrete):
            self.action_kind, self.choices = "multidiscrete", tuple(np.ravel(self._action.nvec).tolist())
            self.action_start = np.ravel(self._action.start).astype(np.int64)
        elif isinstance(self._action, spaces.MultiBinary):
            self.action_kind, self.choices = "multidiscrete", (2,) * int(np.prod(self._action.shape))
        elif isinstance(self._action, spaces.Box):
            self.action_kind = "continuous"
            self.action_low = np.ravel(self._action.low).astype(np.float32)
            self.action_high = np.ravel(self._action.high).astype(np.float32)
        else:
            self.close()
            known = "a vector (Box), a choice (Discrete) or several (MultiDiscrete, MultiBinary)"
            raise LamoError(f"{env_id}: actions are {self._action}; lamo needs {known}")
        self.discrete = self.action_kind == "discrete"
        size = self.choices[0] if self.discrete else len(self.choices) or spaces.flatdim(self._action)
        self.action_dim = int(size)
        """A: numbers of a vector, choices of a discrete action, components of several."""

    def __enter__(self) -> EnvPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every environment; the pool cannot be used afterwards."""
        for env in self.envs:
            env.close()
        self.envs = []

    @property
    def max_episode_steps(self) -> int | None:
        """The environment's registered limit, None without one."""
        spec = self.envs[0].spec
        return spec.max_episode_steps if spec else None

    def reset(self, seeds: Sequence[int]) -> NDArray[np.float32]:
        """Start environment i anew with `seeds[i]`, i = 0 … n - 1 -> (n, S) float32."""
        while len(self.envs) < len(seeds):
            self.envs.append(make(self.env_id, **self._kwargs))
        return np.stack([self._vector(env.reset(seed=int(s))[0]) for env, s in zip(self.envs, seeds, strict=False)])

    def clip(self, actions: NDArray[Any]) -> NDArray[Any]:
        """(m, A) float32 within the bounds, or (m,) or (m, A) int64. Raises `LamoError` for values that are not finite
        or of another shape.
        """
        if self.choices:
            chosen = np.asarray(actions)
            wanted = chosen.shape[:1] if self.discrete else (*chosen.shape[:1], self.action_dim)
            if chosen.shape != wanted or not np.all((chosen >= 0) & (chosen < np.array(self.choices))):
                known = f"0 to {self.action_dim - 1}" if self.discrete else f"below {list(self.choices)}"
                raise LamoError(f"{self.env_id}: the policy chose {chosen}; actions are {known}")
            return chosen.astype(np.int64)
        vector = np.asarray(actions, np.float32)
        if vector.ndim != 2 or vector.shape[1] != self.action_dim:
            raise LamoError(
                f"{self.env_id} takes {self.action_dim} action values; the policy gave an array of shape {vector.shape}"
            )
        if not np.isfinite(vector).all():
            raise LamoError(
                f"{self.env_id}: the policy's action is not finite: {vector[~np.isfinite(vector).all(axis=1)][0]}"
            )
        return np.clip(vector, self.action_low, self.action_high)

    def step(
        self, rows: NDArray[np.int64], actions: NDArray[Any]
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
        """One step of the environments `rows` (m,) -> observations (m, S) float32, rewards (m,) float64, terminated
        (m,), truncated (m,) bool.
        """
        actions = self.clip(actions)
        results = [
            self.envs[row].step(self._native(action)) for row, action in zip(rows.tolist(), actions, strict=True)
        ]
        return (
            np.stack([self._vector(result[0]) for result in results]),
            np.array([float(result[1]) for result in results]),
            np.array([bool(result[2]) for result in results]),
            np.array([bool(result[3]) for result in results]),
        )

    def _native(self, action: Any) -> Any:
        """An action as the environment's own space has it."""
        if self.discrete:
            return int(action) + int(self.action_start[0])
        space = self._action
        if self.choices:
            return (action + self.action_start).reshape(space.shape).astype(space.dtype)
        if space.dtype.kind != "f":
            return np.rint(action).reshape(space.shape).astype(space.dtype)
        return action if len(space.shape) == 1 else action.reshape(space.shape)

    def _vector(self, observation: Any) -> NDArray[np.float32]:
        vector = observation if self._flat else spaces.flatten(self.observation_space, observation)
        return np.asarray(vector, np.float32)
