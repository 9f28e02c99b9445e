"""Episodes that lie one by one in their source -> flat arrays: first a pass over lengths, then one over values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from lamo.data.episodes import Episodes
from lamo.data.sources.flat import action_type, as_flags, check_fits
from lamo.data.sources.options import ReadOptions, as_kind, listed
from lamo.errors import LamoError, warn

Encoder = Callable[[np.ndarray], np.ndarray]


class Array(Protocol):
    """What h5py, numpy and the pickle reader's arrays have in common."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...
    def __getitem__(self, rows: slice, /) -> np.ndarray: ...


class Record(Protocol):
    """One episode of a source, its arrays not yet read."""

    @property
    def id(self) -> int: ...
    @property
    def label(self) -> str:
        """How messages call it: `episode_3`."""
        ...

    def get(self, key: str) -> Any:
        """The array under `key` (a path with slashes), or None. Raises `LamoError` for one that must not be read."""
        ...

    def keys(self) -> list[str]:
        """The names that are there, for messages."""
        ...


@dataclass(frozen=True)
class Part:
    """Some columns of the observation: where they lie, how many, and how a raw value becomes numbers."""

    key: str
    width: int
    encode: Encoder | None = None


def need(record: Record, key: str, source: str) -> Array:
    """The array under `key`. Raises `LamoError`, naming the keys that are there, if it is not or has no axis."""
    value = record.get(key)
    if value is None:
        present = listed(sorted(record.keys()))
        raise LamoError(f"{source}: {record.label}: key {key!r} is missing; the keys present are {present}")
    if not hasattr(value, "shape") or len(value.shape) == 0:
        raise LamoError(f"{source}: {record.label}: {key} is not an array with one row per step")
    return value


def gather(
    records: Callable[[], Iterable[Record]],
    parts: list[Part],
    flags: tuple[str, str],
    source: str,
    metadata: dict[str, Any],
    options: ReadOptions,
    start: np.ndarray | None = None,
) -> Episodes:
    """Episodes from records, which are walked through twice.

    `flags` names the arrays whose last value says that the environment, or a time limit, ended the episode; an absent
    one counts as False. Observations may have one row more than actions: it becomes `final_observations`, as does the
    last of `next_observations`. `start` (A,): what choices are counted from in the source; here it is 0. Episodes of
    no steps are left out, with a warning. Raises `LamoError` for the rest.
    """
    measure = "rewards" if options.reward is None else "actions"  # what says how many steps an episode has
    ids: list[int] = []
    lengths: list[int] = []
    empty: list[str] = []
    inner: tuple[int, ...] = ()
    kind: type[np.generic] = np.float32
    for record in records():
        steps = int(need(record, measure, source).shape[0])
        if steps == 0:
            empty.append(record.label)
            continue
        if not ids:
            actions = need(record, "actions", source)
            inner, kind = action_type(actions.shape, actions.dtype, source, options.actions, metadata.get("env"))
        ids.append(record.id)
        lengths.append(steps)
    if not ids:
        raise LamoError(f"{source}: holds no steps; an offline dataset needs at least one transition")
    if empty:
        warn(f"{source}: {len(empty)} episodes of no steps are left out, the first is {empty[0]}")

    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    total, width = int(offsets[-1]), sum(part.width for part in parts)
    check_fits(total * (4 * width + np.dtype(kind).itemsize * math.prod(inner) + 4), source)
    observations = np.empty((total, width), np.float32)
    final = np.full((len(ids), width), np.nan, np.float32)
    actions = np.empty((total, *inner), kind)
    rewards = np.zeros(total, np.float32)
    ended = {key: np.zeros(len(ids), bool) for key in flags}
    inside = 0
    filled = 0
    for record in records():
        steps = int(need(record, measure, source).shape[0])
        if steps == 0:
            continue
        span = slice(int(offsets[filled]), int(offsets[filled + 1]))
        if options.reward is None:
            rewards[span] = _rows(record, "rewards", (), steps, source)
        data = need(record, "actions", source)
        if action_type(data.shape, data.dtype, source, options.actions) != (inner, kind):
            raise LamoError(f"{source}: {record.label}: actions {data.shape} {data.dtype} differ from those before")
        actions[span] = _rows(record, "actions", inner, steps, source)
        column, unknown = 0, False
        for part in parts:
            here = slice(column, column + part.width)
            column += part.width
            count, *shape = need(record, part.key, source).shape
            if math.prod(shape) > part.width or (part.encode is None and math.prod(shape) != part.width):
                raise LamoError(
                    f"{source}: {record.label}: {part.key} has {math.prod(shape)} numbers per step, others {part.width}"
                )
            values = _rows(record, part.key, None, steps + (count == steps + 1), source)
            values = part.encode(values) if part.encode else values.reshape(len(values), -1)
            observations[span, here] = values[:steps]
            if len(values) > steps:
                final[filled, here] = values[steps]
            elif record.get("next_observations") is not None:
                following = _rows(record, "next_observations", (width,), steps, source)
                final[filled] = following[-1]
            else:
                unknown = True
        if unknown:  # one part that is not there makes the whole unknown
            final[filled] = np.nan
        for key, out in ended.items():
            if record.get(key) is not None:
                flag = as_flags(_rows(record, key, (), steps, source), f"{source}: {record.label}", key)
                out[filled] = flag[-1]
                inside += int(np.count_nonzero(flag[:-1]))
        filled += 1
    actions = as_kind(actions, options.actions, source)
    if start is not None and actions.dtype.kind == "i":
        actions = _from_zero(actions, start, source)
    return Episodes(
        observations=observations,
        actions=actions,
        rewards=rewards,
        offsets=offsets,
        terminated=ended[flags[0]],
        truncated=ended[flags[1]],
        ids=np.array(ids, np.int64),
        final_observations=None if np.isnan(final).all() else final,
        metadata={**metadata, "ends_inside": inside},
    ).validate()


def _from_zero(actions: np.ndarray, start: np.ndarray, source: str) -> np.ndarray:
    """Choices counted from 0, as the environments are asked for them here, and not from `start`."""
    if start.size != math.prod(actions.shape[1:]):
        raise LamoError(f"{source}: actions have shape {actions.shape}, which does not fit their space")
    return actions - start.reshape(actions.shape[1:])


def gather_blocks(
    records: Callable[[], Iterable[Record]],
    parts: list[Part],
    flags: tuple[str, str],
    source: str,
    metadata: dict[str, Any],
    options: ReadOptions,
    size: int | None,
    start: np.ndarray | None = None,
) -> Iterator[Episodes]:
    """`gather`, of as many episodes at a time as have about `size` bytes (None: of all), walked through once."""
    if size is None:
        yield gather(records, parts, flags, source, metadata, options, start)
        return
    measure = "rewards" if options.reward is None else "actions"
    width = 4 * (sum(part.width for part in parts) + 1)
    taken: list[Record] = []
    held, empty, found = 0, [], False
    for record in records():
        steps = int(need(record, measure, source).shape[0])
        if steps == 0:
            empty.append(record.label)
            continue
        more = steps * (width + 8 * math.prod(need(record, "actions", source).shape[1:]))
        if taken and held + more > size:
            yield gather(partial(list, taken), parts, flags, source, metadata, options, start)
            taken, held = [], 0
        taken.append(record)
        held, found = held + more, True
    if not found:
        raise LamoError(f"{source}: holds no steps; an offline dataset needs at least one transition")
    if empty:
        warn(f"{source}: {len(empty)} episodes of no steps are left out, the first is {empty[0]}")
    yield gather(partial(list, taken), parts, flags, source, metadata, options, start)


def _measure(record: Record) -> str:
    key = "rewards" if record.get("rewards") is not None else "actions"
    return f"{key} {record.get(key).shape[0]}"


def _rows(record: Record, key: str, inner: tuple[int, ...] | None, steps: int, source: str) -> np.ndarray:
    """All rows of an array, (steps, *inner); `inner` None keeps the shape. `LamoError` where they do not match."""
    data = need(record, key, source)
    if data.dtype.kind not in "fiub":
        raise LamoError(f"{source}: {record.label}: {key} has type {data.dtype}, which is not a number")
    if data.shape[0] != steps:
        raise LamoError(
            f"{source}: {record.label}: arrays have different lengths ({key} {data.shape[0]}, "
            f"{_measure(record)}); every array needs one row per step"
        )
    if inner is not None and math.prod(data.shape[1:]) != math.prod(inner):
        raise LamoError(f"{source}: {record.label}: {key} has shape {tuple(data.shape)}, expected {(steps, *inner)}")
    values = data[0:steps]
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what is too large for float32 becomes inf, which `validate` reports
            values = values.astype(np.float32, copy=False)
    return values if inner is None else values.reshape(steps, *inner)
