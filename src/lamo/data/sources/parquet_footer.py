"""How much a Parquet file says that its columns hold, read from its footer.

pyarrow says the same, but a footer that contradicts itself ends the whole process there: its accessor of a column's
metadata lets C++ exceptions through. What the file's own counts are needed for comes before anything is read: a run of
one value takes no room in Parquet. Source: Apache Parquet's `parquet.thrift`; Thrift's compact protocol.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, NamedTuple

_MAGIC = b"PAR1"
_DEPTH = 32  # structs within structs; those of Parquet are fewer than ten
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)

Wanted = dict[int, Any]
"""Numbers of a struct's fields that are kept, each with those of the structs in it."""
# FileMetaData.row_groups[].columns[].meta_data: path_in_schema, num_values, total_uncompressed_size
_ROW_GROUPS, _COLUMNS, _META, _PATH, _VALUES, _SIZE = 4, 1, 3, 3, 5, 6
_WANTED: Wanted = {_ROW_GROUPS: {_COLUMNS: {_META: {_PATH: {}, _VALUES: {}, _SIZE: {}}}}}


class Chunk(NamedTuple):
    """A column's part of one group of rows, as the footer tells it."""

    path: str
    """Names from the outermost on, with dots."""
    values: int
    size: int
    """Bytes once unpacked."""


def chunks(path: Path) -> list[Chunk]:
    """Every chunk that the footer of a Parquet file names. Raises `ValueError` where it is not whole."""
    with path.open("rb") as file:
        length = file.seek(0, 2)
        file.seek(max(0, length - 8))
        size, magic = struct.unpack("<I4s", file.read(8).rjust(8, b"\0"))
        if magic != _MAGIC or size > length - 12:
            raise ValueError("no footer at its end")
        file.seek(length - 8 - size)
        footer = _Compact(file.read(size))
    try:
        groups = footer.struct(_WANTED).get(_ROW_GROUPS, [])
        found = [column[_META] for group in groups for column in group[_COLUMNS]]
        return [Chunk(b".".join(each[_PATH]).decode(), each[_VALUES], each[_SIZE]) for each in found]
    except (LookupError, TypeError, AttributeError, struct.error) as error:
        raise ValueError("its footer is damaged") from error


class _Compact:
    """Thrift's compact protocol. Reads beyond the end raise `IndexError` or `struct.error`."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.depth = data, 0, 0

    def struct(self, wanted: Wanted) -> dict[int, Any]:
        """Field number -> value, of those wanted."""
        out: dict[int, Any] = {}
        number = 0
        self.depth += 1
        if self.depth > _DEPTH:
            raise ValueError("structs within structs without end")
        while header := self._byte():
            kind, step = header & 15, header >> 4
            number = number + step if step else self._integer()
            if number in wanted:
                out[number] = self._value(kind, wanted[number])
            else:
                self._skip(kind)
        self.depth -= 1
        return out

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    def _integer(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)

    def _items(self) -> tuple[int, int]:
        """(kind, count) of a list; each item has at least a byte."""
        header = self._byte()
        kind, count = header & 15, header >> 4
        count = self._unsigned() if count == 15 else count
        if count > len(self.data) - self.at:
            raise ValueError("a list longer than the footer")
        return kind, count

    def _bytes(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise ValueError("text longer than the footer")
        self.at += count
        return self.data[self.at - count : self.at]

    def _value(self, kind: int, wanted: Wanted) -> Any:
        if kind in (_I16, _I32, _I64):
            return self._integer()
        if kind == _BINARY:
            return self._bytes(self._unsigned())
        if kind == _STRUCT:
            return self.struct(wanted)
        if kind in (_LIST, _SET):
            kind, count = self._items()
            return [self._value(kind, wanted) for _ in range(count)]
        raise ValueError("a field of an unexpected type")

    def _skip(self, kind: int, *, inside: bool = False) -> None:
        if kind in (_TRUE, _FALSE):
            self.at += inside  # a field has its value in the header
        elif kind == _BYTE:
            self.at += 1
        elif kind in (_I16, _I32, _I64):
            self._unsigned()
        elif kind == _DOUBLE:
            self.at += 8
        elif kind == _BINARY:
            self._bytes(self._unsigned())
        elif kind in (_LIST, _SET):
            kind, count = self._items()
            for _ in range(count):
                self._skip(kind, inside=True)
        elif kind == _MAP:
            count = self._unsigned()
            kinds = self._byte() if count else 0
            if 2 * count > len(self.data) - self.at:
                raise ValueError("a map longer than the footer")
            for _ in range(count):
                self._skip(kinds >> 4, inside=True)
                self._skip(kinds & 15, inside=True)
        elif kind == _STRUCT:
            self.struct({})
        else:
            raise ValueError("a field of an unknown type")
