"""`.npz` archives with D4RL's keys, read array by array: every size is known before anything is unpacked."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from lamo.data.episodes import BLOCK, Episodes
from lamo.data.sources.beside import new_file
from lamo.data.sources.flat import LOG_PROBS, USED, check_bomb, check_fits, flat_blocks, read_into
from lamo.data.sources.notes import HISTORY, NOTES_BYTES, history_in, history_text
from lamo.data.sources.options import ReadOptions
from lamo.errors import LamoError, warn


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

    def check(self, *, held: bool) -> None:
        """Raise `LamoError` for what must not be unpacked: objects, sizes that lie, sizes that do not fit into memory,
        where all of it is to be `held` there.
        """
        where = f"{self.source}: {self.key}"
        if self.dtype.hasobject:
            raise LamoError(f"{where} holds Python objects, which could run code; save it as an array of numbers")
        if min(self.shape, default=0) < 0 or self.start + self.nbytes > self.member.file_size:
            raise LamoError(f"{where} is shorter than its header says; save the file again")
        if held or self.fortran:
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
    (episodes,) = npz_blocks(path, source, options, None)
    return episodes


def write_npz(episodes: Episodes, path: str | Path) -> Path:
    """Write `.npz` with D4RL's keys beside `path`, then rename it into place; return the path.

    Of choices their number is written as well (`action_choices`, or `action_nvec` for each component), which says that
    they are choices, of episodes their numbers (`metadata/ids`) where these are not 0, 1, …, and the history, as JSON
    (`metadata/history`). As in D4RL's files an unfinished episode that is not the last is closed by a timeout. What was
    seen after the last actions has no place there and is left out, with a warning. Raises `LamoError` where the file
    cannot be written.
    """
    path = Path(path)
    if episodes.final_observations is not None:
        warn(f"{path.name}: has no place for what was seen after the last action of an episode; it is left out")
    ends = episodes.offsets[1:] - 1
    flags = {"terminals": episodes.terminated, "timeouts": episodes.truncated.copy()}
    flags["timeouts"][:-1] |= episodes.unfinished[:-1]
    arrays = {"observations": episodes.observations, "actions": episodes.actions, "rewards": episodes.rewards}
    if episodes.log_probs is not None:
        arrays[LOG_PROBS[0]] = episodes.log_probs
    if not np.array_equal(episodes.ids, np.arange(len(episodes))):
        arrays[_IDS] = episodes.ids
    with new_file(path) as beside, zipfile.ZipFile(beside, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with _member(archive, name, array.dtype, array.shape) as stream:
                for row in range(0, len(array), BLOCK):
                    stream.write(np.ascontiguousarray(array[row : row + BLOCK]).data)
        for name, flag in flags.items():
            with _member(archive, name, np.dtype(bool), (episodes.steps,)) as stream:
                for row in range(0, episodes.steps, BLOCK):
                    part = np.zeros(min(BLOCK, episodes.steps - row), bool)
                    here = slice(*ends.searchsorted([row, row + BLOCK]))
                    part[ends[here] - row] = flag[here]
                    stream.write(part.data)
        if counts := episodes.choices:
            name, value = ("action_choices", counts[0]) if episodes.discrete else ("action_nvec", counts)
            array = np.asarray(value, np.int64)
            with _member(archive, name, array.dtype, array.shape) as stream:
                stream.write(array.tobytes())
        texts = {"env_id": episodes.metadata.get("env")}
        if history := episodes.metadata.get(HISTORY):
            texts[_HISTORY] = history_text(history, NOTES_BYTES // 2)
        for name, value in texts.items():
            if isinstance(value, str):
                text = np.array(value)
                with _member(archive, name, text.dtype, ()) as stream:
                    stream.write(text.tobytes())
    return path


def _member(archive: zipfile.ZipFile, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> IO[bytes]:
    """A member of an archive, its header written; values follow."""
    info = zipfile.ZipInfo(f"{name}.npy")  # its time is fixed: equal data, equal bytes
    stream = archive.open(info, "w", force_zip64=True)
    said = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, said)
    return stream


_COUNTS = ("action_choices", "action_nvec")
_IDS = "metadata/ids"  # as `write_d4rl` calls them
_HISTORY = "metadata/history"


def _text(column: NpzColumn | None, limit: int) -> str | None:
    """A text array of no axes with fewer characters than `limit`; None for what is none."""
    if column is None or column.shape != () or column.dtype.kind != "U" or column.nbytes >= 4 * limit:
        return None
    column.check(held=True)
    return str(next(column.blocks()))


def _counts(column: NpzColumn | None) -> Any:
    """A number of choices, or a list of them; None for what is neither."""
    if column is None or column.dtype.kind not in "iu" or len(column.shape) > 1 or not 0 < column.nbytes < 1 << 20:
        return None
    column.check(held=True)
    return np.concatenate([np.atleast_1d(block) for block in column.blocks()]).reshape(column.shape).tolist()


def _ids(column: NpzColumn | None, count: int, source: str) -> np.ndarray | None:
    """(E,) int64: the episodes' numbers in the source of which the archive was written; None where it has none."""
    if column is None:
        return None
    if column.shape != (count,) or column.dtype.kind not in "iu":
        raise LamoError(
            f"{source}: {_IDS} has shape {column.shape} and type {column.dtype}, which is no whole number for each of "
            f"{count} episodes; remove it from the file"
        )
    column.check(held=True)
    ids = read_into(column, np.empty(count, np.int64))
    if len(np.unique(ids)) < count:
        raise LamoError(f"{source}: {_IDS} numbers two episodes alike; remove it from the file")
    return ids


def npz_blocks(path: Path, source: str, options: ReadOptions, size: int | None) -> Iterator[Episodes]:
    """The same in blocks of about `size` bytes, None: in one."""
    with _open_npz(path, source) as archive:
        columns = {}
        for member in archive.infolist():
            if member.filename.endswith(".npy"):
                column = NpzColumn(archive, member, source)
                if column.key in columns:
                    raise LamoError(f"{source}: holds {column.key} twice; save it again")
                columns[column.key] = column
        numbers = {key: column for key, column in columns.items() if key not in ("env_id", _IDS, _HISTORY, *_COUNTS)}
        for key in USED & numbers.keys():
            numbers[key].check(held=size is None)
        metadata = {
            "source": source,
            "format": "npz",
            "env": _text(columns.get("env_id"), 1024),
            "action_low": None,
            "action_high": None,
            **{name: _counts(columns.get(name)) for name in _COUNTS},
            "attributes": {},
            **history_in(_text(columns.get(_HISTORY), NOTES_BYTES)),
        }
        if options.actions is None and any(metadata[name] is not None for name in _COUNTS):
            options = replace(options, actions="discrete")
        ids = None
        for piece in flat_blocks(numbers, source, metadata, options, size):
            if piece.place.start == 0:
                ids = _ids(columns.get(_IDS), piece.count, source)
            episodes = piece.episodes if ids is None else replace(piece.episodes, ids=ids[piece.place])
            yield episodes.validate(first=piece.rows.start)
