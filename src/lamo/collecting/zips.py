"""Stable-Baselines3's zips, and the statistics of `VecNormalize` beside them, read without running anything in them."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lamo.collecting.actors import ACTIVATIONS, ActorBehaviour, from_sb3
from lamo.collecting.behaviours import files_digest
from lamo.data.sources.pickles import Inert, PickledArray, read_pickle
from lamo.envs.pool import EnvPool
from lamo.errors import LamoError

_STATISTICS = ("{}_vecnormalize.pkl", "{}_vec_normalize.pkl", "vecnormalize.pkl", "vec_normalize.pkl")
_LARGEST = 1 << 30  # bytes of weights
_HOW = {
    "gaussian": "acting stochastically",
    "softmax": "acting stochastically",
    "squashed": "acting stochastically",
    "tanh": "deterministic",
    "greedy": "greedy",
}


def load_sb3(path: Path, pool: EnvPool) -> tuple[ActorBehaviour, dict[str, Any]]:
    """A policy from a Stable-Baselines3 zip without running anything in it -> (behaviour, notes for the recording).

    Read are `MlpPolicy` and, of plain vectors, `MultiInputPolicy`, of PPO, A2C, SAC, TD3, DDPG and DQN. The zip's
    `data` holds pickles in base64: they are never decoded, only the plain JSON beside them is read (the activation's
    name). The weights in `policy.pth` go through `torch.load(weights_only=True)`. Where a file of `VecNormalize` lies
    beside the zip (`statistics_of`), observations are normalised by it.
    """
    data, state = _read(path)
    if data.get("use_sde"):
        raise LamoError(f"{path}: was trained with state-dependent exploration (gSDE), which lamo does not read")
    weights = {str(name): np.asarray(value.numpy(), np.float32) for name, value in state.items()}
    actor = from_sb3(weights, _activation(data, path), str(path))
    notes: dict[str, Any] = {
        "policy_description": f"Stable-Baselines3 actor read from a zip, {_HOW[actor.kind]}",
        "training_steps": int(data.get("num_timesteps", 0)),
    }
    file = statistics_of(path)
    if file is not None:
        found = read_statistics(file)
        if found is not None:
            if found.mean.shape != (pool.observation_dim,):
                raise LamoError(
                    f"{file}: normalises {found.mean.size} observation values, but {pool.env_id} has "
                    f"{pool.observation_dim}; remove it if it belongs to another policy"
                )
            actor = actor.normalised(found.mean, found.variance, found.clip, found.epsilon)
            notes["policy_normalisation"] = f"observations by VecNormalize, {file.name}"
    return ActorBehaviour(actor, pool, str(path)), notes


def zip_digest(path: Path) -> str | None:
    """SHA-256 over the zip and its statistics; None where there is no zip."""
    file = statistics_of(path)
    try:
        return files_digest([path, *([file] if file else [])])
    except OSError:
        return None  # opening it says why


def statistics_of(path: Path) -> Path | None:
    """The file of `VecNormalize` that belongs to a zip: `NAME_vecnormalize.pkl` or `vecnormalize.pkl` beside it, also
    with a `_` before `normalize`; None where there is none.
    """
    places = [path.with_name(name.format(path.stem)) for name in _STATISTICS]
    return next((place for place in places if place.is_file()), None)


@dataclass(frozen=True)
class Statistics:
    """What `VecNormalize` does to observations: (o - mean) / sqrt(variance + epsilon), clipped to ± clip."""

    mean: np.ndarray
    variance: np.ndarray
    clip: float
    epsilon: float


def read_statistics(file: Path) -> Statistics | None:
    """The statistics in a pickle of `VecNormalize`; None where it leaves observations as they are.

    The pickle is not run: its objects are read as inert names and values. `LamoError` where it is something else.
    """
    try:
        with file.open("rb") as handle:
            whole = read_pickle(handle, str(file), inert=True)
            state = whole.state if isinstance(whole, Inert) else None
            if not isinstance(state, dict) or not whole.name.endswith(".VecNormalize"):
                raise LamoError(f"{file}: not a file of Stable-Baselines3's VecNormalize; remove or rename it")
            if not state.get("norm_obs", True):
                return None
            about = state.get("obs_rms")
            inner = about.state if isinstance(about, Inert) else None
            if not isinstance(inner, dict):
                raise LamoError(f"{file}: normalises the parts of dict observations, which lamo does not read")
            mean, variance = (_vector(inner.get(name)) for name in ("mean", "var"))
    except OSError as error:
        raise LamoError(f"{file}: cannot be read ({error.strerror or error})") from error
    numbers = [state.get("clip_obs", 10.0), state.get("epsilon", 1e-8)]
    if mean is None or variance is None or mean.shape != variance.shape or not all(
        isinstance(number, int | float) and number > 0 for number in numbers
    ) or not (np.isfinite(mean).all() and np.isfinite(variance).all() and (variance >= 0).all()):  # fmt: skip
        raise LamoError(f"{file}: damaged: its mean and variance are not those of observations")
    return Statistics(mean, variance, float(numbers[0]), float(numbers[1]))


def _vector(value: Any) -> np.ndarray | None:
    if not isinstance(value, PickledArray) or len(value.shape) != 1 or value.dtype.kind != "f":
        return None
    return np.array(value[0 : len(value)], np.float64)


def _activation(data: dict[str, Any], path: Path) -> str | None:
    """The activation's name, None for the algorithm's default. SB3 writes the repr of what it pickles beside the
    pickle: "<class 'torch.nn.modules.activation.ReLU'>".
    """
    arguments = data.get("policy_kwargs")
    named = arguments.get("activation_fn") if isinstance(arguments, dict) else None
    if named is None:
        return None
    short = str(named).split(".")[-1].strip("'>")
    if short not in ACTIVATIONS:
        raise LamoError(f"{path}: its activation is {named}; lamo reads {', '.join(ACTIVATIONS)}")
    return short


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """`data` and the parameters of the policy."""
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            if not {"data", "policy.pth"} <= names:
                raise LamoError(f"{path}: a zip without data and policy.pth is not a Stable-Baselines3 model")
            if max(archive.getinfo(name).file_size for name in ("data", "policy.pth")) > _LARGEST:
                raise LamoError(f"{path}: unpacks to more than {_LARGEST >> 30} GiB, which no MlpPolicy needs")
            data = json.loads(archive.read("data"))
            with archive.open("policy.pth") as file:
                state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise LamoError(f"{path}: no such file") from error
    except LamoError:
        raise
    except Exception as error:  # torn zip, bad JSON, and whatever torch's restricted unpickler refuses
        raise LamoError(
            f"{path}: cannot be read as a Stable-Baselines3 model ({type(error).__name__}: {error})"
        ) from error
    tensors = isinstance(state, dict) and all(isinstance(value, torch.Tensor) for value in state.values())
    if not isinstance(data, dict) or not tensors:
        raise LamoError(f"{path}: not a Stable-Baselines3 model")
    return data, state
