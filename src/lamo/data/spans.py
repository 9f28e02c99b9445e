"""Rows that lie apart, read as one array: several stores end to end, or some episodes of one. Nothing is copied.

    stores        a: a0 a1 a2 a3 a4 a5         b: b0 b1 b2 b3
    spans                 [a2 a3] [a4 a5]        [b0 b1 b2]        whole episodes
    read as          0  1    2  3    4  5  6                       which 0 0 1, starts 2 4 0, bounds 0 2 4 7

Arrays of one `Episodes` mostly share a `Layout`, so rows are located once for all of them (`take_rows`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np


class Layout:
    """P spans of rows of some arrays, end to end; spans that continue each other are one."""

    def __init__(self, which: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> None:
        """`which` (P,): the array of each span; `starts` (P,): its first row there; `lengths` (P,): its rows."""
        ends = starts + lengths
        goes_on = (which[1:] == which[:-1]) & (starts[1:] == ends[:-1])
        first = np.flatnonzero(np.append(True, ~goes_on))
        self.which, self.starts = which[first].astype(np.int64), starts[first].astype(np.int64)
        self.bounds = np.append(np.append(0, np.cumsum(lengths))[first], lengths.sum()).astype(np.int64)  # (P + 1,)
        self.shift = self.starts - self.bounds[:-1]  # (P,): from a row of the whole to the row of its array

    def __len__(self) -> int:
        """Rows in all."""
        return int(self.bounds[-1])

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which array each row lies in, and its row there; both of the shape of `rows`."""
        span = self.bounds.searchsorted(rows, side="right") - 1
        return self.which[span], rows + self.shift[span]

    def groups(self, rows: np.ndarray, within: np.ndarray | None = None) -> list[Group]:
        """Rows (B, …) by array; `within` (B,): a row of the span in which all of `rows[b]` lie."""
        if within is None:
            assert rows.ndim == 1
            return grouped(*self.locate(rows))
        span = self.bounds.searchsorted(within, side="right") - 1
        return grouped(self.which[span], rows + self.shift[span].reshape(-1, *(1,) * (rows.ndim - 1)))

    def chosen(self, starts: np.ndarray, lengths: np.ndarray) -> Layout:
        """Spans of these spans, none of which may reach over an end of one."""
        which, base = self.locate(starts)
        return Layout(which, base, lengths)

    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, slice]]:
        """The arrays and rows that rows `start` … `stop` - 1 lie in, in order."""
        span = int(self.bounds.searchsorted(start, side="right")) - 1
        while start < stop:
            end = min(stop, int(self.bounds[span + 1]))
            shift = int(self.shift[span])
            yield int(self.which[span]), slice(start + shift, end + shift)
            start, span = end, span + 1


class Spans:
    """What is read of an array, for rows that lie apart: shape, type, rows by slice and by number. No arithmetic."""

    def __init__(self, arrays: Sequence[np.ndarray], layout: Layout) -> None:
        """`arrays`: of one type and of one shape but for the first axis."""
        self.arrays, self.layout = tuple(arrays), layout
        self.shape: tuple[int, ...] = (len(layout), *arrays[0].shape[1:])
        self.dtype, self.ndim = arrays[0].dtype, arrays[0].ndim

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes that a copy would have."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __getitem__(self, index: Any) -> Any:
        """Rows by number, slice or array of numbers; what follows the first axis is numpy's."""
        if isinstance(index, tuple):
            rows, *others = index
            found = self[rows]
            return found[tuple(others)] if isinstance(rows, int | np.integer) else found[(slice(None), *others)]
        if isinstance(index, int | np.integer):
            at = int(index) + (len(self) if index < 0 else 0)
            if not 0 <= at < len(self):
                raise IndexError(f"row {index} of {len(self)}")
            array, rows = next(self.layout.pieces(at, at + 1))
            return self.arrays[array][rows.start]
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                found = [self.arrays[array][rows] for array, rows in self.layout.pieces(start, stop)]
                return found[0] if len(found) == 1 else np.concatenate(found or [self.arrays[0][:0]])
            return self.take(np.arange(start, stop, step))
        rows = np.asarray(index)
        if rows.dtype == np.bool_:
            return self.take(np.flatnonzero(rows))
        return self.take(np.where(rows < 0, rows + len(self), rows))

    def take(self, rows: np.ndarray, axis: int = 0) -> np.ndarray:
        """Fresh rows by number, from 0 on; (…,) -> (…, *shape[1:]). Only of the first axis."""
        assert axis == 0
        rows = np.asarray(rows)
        flat = rows.reshape(-1)
        return gather(self.arrays, self.layout.groups(flat), flat.shape).reshape(*rows.shape, *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of it, in memory."""
        return np.asarray(self[:], dtype)


def as_array(spans: Spans) -> np.ndarray:
    """Spans where an array is declared: `Episodes` and what reads it use no more of an array than these have."""
    return cast(np.ndarray, spans)


def chooser(starts: np.ndarray, lengths: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """What gives of an array the rows of these spans, (P,) each, without a copy: arrays of one layout, or of none,
    share the new one.
    """
    layouts: dict[Layout | None, Layout] = {None: Layout(np.zeros(len(starts), np.int64), starts, lengths)}

    def rows(value: Any) -> np.ndarray:
        arrays, layout = _laid(value)
        if layout not in layouts:
            assert layout is not None
            layouts[layout] = layout.chosen(starts, lengths)
        return as_array(Spans(arrays, layouts[layout]))

    return rows


def joiner() -> Callable[[Sequence[np.ndarray]], np.ndarray]:
    """What puts arrays end to end without a copy: those of equal layouts share the new one."""
    layouts: dict[tuple[Layout | None, ...], Layout] = {}

    def rows(values: Sequence[Any]) -> np.ndarray:
        parts = [_laid(value) for value in values]
        key = tuple(layout for _, layout in parts)
        if key not in layouts:
            layouts[key] = _end_to_end([len(value) for value in values], parts)
        return as_array(Spans([array for arrays, _ in parts for array in arrays], layouts[key]))

    return rows


def _laid(value: Any) -> tuple[tuple[np.ndarray, ...], Layout | None]:
    """The arrays that hold the rows, and where there; None: one array does, from its first row on."""
    return (value.arrays, value.layout) if isinstance(value, Spans) else ((value,), None)


def _end_to_end(counts: Sequence[int], parts: Sequence[tuple[tuple[np.ndarray, ...], Layout | None]]) -> Layout:
    which, starts, lengths, base = [], [], [], 0
    for count, (arrays, layout) in zip(counts, parts, strict=True):
        if layout is None:
            layout = Layout(np.zeros(1, np.int64), np.zeros(1, np.int64), np.array([count]))
        which.append(layout.which + base)
        starts.append(layout.starts)
        lengths.append(np.diff(layout.bounds))
        base += len(arrays)
    return Layout(*map(np.concatenate, (which, starts, lengths)))


Group = tuple[int, np.ndarray | None, np.ndarray]
"""An array's number, which of the asked rows lie in it (None: all), and their rows there."""


def grouped(which: np.ndarray, rows: np.ndarray) -> list[Group]:
    """Rows (B, …) by the array that `which` (B,) names, each array once."""
    if len(which) == 0:
        return [(0, None, rows)]
    lowest, highest = int(which.min()), int(which.max())
    if lowest == highest:
        return [(lowest, None, rows)]
    order = which.argsort(kind="stable")
    cuts = np.flatnonzero(np.diff(which[order])) + 1
    return [(int(which[here[0]]), here, rows[here]) for here in np.split(order, cuts)]


def gather(arrays: Sequence[np.ndarray], groups: Sequence[Group], shape: tuple[int, ...]) -> np.ndarray:
    """(*shape, …): the rows of the groups, one `take` for each array."""
    first, everywhere, rows = groups[0]
    if everywhere is None:
        return arrays[first].take(rows, axis=0)
    out = np.empty((*shape, *arrays[0].shape[1:]), arrays[0].dtype)
    flat = out.reshape(shape[0], -1)  # one copy for each of B, however many rows it has
    for each, here, rows in groups:
        flat[here] = arrays[each].take(rows, axis=0).reshape(len(rows), -1)
    return out


def take_rows(arrays: Sequence[np.ndarray], rows: np.ndarray, within: np.ndarray | None = None) -> list[np.ndarray]:
    """Fresh rows (B, …) of arrays of one `Episodes`, located once where these are spans.

    `within` (B,): a row of the episode in which all of `rows[b]` lie, which makes locating cheaper.
    """
    first = _any(arrays[0])
    if not isinstance(first, Spans):
        return [array.take(rows, axis=0) for array in arrays]
    layout = first.layout
    groups = layout.groups(rows, within)
    out = []
    for each in map(_any, arrays):
        shared = isinstance(each, Spans) and each.layout is layout
        out.append(gather(each.arrays, groups, rows.shape) if shared else each.take(rows, axis=0))
    return out


def _any(value: Any) -> Any:
    return value


def is_mapped(array: Any) -> bool:
    """Whether the values lie in a file, and are in memory only while they are looked at."""
    if isinstance(array, Spans):
        return True
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return False
