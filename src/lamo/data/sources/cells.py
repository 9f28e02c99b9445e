"""Cells of tables -> arrays of all rows: batch by batch, so that a file is never in memory twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lamo.data.sources.arrow import numbers, reading
from lamo.data.sources.columns import FILE, Columns
from lamo.data.sources.flat import as_flags, check_bomb, check_fits, state_width
from lamo.data.sources.rows import Rows
from lamo.errors import LamoError

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass
class Table:
    """One file whose columns are known and whose rows are not yet numbers."""

    name: str
    rows: int
    schema: pa.Schema
    batches: Iterable[Any]
    """Tables or record batches of all columns that are used, in order."""


def gather_rows(tables: Sequence[Table], columns: Columns, source: str, stored: int | None) -> Rows:
    """All rows of the tables as arrays, each table's after those before it.

    `stored`: bytes of the files, where these may be packed. Raises `LamoError` for values that are missing or no
    numbers, lists of different lengths, and more than memory holds.
    """
    files = np.cumsum([0, *(table.rows for table in tables)]).astype(np.int64)
    filler = Filler(columns, whole_actions(tables, columns), source, stored)
    filler.begin(int(files[-1]))
    for number, table, batch, first in batches(tables):
        filler.fill(batch, int(files[number]) + first, table.name, first)
    return filler.rows(files)


def batches(tables: Sequence[Table]) -> Iterator[tuple[int, Table, Any, int]]:
    """All batches with the number of their table, it, and their first row in it. Raises `LamoError` for a table that
    has not as many rows as it says.
    """
    for number, table in enumerate(tables):
        row = 0
        for batch in table.batches:
            if row + batch.num_rows > table.rows:
                raise LamoError(f"{table.name}: holds more than the {table.rows} rows it says; copy it again")
            yield number, table, batch, row
            row += batch.num_rows
        if row != table.rows:
            raise LamoError(f"{table.name}: ends at row {row} of {table.rows}; copy or download it again")


def whole_actions(tables: Sequence[Table], columns: Columns) -> bool:
    """Whether actions are whole numbers in every table."""
    return all(_is_whole(table.schema.field(name).type) for table in tables for name in columns.action)


def _is_whole(kind: Any) -> bool:
    import pyarrow as pa

    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            kind = kind.value_type
        else:
            return pa.types.is_integer(kind) or pa.types.is_boolean(kind)


class Filler:
    """Arrays of some rows, made when the first batch says how wide they are."""

    def __init__(self, columns: Columns, whole: bool, source: str, stored: int | None = None) -> None:
        self.columns, self.total, self.source, self.stored = columns, 0, source, stored
        self.arrays: dict[str, np.ndarray] = {}
        self.kinds = {
            "obs": np.float32,
            "action": np.int64 if whole else np.float32,
            "reward": np.float32,
            "terminated": np.bool_,
            "truncated": np.bool_,
        }
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.names: dict[str, int] = {}  # names of episodes -> their numbers
        self.text: bool | None = None

    def begin(self, total: int) -> None:
        """Make room for so many rows; those filled so far are forgotten, names and widths are not."""
        self.arrays, self.total = {}, total

    def fill(self, batch: Any, row: int, name: str, first: int) -> None:
        """Rows of one batch, the first of them row `row` of all and row `first` of the file `name`."""
        if batch.num_rows == 0:
            return
        span = slice(row, row + batch.num_rows)
        for role in ("obs", "action"):
            parts = [self._part(batch, column, name, first) for column in getattr(self.columns, role)]
            width = sum(part.shape[1] for part in parts)
            with np.errstate(over="ignore"):  # what is too large for float32 becomes inf, which `validate` reports
                np.concatenate(parts, axis=1, out=self._array(role, width)[span], casting="unsafe")
        if (column := self.columns.reward) is not None:
            with np.errstate(over="ignore"):
                self._array("reward")[span] = _single(batch[column], column, name, first)
        for role in ("terminated", "truncated"):
            if (column := getattr(self.columns, role)) is not None:
                values = _single(batch[column], column, name, first)
                self._array(role)[span] = as_flags(values, name, f"column {column!r}")
        if (column := self.columns.time) is not None:
            values = _single(_as_numbers(batch[column], column, name), column, name, first)
            self.kinds.setdefault("time", np.float64 if values.dtype.kind == "f" else np.int64)
            out = self._array("time")
            if out.dtype.kind == "i" and values.dtype.kind == "f":  # a later file has fractions
                out = self.arrays["time"] = out.astype(np.float64)
            out[span] = values
        if (column := self.columns.episode) not in (None, FILE):
            self.kinds["episode"] = np.int64
            self._array("episode")[span] = self._episodes(batch[column], str(column), name, first)

    def rows(self, files: np.ndarray) -> Rows:
        """All of them. Raises `LamoError` for none."""
        if not self.arrays:
            raise LamoError(f"{self.source}: holds no steps; an offline dataset needs at least one transition")
        rewards = self.arrays.get("reward")
        return Rows(
            observations=self.arrays["obs"],
            actions=self.arrays["action"],
            rewards=np.zeros(self.total, np.float32) if rewards is None else rewards,
            files=files,
            episodes=self.arrays.get("episode"),
            names=list(self.names) if self.text else None,
            time=self.arrays.get("time"),
            terminated=self.arrays.get("terminated"),
            truncated=self.arrays.get("truncated"),
        )

    def _array(self, role: str, width: int | None = None) -> np.ndarray:
        """(total,) or (total, width); made at the first call, once its size is known to be sound."""
        if role not in self.arrays:
            size = self.total * (width or 1) * np.dtype(self.kinds[role]).itemsize
            check_fits(size, self.source)
            if self.stored is not None:
                check_bomb(size, self.stored, self.source)
            self.arrays[role] = np.empty((self.total,) if width is None else (self.total, width), self.kinds[role])
        return self.arrays[role]

    def _part(self, batch: Any, column: str, name: str, first: int) -> np.ndarray:
        """(n, width): one column of observations or actions."""
        values = numbers(batch[column], f"{name}: column {column!r}", first)
        state_width(values.shape, values.dtype, name, f"column {column!r}")
        if self.shapes.setdefault(column, values.shape[1:]) != values.shape[1:]:
            raise LamoError(
                f"{name}: column {column!r} has {values.shape[1:]} numbers from row {first} on, "
                f"{self.shapes[column]} before; every row needs as many"
            )
        return values.reshape(len(values), -1)

    def _episodes(self, values: Any, column: str, name: str, first: int) -> np.ndarray:
        """(n,) int64: numbers of episodes; for names, the order in which they come first."""
        import pyarrow as pa

        kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        if self.text is not None and self.text != text:
            raise LamoError(f"{name}: column {column!r} has episodes as text here and as numbers before")
        self.text = text
        if not text:
            found = _single(values, column, name, first)
            if not ((np.abs(found) < 2.0**63) & (found == np.trunc(found))).all():
                raise LamoError(f"{name}: column {column!r} holds fractions; episodes are whole numbers or names")
            return found.astype(np.int64)
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
        coded = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
        places = numbers(coded.indices, f"{name}: column {column!r}", first)
        every = [str(item) for item in coded.dictionary.to_pylist()]
        return np.array([self.names.setdefault(every[place], len(self.names)) for place in places.tolist()], np.int64)


def _single(values: Any, column: str, name: str, first: int) -> np.ndarray:
    """(n,): one number per row."""
    found = numbers(values, f"{name}: column {column!r}", first)
    if found.size != len(found):
        raise LamoError(f"{name}: column {column!r} has {found.shape[1:]} numbers per row; it must have one")
    return found.reshape(-1)


def _as_numbers(values: Any, column: str, name: str) -> Any:
    """Dates and times as whole numbers of their unit; other columns as they are."""
    import pyarrow as pa

    if not pa.types.is_temporal(values.type):
        return values
    with reading(name, f"column {column!r} is no time"):
        return values.cast(pa.int64() if values.type.bit_width == 64 else pa.int32())
