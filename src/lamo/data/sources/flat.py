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
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lamo.data.episodes import Episodes
from lamo.data.sources.options import ReadOptions, as_kind, listed
from lamo.errors import LamoError, warn

BOMB_RATIO, BOMB_BYTES = 200, 1 << 28
"""Numbers people record shrink 1.1 to 20 times; more than 200 times, and over 256 MiB, is a bomb."""
TERMINALS = ("terminals", "terminations")
TIMEOUTS = ("timeouts", "truncations")
LOG_PROBS = ("behaviour_log_prob", "infos/action_log_probs")
USED = frozenset({"observations", "actions", "rewards", *TERMINALS, *TIMEOUTS, "next_observations", LOG_PROBS[0]})
"""The names that D4RL's layout knows; arrays under others are passed over."""


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
    shape: tuple[int, ...], dtype: np.dtype, source: str, kind: str | None = None
) -> tuple[tuple[int, ...], type[np.generic]]:
    """Shape after the first axis and type of the actions in `Episodes`: () and int64, or (A,) and float32.

    Integers are choices unless `kind` is "continuous". Raises `LamoError` for several choices per step.
    """
    if dtype.kind not in "fiu":
        raise LamoError(
            f"{source}: actions has type {dtype}, which is neither a choice (integers) nor a vector (floats)"
        )
    width = math.prod(shape[1:])
    if width == 0:
        raise LamoError(f"{source}: actions has shape {tuple(shape)}: no numbers in a step")
    if dtype.kind == "f" or kind == "continuous":
        return (width,), np.float32
    if width != 1:
        raise LamoError(
            f"{source}: actions are {width} integers per step; only one discrete action per step is supported; "
            "if they are amounts, give --actions continuous"
        )
    return (), np.int64


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

    width = state_width(columns["observations"].shape, columns["observations"].dtype, source)
    inner, kind = action_type(columns["actions"].shape, columns["actions"].dtype, source, options.actions)
    check_fits(steps * (4 * width + np.dtype(kind).itemsize * math.prod(inner) + 4), source)
    ended = {name: _vector(columns[key], key, np.dtype(bool), source) for name, key in flags.items() if key is not None}
    if "timeouts" not in ended:
        warn(
            f"{source} has no 'timeouts': episodes are cut at 'terminals' alone, "
            "and one that a time limit ended runs on into the next"
        )
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
        if rewarded
        else np.zeros(steps, np.float32),
        offsets=np.concatenate([[0], cuts]).astype(np.int64),
        terminated=terminals[last],
        truncated=timeouts[last],
        ids=np.arange(len(cuts), dtype=np.int64),
        final_observations=final,
        log_probs=_log_probs(columns, steps, actions.ndim == 1, source),
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
    if math.prod(column.shape[1:]) != 1 or column.dtype.kind not in "fiub":
        raise LamoError(
            f"{source}: {key} has shape {column.shape} and type {column.dtype}; it must be one number per step"
        )
    if dtype.kind == "b" and column.dtype.kind == "f":
        flags = read_into(column, np.empty(column.shape[0], np.float32))
        if not np.isfinite(flags).all():
            raise LamoError(f"{source}: {key} holds {flags[~np.isfinite(flags)][0]}, which is neither true nor false")
        return flags != 0
    return read_into(column, np.empty(column.shape[0], dtype))
