"""Behaviour policies to record: uniformly random, the policy of a run, and noise on top of any.

Each is a Behaviour: `reset(generators)` starts one episode per generator, `act(observations, rewards, rows)` draws
actions of the episodes `rows`. All noise of an episode comes from its own generator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lamo.config import Spec, read_dataclass
from lamo.envs.pool import EnvPool
from lamo.errors import LamoError
from lamo.runs import Run


class Behaviour(Protocol):
    """What `collect` records.

    It may also have `finished(rows)` -> (m,) bool, which ends episodes; `keeps(return)` -> bool, which says whether an
    episode belongs to what is recorded; and `notes()`, counts of what came of it since they were last asked for.
    """

    def reset(self, generators: Sequence[np.random.Generator]) -> None:
        """Start one episode per generator."""
        ...

    def act(
        self, observations: NDArray[np.float32], rewards: NDArray[np.float64] | None, rows: NDArray[np.int64]
    ) -> NDArray[Any]:
        """(m, S), rewards of the previous actions (m,) or None, episodes (m,) -> (m, A) float32 or (m,) int64.

        A behaviour that knows how likely its choices are leaves their log-probabilities (m,) in `log_probs`; where
        these are choices also those of all of them, (m, n), in `choice_log_probs`. Those of a Gaussian are not known:
        its actions are clipped to the bounds, where they have no density.
        """
        ...


class RandomBehaviour:
    """Uniform over the action space. Raises `LamoError` for a space without bounds."""

    def __init__(self, pool: EnvPool) -> None:
        self._pool = pool
        if not _bounded(pool):
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
            self.log_probs = np.full(len(rows), -np.log(pool.choices).sum())
            if pool.discrete:
                self.choice_log_probs = np.full((len(rows), pool.action_dim), -np.log(pool.action_dim))
            size = pool.choices[0] if pool.discrete else pool.choices
            return np.array([self._generators[row].integers(size) for row in rows])
        size = pool.action_high.astype(np.float64) - pool.action_low
        self.log_probs = np.full(len(rows), -np.log(size).sum())
        return np.stack([self._generators[row].uniform(pool.action_low, pool.action_high) for row in rows])


class RunBehaviour:
    """A trained policy of lamo, from its run folder, asked for `target`, by default its own.

    `asked` is the target in force, None for a policy that takes none. `LamoError` for a folder without a policy, one
    that does not fit the environment, and a target for a policy that takes none.
    """

    def __init__(self, folder: str, pool: EnvPool, target: float | None = None) -> None:
        # Imported here: torch, which only recording a trained policy needs.
        from lamo.policy import RemembersActions, load_policy

        if not Path(folder).is_dir():
            known = "random, train, train:SKILL, sb3:FILE.zip, operator or the folder of a run"
            raise LamoError(f"unknown --policy {folder!r}; give {known}")
        if (Path(folder) / "config.json").is_file():  # a run; a policy/ alone is well, too
            Run.open(folder).finished()
        self._policy = load_policy(folder)
        default = getattr(self._policy, "default_target", None)
        if target is not None and default is None:
            raise LamoError(f"--target: the policy of {folder} takes no return target; leave it out")
        self.asked = default if target is None else float(target)
        self._target = target
        self.chooses = bool(pool.choices)
        self.remembers = self._policy if isinstance(self._policy, RemembersActions) else None
        _check_run(folder, pool)

    def reset(self, generators: Sequence[np.random.Generator]) -> None:
        n = len(generators)
        self._policy.reset(n, None if self._target is None else np.full(n, self._target, np.float64))

    def act(
        self, observations: NDArray[np.float32], rewards: NDArray[np.float64] | None, rows: NDArray[np.int64]
    ) -> NDArray[Any]:
        actions = self._policy.act(observations, rewards, rows=rows)
        if self.chooses:  # it takes the likeliest choice, always
            self.log_probs = np.zeros(len(rows))
        return actions

    def executed(self, actions: NDArray[Any], rows: NDArray[np.int64]) -> None:
        """What was done instead of what `act` gave."""
        if self.remembers is not None:
            self.remembers.executed(actions, rows)


def _check_run(folder: str, pool: EnvPool) -> None:
    told = _spec(folder)
    if told is None:
        return
    kind = pool.action_kind
    here = (pool.observation_dim, pool.action_dim, kind)
    if (told.observation_dim, told.action_dim, told.action_kind) != here:
        raise LamoError(
            f"{folder}: its policy maps {told.observation_dim} observation values to {told.action_dim} "
            f"{told.action_kind} action values, but {pool.env_id} has {here[0]} and {here[1]} {kind}; "
            "give the environment it was trained for"
        )


def _spec(folder: str) -> Spec | None:
    if not (Path(folder) / "provenance.json").is_file():  # a policy folder alone: its own checks must do
        return None
    found = Run.open(folder).provenance.get("spec")
    return None if found is None else read_dataclass(Spec, found, f"{folder}/provenance.json: spec")


def run_keys(folder: str) -> tuple[str, ...] | None:
    """The keys of dict observations that the policy of a run sees; those are recorded then."""
    told = _spec(folder)
    return None if told is None else told.obs_keys


def run_digest(folder: str) -> str | None:
    """SHA-256 over the files of a run's policy; None where there are none."""
    place = Path(folder) / "policy" if (Path(folder) / "policy").is_dir() else Path(folder)
    files = [place / name for name in ("policy.json", "policy.safetensors")]
    return files_digest(files) if all(file.is_file() for file in files) else None


def files_digest(files: Sequence[Path]) -> str:
    """Hexadecimal SHA-256 over the contents of files, one after the other."""
    sha = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            while chunk := handle.read(1 << 20):
                sha.update(chunk)
    return sha.hexdigest()


class Noisy:
    """Another behaviour with noise on its actions.

    `noise`: standard deviation of a Gaussian that is added to vectors, where the range of each number counts as [-1, 1]
    (as TD3's exploration has it). `epsilon`: the probability with which a step's action is uniformly random instead.
    The log-probability of what is done stays known for choices; a mixture of a density and clipped noise has none.
    """

    def __init__(self, inner: Behaviour, pool: EnvPool, noise: float = 0.0, epsilon: float = 0.0) -> None:
        if not (0 <= noise < np.inf and 0 <= epsilon <= 1):
            raise LamoError(f"--noise {noise} must be at least 0, --epsilon {epsilon} in [0, 1]")
        if noise and pool.choices:
            raise LamoError(f"--noise: the actions of {pool.env_id} are choices; give --epsilon instead")
        if (noise or epsilon) and not _bounded(pool):
            raise LamoError(f"{pool.env_id}: the actions have no bounds, by which noise is measured; leave it out")
        self._inner, self._pool, self._noise, self._epsilon = inner, pool, noise, epsilon

    def __getattr__(self, name: str) -> Any:  # finished, keeps, notes: where the other one has them
        if name.startswith("_") or name in ("log_probs", "choice_log_probs"):
            raise AttributeError(name)
        return getattr(self._inner, name)

    def reset(self, generators: Sequence[np.random.Generator]) -> None:
        self._generators = [generator.spawn(1)[0] for generator in generators]
        self._inner.reset(generators)

    def act(
        self, observations: NDArray[np.float32], rewards: NDArray[np.float64] | None, rows: NDArray[np.int64]
    ) -> NDArray[Any]:
        wanted = self._pool.clip(self._inner.act(observations, rewards, rows))
        done = np.stack(
            [self._disturbed(action, self._generators[row]) for action, row in zip(wanted, rows, strict=True)]
        )
        done = self._pool.clip(done)
        changed = done != wanted if done.ndim == 1 else (done != wanted).any(axis=1)
        executed = getattr(self._inner, "executed", None)
        if executed is not None and changed.any():
            executed(done[changed], rows[changed])
        if done.ndim == 1 and hasattr(self._inner, "log_probs"):
            self.log_probs = self._likelihood(wanted, done)
        return done

    def _disturbed(self, action: Any, generator: np.random.Generator) -> Any:
        pool = self._pool
        if self._epsilon and generator.random() < self._epsilon:
            if pool.action_low is None or pool.action_high is None:
                return generator.integers(pool.choices[0] if pool.discrete else pool.choices)
            return generator.uniform(pool.action_low, pool.action_high)
        if not self._noise or pool.action_low is None or pool.action_high is None:
            return action
        half = (pool.action_high - pool.action_low) / 2
        return action + self._noise * half * generator.standard_normal(pool.action_dim)

    def _likelihood(self, wanted: NDArray[Any], done: NDArray[Any]) -> NDArray[np.float64]:
        """ε / n + (1 - ε) π(a): π is that of all choices where it is told, else all on the one that was wanted."""
        every = getattr(self._inner, "choice_log_probs", None)
        own = (done == wanted).astype(np.float64) if every is None else np.exp(every)[np.arange(len(done)), done]
        return np.log(self._epsilon / self._pool.action_dim + (1 - self._epsilon) * own)


def _bounded(pool: EnvPool) -> bool:
    bounds = [bound for bound in (pool.action_low, pool.action_high) if bound is not None]
    return bool(np.isfinite(bounds).all())
