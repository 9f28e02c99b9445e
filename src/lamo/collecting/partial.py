"""What is recorded so far: in memory, or in a folder beside the file to come, from which a stopped collection goes on.

    hopper.hdf5.partial/
      request.json              what was asked for, and the versions that record it
      behaviour.safetensors     the behaviour, where it had to be trained
      block-0000000.npz         a block of episodes, named by its first one

Every file is written beside its place and renamed into it. A block that is damaged all the same is recorded again.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lamo.collecting.record import Block
from lamo.data.episodes import Episodes
from lamo.errors import LamoError, warn
from lamo.runs import locked, write_json, write_whole

FORMAT = 1
_ARRAYS = ("observations", "actions", "rewards", "offsets", "terminated", "truncated", "ids", "final_observations")


@dataclass(frozen=True)
class Summary:
    """A block without its steps."""

    returns: np.ndarray
    """(k,) float64 of the k episodes that were kept."""
    steps: int
    notes: Mapping[str, int]


def _summary(block: Block) -> Summary:
    if block.episodes is None:
        return Summary(np.zeros(0), 0, block.notes)
    return Summary(block.episodes.returns, block.episodes.steps, block.notes)


class Store(Protocol):
    """Where blocks are put."""

    def summary(self, numbers: range) -> Summary | None:
        """Of the block of these episodes; None where it is not there."""
        ...

    def put(self, block: Block) -> None:
        """Keep a block."""
        ...

    def episodes(self, numbers: range) -> Episodes | None:
        """Those of a block that is there; None where none was kept."""
        ...

    @property
    def trained(self) -> bytes | None:
        """The behaviour, where one was trained and put here."""
        ...

    def put_trained(self, weights: bytes) -> None:
        """Keep a trained behaviour."""
        ...


class Memory:
    """A `Store` that ends with the process."""

    def __init__(self) -> None:
        self._blocks: dict[int, Block] = {}
        self.trained: bytes | None = None

    def summary(self, numbers: range) -> Summary | None:
        return _summary(self._blocks[numbers.start]) if numbers.start in self._blocks else None

    def put(self, block: Block) -> None:
        self._blocks[block.first] = block

    def episodes(self, numbers: range) -> Episodes | None:
        return self._blocks[numbers.start].episodes

    def put_trained(self, weights: bytes) -> None:
        self.trained = weights


class Partial:
    """A `Store` in the folder `path`; made by `opened`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._summaries: dict[int, Summary] = {}

    def summary(self, numbers: range) -> Summary | None:
        if numbers.start not in self._summaries and self._file(numbers.start).exists():
            block = self._read(numbers)
            if block is not None:
                self._summaries[numbers.start] = _summary(block)
        return self._summaries.get(numbers.start)

    def put(self, block: Block) -> None:
        arrays = {} if block.episodes is None else {name: getattr(block.episodes, name) for name in _ARRAYS}
        if block.episodes is not None and block.episodes.log_probs is not None:
            arrays["log_probs"] = block.episodes.log_probs
        about = {"first": block.first, "count": block.count, "notes": block.notes}
        data = io.BytesIO()
        np.savez(data, about=np.array(json.dumps(about)), **arrays)
        file = self._file(block.first)
        beside = file.with_name(f".{file.name}.part")
        try:  # unsynced: what a power cut tears is seen by its checksums, and recorded again
            beside.write_bytes(data.getvalue())
            os.replace(beside, file)
        except OSError as error:
            raise LamoError(f"cannot write {file}: {error.strerror or error}") from error
        self._summaries[block.first] = _summary(block)

    def episodes(self, numbers: range) -> Episodes | None:
        block = self._read(numbers)
        if block is None:
            raise LamoError(f"{self._file(numbers.start)}: was damaged meanwhile; give the same command again")
        return block.episodes

    @property
    def trained(self) -> bytes | None:
        file = self.path / "behaviour.safetensors"
        return file.read_bytes() if file.exists() else None

    def put_trained(self, weights: bytes) -> None:
        file = self.path / "behaviour.safetensors"
        try:
            write_whole(file, weights)
        except OSError as error:
            raise LamoError(f"cannot write {file}: {error.strerror or error}") from error

    @property
    def empty(self) -> bool:
        """Whether nothing is kept that a later command could use."""
        return not any(self.path.glob("b*.npz")) and not (self.path / "behaviour.safetensors").exists()

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _file(self, first: int) -> Path:
        return self.path / f"block-{first:07d}.npz"

    def _read(self, numbers: range) -> Block | None:
        """The block; None, with a warning, where its file is damaged: then it is recorded again."""
        file = self._file(numbers.start)
        try:
            with file.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
                about = json.loads(str(archive["about"][()]))
                if (about["first"], about["count"]) != (numbers.start, len(numbers)):
                    raise ValueError("other episodes")
                arrays = {name: archive[name] for name in archive.files if name in (*_ARRAYS, "log_probs")}
            episodes = Episodes(**arrays, metadata={"source": str(file)}) if arrays else None
            notes = {str(name): int(value) for name, value in about["notes"].items()}
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            EOFError,
            zipfile.BadZipFile,
            LamoError,
        ) as error:
            warn(f"{file}: damaged ({error}); its episodes are recorded again")
            return None
        return Block(numbers.start, len(numbers), episodes, notes)


@contextlib.contextmanager
def opened(out: Path, request: Mapping[str, Any]) -> Iterator[Partial]:
    """The folder beside `out`, made or gone on with, and held against other processes.

    `request`: JSON-able; everything that the recording depends on. Raises `LamoError` where the folder holds a
    recording of another one, and says what differs. A folder without anything of use is removed at the end.
    """
    path = out.with_name(f"{out.name}.partial")
    wanted = json.loads(json.dumps({"format": FORMAT, **request}))
    if path.exists() and not path.is_dir():
        raise LamoError(f"{path} is in the way: recordings are kept there until they are whole; move it")
    found = _request(path)
    if found is not None and (said := _difference(found, wanted)):
        raise LamoError(
            f"{path} holds an unfinished recording {said}; give that command again to go on, choose another --out, "
            "or remove the folder"
        )
    made = [folder for folder in path.parents if not folder.exists()]  # the deepest first
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LamoError(f"cannot make {path}: {error.strerror or error}") from error
    partial = Partial(path)
    with locked(path, "recording into it"):
        try:
            if found is None:
                write_json(path / "request.json", wanted)
            yield partial
        finally:
            if partial.empty:
                partial.remove()
                with contextlib.suppress(OSError):  # the first that holds something else
                    for folder in made:
                        folder.rmdir()


def _request(path: Path) -> dict[str, Any] | None:
    """What an earlier command asked for; None where there was none."""
    file = path / "request.json"
    if not file.exists():
        strange = [item.name for item in path.iterdir() if not item.name.startswith(".")] if path.exists() else []
        if strange:
            raise LamoError(f"{path} is no recording of lamo ({strange[0]} is in it); choose another --out")
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LamoError(f"{file}: damaged ({error}); remove {path}") from error
    if not isinstance(found, dict):
        raise LamoError(f"{file}: damaged; remove {path}")
    return found


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """`with seed 0, not 1`, the first that differs; empty where nothing does."""
    for key in dict.fromkeys([*wanted, *found]):
        old, new = found.get(key), wanted.get(key)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            return _difference(old, new)
        return f"with {key} {_short(old)}, not {_short(new)}"
    return ""


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:12]}…"
