"""Tables larger than memory: some rows at a time, cut where an episode begins.

batches   [a a a b b] [b c c c] [c c d]
rows      [a a a] [b b b] [c c c c c] [d]        the last episode of a batch waits for the rest of it
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lamo.data.episodes import Episodes
from lamo.data.sources.cells import Filler, Table, batches, whole_actions
from lamo.data.sources.columns import FILE, Columns
from lamo.data.sources.flat import check_bomb
from lamo.data.sources.options import ReadOptions
from lamo.data.sources.rows import Rows, episodes_of_rows, name_of
from lamo.errors import LamoError

_ARRAYS = ("observations", "actions", "rewards", "episodes", "time", "terminated", "truncated")


def table_episodes(
    tables: Sequence[Table],
    columns: Columns,
    source: str,
    stored: int | None,
    metadata: dict[str, Any],
    options: ReadOptions,
    size: int,
) -> Iterator[Episodes]:
    """What `gather_rows` and `episodes_of_rows` make of all rows, for about `size` bytes of them at a time.

    Rows must be in order. Raises `LamoError` as both do.
    """
    seen: set[int] = set()
    count = 0
    for rows in _in_blocks(tables, columns, source, stored, size):
        numbered = rows.episodes is not None and rows.names is None
        if rows.episodes is not None:
            _check_new(rows, seen, source)
        # files as episodes have their numbers by now
        block = episodes_of_rows(rows, source, metadata, options, per_file=False, may_sort=False)
        if not numbered:
            block = replace(block, ids=block.ids + count)
        count += len(block)
        yield block


def _check_new(rows: Rows, seen: set[int], source: str) -> None:
    """Whether these episodes begin here; they are remembered."""
    assert rows.episodes is not None
    starts = np.append(0, np.flatnonzero(np.diff(rows.episodes)) + 1)
    numbers = rows.episodes[starts].tolist()
    for start, number in zip(starts.tolist(), numbers, strict=True):
        if number in seen:
            raise LamoError(
                f"{source}: episode {name_of(rows, start)} goes on at row {rows.first + start}, after others; its rows "
                "must lie together, or name the column that orders them: --columns time=COLUMN"
            )
    seen.update(numbers)


def _in_blocks(tables: Sequence[Table], columns: Columns, source: str, stored: int | None, size: int) -> Iterator[Rows]:
    """Rows of whole episodes. Where each file is one, `episodes` are the files' numbers."""
    filler = Filler(columns, whole_actions(tables, columns), source)
    held: Rows | None = None
    waiting: list[tuple[int, Table, Any, int]] = []
    weight, row, last, checked = 0, 0, 0, stored is None
    total = sum(table.rows for table in tables)
    for number, table, batch, first in _with_end(batches(tables)):
        if table is not None:
            if batch.num_rows:
                waiting.append((number, table, batch, first))
            weight += batch.nbytes
            if weight < size:
                continue
        if waiting:
            same_file, last = waiting[0][0] == last, waiting[-1][0]
            new = _rows(filler, waiting, per_file=columns.episode == FILE)
            if not checked and stored is not None:
                check_bomb(4 * total * (new.observations.shape[1] + new.actions.shape[1]), stored, source)
                checked = True
            held = new if held is None else _joined(held, new, same_file)
            waiting, weight = [], 0
        if held is None:
            continue
        cut = len(held.rewards) if table is None else _last_start(held)
        if cut:
            yield replace(_part(held, 0, cut), first=row)
            held, row = _part(held, cut, len(held.rewards)), row + cut
    if row == 0:
        raise LamoError(f"{source}: holds no steps; an offline dataset needs at least one transition")


def _with_end(found: Iterator[tuple[int, Table, Any, int]]) -> Iterator[tuple[int, Table | None, Any, int]]:
    yield from found
    yield 0, None, None, 0


def _rows(filler: Filler, waiting: list[tuple[int, Any, Any, int]], per_file: bool) -> Rows:
    filler.begin(sum(batch.num_rows for _, _, batch, _ in waiting))
    row, counts = 0, []
    for _, table, batch, first in waiting:
        filler.fill(batch, row, table.name, first)
        row += batch.num_rows
        counts.append(batch.num_rows)
    numbers = np.repeat([number for number, *_ in waiting], counts)
    files = np.concatenate([[0], np.flatnonzero(np.diff(numbers)) + 1, [row]])
    rows = filler.rows(files.astype(np.int64))
    return replace(rows, episodes=numbers, names=None) if per_file else rows


def _last_start(rows: Rows) -> int:
    """Where the last episode begins, which may go on; 0 where it is the only one."""
    if rows.episodes is not None:
        return int(np.append(0, np.flatnonzero(np.diff(rows.episodes)) + 1)[-1])
    ended = np.zeros(len(rows.rewards), bool)
    for flag in (rows.terminated, rows.truncated):
        if flag is not None:
            ended |= flag
    return int(np.append(0, np.flatnonzero(ended) + 1)[-1])


def _joined(one: Rows, two: Rows, same_file: bool) -> Rows:
    """Two one after the other; `same_file`: the second begins in the file in which the first ends."""
    arrays = {
        key: None if getattr(one, key) is None else np.concatenate([getattr(one, key), getattr(two, key)])
        for key in _ARRAYS
    }
    if len(one.rewards) == 0:
        return two
    files = np.concatenate([one.files[:-1] if same_file else one.files, two.files[1:] + len(one.rewards)])
    return replace(two, **arrays, files=files)


def _part(rows: Rows, start: int, stop: int) -> Rows:
    out = rows.take(slice(start, stop))
    return replace(out, files=np.unique(np.clip(rows.files, start, stop)) - start)
