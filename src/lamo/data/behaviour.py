"""Behaviour policies to record: uniformly random, a PPO trained until it is good enough, a Stable-Baselines3 zip.

Each is a Behaviour: `reset(generators)` starts one episode per generator, `act(observations, rewards, rows)` draws
actions of the episodes `rows`. All noise of an episode comes from its own generator, so a recording does not depend on
how many episodes are stepped at once.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lamo.envs.pool import EnvPool, collection_seed
from lamo.errors import LamoError
from lamo.tasks import nearest

# Stable-Baselines3's PPO, tuned only as far as the sparse reward of Reacher2d needs: many short parallel episodes and
# large batches, so that the first rare rewards are seen together. About 0.3 M steps to "medium" there.
PPO_SETTINGS: dict[str, Any] = {
    "n_steps": 100,
    "batch_size": 800,
    "n_epochs": 10,
    "gamma": 0.98,
    "gae_lambda": 0.95,
    "learning_rate": 1e-3,
    "ent_coef": 0.0,
    "policy_kwargs": {"net_arch": [64, 64]},
}
PPO_ENVIRONMENTS = 32
PPO_STEP_LIMIT = 3_000_000
PPO_WINDOW = 128  # training episodes whose mean return decides when to stop

_ACTIVATIONS: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "Tanh": np.tanh,
    "ReLU": lambda x: np.maximum(x, 0),
    "ELU": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "LeakyReLU": lambda x: np.where(x > 0, x, np.float32(0.01) * x),
}


class Behaviour(Protocol):
    """What `collect` records.

    It may also have `finished(rows)` -> (m,) bool, which ends episodes; `keeps(return)` -> bool, which says whether an
    episode belongs to what is recorded; and `notes()`, a dict of what came of it, for the file's attributes.
    """

    def reset(self, generators: Sequence[np.random.Generator]) -> None:
        """Start one episode per generator."""
        ...

    def act(
        self, observations: NDArray[np.float32], rewards: NDArray[np.float64] | None, rows: NDArray[np.int64]
    ) -> NDArray[Any]:
        """(m, S), rewards of the previous actions (m,) or None, episodes (m,) -> (m, A) float32 or (m,) int64.

        A behaviour that knows how likely its choices are leaves their log-probabilities (m,) in `log_probs`. Those of a
        Gaussian are not known: its actions are clipped to the bounds, where they have no density.
        """
        ...


class RandomBehaviour:
    """Uniform over the action space. Raises `LamoError` for a space without bounds."""

    def __init__(self, pool: EnvPool) -> None:
        self._pool = pool
        bounds = [bound for bound in (pool.action_low, pool.action_high) if bound is not None]
        if not np.isfinite(bounds).all():
            raise LamoError(
                f"{pool.env_id}: the actions have no bounds, so there is no uniform policy; give another --policy"
            )

    def reset(self, generators: Sequence[np.random.Generator]) -> None:
        self._generators = generators

    def act(
        self, observations: NDArray[np.float32], rewards: NDArray[np.float64] | None, rows: NDArray[np.int64]
    ) -> NDArray[Any]:
        pool = self._pool
        if pool.action_low is None or pool.action_high is None:
            self.log_probs = np.full(len(rows), -np.log(pool.action_dim))
            return np.array([self._generators[row].integers(pool.action_dim) for row in rows])
        size = pool.action_high.astype(np.float64) - pool.action_low
        self.log_probs = np.full(len(rows), -np.log(size).sum())
        return np.stack([self._generators[row].uniform(pool.action_low, pool.action_high) for row in rows])


class MlpBehaviour:
    """The actor of Stable-Baselines3's PPO and A2C `MlpPolicy` in numpy, acting stochastically as it does there.

    `layers`: hidden (weight (out, in), bias (out,)) pairs; `head` the same of the action layer; `log_std` (A,) for a
    Gaussian, None for a choice.
    """

    def __init__(
        self,
        layers: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
        head: tuple[NDArray[np.float32], NDArray[np.float32]],
        log_std: NDArray[np.float32] | None,
        activation: str = "Tanh",
    ) -> None:
        self._layers, self._head = list(layers), head
        self._std = None if log_std is None else np.exp(log_std)
        self._activation = _ACTIVATIONS[activation]

    def reset(self, generators: Sequence[np.random.Generator]) -> None:
        self._generators = generators

    def act(
        self, observations: NDArray[np.float32], rewards: NDArray[np.float64] | None, rows: NDArray[np.int64]
    ) -> NDArray[Any]:
        output = self.output(observations)
        if self._std is None:  # Gumbel's trick: argmax of logits plus noise draws from the softmax
            noise = np.stack([self._generators[row].gumbel(size=output.shape[1]) for row in rows])
            chosen = np.argmax(output + noise, axis=1)
            logits = output.astype(np.float64) - output.max(axis=1, keepdims=True)
            self.log_probs = logits[np.arange(len(rows)), chosen] - np.log(np.exp(logits).sum(axis=1))
            return chosen
        noise = np.stack([self._generators[row].standard_normal(output.shape[1], np.float32) for row in rows])
        return output + self._std * noise

    def output(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, S) -> (n, A): the Gaussian's mean, or the logits."""
        hidden = observations
        for weight, bias in self._layers:
            hidden = self._activation(hidden @ weight.T + bias)
        return hidden @ self._head[0].T + self._head[1]


def mlp_behaviour(weights: dict[str, NDArray[np.float32]], activation: str, pool: EnvPool, source: str) -> MlpBehaviour:
    """Stable-Baselines3's parameters of an `ActorCriticPolicy`, by their names -> the actor. Raises `LamoError` where
    they do not fit `pool`.
    """
    prefix = "mlp_extractor.policy_net."
    indices = sorted({int(name.split(".")[2]) for name in weights if name.startswith(prefix)})
    known = {"log_std", "action_net.weight", "action_net.bias"}
    other = [name for name in weights if not name.startswith(("mlp_extractor.", "value_net.")) and name not in known]
    shared = [name for name in weights if name.startswith("mlp_extractor.shared_net.")]
    if other or shared or "action_net.weight" not in weights:
        odd = (other or shared or ["no action_net"])[0]
        raise LamoError(f"{source}: not the MlpPolicy of PPO or A2C ({odd}); lamo reads only these from a zip")
    layers = [(weights[f"{prefix}{i}.weight"], weights[f"{prefix}{i}.bias"]) for i in indices]
    head = (weights["action_net.weight"], weights["action_net.bias"])
    inputs = (layers[0][0] if layers else head[0]).shape[1]
    log_std = weights.get("log_std")
    if inputs != pool.observation_dim or len(head[1]) != pool.action_dim or (log_std is None) != pool.discrete:
        raise LamoError(
            f"{source}: its policy maps {inputs} observation values to {len(head[1])} action values, but {pool.env_id} "
            f"has {pool.observation_dim} and {pool.action_dim}{' discrete' if pool.discrete else ''}; "
            "give the environment it was trained on"
        )
    if log_std is not None and log_std.shape != head[1].shape:
        raise LamoError(f"{source}: was trained with state-dependent exploration (gSDE), which lamo does not read")
    return MlpBehaviour(layers, head, log_std, activation)


def load_sb3(path: Path, pool: EnvPool) -> tuple[MlpBehaviour, dict[str, Any]]:
    """A policy from a Stable-Baselines3 zip without running anything in it -> (behaviour, notes for the recording).

    The zip's `data` holds pickles in base64: they are never decoded, only the plain JSON beside them is read (the
    activation's name). The weights in `policy.pth` go through `torch.load(weights_only=True)`. Observations normalised
    by a separate VecNormalize file are not normalised here.
    """
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            if not {"data", "policy.pth"} <= names:
                raise LamoError(f"{path}: a zip without data and policy.pth is not a Stable-Baselines3 model")
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
    if not isinstance(data, dict) or not isinstance(state, dict):
        raise LamoError(f"{path}: not a Stable-Baselines3 model")
    if data.get("use_sde"):
        raise LamoError(f"{path}: was trained with state-dependent exploration (gSDE), which lamo does not read")
    arguments = data.get("policy_kwargs")
    # "<class 'torch.nn.modules.activation.ReLU'>": SB3 writes the repr of what it pickles beside the pickle.
    named = str(arguments.get("activation_fn", "Tanh")) if isinstance(arguments, dict) else "Tanh"
    activation = named.split(".")[-1].strip("'>")
    if activation not in _ACTIVATIONS:
        raise LamoError(f"{path}: its activation is {named}; lamo reads {', '.join(_ACTIVATIONS)}")
    weights = {name: np.asarray(value.numpy(), np.float32) for name, value in state.items()}
    notes = {
        "policy_description": "Stable-Baselines3 actor read from a zip, acting stochastically",
        "training_steps": int(data.get("num_timesteps", 0)),
    }
    return mlp_behaviour(weights, activation, pool, str(path)), notes


def train_ppo(
    pool: EnvPool,
    skill: str,
    skills: Mapping[str, tuple[float, float]],
    seed: int,
    progress: Callable[[str], None] | None = None,
) -> tuple[MlpBehaviour, dict[str, Any]]:
    """Train PPO until its latest `PPO_WINDOW` episodes reach the middle of the skill's band -> (behaviour, notes).

    One thread and one seed: the same policy again on one machine with the same versions. Raises `LamoError` where
    Stable-Baselines3 is missing, the skill is not known for the environment, or `PPO_STEP_LIMIT` steps do not reach it.
    """
    if skill not in skills:
        known = (
            nearest(skill, skills) if skills else "none is defined: give --policy random, a run folder or sb3:FILE.zip"
        )
        raise LamoError(f"{pool.env_id} has no skill {skill!r}; {known}")
    try:
        import torch
        from stable_baselines3 import PPO
        from stable_baselines3.common.callbacks import BaseCallback
        from stable_baselines3.common.monitor import Monitor
        from stable_baselines3.common.vec_env import DummyVecEnv
    except ModuleNotFoundError as error:
        raise LamoError(
            f'training a behaviour policy needs {error.name}, which is not installed: pip install "lamo[baselines]"'
        ) from error

    from lamo.envs.pool import make

    low, high = skills[skill]
    goal = (low + high) / 2
    best = -np.inf

    class StopAtSkill(BaseCallback):
        reached = False

        def _on_rollout_end(self) -> None:
            nonlocal best
            buffer = self.model.ep_info_buffer or ()
            mean = float(np.mean([info["r"] for info in buffer])) if len(buffer) else -np.inf
            best = max(best, mean)
            self.reached = len(buffer) == PPO_WINDOW and mean >= goal
            if progress:
                progress(f"PPO {self.num_timesteps:,} steps, mean return {mean:.1f} of {goal:.0f}")

        def _on_step(self) -> bool:
            return (
                not self.reached
            )  # asked before each step; the update after the rollout that reached the goal still happens

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the sums of several threads are not the same twice; at this size one is as fast
    environments = DummyVecEnv([lambda: Monitor(make(pool.env_id)) for _ in range(PPO_ENVIRONMENTS)])
    try:
        learner = PPO(
            "MlpPolicy",
            environments,
            seed=collection_seed(seed, 0),  # SB3 seeds the process's global generators with it: it has no other way
            stats_window_size=PPO_WINDOW,
            device="cpu",
            **PPO_SETTINGS,
        )
        stop = StopAtSkill()
        learner.learn(PPO_STEP_LIMIT, callback=stop)
    finally:
        environments.close()
        torch.set_num_threads(threads)
    if not stop.reached:
        raise LamoError(
            f"PPO on {pool.env_id} reached a mean return of {best:.1f} in {learner.num_timesteps:,} steps, "
            f"not the {goal:.0f} of {skill!r}; "
            "try another --seed"
        )
    weights = {name: value.detach().numpy().copy() for name, value in learner.policy.state_dict().items()}
    notes = {
        "policy_description": f"PPO (stable-baselines3) stopped at skill {skill!r}, acting stochastically",
        "training_steps": int(learner.num_timesteps),
        "training_settings": json.dumps({"envs": PPO_ENVIRONMENTS, **PPO_SETTINGS}),
    }
    return mlp_behaviour(weights, "Tanh", pool, "PPO"), notes
