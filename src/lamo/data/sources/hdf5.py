"""HDF5 files opened with care: nothing outside the file is followed, and every size is known before it is read; and
written with care: a full disk is an error."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5i, h5o  # pyright: ignore[reportAttributeAccessIssue]  (no stubs)

from lamo.data.episodes import BLOCK
from lamo.data.sources.flat import check_bomb
from lamo.errors import LamoError

ATTRIBUTE_BYTES = 1 << 20
"""A larger attribute, or text under `metadata/`, describes nothing; those of known datasets are below 100 KiB."""
_FILTERS = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF)
_HARD, _SOFT = 0, 1  # H5L_type_t; others lead out of the file
_LINKS = 8  # soft links that may lead to one another
_PLAIN = [  # the types of nearly all arrays: to compare is quicker than to translate
    (h5py.h5t.py_create(np.dtype(name), logical=True), np.dtype(name))
    for name in ("<f8", "<f4", "bool", "<i8", "<i4", "u1")
]
# h5py raises OSError for most damage; the others for structures whose parts do not fit each other
_DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError, AttributeError)


def plain_types() -> list[np.dtype]:
    """The types of nearly all arrays, whose bytes in a file are those in memory."""
    return [dtype for _, dtype in _PLAIN]


@contextmanager
def open_hdf5(path: Path, source: str) -> Iterator[h5py.File]:
    """Open for reading; what HDF5 cannot read, now or inside the block, becomes a `LamoError`."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except _DAMAGE as error:
        raise LamoError(f"{source}: not a whole HDF5 file ({error}); copy or download it again") from error


@contextmanager
def new_hdf5(path: Path) -> Iterator[h5py.File]:
    """A new file to write to, closed at the end. Raises `OSError` where the disk refuses.

    HDF5's library ends the process when it closes a file of which a write has failed (h5py's issue 1775), so it is
    never told: see `_Sink`.
    """
    with open(path, "w+b", buffering=0) as raw:
        sink = _Sink(raw)
        try:
            with h5py.File(sink, "w") as file:
                yield file
        finally:
            if sink.error is not None:
                raise sink.error from None


class _Sink:
    """The file that h5py writes to. The first failure is kept in `error`; what comes after it goes nowhere."""

    def __init__(self, raw: FileIO) -> None:
        self.raw = raw
        self.error: OSError | None = None
        self.seek, self.tell, self.flush = raw.seek, raw.tell, raw.flush

    def read(self, size: int) -> bytes:
        return self.raw.read(size).ljust(size, b"\0")  # nothing is where nothing was written

    def write(self, what: memoryview) -> None:
        while len(what) and self.error is None:
            try:
                what = what[self.raw.write(what) :]
            except OSError as error:
                self.error = error

    def truncate(self, size: int) -> None:
        try:
            self.raw.truncate(size)
        except OSError as error:
            self.error = self.error or error


class H5Column:
    """An HDF5 array, read straight into the memory it will live in."""

    def __init__(self, data: h5py.Dataset) -> None:
        self.data, self.shape, self.dtype = data, data.shape, data.dtype

    def blocks(self) -> Iterator[np.ndarray]:
        """Rows in order, some thousands at a time."""
        chunk = self.data.chunks[0] if self.data.chunks else 1
        size = max(chunk, BLOCK // chunk * chunk)  # whole chunks: each is unpacked once
        return (self.data[start : start + size] for start in range(0, self.shape[0], size))

    def read_direct(self, out: np.ndarray) -> bool:
        """Fill `out` where HDF5 itself can (float64 to float32 on the way); say whether that was so."""
        fits = self.shape == out.shape and self.dtype.kind == out.dtype.kind
        if fits and out.size:
            self.data.read_direct(out)
        return fits


def member(group: h5py.Group, path: str, source: str) -> h5py.Group | h5py.Dataset | None:
    """What lies under `path` (with slashes), None where nothing does; nothing of its values is read.

    Raises `LamoError` for a link to another file, an array whose values lie in one, and one that unpacks beyond
    measure.
    """
    found = _find(group.id, path, source)
    if isinstance(found, h5py.h5d.DatasetID):
        _check_array(found, path, source)
        return h5py.Dataset(found)
    return None if found is None else h5py.Group(found)


def array(group: h5py.Group, path: str, source: str) -> H5Array | h5py.Group | None:
    """As `member`, for files with an array per episode: looking at one by h5py's objects costs more than reading it."""
    found = _find(group.id, path, source)
    if isinstance(found, h5py.h5d.DatasetID):
        shape, kind, dtype = _check_array(found, path, source)
        return H5Array(found, shape, kind, dtype)
    return None if found is None else h5py.Group(found)


class H5Array:
    """An array of an episode."""

    def __init__(self, data: h5py.h5d.DatasetID, shape: tuple[int, ...] | None, kind: Any, dtype: np.dtype) -> None:
        self.data, self.kind, self.dtype = data, kind, dtype
        self.shape: Any = shape  # None: a type without a value

    def __getitem__(self, rows: slice) -> np.ndarray:
        if rows.indices(self.shape[0]) != (0, self.shape[0], 1) or self.dtype.kind not in "fiub":
            return h5py.Dataset(self.data)[rows]
        out = np.empty(self.shape, self.dtype)
        if out.size:
            self.data.read(h5py.h5s.ALL, h5py.h5s.ALL, out, self.kind)
        return out


def _find(group: h5py.h5g.GroupID, path: str, source: str, links: int = 0) -> Any:
    """The group or array under `path`, None where there is none."""
    here = group
    for name in filter(None, path.split("/")):
        if not isinstance(here, h5py.h5g.GroupID):
            return None
        raw = name.encode("utf-8", "surrogateescape")
        if not here.links.exists(raw):
            return None
        kind = here.links.get_info(raw).type
        if kind == _HARD:
            here = h5o.open(here, raw)
        elif kind != _SOFT:
            raise LamoError(f"{source}: {path} links to another file, which is not followed; copy its data into this")
        elif links == _LINKS:
            raise LamoError(f"{source}: {path} is a link that leads nowhere")
        else:
            target = here.links.get_val(raw).decode("utf-8", "surrogateescape")
            start = h5o.open(h5i.get_file_id(here), b"/") if target.startswith("/") else here
            here = _find(start, target, source, links + 1)
    return here if isinstance(here, h5py.h5g.GroupID | h5py.h5d.DatasetID) else None


def _check_array(data: h5py.h5d.DatasetID, path: str, source: str) -> tuple[tuple[int, ...] | None, Any, np.dtype]:
    """(shape, None where it has none; HDF5's type; numpy's) of an array that may be read."""
    plan = data.get_create_plist()  # asked once: files have thousands of arrays
    layout = plan.get_layout()
    if layout == h5py.h5d.VIRTUAL or plan.get_external_count():
        raise LamoError(f"{source}: {path} keeps its values in another file, which is not read; copy them into this")
    space, kind = data.get_space(), data.get_type()
    shape = None if space.get_simple_extent_type() == h5py.h5s.NULL else space.get_simple_extent_dims()
    dtype = next((dtype for known, dtype in _PLAIN if kind.equal(known)), None)
    if dtype is None:
        dtype = data.dtype
        if shape is None or dtype.kind not in "fiub":
            return shape, kind, dtype
        # HDF5's library trusts what a file says of its own layout: of a damaged one it reads beyond its buffers.
        bits = dtype == np.uint8 and kind.equal(h5py.h5t.STD_B8LE)  # PyTables' booleans
        if not bits and not kind.equal(h5py.h5t.py_create(dtype, logical=True)):
            raise LamoError(
                f"{source}: {path} has numbers of an odd type; copy the file again, or save it with plain ones"
            )
    if shape is None:
        return shape, kind, dtype
    chunks = plan.get_chunk() if layout == h5py.h5d.CHUNKED else None
    size = dtype.itemsize
    chunk = math.prod(chunks or ()) * size
    check_bomb(max(math.prod(shape) * size, chunk), data.get_storage_size, f"{source}: {path}")
    if chunks is not None:
        count = math.prod(-(-n // m) for n, m in zip(shape, chunks, strict=True))
        _check_chunks(data, plan, size, chunk, count, f"{source}: {path}")
    return shape, kind, dtype


def _check_chunks(data: h5py.h5d.DatasetID, plan: Any, size: int, nominal: int, count: int, where: str) -> None:
    """Whether filters and at most `count` chunks, each `nominal` bytes once unpacked, can be what was written."""
    filters = [plan.get_filter(number) for number in range(plan.get_nfilters())]
    values = {h5py.h5z.FILTER_SHUFFLE: (size,), h5py.h5z.FILTER_FLETCHER32: ()}
    for code, _, parameters, name in filters:
        if code not in _FILTERS or parameters != values.get(code, parameters):
            told = name.decode("ascii", "replace")[:40] or str(code)
            raise LamoError(f"{where} is packed by {told!r}, which is not read; `h5repack -f GZIP=4 OLD NEW` mends it")
        if code == h5py.h5z.FILTER_LZF and (len(parameters) != 3 or parameters[2] != nominal):
            raise LamoError(f"{where} is damaged (its packing); copy or download the file again")
    none = (1 << len(filters)) - 1  # the mask of a chunk that no filter went over; without filters every chunk's
    least = 1 + 4 * any(code == h5py.h5z.FILTER_FLETCHER32 for code, *_ in filters)
    most = nominal + nominal // 8 + 4096
    end = h5i.get_file_id(data).get_filesize()
    chunks: list[Any] = []
    data.chunk_iter(chunks.append)
    if len(chunks) > count or any(
        not (c.size == nominal if c.filter_mask & none == none else least <= c.size <= most)
        or c.byte_offset + c.size > end
        for c in chunks
    ):
        raise LamoError(f"{where} is damaged (its chunks); copy or download the file again")


def attributes(item: h5py.Group, source: str) -> dict[str, Any]:
    """Its attributes as JSON would have them. Raises `LamoError` for one of more than 1 MiB."""
    return {_text(name): attribute(item, name, source) for name in item.attrs}


def _text(name: str | bytes) -> str:
    return name if isinstance(name, str) else name.decode("utf-8", "replace")  # h5py leaves what is not UTF-8


def attribute(item: h5py.Group, name: str, source: str) -> Any:
    """One attribute as JSON would have it. Raises `LamoError` where it has more than 1 MiB."""
    header = item.attrs.get_id(name)
    empty = header.shape is None or 0 in header.shape  # of these HDF5 cannot say the size
    if not empty and (size := header.get_storage_size()) > ATTRIBUTE_BYTES:
        raise LamoError(f"{source}: attribute {name!r} has {size} bytes; remove it from the file")
    return _short(item.attrs[name], name, source)


def scalar(data: h5py.Dataset, name: str, source: str) -> Any:
    """The value of an array without axes as JSON would have it. Raises `LamoError` where it has more than 1 MiB."""
    return _short(data[()], name, source)


def _short(value: Any, name: str, source: str) -> Any:
    value = plain(value)
    if len(value if isinstance(value, str) else str(value)) > ATTRIBUTE_BYTES:
        raise LamoError(f"{source}: attribute {name!r} has more than {ATTRIBUTE_BYTES} bytes; remove it from the file")
    return value


def plain(value: Any) -> Any:
    """An HDF5 attribute as JSON would have it."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray):
        return [plain(item) for item in value.tolist()]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool) else str(value)
