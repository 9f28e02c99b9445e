"""Episodes: a log of behaviour as flat arrays with episode offsets. Everything that learns reads this one type.

    observations  o0 o1 o2 o3 o4 o5 o6 o7 o8        N = 9 steps, E = 3 episodes
    offsets       0           4     6        9      episode e is rows offsets[e] … offsets[e + 1] - 1

numpy only. Sums over rewards are float64, arrays are float32. Of data that lies in stores (`lamo.data.store`) the
arrays are memory maps or `Spans` of them, and what only reading all steps could tell was recorded in writing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from lamo.data.actions import ActionKind, action_kind, choices_of
from lamo.data.spans import chooser, is_mapped
from lamo.errors import LamoError

BLOCK = 1 << 14  # rows handled at once where a whole-array temporary would cost a second copy of the dataset
STD_FLOOR = 1e-6
COPIED = 1 << 28
"""Bytes up to which chosen episodes of a store are copied into memory; of more the rows are remembered alone."""
DIGESTED = ("observations", "actions", "rewards", "offsets", "terminated", "truncated", "final_observations")


class Statistics(NamedTuple):
    """Mean and standard deviation of the observations: both (S,) float32, `std` at least 1e-6."""

    mean: np.ndarray
    std: np.ndarray


class Extremes(NamedTuple):
    """Lowest and highest value, of each number of a row: both (W,), or () where a row is one number."""

    low: np.ndarray
    high: np.ndarray


class Moments(NamedTuple):
    """Of each number of an observation over all steps, in float64: mean (S,) and sum of squared deviations (S,)."""

    mean: np.ndarray
    squares: np.ndarray


@dataclass(frozen=True, eq=False)
class Recorded:
    """What is known of episodes without reading their steps; None for what is not."""

    returns_to_go: np.ndarray
    """(N,) float64."""
    returns: np.ndarray
    """(E,) float64."""
    moments: Moments | None = None
    digest: str | None = None
    extremes: dict[str, Extremes] = field(default_factory=dict)
    """Of `observations`, `actions` and `rewards`."""


@dataclass(frozen=True, eq=False)
class Episodes:
    """E episodes of N steps in all, end to end in flat arrays.

    The constructor checks types, shapes and offsets (it raises `LamoError`); `validate` also looks at every value.
    """

    observations: np.ndarray
    """(N, S) float32: what the agent saw before the action of the same row."""
    actions: np.ndarray
    """(N, A) float32 for continuous actions, (N,) int64 for discrete ones, (N, A) int64 for several choices at once."""
    rewards: np.ndarray
    """(N,) float32: what the action of the same row earned."""
    offsets: np.ndarray
    """(E + 1,) int64, from 0 to N, strictly rising: where each episode begins."""
    terminated: np.ndarray
    """(E,) bool: the environment ended the episode (a goal, a fall)."""
    truncated: np.ndarray
    """(E,) bool: a time limit ended it. With neither the log simply stops there: the episode is unfinished."""
    ids: np.ndarray
    """(E,) int64: the episodes' numbers in the source, kept through `subsample` and `select`."""
    final_observations: np.ndarray | None = None
    """(E, S) float32: what the agent saw after its last action, a row of NaN where the source does not have it."""
    log_probs: np.ndarray | None = None
    """(N,) float32: log of the probability (for vectors: the density) with which the behaviour took the action of the
    same row; None where the source does not say. Says how the data was made, so it is no part of the digest."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """JSON-able: `source`, `format`, `env`, `action_low`, `action_high`, `action_choices` (their number),
    `action_nvec` (one number per component), `attributes`, … (None where not known)."""
    recorded: tuple[Recorded, tuple[Any, ...]] | None = field(default=None, repr=False)
    """What was recorded when the steps were written, and the arrays it was recorded of: `replace` of any drops it. Set
    by `with_record`."""

    def __post_init__(self) -> None:
        def need(condition: bool, message: str) -> None:
            if not condition:
                raise LamoError(f"{self.source}: {message}")

        steps, episodes = len(self.rewards), len(self.offsets) - 1
        need(steps > 0, "holds no steps; an offline dataset needs at least one transition")
        need(
            self.observations.ndim == 2 and self.observations.dtype == np.float32, "observations must be (N, S) float32"
        )
        kinds = {(1, "int64"), (2, "int64"), (2, "float32")}
        need(
            (self.actions.ndim, self.actions.dtype.name) in kinds,
            "actions must be (N, A) float32 (continuous), (N,) int64 (discrete) or (N, A) int64 (multidiscrete)",
        )
        need(self.rewards.ndim == 1 and self.rewards.dtype == np.float32, "rewards must be (N,) float32")
        for key in ("observations", "actions"):
            count = len(getattr(self, key))
            need(count == steps, f"{key} has {count} rows but rewards has {steps}; every array needs one row per step")
        need(
            self.offsets.dtype == np.int64 and episodes > 0, "offsets must be (E + 1,) int64 with at least one episode"
        )
        need(
            self.offsets[0] == 0 and self.offsets[-1] == steps and bool((np.diff(self.offsets) > 0).all()),
            f"offsets must rise strictly from 0 to {steps}",
        )
        for key, dtype in (("terminated", np.bool_), ("truncated", np.bool_), ("ids", np.int64)):
            value = getattr(self, key)
            need(value.shape == (episodes,) and value.dtype == dtype, f"{key} must be ({episodes},) {dtype.__name__}")
        if self.final_observations is not None:
            shape = (episodes, self.observations.shape[1])
            ok = self.final_observations.shape == shape and self.final_observations.dtype == np.float32
            need(ok, f"final_observations must be {shape} float32")
        if self.log_probs is not None:
            ok = self.log_probs.shape == (steps,) and self.log_probs.dtype == np.float32
            need(ok, f"log_probs must be ({steps},) float32")
        if self.recorded is not None and any(a is not b for a, b in zip(self.recorded[1], self._told, strict=True)):
            object.__setattr__(self, "recorded", None)

    def __len__(self) -> int:
        """E, the number of episodes."""
        return len(self.offsets) - 1

    @property
    def source(self) -> str:
        """What the user called this dataset, for messages."""
        return str(self.metadata.get("source", "episodes"))

    @property
    def steps(self) -> int:
        """N, the number of steps in all episodes."""
        return len(self.rewards)

    @property
    def discrete(self) -> bool:
        """Whether actions are (N,) int64 choices."""
        return self.actions.ndim == 1

    @property
    def action_kind(self) -> ActionKind:
        """Whether actions are vectors, one choice, or several choices at once."""
        return action_kind(self.actions)

    @cached_property
    def choices(self) -> tuple[int, ...]:
        """How many choices each component of an action has: one number for discrete actions, A for several, none for
        vectors. As the source says it, else as many as the data shows.
        """
        if self.action_kind == "continuous":
            return ()
        said = self.metadata.get("action_choices" if self.discrete else "action_nvec")
        return choices_of(self.extremes("actions").high, said)

    @property
    def lengths(self) -> np.ndarray:
        """(E,) int64: steps of each episode."""
        return np.diff(self.offsets)

    @property
    def unfinished(self) -> np.ndarray:
        """(E,) bool: neither terminated nor truncated, the log stops there."""
        return ~(self.terminated | self.truncated)

    @property
    def mapped(self) -> bool:
        """Whether the steps lie in files and not in memory."""
        return is_mapped(self.observations)

    @property
    def step_bytes(self) -> int:
        """Bytes of one step in memory."""
        return sum(
            value.dtype.itemsize * math.prod(value.shape[1:])
            for value in (self.observations, self.actions, self.rewards, self.log_probs)
            if value is not None
        )

    def with_record(self, record: Recorded) -> Episodes:
        """These episodes, with what is known of them without reading them."""
        return replace(self, recorded=(record, self._told))

    @property
    def known(self) -> Recorded | None:
        """What was recorded of these very arrays."""
        return None if self.recorded is None else self.recorded[0]

    @property
    def _told(self) -> tuple[Any, ...]:
        return tuple(getattr(self, key) for key in DIGESTED)

    @property
    def returns(self) -> np.ndarray:
        """(E,) float64: the sum of rewards of each episode."""
        return self.known.returns if self.known is not None else self.returns_to_go[self.offsets[:-1]]

    @cached_property
    def returns_to_go(self) -> np.ndarray:
        """(N,) float64: sum of rewards from this step on, its own included, to its episode's end (paper, section 2).

        Summed backwards inside each episode: a difference of sums over the whole log would lose digits. Computed once.
        """
        if self.known is not None:
            return self.known.returns_to_go
        out = np.empty(self.steps, np.float64)
        for start, end in zip(self.offsets[:-1].tolist(), self.offsets[1:].tolist(), strict=True):
            np.cumsum(self.rewards[start:end][::-1], dtype=np.float64, out=out[start:end][::-1])
        return out

    def moments(self) -> Moments:
        """Mean and sum of squared deviations of the observations over all steps, in two passes of float64 sums."""
        if self.known is not None and self.known.moments is not None:
            return self.known.moments
        total = np.zeros(self.observations.shape[1])
        for block in _blocks(self.observations):
            total += block.sum(axis=0, dtype=np.float64)
        mean = total / self.steps
        squares = np.zeros_like(mean)
        for block in _blocks(self.observations):
            squares += np.square(block - mean).sum(axis=0)
        return Moments(mean, squares)

    def statistics(self) -> Statistics:
        """Mean and standard deviation of the observations over all steps, summed in float64, `std` floored at 1e-6."""
        mean, squares = self.moments()
        std = np.maximum(np.sqrt(squares / self.steps), STD_FLOOR)
        return Statistics(mean.astype(np.float32), std.astype(np.float32))

    def extremes(self, key: str) -> Extremes:
        """Lowest and highest value of `observations`, `actions` (both of each number of a row) or `rewards`."""
        if self.known is not None and key in self.known.extremes:
            return self.known.extremes[key]
        low, high = [], []
        for block in _blocks(getattr(self, key)):
            low.append(block.min(axis=0))
            high.append(block.max(axis=0))
        return Extremes(np.min(low, axis=0), np.max(high, axis=0))

    def blocks(self, size: int) -> Iterator[Episodes]:
        """Whole episodes in their order, as many at a time as have at most `size` bytes (one where it has more), each
        time in memory of their own. What the metadata count is in the first one's.
        """
        step = self.step_bytes
        first, start = 0, 0
        while first < len(self):
            after = int(self.offsets.searchsorted(start + max(1, size // step), side="right")) - 1
            last = min(max(after, first + 1), len(self))
            block = self._copied(np.arange(first, last))
            if first == 0 and "ends_inside" in self.metadata:
                block.metadata["ends_inside"] = self.metadata["ends_inside"]
            yield block
            first, start = last, int(self.offsets[last])

    def subsample(self, ratio: float, seed: int) -> Episodes:
        """A random share of the episodes, whole episodes only, in their old order.

        `ratio` lies in (0, 1]; the number of episodes is rounded down. The best episode is as likely as any other
        (the paper's released code always drops it). With one seed a smaller ratio picks a subset of a larger one's.
        The chosen numbers are `ids` of the result. Raises `LamoError` for a ratio outside (0, 1] or one that leaves
        none.
        """
        if not 0 < ratio <= 1:  # also refuses NaN
            raise LamoError(f"ratio {ratio} is outside (0, 1]; 0.1 keeps a tenth of the episodes, 1 keeps all")
        if seed < 0:
            raise LamoError(f"seed {seed} is negative; seeds are whole numbers from 0")
        count = math.floor(ratio * len(self) + 1e-9)  # 0.29 * 100 is 28.999…96 in floating point
        if count == 0:
            smallest = math.ceil(1e6 / len(self)) / 1e6  # rounded up, so that the number works when it is typed
            raise LamoError(
                f"ratio {ratio} of the {len(self)} episodes of {self.source} leaves none; "
                f"the smallest usable ratio is {np.format_float_positional(smallest)}"
            )
        chosen = np.sort(np.random.default_rng(seed).permutation(len(self))[:count])
        picked = self.select(chosen)
        return replace(picked, metadata={**picked.metadata, "ratio": float(ratio), "ratio_seed": int(seed)})

    def select(self, indices: Sequence[int] | np.ndarray) -> Episodes:
        """The episodes at these positions (0 … E - 1), in this order. `LamoError` for none, or one out of range."""
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
        if len(chosen) == 0:
            raise LamoError(f"{self.source}: no episode is selected; name at least one")
        if chosen.min() < 0 or chosen.max() >= len(self):
            raise LamoError(f"{self.source}: episode position {chosen.max()} is not within 0 … {len(self) - 1}")
        if np.array_equal(chosen, np.arange(len(self))):
            return self
        if self.mapped and int(self.lengths[chosen].sum()) * self.step_bytes > COPIED:
            return self._remembered(chosen)
        return self._copied(chosen)

    def _copied(self, chosen: np.ndarray) -> Episodes:
        """The episodes at these positions, in arrays of their own."""
        spans = list(zip(self.offsets[chosen].tolist(), self.offsets[chosen + 1].tolist(), strict=True))
        return self._chosen(chosen, lambda value: np.concatenate([value[a:b] for a, b in spans]))

    def _remembered(self, chosen: np.ndarray) -> Episodes:
        """The episodes at these positions, whose steps stay where they are."""
        rows = chooser(self.offsets[chosen], self.lengths[chosen])
        out = self._chosen(chosen, rows)
        if self.known is None:
            return out
        return out.with_record(Recorded(rows(self.known.returns_to_go), self.known.returns[chosen]))

    def _chosen(self, chosen: np.ndarray, rows: Callable[[np.ndarray], np.ndarray]) -> Episodes:
        return Episodes(
            observations=rows(self.observations),
            actions=rows(self.actions),
            rewards=rows(self.rewards),
            offsets=np.concatenate([[0], np.cumsum(self.lengths[chosen])]).astype(np.int64),
            terminated=self.terminated[chosen],
            truncated=self.truncated[chosen],
            ids=self.ids[chosen],
            final_observations=None if self.final_observations is None else self.final_observations[chosen],
            log_probs=None if self.log_probs is None else rows(self.log_probs),
            metadata={key: value for key, value in self.metadata.items() if key != "ends_inside"},  # a count of all
        )

    def digest(self) -> str:
        """Hexadecimal SHA-256 over names, types, shapes and bytes of the arrays: equal data, equal digest.

        `ids` and `metadata` say where data came from, not what it is, and are left out.
        """
        if self.known is not None and self.known.digest is not None:
            return self.known.digest
        sha = hashlib.sha256()
        for key in DIGESTED:
            value = getattr(self, key)
            if value is None:
                continue
            kind = value.dtype.newbyteorder("<")
            sha.update(f"{key} {kind.str} {value.shape}\n".encode())
            for block in _blocks(value):
                sha.update(np.ascontiguousarray(block, dtype=kind).data)
        return sha.hexdigest()

    def validate(self, source: str | None = None, *, first: int = 0) -> Episodes:
        """Look at every value; return the episodes themselves. `first`: the number of the first row, for messages.

        Raises `LamoError` for the first NaN or infinite value, naming source, key, index, episode and step.
        """
        name = self.source if source is None else source
        for key in ("observations", "actions", "rewards"):
            value = getattr(self, key)
            row = 0
            for block in _blocks(value) if value.dtype.kind == "f" else ():
                if not np.isfinite(block).all():
                    raise LamoError(self._not_finite(name, key, row, block, first))
                row += len(block)
        for start, block in enumerate(_blocks(self.actions) if self.action_kind != "continuous" else ()):
            if block.min() < 0:
                row = int(np.argmax((block < 0).reshape(len(block), -1).any(axis=1)))
                raise LamoError(
                    f"{name}: actions holds {int(block[row].min())} at [{first + start * BLOCK + row}], but choices "
                    "are counted from 0; if these are amounts, give --actions continuous"
                )
        if self.final_observations is not None:
            known = ~np.isnan(self.final_observations).all(axis=1)
            bad = known & ~np.isfinite(self.final_observations).all(axis=1)
            if bad.any():
                episode = int(self.ids[np.argmax(bad)])
                raise LamoError(f"{name}: the observation after the last action of episode {episode} is not finite")
        return self

    def _not_finite(self, name: str, key: str, row: int, block: np.ndarray, first: int) -> str:
        place = tuple(np.argwhere(~np.isfinite(block))[0].tolist())
        row += place[0]
        episode = int(np.searchsorted(self.offsets, row, side="right")) - 1
        step = row - int(self.offsets[episode])
        return (
            f"{name}: {key} holds {block[place]} at {[first + row, *place[1:]]} "
            f"(episode {int(self.ids[episode])}, step {step}); repair the file or leave that episode out"
        )


def _blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    return (np.asarray(array[start : start + BLOCK]) for start in range(0, len(array), BLOCK))
