"""The loop that records: a block of episodes stepped together, each with its own reset seed and generator of noise.

A block is the unit of everything above: what a worker process is given, what is kept when a collection is stopped.
Nothing in a block depends on another one, so it is the same whoever records it, and when.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamo.collecting.behaviours import Behaviour
from lamo.data.episodes import Episodes
from lamo.envs.pool import EnvPool, collection_seed


@dataclass(frozen=True)
class Block:
    """What became of the episodes `first` … `first + count - 1`."""

    first: int
    count: int
    episodes: Episodes | None
    """Those that were kept; None where the behaviour refused them all."""
    notes: dict[str, int] = field(default_factory=dict)
    """What the behaviour counted meanwhile."""

    @property
    def kept(self) -> int:
        """How many were kept."""
        return 0 if self.episodes is None else len(self.episodes)


def record_block(
    pool: EnvPool,
    behaviour: Behaviour,
    numbers: range,
    seed: int,
    horizon: int,
    check: Callable[[], object] = lambda: None,
) -> Block:
    """Record the episodes `numbers` together; episode e is reset with `collection_seed(seed, e)`, which also seeds its
    noise.

    A behaviour may end an episode by `finished(rows)` (m,) bool and refuse one by `keeps(return)`. `ids` of the
    episodes are their numbers. `check` is called before every step; what it raises ends the recording. Actions are
    recorded as executed, after clipping.
    """
    seeds = [collection_seed(seed, e) for e in numbers]
    logs = play(pool, behaviour, seeds, horizon, check)
    keeps: Callable[[float], Any] | None = getattr(behaviour, "keeps", None)
    chosen = [keeps is None or bool(keeps(sum(log.rewards))) for log in logs]
    kept = [log for log, keep in zip(logs, chosen, strict=True) if keep]
    ids = [number for number, keep in zip(numbers, chosen, strict=True) if keep]
    tell: Callable[[], dict[str, int]] | None = getattr(behaviour, "notes", None)
    notes = {} if tell is None else tell()
    return Block(numbers.start, len(numbers), _episodes(pool, kept, ids) if kept else None, notes)


class Log:
    """One episode while it is recorded."""

    def __init__(self) -> None:
        self.observations: list[NDArray[np.float32]] = []
        self.actions: list[Any] = []
        self.rewards: list[float] = []
        self.log_probs: list[float] = []
        self.after: NDArray[np.float32] = np.empty(0, np.float32)
        self.terminated = self.truncated = False

    def add(self, observation: Any, action: Any, reward: float, after: Any, terminated: bool, truncated: bool) -> None:
        """One step."""
        self.observations.append(observation)
        self.actions.append(action)
        self.rewards.append(float(reward))
        self.after, self.terminated, self.truncated = after, bool(terminated), bool(truncated)


def play(
    pool: EnvPool,
    behaviour: Behaviour,
    seeds: Sequence[int],
    horizon: int,
    check: Callable[[], object] = lambda: None,
) -> list[Log]:
    """One episode for each reset seed, all stepped together to their ends, at most `horizon` steps."""
    logs = [Log() for _ in seeds]
    finished: Callable[..., Any] | None = getattr(behaviour, "finished", None)
    behaviour.reset([np.random.default_rng(s) for s in seeds])
    rows = np.arange(len(seeds))
    observations, rewards = pool.reset(seeds), None
    for step in range(horizon):
        check()
        actions = pool.clip(behaviour.act(observations, rewards, rows))
        told = getattr(behaviour, "log_probs", None)
        after, rewards, terminated, truncated = pool.step(rows, actions)
        truncated |= step == horizon - 1
        if finished is not None:
            truncated |= finished(rows)
        for i, row in enumerate(rows):
            logs[row].add(observations[i], actions[i], rewards[i], after[i], terminated[i], truncated[i])
            if told is not None:
                logs[row].log_probs.append(float(told[i]))
        going = ~(terminated | truncated)
        rows, observations, rewards = rows[going], after[going], rewards[going]
        if len(rows) == 0:
            break
    return logs


def _episodes(pool: EnvPool, logs: Sequence[Log], ids: Sequence[int]) -> Episodes:
    actions = np.concatenate([np.stack(log.actions) for log in logs])
    return Episodes(
        observations=np.concatenate([np.stack(log.observations) for log in logs]),
        actions=actions.astype(np.int64 if pool.choices else np.float32),
        rewards=np.concatenate([np.array(log.rewards, np.float32) for log in logs]),
        offsets=np.concatenate([[0], np.cumsum([len(log.rewards) for log in logs])]).astype(np.int64),
        terminated=np.array([log.terminated for log in logs]),
        # What ends both ways was ended by the environment: nothing follows a terminal state.
        truncated=np.array([log.truncated and not log.terminated for log in logs]),
        ids=np.array(ids, np.int64),
        final_observations=np.stack([log.after for log in logs]),
        log_probs=np.concatenate([np.array(log.log_probs, np.float32) for log in logs]) if logs[0].log_probs else None,
        metadata={"source": pool.env_id, "format": "collected", "env": pool.env_id, "attributes": {}, "infos": []},
    )
