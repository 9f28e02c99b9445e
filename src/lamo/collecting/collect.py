"""Environment + behaviour policy -> a D4RL file: `lamo data collect`, which also made the embedded datasets."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lamo.collecting.partial import Memory, Store, Summary, opened
from lamo.collecting.request import ENVS, Recorder, Request, policy_digest
from lamo.collecting.workers import in_workers
from lamo.data.episodes import Episodes
from lamo.data.sources import load_episodes
from lamo.data.sources.d4rl import write_d4rl_parts
from lamo.data.sources.notes import HISTORY
from lamo.envs.pool import EnvPool, collection_seed
from lamo.errors import LamoError
from lamo.signals import Signals, Stopped
from lamo.tasks import env_family
from lamo.workers import usable_cores

_TRIES = 4  # episodes recorded for one that is kept, at most
_FEW = 50  # as if at least so many were asked for, when tries are counted
_WORTH = 15.0  # seconds of work left from which starting processes, which takes some seconds, pays
_MOST_WORKERS = 8  # without --workers; each holds environments and, of a run, its model
_SAY_EVERY = 10.0  # seconds
_VERSIONED = ("lamo", "numpy", "gymnasium", "mujoco", "gymnasium-robotics", "stable-baselines3", "torch")


class CollectingStopped(KeyboardInterrupt):
    """A collection was asked to stop (Ctrl-C or SIGTERM). `exit_code` is 130 or 143."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signum


@dataclass(frozen=True)
class Collected:
    """What was written."""

    path: Path
    episodes: int
    steps: int
    returns: np.ndarray
    """(E,) float64."""
    bytes: int
    """Of its arrays in memory."""

    def brief(self) -> dict[str, Any]:
        """What of `lamo.data.inspect.inspect` is known without reading the file."""
        values = {"mean": self.returns.mean(), "std": self.returns.std(), "min": self.returns.min()}
        values["max"] = self.returns.max()
        told = {f"return_{name}": float(value) for name, value in values.items()}
        return {"source": str(self.path), "episodes": self.episodes, "steps": self.steps, **told}


def collect(
    task_or_env: str,
    episodes: int,
    out: str | Path | None = None,
    *,
    policy: str = "train:medium",
    seed: int = 0,
    horizon: int | None = None,
    target: float | None = None,
    noise: float = 0.0,
    epsilon: float = 0.0,
    envs: int = ENVS,
    workers: int | None = 1,
    progress: Callable[[str], None] | None = None,
) -> Episodes:
    """Record `episodes` episodes of a behaviour policy and, with `out`, write them as D4RL's HDF5 -> Episodes.

    `task_or_env`: `reacher2d`, a task's name, or a Gymnasium id. `policy`: `random`; `train` or `train:SKILL`, trained
    by Stable-Baselines3 until it is that good (`lamo.collecting.training`); `sb3:FILE.zip`; the kitchen's `operator` or
    `operator:MANNER` (`lamo.envs.kitchen_demos.read_manner`); or the folder of a run, asked for `target`. `noise` and
    `epsilon`: `lamo.collecting.behaviours.Noisy`. `horizon`: steps after which an episode is cut, default the
    environment's own. `envs` episodes are stepped together, in each of `workers` processes (None: as many as pay).
    `progress` is told one line now and then. Behaviour acts stochastically; recorded actions are the ones executed,
    after clipping.

    Same arguments, machine and versions: same episodes, for any number of workers, and whether or not the recording was
    stopped and gone on with. Episode e is reset with `collection_seed(seed, e)`, below every evaluation seed. With
    `out` what is finished lies in the folder `OUT.partial` until all is. Raises `LamoError` for what does not exist or
    fit, an `out` that exists, a skill that training does not reach, and an `OUT.partial` of another request.
    """
    request = Request(task_or_env, episodes, policy, seed, horizon, target, noise, epsilon, envs)
    if out is None:
        return _in_memory(request, workers, progress)
    return load_episodes(collect_file(request, Path(out), workers=workers, progress=progress).path)


def collect_file(
    request: Request, out: Path, *, workers: int | None = 1, progress: Callable[[str], None] | None = None
) -> Collected:
    """`collect` into a file, of which no more than a block is in memory at a time.

    Raises `CollectingStopped` after Ctrl-C or SIGTERM, with what is finished kept in `OUT.partial`.
    """
    family = request.family
    writable(out)
    say = progress or (lambda _: None)
    digest = None if request.kind == "train" else policy_digest(request, None)
    told = {**request.told(), "environment": family.env, "policy digest": digest, "versions": _versions()}
    with opened(out, told) as partial, Signals(quiet=progress is None) as signals:
        if not partial.empty:
            say(f"going on with what is in {partial.path}")
        try:
            attributes, layout = _record(request, partial, workers, say, signals.check)
            summaries = [found for numbers in layout if (found := partial.summary(numbers)) is not None]
            returns, steps = np.concatenate([each.returns for each in summaries]), sum(each.steps for each in summaries)
            attributes |= _figures(request, layout, summaries, returns, out)
            sizes: list[int] = []
            parts = _parts(partial, layout, sizes)
            write_d4rl_parts(parts, len(returns), steps, out, attributes)
        except Stopped:
            kept = f"what is finished is kept in {partial.path}; the same command goes on from there"
            lost = "nothing was finished that could be kept"
            raise CollectingStopped(f"stopped; {lost if partial.empty else kept}", signals.caught) from None
        except LamoError as error:
            if partial.empty:
                raise
            raise LamoError(f"{error}; what was recorded is kept in {partial.path}") from error
        partial.remove()
    return Collected(out, len(returns), steps, returns, sum(sizes))


def _in_memory(request: Request, workers: int | None, progress: Callable[[str], None] | None) -> Episodes:
    store = Memory()
    attributes, layout = _record(request, store, workers, progress or (lambda _: None), lambda: None)
    summaries = [found for numbers in layout if (found := store.summary(numbers)) is not None]
    returns = np.concatenate([each.returns for each in summaries])
    attributes |= _figures(request, layout, summaries, returns, None)
    parts = list(_parts(store, layout, []))

    def joined(name: str) -> Any:
        return np.concatenate([getattr(part, name) for part in parts])

    lengths = np.concatenate([part.lengths for part in parts])
    names = ("observations", "actions", "rewards", "terminated", "truncated", "ids", "final_observations")
    bounds = {key: attributes.get(key) for key in ("action_low", "action_high", "action_choices", "action_nvec")}
    env = {"source": request.family.env, "env": request.family.env, "format": "collected", "infos": []}
    return Episodes(
        **{name: joined(name) for name in names},
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        log_probs=None if parts[0].log_probs is None else joined("log_probs"),
        metadata={**env, **bounds, "attributes": attributes},
    )


def _record(
    request: Request,
    store: Store,
    workers: int | None,
    say: Callable[[str], None],
    check: Callable[[], object],
) -> tuple[dict[str, Any], list[range]]:
    """Put every block of the request into `store` -> (attributes that the policy and the environment give, blocks)."""
    if workers is not None and workers < 1:
        raise LamoError(f"--workers {workers} must be at least 1")
    if request.kind == "train" and store.trained is None:
        from lamo.collecting.training import train_behaviour

        store.put_trained(train_behaviour(request, say, check))
    with Recorder(request, store.trained) as recorder:
        attributes = _attributes(request, recorder, store.trained)
        gathering = _Gathering(request, store, recorder, workers, say, check)
        layout: list[range] = []
        kept = first = 0
        while kept < request.episodes:
            if first >= _TRIES * max(request.episodes, _FEW):
                raise LamoError(
                    f"{kept} of {first} episodes were what was asked for; {request.episodes} would take too long"
                )
            # Those that a behaviour refuses are recorded again with the next seeds, so the layout depends on what came
            # before it alone, and not on how it was recorded.
            end = first + request.episodes - kept
            collection_seed(request.seed, end - 1)
            blocks = [range(at, min(at + request.envs, end)) for at in range(first, end, request.envs)]
            gathering.gather(blocks)
            found = [store.summary(numbers) for numbers in blocks]
            kept += sum(len(each.returns) for each in found if each is not None)
            layout, first = layout + blocks, end
    return attributes, layout


class _Gathering:
    """Records the blocks that are missing, here or in workers, and tells how it goes on."""

    def __init__(
        self,
        request: Request,
        store: Store,
        recorder: Recorder,
        workers: int | None,
        say: Callable[[str], None],
        check: Callable[[], object],
    ) -> None:
        self.request, self.store, self.recorder, self.say, self.check = request, store, recorder, say, check
        self.workers = workers
        self.episodes, self.total = 0, 0.0  # kept, and the sum of their returns
        self.steps = 0  # recorded now, not before
        self.recorded = 0
        self.began = time.perf_counter()
        self.said = -np.inf

    def gather(self, blocks: list[range]) -> None:
        """Put all of them into the store."""
        missing = []
        for numbers in blocks:
            found = self.store.summary(numbers)
            if found is None:
                missing.append(numbers)
            else:
                self._count(found)
        alone = self.workers == 1 or (self.workers is None and usable_cores() == 1)
        while missing and (alone or (self.workers is None and not self._pays(missing))):
            self._put(self.recorder.block(missing.pop(0), self.check))
        if missing:
            count = self.workers or min(usable_cores(), _MOST_WORKERS)
            found = in_workers(count, self.request, self.store.trained, missing, self.check)
            with contextlib.closing(found) as blocks_done:
                for block in blocks_done:
                    self._put(block)

    def _pays(self, missing: list[range]) -> bool:
        """Whether what is left takes long enough for processes to be worth their start."""
        if not self.recorded or len(missing) < 2:
            return False
        return (time.perf_counter() - self.began) / self.recorded * sum(map(len, missing)) > _WORTH

    def _put(self, block: Any) -> None:
        self.store.put(block)
        found = self.store.summary(range(block.first, block.first + block.count))
        assert found is not None
        self.recorded += block.count
        self.steps += found.steps
        self._count(found)
        whole, now = self.episodes == self.request.episodes, time.perf_counter()
        if self.episodes and (whole or now - self.said >= _SAY_EVERY):
            self.said = now
            line = f"collected {self.episodes} of {self.request.episodes} episodes, "
            line += f"mean return {self.total / self.episodes:.1f}"
            if not whole:
                seconds = (now - self.began) / self.recorded * (self.request.episodes - self.episodes)
                rate = self.steps / (now - self.began)
                line += f", {rate:,.0f} steps/s, about {time.strftime('%H:%M:%S', time.gmtime(seconds))} left"
            self.say(line)

    def _count(self, found: Summary) -> None:
        self.episodes += len(found.returns)
        self.total += float(found.returns.sum())


def _parts(store: Store, layout: list[range], sizes: list[int]) -> Iterator[Episodes]:
    for numbers in layout:
        part = store.episodes(numbers)
        if part is not None:
            sizes.append(part.observations.nbytes + part.actions.nbytes + part.rewards.nbytes)
            yield part


def _attributes(request: Request, recorder: Recorder, trained: bytes | None) -> dict[str, Any]:
    pool = recorder.pool
    spec = pool.envs[0].spec
    attributes: dict[str, Any] = {
        "env_id": pool.env_id,
        "env_kwargs": json.dumps(spec.kwargs if spec else {}, default=repr, sort_keys=True),
        "policy": request.name,
        "policy_digest": policy_digest(request, trained),
        **recorder.notes,
        "noise": request.noise or None,
        "epsilon": request.epsilon or None,
        "envs": request.envs,
        "seed": request.seed,
        "max_episode_steps": recorder.limit,
        "obs_keys": None if (keys := request.obs_keys()) is None else list(keys),
        **_bounds(pool),
    }
    return {key: value for key, value in attributes.items() if value is not None}


def _bounds(pool: EnvPool) -> dict[str, Any]:
    if pool.choices:
        return {"action_choices": pool.choices[0]} if pool.discrete else {"action_nvec": list(pool.choices)}
    low, high = pool.action_low, pool.action_high
    return {} if low is None or high is None else {"action_low": low.tolist(), "action_high": high.tolist()}


def _figures(
    request: Request, layout: list[range], summaries: list[Summary], returns: np.ndarray, out: Path | None
) -> dict[str, Any]:
    """The attributes that are known at the end."""
    last = layout[-1].stop - 1
    figures: dict[str, Any] = {
        "reset_seeds": f"{collection_seed(request.seed, 0)} to {collection_seed(request.seed, last)}",
        "episodes": request.episodes,
        "return_mean": float(returns.mean()),
        "command": request.command(out),
        "versions": json.dumps(_versions()),
    }
    for each in summaries:
        for name, value in each.notes.items():
            figures[name] = figures.get(name, 0) + value
    if refused := last + 1 - request.episodes:
        figures["refused_episodes"] = refused
    return figures


def destinations(tasks: str, out: Path) -> list[tuple[str, Path]]:
    """`a` -> a file; `a,b` -> a file for each in the folder `out`. All are checked before the first is recorded."""
    names = tasks.split(",")
    pairs = [(tasks, out)] if len(names) == 1 else [(name, out / f"{name}.hdf5") for name in names]
    for index, (name, _) in enumerate(pairs):
        env_family(name)
        if name in names[:index]:
            raise LamoError(f"--task names {name} twice")
    return pairs


def is_whole(request: Request, out: Path) -> bool:
    """Whether `out` is what this request writes: so says the command in it, and the digest of its policy. What was made
    of a recording has its attributes, and a history.
    """
    try:
        with h5py.File(out, "r") as file:
            if f"metadata/{HISTORY}" in file:
                return False
            found = {name: file.attrs.get(name) for name in ("command", "policy_digest", "versions")}
    except OSError:
        return False
    wanted: dict[str, Any] = {"command": request.command(out), "versions": json.dumps(_versions())}
    if request.kind != "train":
        wanted["policy_digest"] = policy_digest(request, None)
    return all(found[name] == value for name, value in wanted.items())


def writable(path: Path) -> Path:
    """The path, known to be free and right before the work: recording may take an hour. `LamoError` where it is not."""
    if path.exists():
        raise LamoError(f"{path} exists; choose another --out or remove it")
    if path.suffix.lower() not in (".hdf5", ".h5"):
        raise LamoError(f"--out {path}: HDF5 is written; let the name end in .hdf5")
    nearest = next((folder for folder in path.absolute().parents if folder.exists()), None)
    if nearest and not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise LamoError(f"--out {path}: cannot be written; {nearest} is no folder that can be written to")
    return path


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
