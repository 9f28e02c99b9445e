"""Arrow's columns as numpy arrays: pyarrow is an extra, its files are untrusted, and its nulls are not numbers."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from lamo.errors import LamoError

_LEVELS = 4  # lists within lists


def import_pyarrow(source: str, why: str) -> Any:
    """The module `pyarrow`. Raises `LamoError` with the extra's name where it is not installed."""
    try:
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise LamoError(f'{source}: {why}; `pip install "lamo[tables]"` brings pyarrow, which reads it') from error


@contextmanager
def reading(source: str, what: str) -> Iterator[None]:
    """Whatever pyarrow says of a damaged file becomes a `LamoError`: `source: what (reason)`."""
    try:
        yield
    except (OSError, ValueError, TypeError, LookupError, NotImplementedError, RuntimeError, MemoryError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]  # pyarrow's own derive from these
        raise LamoError(f"{source}: {what} ({reason})") from error


def numbers(column: Any, where: str, first_row: int = 0) -> np.ndarray:
    """A column (Array or ChunkedArray) of n numbers, or of n equally long lists of them -> (n, …) numpy.

    Raises `LamoError` for a type that is no number, a missing value, or lists of different lengths, naming the row.
    `first_row` is where the column begins in its file, for messages.
    """
    import pyarrow as pa

    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks != 1 else column.chunk(0)
    inner: list[int] = []
    rows = count = len(column)
    for _ in range(_LEVELS):
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
        if column.null_count:
            row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False))) * rows // max(count, 1)
            raise LamoError(f"{where} has no value in row {first_row + row}; fill it in or leave the episode out")
        kind = column.type
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
            break
        if pa.types.is_fixed_size_list(kind):
            size = kind.list_size
        else:
            lengths = column.value_lengths().to_numpy(zero_copy_only=False)
            size = int(lengths[0]) if len(lengths) else 0
            if (other := np.flatnonzero(lengths != size)).size:
                row = int(other[0]) * rows // max(count, 1)
                raise LamoError(
                    f"{where} has {lengths[other[0]]} numbers in row {first_row + row}, the rows before {size}"
                )
        inner.append(size)
        count *= size
        column = column.flatten()
    if pa.types.is_dictionary(column.type) and pa.types.is_primitive(column.type.value_type):
        column = column.dictionary_decode()
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.float64())
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type)):
        raise LamoError(f"{where} has type {column.type}, which is not a number")
    return column.to_numpy(zero_copy_only=False).reshape(rows, *inner)
