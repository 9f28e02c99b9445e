"""Arrow's columns as numpy arrays: pyarrow is an extra, its files are untrusted, and its nulls are not numbers."""

from __future__ import annotations

import importlib
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lamo.data.sources.flat import check_bomb, check_fits
from lamo.data.sources.parquet_footer import chunks
from lamo.errors import LamoError

_LEVELS = 4  # lists within lists
_BUFFER = 1 << 18  # bytes of a column that are read at a time
_DICTIONARY, _BATCH = 2, 3  # kinds of messages in Arrow's IPC


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


@contextmanager
def open_parquet(path: Path, wanted: Sequence[str], name: str, *, held: bool = True) -> Iterator[Any]:
    """A `ParquetFile` of which the columns `wanted`, of numbers or text, may be read.

    Runs of one value take no room in Parquet, so the file's own counts are held against its size first; text stays
    coded, for one long text may be repeated as well. `held`: all of it is to be in memory at once. Raises `LamoError`
    for a bomb and for what is no Parquet.
    """
    import pyarrow.parquet as parquet

    with reading(name, "not a whole Parquet file"):
        about = parquet.read_metadata(path)
        leaves = [about.schema.column(number) for number in range(about.num_columns)]
        used = [leaf for leaf in leaves if any(f"{leaf.path}.".startswith(f"{key}.") for key in wanted)]
        paths = {leaf.path for leaf in used}
        told = [chunk for chunk in chunks(path) if chunk.path in paths]
        size = max(8 * sum(chunk.values for chunk in told), sum(chunk.size for chunk in told))
    if held:
        check_fits(size, name)
    check_bomb(size, path.stat().st_size, name)
    text = [leaf.path for leaf in used if leaf.physical_type == "BYTE_ARRAY"]
    with reading(name, "not a whole Parquet file"):
        file = parquet.ParquetFile(
            path,
            metadata=about,
            page_checksum_verification=True,
            read_dictionary=text,
            pre_buffer=False,  # pages as they are needed: a file may be one group of rows
            buffer_size=_BUFFER,
        )
    with file:
        yield file


def parquet_names(path: Path, name: str) -> list[str]:
    """The names of a file's columns."""
    import pyarrow.parquet as parquet

    with reading(name, "not a whole Parquet file"):
        return list(parquet.read_schema(path).names)


def read_ipc(path: Path, where: str) -> Any:
    """The table in an Arrow IPC file, whose values stay in the file. Raises `LamoError` for one that is compressed:
    the size of its arrays is not known before they are there.
    """
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        whole = file.read_buffer()
    batches = pa.ipc.open_file(whole).num_record_batches
    stream = whole.slice(8)  # what follows the magic is a stream; of the file's own index only the count is used
    for message in pa.ipc.MessageReader.open_stream(stream):
        if _is_packed(message.metadata.to_pybytes()):
            raise LamoError(f"{where} is compressed, which Minari does not do; write it again without compression")
    table = pa.Table.from_batches(found := list(reader := pa.ipc.open_stream(stream)), reader.schema)
    if len(found) != batches:
        raise LamoError(f"{where} holds {len(found)} of {batches} batches; copy or download it again")
    return table


def _is_packed(message: bytes) -> bool:
    """Whether the buffers of an IPC message are compressed. Source: Arrow's `Message.fbs`, in FlatBuffers' layout."""

    def field(table: int, number: int) -> int | None:
        vtable = table - struct.unpack_from("<i", message, table)[0]
        place = 4 + 2 * number
        size = struct.unpack_from("<H", message, vtable)[0]
        offset = struct.unpack_from("<H", message, vtable + place)[0] if place < size else 0
        return table + offset if offset else None

    def inner(table: int, number: int) -> int:
        at = field(table, number)
        if at is None:
            raise ValueError("a message without its header")
        return at + struct.unpack_from("<I", message, at)[0]

    try:
        root = struct.unpack_from("<I", message, 0)[0]
        kind = message[field(root, 1) or len(message)]
        if kind not in (_DICTIONARY, _BATCH):
            return False
        batch = inner(root, 2)
        return field(inner(batch, 1) if kind == _DICTIONARY else batch, 3) is not None
    except (struct.error, IndexError) as error:
        raise ValueError("a message that is not whole") from error


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
        if pa.types.is_null(column.type) and count:  # takes no room, whatever its length
            raise LamoError(f"{where} has no value in row {first_row}; fill it in or leave the episode out")
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
