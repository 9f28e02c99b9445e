"""Arrays of the same name in many groups of an HDF5 file, found together and read past HDF5's library.

The library takes longer to open an array than an episode's rows take to read. Where arrays are plain, as h5py writes
them by default (contiguous or in chunks, no filters), their headers are alike but for sizes and addresses: one is
understood, the others are compared with it byte by byte, and rows are copied from where they lie. Of whatever is not
exactly so there is no table, and the library, which says what is wrong, is asked instead.

Source: HDF5 file format specification 3.0, version 1 of object headers (IV.A.1.a) and B-trees (III.A.1), and the
messages of dataspace, datatype and layout (IV.A.2.b, d, i).
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import h5py
import numpy as np
from h5py import h5g  # pyright: ignore[reportAttributeAccessIssue]  (no stubs)

from lamo.data.sources.hdf5 import H5Array, array, plain_types
from lamo.errors import LamoError

FEWEST = 16
"""Groups from which a table is worth its making."""
MOST_CHUNKS = 1 << 18
"""Of a table: what is known of them takes some tens of MiB. Files of more, of some gigabytes, are the library's."""
_READ_THROUGH = 1 << 31
"""Bytes up to which a file is; what is much more may not stay in memory."""
_MOST_HEADER, _MOST_RANK, _LARGE = 4096, 4, 1 << 40
_NIL, _SPACE, _TYPE, _FILL, _LAYOUT, _MODIFIED = 0, 1, 3, 5, 8, 18
_CONTIGUOUS, _CHUNKED = 1, 2


def tables(file: h5py.File, groups: Sequence[str], keys: Sequence[str], source: str) -> dict[str, Table]:
    """{key: its arrays in all of `groups`} for those of `keys` that are plain arrays in each of them."""
    plan = file.id.get_create_plist()
    if len(groups) < FEWEST or plan.get_userblock() or plan.get_sizes() != (8, 8):
        return {}
    _read_through(file.filename)
    addresses: dict[str, list[int]] = {key: [] for key in keys}
    for name in groups:
        if not _is(file.id, name, h5g.GROUP):
            return {}
        group = h5g.open(file.id, name.encode())
        for key in list(addresses):
            address = _is(group, key, h5g.DATASET)
            if address is None:
                del addresses[key]
            else:
                addresses[key].append(address)
    try:
        raw = np.memmap(file.filename, np.uint8, "r")
    except OSError:  # there is less room for addresses than the file has bytes
        return {}
    found: dict[str, Table] = {}
    for key, places in addresses.items():
        try:
            first = array(h5py.Group(h5g.open(file.id, groups[0].encode())), key, source)
        except LamoError:  # which is said when it is asked for
            continue
        if isinstance(first, H5Array) and first.dtype in plain_types():
            table = _understood(np.asarray(raw), np.array(places, np.int64), first.dtype)
            if table is not None and tuple(table.shape[0]) == tuple(first.shape):
                found[key] = table
    return found


def _read_through(path: str) -> None:
    """Bring a file into the system's cache in the order in which it lies on the disk.

    Headers are all over it: looked up one by one on a file that was not read before, they take twice as long as this
    pass and the look-ups together; where it was, the pass takes a tenth of them.
    """
    with open(path, "rb", buffering=0) as file:
        if os.fstat(file.fileno()).st_size <= _READ_THROUGH:
            block = bytearray(1 << 20)
            while file.readinto(block):
                pass


def _is(group: h5g.GroupID, name: str, kind: int) -> int | None:
    """The address of what lies under a name itself, no link followed, if it is of that kind."""
    try:
        found = h5g.get_objinfo(group, name.encode("utf-8", "surrogateescape"), follow_link=False)
    except (KeyError, ValueError, RuntimeError, OSError):
        return None
    return found.objno[0] | found.objno[1] << 32 if found.type == kind else None


class Table:
    """E arrays: array i has `shape[i]`, and its pieces are those from `first[i]` to `first[i + 1]`."""

    def __init__(
        self, raw: np.ndarray, dtype: np.dtype, shape: np.ndarray, chunk: np.ndarray, first: np.ndarray,
        origin: np.ndarray, address: np.ndarray,
    ) -> None:  # fmt: skip
        self.raw, self.dtype = raw, dtype
        self.shape, self.chunk = shape, chunk
        """(E, rank) each: of the whole, and of its pieces."""
        self.first = first
        self.origin, self.address = origin, address
        """(P, rank) and (P,): where a piece begins in its array, and in the file."""

    def __getitem__(self, i: int) -> TableArray:
        return TableArray(self, i)


class TableArray:
    """One of them, not yet read."""

    def __init__(self, table: Table, i: int) -> None:
        self.table, self.i = table, i
        self.shape: tuple[int, ...] = tuple(table.shape[i].tolist())
        self.dtype = table.dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        table, chunk = self.table, self.table.chunk[self.i].tolist()
        out = np.empty(self.shape, self.dtype)
        size = math.prod(chunk) * self.dtype.itemsize
        pieces = slice(table.first[self.i], table.first[self.i + 1])
        for origin, address in zip(table.origin[pieces].tolist(), table.address[pieces].tolist(), strict=True):
            block = table.raw[address : address + size].view(self.dtype).reshape(chunk)
            place = tuple(slice(a, min(a + n, end)) for a, n, end in zip(origin, chunk, self.shape, strict=True))
            out[place] = block[tuple(slice(0, each.stop - each.start) for each in place)]
        return out if rows.indices(self.shape[0]) == (0, self.shape[0], 1) else out[rows]


def _gather(raw: np.ndarray, places: np.ndarray, length: int) -> np.ndarray | None:
    """(n, length) uint8: so many bytes from each of the places (n,); None where one lies outside the file."""
    if len(places) and (places.min() < 0 or places.max() > len(raw) - length):
        return None
    return raw[places[:, None] + np.arange(length)]


def _number(blocks: np.ndarray, start: int, size: int) -> np.ndarray:
    """(n,) int64: the unsigned number of `size` bytes that begins at `start` in each block; a huge one is negative."""
    return np.ascontiguousarray(blocks[:, start : start + size]).view(f"<u{size}")[:, 0].astype(np.int64)


def _messages(head: np.ndarray) -> dict[int, tuple[int, int]] | None:
    """{type: (start, size)} of the messages in an object header; None for one that is not plain."""
    found: dict[int, tuple[int, int]] = {}
    count, at = int(head[2]) | int(head[3]) << 8, 16
    for _ in range(count):
        if at + 8 > len(head):
            return None
        kind, size, flags = (
            int(head[at]) | int(head[at + 1]) << 8,
            int(head[at + 2]) | int(head[at + 3]) << 8,
            head[at + 4],
        )
        at += 8
        known = kind in (_NIL, _SPACE, _TYPE, _FILL, _LAYOUT, _MODIFIED)
        if not known or flags > 1 or at + size > len(head) or (kind != _NIL and kind in found):
            return None
        found[kind] = at, size
        at += size
    return found if {_SPACE, _TYPE, _LAYOUT} <= found.keys() else None


def _understood(raw: np.ndarray, places: np.ndarray, dtype: np.dtype) -> Table | None:
    """The table of arrays whose object headers are at `places` (E,), None where they are not plain and alike."""
    start = _gather(raw, places[:1], 16)
    if start is None or start[0, 0] != 1:
        return None
    length = 16 + int(_number(start, 8, 4)[0])
    blocks = _gather(raw, places, length) if 16 < length <= _MOST_HEADER else None
    messages = None if blocks is None else _messages(blocks[0])
    if blocks is None or messages is None:
        return None
    (space, space_size), (layout, layout_size) = messages[_SPACE], messages[_LAYOUT]
    head = blocks[0]
    rank, dims = int(head[space + 1]), space + (8 if head[space] == 1 else 4)
    if head[space] not in (1, 2) or not 1 <= rank <= _MOST_RANK or dims + 8 * rank > space + space_size:
        return None
    if head[space] == 2 and head[space + 3] != 1:
        return None
    chunked = head[layout + 1] == _CHUNKED
    needed = 3 + 8 + 4 * (rank + 1) if chunked else 2 + 16
    if head[layout] != 3 or head[layout + 1] not in (_CONTIGUOUS, _CHUNKED) or layout_size < needed:
        return None
    may_differ = np.zeros(length, bool)
    may_differ[dims : space + space_size] = True
    may_differ[layout + (3 if chunked else 2) : layout + needed] = True
    if _MODIFIED in messages:
        at, size = messages[_MODIFIED]
        may_differ[at : at + size] = True
    if (blocks[:, ~may_differ] != head[~may_differ]).any():
        return None
    shape = np.stack([_number(blocks, dims + 8 * i, 8) for i in range(rank)], 1)
    if (shape < 0).any() or (shape > _LARGE).any() or (shape.astype(float).prod(1) * dtype.itemsize > len(raw)).any():
        return None
    if chunked:
        if head[layout + 2] != rank + 1:
            return None
        sizes = np.stack([_number(blocks, layout + 11 + 4 * i, 4) for i in range(rank + 1)], 1)
        return _in_chunks(raw, dtype, shape, sizes, _number(blocks, layout + 3, 8))
    address, size = _number(blocks, layout + 2, 8), _number(blocks, layout + 10, 8)
    full = shape.prod(1) > 0
    if (size != shape.prod(1) * dtype.itemsize).any() or not _inside(raw, address[full], size[full]):
        return None
    first = np.append(0, np.cumsum(full))
    return Table(raw, dtype, shape, shape, first, np.zeros((int(full.sum()), rank), np.int64), address[full])


def _inside(raw: np.ndarray, address: np.ndarray, size: np.ndarray | int) -> bool:
    return bool((address >= 0).all() and (address <= len(raw) - size).all())


def _in_chunks(
    raw: np.ndarray, dtype: np.dtype, shape: np.ndarray, sizes: np.ndarray, trees: np.ndarray
) -> Table | None:
    """Of arrays whose chunks are all there and listed in one node: `sizes` (E, rank + 1), the last that of an element;
    `trees` (E,) the addresses of the nodes."""
    rank, chunk = shape.shape[1], sizes[:, :-1]
    if (sizes < 1).any() or (sizes[:, -1] != dtype.itemsize).any():
        return None
    nominal = chunk.astype(float).prod(1) * dtype.itemsize
    if (nominal > len(raw)).any():
        return None
    grid = -(-shape // chunk)  # (E, rank)
    counts, total = grid.prod(1), int(grid.prod(1).sum())
    if total > MOST_CHUNKS:
        return None
    first = np.append(0, np.cumsum(counts))
    origin, address = np.empty((total, rank), np.int64), np.empty(total, np.int64)
    key = 8 + 8 * (rank + 1)  # size, filters, where it begins; the address of the chunk follows
    for count in np.unique(counts[counts > 0]).tolist():
        which = np.flatnonzero(counts == count)
        nodes = _gather(raw, trees[which], 24 + count * (key + 8))
        if nodes is None or (nodes[:, :6] != np.frombuffer(b"TREE\x01\x00", np.uint8)).any():
            return None
        if (_number(nodes, 6, 2) != count).any():
            return None
        entries = nodes[:, 24:].reshape(-1, key + 8)
        owner = np.repeat(which, count)
        numbers = np.tile(np.arange(count), len(which))
        wanted = np.empty((len(owner), rank), np.int64)  # chunks are listed row by row
        for axis in range(rank - 1, -1, -1):
            wanted[:, axis] = numbers % grid[owner, axis] * chunk[owner, axis]
            numbers = numbers // grid[owner, axis]
        said = np.stack([_number(entries, 8 + 8 * i, 8) for i in range(rank + 1)], 1)
        size, place = nominal[owner].astype(np.int64), _number(entries, key, 8)
        plain = (_number(entries, 0, 4) == size).all() and (_number(entries, 4, 4) == 0).all()
        if not plain or (said[:, :-1] != wanted).any() or said[:, -1].any() or not _inside(raw, place, size):
            return None
        rows = (first[which][:, None] + np.arange(count)).ravel()
        origin[rows], address[rows] = wanted, place
    return Table(raw, dtype, shape, chunk, first, origin, address)
