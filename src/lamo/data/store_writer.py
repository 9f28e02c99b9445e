"""Writing a packed store: block by block, beside its place, renamed when it is whole."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from lamo.data.episodes import Episodes, Extremes, Moments
from lamo.data.join import check_alike
from lamo.data.sources.beside import name_beside
from lamo.data.sources.rows import NAMES_KEPT
from lamo.data.store import FORMAT, HEADER, INDEX, VERSION, header, map_files, of_arrays, open_store
from lamo.errors import LamoError, warn


class StoreWriter:
    """Writes episodes block by block beside `path`; `finish` makes it whole and renames it into place.

    As a context manager it removes what it has written, unless `finish` was called. Raises `LamoError` where `path`
    exists, a block does not fit those before, a value is not finite, or nothing can be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.exists() or self.path.is_symlink():
            raise LamoError(f"{self.path} exists already; remove it, or give another name")
        self.folder = name_beside(self.path)
        self.steps = self.episodes = self.ends_inside = 0
        self.first: Episodes | None = None
        self._names: list[str] = []
        self._files: dict[str, _File] = {}
        self._extremes: dict[str, Extremes] = {}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir()
        except OSError as error:
            raise LamoError(f"cannot write {self.path}: {error.strerror or error}") from error

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for file in self._files.values():
            file.file.close()
        shutil.rmtree(self.folder, ignore_errors=True)  # renamed by now, unless something failed

    def append(self, block: Episodes) -> None:
        """Write the episodes of a block after those before."""
        block.validate()
        if self.first is None:
            self.first = block._copied(np.array([0]))  # what later ones must be like; not the whole block
        else:
            check_alike(self.first, block)
        final = block.final_observations
        if final is None:
            final = np.full((len(block), block.observations.shape[1]), np.nan, np.float32)
        values: dict[str, np.ndarray] = {
            "observations": block.observations,
            "actions": block.actions,
            "rewards": block.rewards,
            "returns_to_go": block.returns_to_go,
            "offsets": block.offsets[0 if self.steps == 0 else 1 :] + self.steps,
            "terminated": block.terminated,
            "truncated": block.truncated,
            "ids": block.ids,
            "returns": block.returns,
            "final_observations": final,
        }
        if block.log_probs is not None and (self.steps == 0 or "log_probs" in self._files):
            values["log_probs"] = block.log_probs
        elif "log_probs" in self._files:
            warn(f"{block.source}: has no log-probabilities of its actions, others have: they are left out of all")
            self._files.pop("log_probs").remove()
        try:
            for name, value in values.items():
                if name not in self._files:
                    self._files[name] = _File(self.folder / f"{name}.npy", value)
                self._files[name].append(value)
        except OSError as error:
            raise LamoError(f"cannot write {self.path}: {error.strerror or error}") from error
        for key in ("observations", "actions", "rewards"):
            new = block.extremes(key)
            old = self._extremes.get(key, new)
            self._extremes[key] = Extremes(np.minimum(old.low, new.low), np.maximum(old.high, new.high))
        self.steps += block.steps
        self.episodes += len(block)
        self.ends_inside += int(block.metadata.get("ends_inside", 0))
        self._names += block.metadata.get("episode_names", [])[: NAMES_KEPT + 1 - len(self._names)]

    def finish(self, metadata: Mapping[str, Any] | Callable[[str], Mapping[str, Any]]) -> Episodes:
        """Make it whole, rename it into place, and open it. `metadata`, or what it is for the digest of the whole, is
        kept; `ends_inside` and `episode_names` are put together of the blocks'.
        """
        if self.first is None:
            raise LamoError(f"{self.path}: no episode is left to write")
        if not self._any_final():
            self._files.pop("final_observations").remove()
        try:
            files = {name: file.finish() for name, file in self._files.items()}
            index: dict[str, Any] = {
                "format": FORMAT,
                "version": VERSION,
                "episodes": self.episodes,
                "steps": self.steps,
                "files": files,
                "extremes": {
                    key: {side: getattr(value, side).tolist() for side in Extremes._fields}
                    for key, value in self._extremes.items()
                },
            }
            sizes = {name: (np.dtype(file["dtype"]), tuple(file["shape"])) for name, file in files.items()}
            episodes = of_arrays(map_files(self.folder, sizes, str(self.path)), {})
            moments = episodes.moments()
            index["digest"] = episodes.digest()
            index["metadata"] = self._metadata(metadata(index["digest"]) if callable(metadata) else metadata)
            index["moments"] = {key: getattr(moments, key).tolist() for key in Moments._fields}
            del episodes
            with open(self.folder / INDEX, "w", encoding="utf-8") as file:
                json.dump(index, file, allow_nan=False)
                file.flush()
                os.fsync(file.fileno())
            _sync(self.folder)
            os.rename(self.folder, self.path)  # fails where something has come to lie there meanwhile
            _sync(self.path.parent)
        except (OSError, ValueError) as error:
            raise LamoError(f"cannot write {self.path}: {error}") from error
        return open_store(self.path, str(self.path))

    def _metadata(self, given: Mapping[str, Any]) -> dict[str, Any]:
        out = {key: value for key, value in given.items() if key not in ("ends_inside", "episode_names")}
        out["ends_inside"] = self.ends_inside
        if 0 < len(self._names) <= NAMES_KEPT:
            out["episode_names"] = self._names
        return out

    def _any_final(self) -> bool:
        return self._files["final_observations"].known


class _File:
    """A `.npy` file that grows; its header, whose room is fixed, is written last."""

    def __init__(self, path: Path, like: np.ndarray) -> None:
        self.path, self.inner = path, like.shape[1:]
        self.dtype = like.dtype.newbyteorder("<")
        self.rows, self.known, self.sha = 0, False, hashlib.sha256()
        self.file: IO[bytes] = path.open("wb")  # closed by `finish`, or by the writer
        self.file.write(bytes(HEADER))

    def append(self, value: np.ndarray) -> None:
        data = np.ascontiguousarray(value, self.dtype)
        self.file.write(data.data)
        self.sha.update(data.data)
        self.rows += len(value)
        if self.path.stem == "final_observations" and not self.known:
            self.known = not bool(np.isnan(value).all())

    def finish(self) -> dict[str, Any]:
        """Write the header, and say what the index says of this file."""
        shape = (self.rows, *self.inner)
        self.file.seek(0)
        self.file.write(header(self.dtype, shape))
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        return {"dtype": self.dtype.str, "shape": list(shape), "sha256": self.sha.hexdigest()}

    def remove(self) -> None:
        self.file.close()
        self.path.unlink()


def _sync(folder: Path) -> None:
    """Make names in a folder last; where the system cannot, it has no need to."""
    with suppress(OSError, AttributeError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_store(episodes: Episodes | Iterable[Episodes], path: str | Path) -> Episodes:
    """Write episodes, or blocks of them, as a store; return it, opened. Raises `LamoError` as `StoreWriter` does."""
    blocks = episodes.blocks(1 << 25) if isinstance(episodes, Episodes) else episodes
    with StoreWriter(path) as writer:
        metadata: dict[str, Any] = {}
        for block in blocks:
            metadata = metadata or block.metadata
            writer.append(block)
        return writer.finish(metadata)
