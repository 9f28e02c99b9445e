"""Flat arrays in D4RL's layout -> Episodes, whatever file they lie in.

    observations  o0 o1 o2 o3 o4 o5     one row per step
    terminals      .  .  1  .  .  .     the environment ended the episode at this step
    timeouts       .  .  .  .  1  .     a time limit ended it at this step
    episode        0  0  0  1  1  2     a cut after each row with either; the rest is kept as unfinished

Nothing is dropped and nothing moved by a row: each step stays with its own observation, action and reward.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from lamo.data.episodes import BLOCK, Episodes
from lamo.data.sources.options import ReadOptions, UnstatedActions, as_kind, listed
from lamo.errors import LamoError, warn

BOMB_RATIO, BOMB_BYTES = 200, 1 << 28
"""Numbers people record shrink 1.1 to 20 times; more than 200 times, and over 256 MiB, is a bomb."""
TERMINALS = ("terminals", "terminations")
TIMEOUTS = ("timeouts", "truncations")
LOG_PROBS = ("behaviour_log_prob", "infos/action_log_probs")
USED = frozenset({"observations", "actions", "rewards", *TERMINALS, *TIMEOUTS, "next_observations", LOG_PROBS[0]})
"""The names that D4RL's layout knows; arrays under others are passed over."""


class Piece(NamedTuple):
    """Some episodes of a source, and their place in it."""

    episodes: Episodes
    place: slice
    """Their place among all episodes."""
    rows: slice
    """Their steps' among all steps."""
    count: int
    """All episodes."""


class Column(Protocol):
    """One array of a file, not yet read."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...
    def blocks(self) -> Iterator[np.ndarray]:
        """Rows in order, some thousands at a time."""
        ...


def read_into(column: Column, out: np.ndarray) -> np.ndarray:
    """Copy a column into `out` (N, …) without a second whole copy of it; values are cast to `out`'s type."""
    direct: Callable[[np.ndarray], bool] | None = getattr(column, "read_direct", None)
    if direct is not None and direct(out):
        return out
    row = 0
    for block in column.blocks():
        with np.errstate(over="ignore"):  # a float64 too large for float32 becomes inf, which `validate` reports
            out[row : row + len(block)] = block.reshape(len(block), *out.shape[1:])
        row += len(block)
    return out


def as_flags(values: np.ndarray, source: str, key: str) -> np.ndarray:
    """(n,) bool of the numbers 0 and 1. Raises `LamoError` for any other, which says nothing of an end."""
    flags = values == 1
    if not (sound := flags | (values == 0)).all():
        raise LamoError(f"{source}: {key} holds {values[~sound][0]}, which is neither true nor false (1 nor 0)")
    return flags


def rows(column: Column, index: np.ndarray, width: int) -> np.ndarray:
    """(len(index), width) float32: some rows of a column, `index` rising."""
    out = np.empty((len(index), width), np.float32)
    row = 0
    for block in column.blocks():
        inside = slice(*np.searchsorted(index, [row, row + len(block)]))
        with np.errstate(over="ignore"):
            out[inside] = block[index[inside] - row].reshape(-1, width)
        row += len(block)
    return out


def need_keys(keys: Iterable[str], present: Iterable[str], source: str) -> None:
    """Raise `LamoError`, naming the keys that are there, if one of `keys` is not."""
    present = sorted(present)
    for key in keys:
        if key not in present:
            raise LamoError(f"{source}: key {key!r} is missing; the keys present are {listed(present)}")


def state_width(shape: tuple[int, ...], dtype: np.dtype, source: str, key: str = "observations") -> int:
    """Numbers per observation once flattened. Raises `LamoError` for pixels and for what is not a number."""
    if dtype.kind not in "fiub":
        raise LamoError(f"{source}: {key} has type {dtype}, which is not a number")
    if dtype == np.uint8 and len(shape) > 2:
        raise LamoError(f"{source}: {key} are images {tuple(shape[1:])}; only state observations are supported")
    width = math.prod(shape[1:])
    if width == 0:
        raise LamoError(f"{source}: {key} has shape {tuple(shape)}: no numbers in a step")
    return width


def check_bomb(wanted: int, stored: int | Callable[[], int], where: str) -> None:
    """Raise `LamoError` if `wanted` bytes would be unpacked from `stored` ones as no recorded data does."""
    if wanted <= BOMB_BYTES:
        return
    stored = stored() if callable(stored) else stored
    if wanted > BOMB_RATIO * stored:
        raise LamoError(
            f"{where} would unpack from {stored} to {wanted} bytes, as no recorded data does; "
            "if you trust it, save it again uncompressed"
        )


def check_fits(wanted: int, source: str) -> None:
    """Raise `LamoError` if `wanted` bytes are more than this machine has free, before any of them is asked for."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError, IndexError):
        try:
            free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, ValueError, OSError):  # Windows: numpy's own MemoryError has to do
            return
    if wanted > free:
        raise LamoError(
            f"{source}: says it holds {wanted / 2**30:.1f} GiB but {free / 2**30:.1f} GiB of memory are free"
        )


def action_type(
    shape: tuple[int, ...], dtype: np.dtype, source: str, kind: str | None = None, env: str | None = None
) -> tuple[tuple[int, ...], type[np.generic]]:
    """Shape after the first axis and type of the actions in `Episodes`: () or (A,) and int64, or (A,) and float32.

    What integers mean `kind` says, "discrete" or "continuous"; where it is None they are a question,
    `UnstatedActions`, to which the environment `env` may know the answer.
    """
    if dtype.kind not in "fiub":
        raise LamoError(
            f"{source}: actions has type {dtype}, which is neither a choice (integers) nor a vector (floats)"
        )
    width = math.prod(shape[1:])
    if width == 0:
        raise LamoError(f"{source}: actions has shape {tuple(shape)}: no numbers in a step")
    if dtype.kind == "f" or kind == "continuous":
        return (width,), np.float32
    if kind is None:
        raise UnstatedActions(source, env)
    return () if width == 1 else (width,), np.int64


def flat_episodes(
    columns: Mapping[str, Column], source: str, metadata: dict[str, Any], options: ReadOptions
) -> Episodes:
    """Columns of D4RL's layout -> Episodes, whose values the caller has yet to `validate`.

    Needs `observations`, `actions`, `rewards` (unless `options.reward` is "none") and at least one of `terminals` and
    `timeouts` (Gymnasium's names `terminations` and `truncations` do as well). `next_observations` gives what was seen
    after the last action of each episode, `behaviour_log_prob` (D4RL: `infos/action_log_probs`) the log-probability of
    each action. Raises `LamoError` for a missing key, arrays of different lengths, no step, or a value that is not
    finite.
    """
    return _built(columns, _checked(columns, source, options), source, metadata, options)


def flat_blocks(
    columns: Mapping[str, Column], source: str, metadata: dict[str, Any], options: ReadOptions, size: int | None
) -> Iterator[Piece]:
    """`flat_episodes` in blocks of about `size` bytes, None: in one; values are not yet validated.

    Every column is read front to back, once; those that say where episodes end twice.
    """
    if size is None:
        whole = flat_episodes(columns, source, metadata, options)
        yield Piece(whole, slice(0, len(whole)), slice(0, whole.steps), len(whole))
        return
    flags = _checked(columns, source, options)
    steps = columns["observations"].shape[0]
    ends = [np.zeros(1, np.int64)]
    named = [key for key in flags.values() if key is not None]
    kinds = [columns[key] for key in named]
    row = 0
    for flag in zip(*(_Front(column).blocks(BLOCK) for column in kinds), strict=True):
        ended = np.any([as_flags(v.reshape(len(v)), source, key) for v, key in zip(flag, named, strict=True)], axis=0)
        ends.append(np.flatnonzero(ended) + row + 1)
        row += len(ended)
    offsets = np.concatenate(ends)
    if offsets[-1] != steps:
        offsets = np.append(offsets, steps)
    width = sum(math.prod(columns[key].shape[1:]) * columns[key].dtype.itemsize for key in ("observations", "actions"))
    fronts = {key: _Front(column) for key, column in columns.items() if column.shape[:1] == (steps,)}
    first = 0
    while first < len(offsets) - 1:
        start = int(offsets[first])
        after = int(offsets.searchsorted(start + max(1, size // max(1, width)), side="right")) - 1
        last = min(max(after, first + 1), len(offsets) - 1)
        stop = int(offsets[last])
        here = {key: _Stretch(front, start, stop) for key, front in fronts.items()}
        block = _built(here, flags, source, metadata, options)
        block = replace(block, ids=block.ids + first)
        yield Piece(block, slice(first, last), slice(start, stop), len(offsets) - 1)
        first = last


class _Front:
    """A column that is read front to back, any number of rows at a time."""

    def __init__(self, column: Column) -> None:
        self.column, self.shape, self.dtype = column, column.shape, column.dtype
        self.source = iter(column.blocks())
        self.held, self.row = np.empty((0, *column.shape[1:]), column.dtype), 0  # rows not yet asked for; the first

    def rows(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Rows `start` … `stop` - 1, some at a time; `start` is not before what was read last."""
        while self.row < stop:
            if len(self.held) == 0:
                self.held = next(self.source)
            count = min(len(self.held), (start if self.row < start else stop) - self.row)
            found, self.held, self.row = self.held[:count], self.held[count:], self.row + count
            if self.row > start:
                yield found

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """All rows, `size` at a time."""
        for start in range(0, self.shape[0], size):
            yield np.concatenate(list(self.rows(start, min(start + size, self.shape[0]))))


class _Stretch:
    """Some rows of a column, as a column."""

    def __init__(self, front: _Front, start: int, stop: int) -> None:
        self.front, self.start, self.stop = front, start, stop
        self.shape, self.dtype = (stop - start, *front.shape[1:]), front.dtype

    def blocks(self) -> Iterator[np.ndarray]:
        return self.front.rows(self.start, self.stop)


def _checked(columns: Mapping[str, Column], source: str, options: ReadOptions) -> dict[str, str | None]:
    """The names of `terminals` and `timeouts` in these columns, which are found to be of D4RL's layout."""
    rewarded = ("rewards",) if options.reward is None else ()
    need_keys(("observations", "actions", *rewarded), columns, source)
    flags = {
        kind: next((name for name in names if name in columns), None)
        for kind, names in (("terminals", TERMINALS), ("timeouts", TIMEOUTS))
    }
    if not any(flags.values()):
        need_keys(("terminals",), columns, source)
    used = [*rewarded, "observations", "actions", *filter(None, flags.values())]
    if "next_observations" in columns:
        used.append("next_observations")
    for key in used:
        if len(columns[key].shape) == 0:
            raise LamoError(f"{source}: {key} is a single value, not an array with one row per step")
    steps = columns[used[0]].shape[0]
    lengths = {key: columns[key].shape[0] for key in used}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{key} {count}" for key, count in lengths.items())
        raise LamoError(f"{source}: arrays have different lengths ({listed}); every array needs one row per step")
    if steps == 0:
        raise LamoError(f"{source}: holds no steps; an offline dataset needs at least one transition")
    for key in filter(None, flags.values()):
        _check_vector(columns[key], key, source)
    if flags["timeouts"] is None:
        warn(
            f"{source} has no 'timeouts': episodes are cut at 'terminals' alone, "
            "and one that a time limit ended runs on into the next"
        )
    return flags


def _built(
    columns: Mapping[str, Column],
    flags: Mapping[str, str | None],
    source: str,
    metadata: dict[str, Any],
    options: ReadOptions,
) -> Episodes:
    steps = columns["observations"].shape[0]
    width = state_width(columns["observations"].shape, columns["observations"].dtype, source)
    kept = columns["actions"].shape, columns["actions"].dtype
    inner, kind = action_type(*kept, source, options.actions, metadata.get("env"))
    check_fits(steps * (4 * width + np.dtype(kind).itemsize * math.prod(inner) + 4), source)
    ended = {name: _vector(columns[key], key, np.dtype(bool), source) for name, key in flags.items() if key is not None}
    nothing = np.zeros(steps, bool)
    terminals, timeouts = ended.get("terminals", nothing), ended.get("timeouts", nothing)
    cuts = np.flatnonzero(terminals | timeouts) + 1
    if len(cuts) == 0 or cuts[-1] != steps:
        cuts = np.append(cuts, steps)
    last = cuts - 1

    final = None
    if "next_observations" in columns:
        following = columns["next_observations"]
        if state_width(following.shape, following.dtype, source, "next_observations") != width:
            raise LamoError(f"{source}: next_observations and observations have different widths")
        final = rows(following, last, width)
    # The widest first: what is unpacked on the way then adds to the least.
    observations = read_into(columns["observations"], np.empty((steps, width), np.float32))
    actions = as_kind(read_into(columns["actions"], np.empty((steps, *inner), kind)), options.actions, source)
    return Episodes(
        observations=observations,
        actions=actions,
        rewards=_vector(columns["rewards"], "rewards", np.dtype(np.float32), source)
        if options.reward is None
        else np.zeros(steps, np.float32),
        offsets=np.concatenate([[0], cuts]).astype(np.int64),
        terminated=terminals[last],
        truncated=timeouts[last],
        ids=np.arange(len(cuts), dtype=np.int64),
        final_observations=final,
        log_probs=_log_probs(columns, steps, actions.dtype.kind == "i", source),
        metadata=metadata,
    )


def _log_probs(columns: Mapping[str, Column], steps: int, discrete: bool, source: str) -> np.ndarray | None:
    """(N,) float32 or None. They matter to no training: where they cannot be log-probabilities they are left out, with
    a warning.
    """
    key = next((name for name in LOG_PROBS if name in columns), None)
    if key is None:
        return None
    column, why = columns[key], "holds numbers above 0, which are no log-probabilities"
    if column.shape[:1] != (steps,) or math.prod(column.shape[1:]) != 1 or column.dtype.kind != "f":
        warn(f"{source}: {key} does not hold one number per step; left out")
        return None
    values = _vector(column, key, np.dtype(np.float32), source)
    if not np.isfinite(values).all():
        why = "holds values that are not finite"
    elif not discrete or values.max() <= 1e-6:  # a density may well be above 1
        return values
    warn(f"{source}: {key} {why}; left out")
    return None


def _vector(column: Column, key: str, dtype: np.dtype, source: str) -> np.ndarray:
    _check_vector(column, key, source)
    if dtype.kind == "b" and column.dtype.kind != "b":
        return as_flags(read_into(column, np.empty(column.shape[0], column.dtype)), source, key)
    return read_into(column, np.empty(column.shape[0], dtype))


def _check_vector(column: Column, key: str, source: str) -> None:
    if math.prod(column.shape[1:]) != 1 or column.dtype.kind not in "fiub":
        raise LamoError(
            f"{source}: {key} has shape {column.shape} and type {column.dtype}; it must be one number per step"
        )
