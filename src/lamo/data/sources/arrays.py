"""`.npz` archives with D4RL's keys, read array by array: every size is known before anything is unpacked."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from lamo.data.episodes import BLOCK, Episodes
from lamo.data.sources.flat import USED, check_bomb, check_fits, flat_episodes
from lamo.data.sources.options import ReadOptions
from lamo.errors import LamoError


class NpzColumn:
    """One array of an archive: its header is read at once, its values on demand."""

    def __init__(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo, source: str) -> None:
        self.archive, self.member, self.source = archive, member, source
        self.key = member.filename.removesuffix(".npy")
        with archive.open(member) as stream:
            version = np.lib.format.read_magic(stream)
            readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            if version not in readers:
                raise LamoError(f"{source}: {self.key} is in .npy format {version}, which only structured arrays need")
            self.shape, self.fortran, self.dtype = readers[version](stream)
            self.start = stream.tell()
        self.nbytes = self.dtype.itemsize * int(np.prod(self.shape, dtype=object))

    def check(self) -> None:
        """Raise `LamoError` for what must not be unpacked: objects, sizes that lie, sizes that do not fit."""
        where = f"{self.source}: {self.key}"
        if self.dtype.hasobject:
            raise LamoError(f"{where} holds Python objects, which could run code; save it as an array of numbers")
        if min(self.shape, default=0) < 0 or self.start + self.nbytes > self.member.file_size:
            raise LamoError(f"{where} is shorter than its header says; save the file again")
        check_fits(self.nbytes, where)
        check_bomb(self.nbytes, self.member.compress_size, where)

    def blocks(self) -> Iterator[np.ndarray]:
        with self.archive.open(self.member) as stream:
            stream.read(self.start)
            if self.fortran or not self.shape or self.shape[0] == 0:  # columns first: no rows until all is there
                data = np.frombuffer(self._take(stream, self.nbytes), self.dtype)
                yield data.reshape(self.shape, order="F" if self.fortran else "C")
                return
            width = self.nbytes // self.shape[0]
            for row in range(0, self.shape[0], BLOCK):
                count = min(BLOCK, self.shape[0] - row)
                yield np.frombuffer(self._take(stream, count * width), self.dtype).reshape(count, *self.shape[1:])

    def _take(self, stream, size: int) -> bytes:
        data = stream.read(size)
        if len(data) < size:
            raise LamoError(f"{self.source}: {self.key} ends early; copy or download the file again")
        return data


@contextmanager
def _open_npz(path: Path, source: str) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        raise LamoError(f"{source}: not a whole .npz file ({error}); copy or download it again") from error


def read_npz(path: Path, source: str, options: ReadOptions) -> Episodes:
    """An archive with `observations`, `actions`, `rewards`, `terminals` and/or `timeouts` -> Episodes.

    Arrays under other names are never unpacked. A text array of no axes named `env_id` names the environment.
    Raises `LamoError` as for D4RL's HDF5, and for object arrays or sizes that lie.
    """
    with _open_npz(path, source) as archive:
        columns = {}
        for member in archive.infolist():
            if member.filename.endswith(".npy"):
                column = NpzColumn(archive, member, source)
                if column.key in columns:
                    raise LamoError(f"{source}: holds {column.key} twice; save it again")
                columns[column.key] = column
        numbers = {key: column for key, column in columns.items() if key not in ("env_id",)}
        for key in USED & numbers.keys():
            numbers[key].check()
        env = columns.get("env_id")
        named = env is not None and env.shape == () and env.dtype.kind == "U" and env.nbytes < 4096
        metadata = {
            "source": source,
            "format": "npz",
            "env": str(next(env.blocks())) if env is not None and named else None,
            "action_low": None,
            "action_high": None,
            "attributes": {},
        }
        return flat_episodes(numbers, source, metadata, options).validate()
