"""Environment + behaviour policy -> Episodes: `lamo data collect`, which also made the embedded Reacher2d dataset."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamo.data.behaviour import Behaviour, RandomBehaviour, load_sb3, train_ppo
from lamo.data.episodes import Episodes
from lamo.data.sources.d4rl import write_d4rl
from lamo.envs.pool import EnvPool, collection_seed
from lamo.errors import LamoError
from lamo.runs import Run
from lamo.tasks import env_family

PARALLEL = 50
_TRIES = 4  # episodes recorded for one that is kept, at most
_WITHOUT_FILE = ("train", "random", "operator")
_VERSIONED = ("lamo", "numpy", "gymnasium", "mujoco", "gymnasium-robotics", "stable-baselines3", "torch")


def collect(
    task_or_env: str,
    episodes: int,
    out: str | Path | None = None,
    *,
    policy: str = "train:medium",
    seed: int = 0,
    horizon: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Episodes:
    """Record `episodes` episodes of a behaviour policy and, with `out`, write them as D4RL's HDF5 -> Episodes.

    `task_or_env`: `reacher2d`, a task's name, or a Gymnasium id. `policy`: `random`; `train` or `train:SKILL` (PPO of
    Stable-Baselines3, stopped at that skill: `medium` (default) or `expert`); `sb3:FILE.zip`; the kitchen's `operator`
    or `operator:MANNER` (`lamo.envs.kitchen_demos.read_manner`); or the folder of a run.
    `horizon`: steps after which an episode is cut, default the environment's own. `progress` is told one line now and
    then. Behaviour acts stochastically; recorded actions are the ones executed, after clipping. Same arguments, machine
    and versions: same episodes. Episode e is reset with `collection_seed(seed, e)`, below every evaluation seed. Raises
    `LamoError` for what does not exist or fit, an `out` that exists, and a trained policy that misses its skill's band
    of returns.
    """
    family = env_family(task_or_env)
    path = None if out is None else _writable(Path(out))
    if episodes < 1:
        raise LamoError(f"cannot collect {episodes} episodes; give 1 or more")
    if horizon is not None and horizon < 1:
        raise LamoError(f"--horizon {horizon} must be at least 1")
    collection_seed(seed, episodes - 1)
    kind, _, argument = policy.partition(":")
    band: tuple[float, float] | None = None
    keys = _run_keys(policy) if kind not in _WITHOUT_FILE and kind != "sb3" else None
    with EnvPool(family.env, obs_keys=keys) as pool:
        limit = horizon or pool.max_episode_steps
        if limit is None:
            raise LamoError(f"{family.env} has no limit of steps of its own; give --horizon")
        behaviour: Behaviour
        if kind == "train":
            skill = argument or "medium"
            behaviour, notes = train_ppo(pool, skill, family.skills, seed, progress)
            band = family.skills[skill]
        elif policy == "random":
            behaviour, notes = RandomBehaviour(pool), {"policy_description": "uniformly random"}
        elif kind == "sb3":
            behaviour, notes = load_sb3(Path(argument), pool)
        elif kind == "operator":
            behaviour, notes = _operator(pool, task_or_env, argument)
        else:
            behaviour, notes = _RunBehaviour(policy), {"policy_description": "policy of a lamo run"}
        recorded = record(pool, behaviour, episodes, seed, limit, progress)
        tell: Callable[[], dict[str, Any]] | None = getattr(behaviour, "notes", None)
        if tell is not None:
            came_of_it = tell()
            notes |= came_of_it
            if progress:
                progress(", ".join(f"{name} {value}" for name, value in came_of_it.items()))
    mean = float(recorded.returns.mean())
    if band and not band[0] <= mean <= band[1]:
        raise LamoError(
            f"the recorded mean return is {mean:.1f}, outside the {band[0]:.0f} to {band[1]:.0f} of {policy!r}; "
            "try another --seed"
        )
    # Names, not places: a dataset should not tell of the machine that made it.
    file = ("sb3:" if kind == "sb3" else "") + Path(argument or policy).name
    name = policy if kind in _WITHOUT_FILE else file
    command = f"lamo data collect --task {task_or_env} --episodes {episodes} --seed {seed} --policy {shlex.quote(name)}"
    command += f" --horizon {horizon}" if horizon else ""
    command += f" --out {shlex.quote(path.name)}" if path else ""
    attributes: dict[str, Any] = {
        "env_id": family.env,
        "policy": name,
        **notes,
        "seed": seed,
        "reset_seeds": f"{collection_seed(seed, 0)} to {collection_seed(seed, int(recorded.ids[-1]))}",
        "episodes": episodes,
        "max_episode_steps": limit,
        "return_mean": mean,
        "command": command,
        "versions": json.dumps(_versions()),
    }
    if keys is not None:
        attributes["obs_keys"] = list(keys)
    if refused := int(recorded.ids[-1]) + 1 - episodes:
        attributes["refused_episodes"] = refused
    for key in ("action_low", "action_high"):
        if recorded.metadata[key] is not None:
            attributes[key] = recorded.metadata[key]
    recorded.metadata["attributes"] = attributes
    if path is not None:
        write_d4rl(recorded, path, attributes)
    return recorded


def destinations(tasks: str, out: Path) -> list[tuple[str, Path]]:
    """`a` -> a file; `a,b` -> a file for each in the folder `out`. All are checked before the first is recorded."""
    names = tasks.split(",")
    pairs = [(tasks, out)] if len(names) == 1 else [(name, out / f"{name}.hdf5") for name in names]
    for index, (name, path) in enumerate(pairs):
        env_family(name)
        if name in names[:index]:
            raise LamoError(f"--task names {name} twice")
        _writable(path)
    return pairs


def _writable(path: Path) -> Path:
    """The path, known to be free and right before the work: recording may take an hour."""
    if path.exists():
        raise LamoError(f"{path} exists; choose another --out or remove it")
    if path.suffix.lower() not in (".hdf5", ".h5"):
        raise LamoError(f"--out {path}: HDF5 is written; let the name end in .hdf5")
    nearest = next((folder for folder in path.absolute().parents if folder.exists()), None)
    if nearest and not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise LamoError(f"--out {path}: cannot be written; {nearest} is no folder that can be written to")
    return path


def record(
    pool: EnvPool,
    behaviour: Behaviour,
    episodes: int,
    seed: int,
    horizon: int,
    progress: Callable[[str], None] | None = None,
) -> Episodes:
    """The loop of `collect`: step up to `PARALLEL` episodes together, each with its own reset seed and its own
    generator of noise.

    A behaviour may end an episode by `finished(rows)` (m,) bool and refuse one by `keeps(return)`: then the next seed
    takes its place. `ids` count the seeds from 0, refused ones too.
    """
    logs: list[_Log] = []
    finished, keeps = (getattr(behaviour, name, None) for name in ("finished", "keeps"))
    ids: list[int] = []
    first = 0
    while len(logs) < episodes:
        if first >= _TRIES * max(episodes, PARALLEL):
            raise LamoError(f"{len(logs)} of {first} episodes were what was asked for; {episodes} would take too long")
        numbers = range(first, first + min(episodes - len(logs), PARALLEL))
        seeds = [collection_seed(seed, e) for e in numbers]
        batch = [_Log() for _ in seeds]
        behaviour.reset([np.random.default_rng(s) for s in seeds])
        rows = np.arange(len(seeds))
        observations, rewards = pool.reset(seeds), None
        for step in range(horizon):
            actions = pool.clip(behaviour.act(observations, rewards, rows))
            told = getattr(behaviour, "log_probs", None)
            after, rewards, terminated, truncated = pool.step(rows, actions)
            truncated |= step == horizon - 1
            if finished is not None:
                truncated |= finished(rows)
            for i, row in enumerate(rows):
                batch[row].add(observations[i], actions[i], rewards[i], after[i], terminated[i], truncated[i])
                if told is not None:
                    batch[row].log_probs.append(float(told[i]))
            going = ~(terminated | truncated)
            rows, observations, rewards = rows[going], after[going], rewards[going]
            if len(rows) == 0:
                break
        chosen = [keeps is None or bool(keeps(sum(log.rewards))) for log in batch]
        logs += [log for log, kept in zip(batch, chosen, strict=True) if kept]
        ids += [e for e, kept in zip(numbers, chosen, strict=True) if kept]
        first = numbers.stop
        if progress and logs:
            mean = np.mean([sum(log.rewards) for log in logs])
            progress(f"collected {len(logs)} of {episodes} episodes, mean return {mean:.1f}")
    actions = np.concatenate([np.stack(log.actions) for log in logs])
    return Episodes(
        observations=np.concatenate([np.stack(log.observations) for log in logs]),
        actions=actions.astype(np.int64 if pool.discrete else np.float32),
        rewards=np.concatenate([np.array(log.rewards, np.float32) for log in logs]),
        offsets=np.concatenate([[0], np.cumsum([len(log.rewards) for log in logs])]).astype(np.int64),
        terminated=np.array([log.terminated for log in logs]),
        # What ends both ways was ended by the environment: nothing follows a terminal state.
        truncated=np.array([log.truncated and not log.terminated for log in logs]),
        ids=np.array(ids, np.int64),
        final_observations=np.stack([log.after for log in logs]),
        log_probs=np.concatenate([np.array(log.log_probs, np.float32) for log in logs]) if logs[0].log_probs else None,
        metadata={
            "source": pool.env_id,
            "format": "collected",
            "env": pool.env_id,
            "action_low": None if pool.action_low is None else pool.action_low.tolist(),
            "action_high": None if pool.action_high is None else pool.action_high.tolist(),
            "attributes": {},
            "infos": [],
        },
    )


def _operator(pool: EnvPool, task_or_env: str, manner: str) -> tuple[Behaviour, dict[str, Any]]:
    from lamo.envs.kitchen_demos import OperatorBehaviour, demonstrations  # here: it imports MuJoCo

    operator = OperatorBehaviour(pool, demonstrations(task_or_env), manner)
    style = ", ".join(f"{name} {value:g}" for name, value in vars(operator.style).items())
    plan = " then ".join(operator.plan) if operator.plan else f"those of {operator.kind}"
    return operator, {"policy_description": f"scripted operator; plans: {plan}; {style}"}


class _Log:
    """One episode while it is recorded."""

    def __init__(self) -> None:
        self.observations: list[NDArray[np.float32]] = []
        self.actions: list[Any] = []
        self.rewards: list[float] = []
        self.log_probs: list[float] = []
        self.after: NDArray[np.float32] = np.empty(0, np.float32)
        self.terminated = self.truncated = False

    def add(self, observation: Any, action: Any, reward: float, after: Any, terminated: bool, truncated: bool) -> None:
        self.observations.append(observation)
        self.actions.append(action)
        self.rewards.append(float(reward))
        self.after, self.terminated, self.truncated = after, bool(terminated), bool(truncated)


def _run_keys(folder: str) -> tuple[str, ...] | None:
    """The keys of dict observations that the policy of a run sees; those are recorded then."""
    if not (Path(folder) / "provenance.json").is_file():
        return None
    keys = (Run.open(folder).provenance.get("spec") or {}).get("obs_keys")
    return tuple(map(str, keys)) if keys else None


class _RunBehaviour:
    """A trained policy of lamo, from its run folder, asked for its default target."""

    def __init__(self, folder: str) -> None:
        if not Path(folder).is_dir():
            known = "random, train, train:SKILL, sb3:FILE.zip, operator or the folder of a run"
            raise LamoError(f"unknown --policy {folder!r}; give {known}")
        # Imported here: the only step up from data to the policies, and only recording a run's policy takes it.
        from lamo.policy import load_policy

        self._policy = load_policy(folder)

    def reset(self, generators: Sequence[np.random.Generator]) -> None:
        self._policy.reset(len(generators))

    def act(
        self, observations: NDArray[np.float32], rewards: NDArray[np.float64] | None, rows: NDArray[np.int64]
    ) -> NDArray[Any]:
        return self._policy.act(observations, rewards, rows=rows)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
