"""Rows of a table -> Episodes: which rows belong together, in which order, and what must not be.

episode  a a a b b c c c     rows of one episode lie together, their time rises: nothing is moved
time     0 1 2 0 1 0 1 2
episode  a c a b c a b c     otherwise they are sorted, where the user named the column of time; else it is an error
time     0 1 2 1 0 1 0 2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lamo.data.episodes import Episodes
from lamo.data.sources.options import ReadOptions, UnstatedActions, as_kind
from lamo.errors import LamoError, warn

NAMES_KEPT = 1000
"""Names of episodes that go into the metadata; of more, none."""


@dataclass(frozen=True)
class Rows:
    """N rows as they lie in the files, one after the other."""

    observations: np.ndarray
    """(N, S) float32."""
    actions: np.ndarray
    """(N, A) float32 or int64."""
    rewards: np.ndarray
    """(N,) float32."""
    files: np.ndarray
    """(F + 1,) int64: where each file begins, and N."""
    episodes: np.ndarray | None = None
    """(N,) int64: numbers of the episodes, or positions in `names`."""
    names: Sequence[str] | None = None
    """Names of the episodes, where they are text."""
    time: np.ndarray | None = None
    """(N,) numbers that rise within an episode."""
    terminated: np.ndarray | None = None
    """(N,) bool."""
    truncated: np.ndarray | None = None
    """(N,) bool."""
    first: int = 0
    """The number of the first row, for messages."""

    def take(self, order: np.ndarray | slice) -> Rows:
        """The rows in another order, or some of them."""
        arrays = ("observations", "actions", "rewards", "episodes", "time", "terminated", "truncated")
        return replace(self, **{key: None if (value := getattr(self, key)) is None else value[order] for key in arrays})


def episodes_of_rows(
    rows: Rows, source: str, metadata: dict[str, Any], options: ReadOptions, *, per_file: bool, may_sort: bool
) -> Episodes:
    """Cut rows into episodes: at the files (`per_file`), else at changes of `rows.episodes`, else after each row that
    is terminated or truncated.

    `may_sort`: rows that are not in order are sorted by episode and time, with a warning. Raises `LamoError` for no
    rows, rows that nothing cuts, a time that is not a number, stands still or runs backwards, an episode in several
    pieces, and `UnstatedActions` for integers without `options.actions`.
    """
    steps = len(rows.rewards)
    if steps == 0:
        raise LamoError(f"{source}: holds no steps; an offline dataset needs at least one transition")
    for key in ("observations", "actions"):
        if getattr(rows, key).shape[1] == 0:
            raise LamoError(f"{source}: {key} have no numbers in a step")
    if rows.time is not None and rows.time.dtype.kind == "f" and not np.isfinite(rows.time).all():
        row = int(np.argmax(~np.isfinite(rows.time)))
        raise LamoError(
            f"{source}: time holds {rows.time[row]} at [{rows.first + row}]; it must be a number in every row"
        )
    if per_file:
        rows = replace(rows, episodes=np.repeat(np.arange(len(rows.files) - 1), np.diff(rows.files)), names=None)
    if rows.episodes is not None:
        rows = _in_order(rows, source, may_sort)
        assert rows.episodes is not None
        starts = _starts(rows.episodes)
    else:
        if rows.terminated is None and rows.truncated is None:
            raise LamoError(
                f"{source}: no column says where episodes end; name one with --columns episode=COLUMN or "
                "terminated=COLUMN, or give --columns episode=file if each file is one episode"
            )
        ends = np.zeros(steps, bool)
        for flag in (rows.terminated, rows.truncated):
            ends |= flag if flag is not None else False
        starts = np.concatenate([[0], np.flatnonzero(ends[:-1]) + 1])
        if rows.time is not None:
            _check_time(rows, starts, source, "name the column of episodes, if the rows are to be sorted")
    return _build(rows, starts.astype(np.int64), source, metadata, options)


def _in_order(rows: Rows, source: str, may_sort: bool) -> Rows:
    """The rows, an episode's together and by time."""
    assert rows.episodes is not None
    starts = _starts(rows.episodes)
    firsts, counts = np.unique(rows.episodes[starts], return_counts=True)
    torn = firsts[counts > 1]
    rising = rows.time is None or _falls(rows.time, starts).size == 0
    if rows.time is None:  # an episode that two files share may be two that are numbered alike
        inner = rows.files[1:-1][(rows.files[1:-1] > 0) & (rows.files[1:-1] < len(rows.episodes))]
        shared = inner[rows.episodes[inner] == rows.episodes[inner - 1]]
        if shared.size:
            raise LamoError(
                f"{source}: two files hold episode {name_of(rows, int(shared[0]))}; if each file is one episode, give "
                "--columns episode=file, else say the order with time=COLUMN"
            )
    if torn.size == 0 and rising:
        return rows
    if rows.time is not None and may_sort:
        order = np.lexsort((rows.time, rows.episodes))
        rows = rows.take(order)
        assert rows.episodes is not None and rows.time is not None
        same = (np.diff(rows.episodes) == 0) & (np.diff(rows.time) == 0)
        if same.any():
            row = int(np.argmax(same))
            raise LamoError(
                f"{source}: two rows of episode {name_of(rows, row)} have time {rows.time[row]}; "
                "episodes that are numbered alike, rows that are there twice, or a time coarser than the rows, which "
                "are in order without it: --columns time=none"
            )
        warn(f"{source}: rows were not in order; they are sorted by episode and time")
        return rows
    if torn.size:
        again = int(starts[np.flatnonzero(rows.episodes[starts] == torn[0])[1]])
        raise LamoError(
            f"{source}: episode {name_of(rows, again)} goes on at row {rows.first + again}, after others; its rows "
            "must lie together, or name the column that orders them: --columns time=COLUMN"
        )
    advice = "if the rows are to be sorted by it, name it: --columns time=COLUMN; if they are in order as they lie, "
    _check_time(rows, starts, source, f"{advice}leave it out: time=none")
    return rows


def _starts(episodes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.flatnonzero(episodes[1:] != episodes[:-1]) + 1])


def name_of(rows: Rows, row: int) -> str:
    """The number or name, for messages, of the episode that a row belongs to."""
    assert rows.episodes is not None
    number = int(rows.episodes[row])
    return repr(rows.names[number]) if rows.names is not None else str(number)


def _falls(time: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Rows whose time does not rise above that of the row before, in the same episode."""
    falls = np.flatnonzero(time[1:] <= time[:-1]) + 1  # a comparison, not a difference: unsigned times wrap
    return np.setdiff1d(falls, starts)


def _check_time(rows: Rows, starts: np.ndarray, source: str, advice: str) -> None:
    time = rows.time
    if time is not None and (falls := _falls(time, starts)).size:
        row = int(falls[0])
        raise LamoError(
            f"{source}: time goes from {time[row - 1]} to {time[row]} at row {rows.first + row}, within an episode; "
            f"{advice}"
        )


def _build(rows: Rows, starts: np.ndarray, source: str, metadata: dict[str, Any], options: ReadOptions) -> Episodes:
    steps = len(rows.rewards)
    last = np.append(starts[1:], steps) - 1
    flags = {key: getattr(rows, key) for key in ("terminated", "truncated")}
    inside = sum(
        int(np.count_nonzero(flag)) - int(np.count_nonzero(flag[last])) for flag in flags.values() if flag is not None
    )
    ends = {key: np.zeros(len(starts), bool) if flag is None else flag[last] for key, flag in flags.items()}
    ids = np.arange(len(starts), dtype=np.int64)
    if rows.episodes is not None and rows.names is None:
        ids = rows.episodes[starts].astype(np.int64)
    elif rows.episodes is not None and rows.names is not None and len(starts) <= NAMES_KEPT:
        metadata = {**metadata, "episode_names": [str(rows.names[n])[:200] for n in rows.episodes[starts]]}
    return Episodes(
        observations=rows.observations,
        actions=_stated(rows.actions, source, options, metadata.get("env")),
        rewards=rows.rewards,
        offsets=np.append(starts, steps).astype(np.int64),
        terminated=ends["terminated"],
        truncated=ends["truncated"],
        ids=ids,
        final_observations=None,
        metadata={**metadata, "ends_inside": inside},
    ).validate(first=rows.first)


def _stated(actions: np.ndarray, source: str, options: ReadOptions, env: str | None) -> np.ndarray:
    """Actions of the kind that the user, or the file, says; integers of which neither speaks are a question."""
    if actions.dtype.kind != "f" and options.actions is None:
        raise UnstatedActions(source, env, f" from {int(actions.min())} to {int(actions.max())}")
    return as_kind(actions, options.actions, source)
