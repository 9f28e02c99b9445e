"""A packed store: a folder with one `.npy` file per array and an index, from which training reads without loading it.

    x.lamo/index.json             sizes, types and SHA-256 of the files; digest, statistics, metadata: all but the steps
    x.lamo/observations.npy       (N, S) float32; actions.npy, rewards.npy, returns_to_go.npy: (N, …)
    x.lamo/offsets.npy            (E + 1,) int64; terminated.npy, truncated.npy, ids.npy, returns.npy: (E,)
    x.lamo/final_observations.npy, log_probs.npy       where the source has them

Opening reads the index and looks at what there is per episode; steps are memory-mapped, so they are in memory only
while they are looked at, and more of them than memory holds can be trained on. The files are plain numpy files.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lamo.data.episodes import Episodes, Extremes, Moments, Recorded
from lamo.data.join import join
from lamo.data.sources.folders import inside, natural, read_object
from lamo.data.sources.options import ReadOptions
from lamo.errors import LamoError

SUFFIX = ".lamo"
INDEX = "index.json"
FORMAT, VERSION = "lamo store", 1
HEADER = 128
"""Bytes before the values of a `.npy` file, whatever its shape."""
CHECKED = 1 << 24
"""Bytes of steps up to which a store is checked against its digests whenever it is opened."""
_MOST = 1 << 48  # rows, or numbers in a row: more is a lie, and products of such are still whole numbers
_OPTIONAL = ("log_probs", "final_observations")


def is_store(path: Path) -> bool:
    """Whether a folder is meant to be a store."""
    return path.suffix.lower() == SUFFIX or (path / INDEX).is_file()


def stores_in(folder: Path) -> list[Path]:
    """The stores right inside a folder, `part_2` before `part_10`."""
    found = (path for path in folder.iterdir() if path.suffix.lower() == SUFFIX and not path.name.startswith("."))
    return sorted(found, key=lambda path: natural(path.name))


def header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """The first 128 bytes of a `.npy` file (format 1.0)."""
    text = repr({"descr": dtype.str, "fortran_order": False, "shape": shape})
    start = b"\x93NUMPY\x01\x00" + (HEADER - 10).to_bytes(2, "little")
    return start + text.encode().ljust(HEADER - 11) + b"\n"


def read_store(path: Path, source: str, options: ReadOptions) -> Episodes:
    """A store, or all stores of a folder as one dataset -> Episodes, opened.

    Raises `LamoError` as `open_store` does, and for options, whose answers were written into the store.
    """
    options.refuse("actions", "reward", source=source, why="a store holds what was read; convert the source with it")
    if is_store(path):
        return open_store(path, source)
    return join([open_store(each, f"{source}/{each.name}") for each in stores_in(path)])


def open_store(path: Path, source: str) -> Episodes:
    """A store -> Episodes whose steps are memory maps.

    Reads the index and what is per episode; of the steps only those of a small store, which is checked against its
    digests. Raises `LamoError` for a store that is not whole, an index that does not describe its files, a file that
    lies elsewhere, and small ones that were changed.
    """
    index = _index(path, source)
    episodes = _opened(path, index, source)
    if episodes.steps * episodes.step_bytes <= CHECKED:
        _verify(path, index, episodes, source)
    return episodes


def verify_store(path: str | Path) -> None:
    """Read every byte of a store and compare it with what was recorded. Raises `LamoError`, naming the file, where they
    differ.
    """
    path = Path(path)
    index = _index(path, str(path))
    _verify(path, index, _opened(path, index, str(path)), str(path))


def verify_source(source: str | Path) -> None:
    """`verify_store` of a store or of all in a folder; of other sources nothing."""
    path = Path(source).expanduser()
    if path.is_dir():
        for each in [path] if is_store(path) else stores_in(path):
            verify_store(each)


def _index(path: Path, source: str) -> dict[str, Any]:
    if not path.is_dir():
        raise LamoError(f"{source}: is no folder, as a store is; copy it again")
    if not (path / INDEX).is_file():
        raise LamoError(f"{source}: has no {INDEX}; the store is not whole, copy or convert it again")
    index = read_object(path / INDEX, path, source)
    if index.get("format") != FORMAT or index.get("version") != VERSION:
        told = f"{index.get('format')!r:.40}, version {index.get('version')!r:.20}"
        raise LamoError(f"{source}: {INDEX} describes {told}; this lamo reads {FORMAT!r}, version {VERSION}")
    return index


def _opened(path: Path, index: Mapping[str, Any], source: str) -> Episodes:
    try:
        files = _checked_files(index)
        metadata = dict(index["metadata"])
        moments = Moments(*(_numbers(index["moments"][key], files["observations"][1]) for key in Moments._fields))
        extremes = {
            key: Extremes(*(_numbers(index["extremes"][key][side], files[key][1], files[key][0]) for side in _SIDES))
            for key in ("observations", "actions", "rewards")
        }
        digest = index["digest"]
        if not isinstance(digest, str) or len(digest) != 64:
            raise ValueError("digest")
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError) as error:
        raise LamoError(f"{source}: {INDEX} does not describe a store ({error!r}); convert it again") from error
    arrays = map_files(path, files, source)
    episodes = of_arrays(arrays, {**metadata, "source": source, "format": "store"})
    for name in ("terminated", "truncated"):
        if arrays[name].view(np.uint8).max() > 1:
            raise LamoError(f"{source}: {name}.npy holds what is neither true nor false; convert the store again")
    record = Recorded(arrays["returns_to_go"], np.array(arrays["returns"]), moments, digest, extremes)
    return episodes.with_record(record)


_SIDES = Extremes._fields


def _checked_files(index: Mapping[str, Any]) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Type and shape of each file, as they must be for so many episodes and steps. Raises what a lie raises."""
    steps, episodes = index["steps"], index["episodes"]
    if not all(type(count) is int and 1 <= count < _MOST for count in (steps, episodes)):
        raise ValueError("steps and episodes must be whole numbers from 1 on")
    said = index["files"]
    width = said["observations"]["shape"][1]
    actions = said["actions"]["shape"][1:]
    if not all(type(size) is int and 1 <= size < _MOST for size in (width, *actions)) or len(actions) > 1:
        raise ValueError("shapes of observations and actions")
    if said["actions"]["dtype"] not in ("<f4", "<i8"):
        raise ValueError("type of actions")
    wanted: dict[str, tuple[str, tuple[int, ...]]] = {
        "observations": ("<f4", (steps, width)),
        "actions": (said["actions"]["dtype"] if actions else "<i8", (steps, *actions)),
        "rewards": ("<f4", (steps,)),
        "returns_to_go": ("<f8", (steps,)),
        "offsets": ("<i8", (episodes + 1,)),
        "terminated": ("|b1", (episodes,)),
        "truncated": ("|b1", (episodes,)),
        "ids": ("<i8", (episodes,)),
        "returns": ("<f8", (episodes,)),
        "log_probs": ("<f4", (steps,)),
        "final_observations": ("<f4", (episodes, width)),
    }
    wanted = {name: value for name, value in wanted.items() if name not in _OPTIONAL or name in said}
    for name, (kind, shape) in wanted.items():
        if said[name]["dtype"] != kind or said[name]["shape"] != list(shape):
            raise ValueError(f"{name} should be {kind} {shape}")
        if not isinstance(said[name]["sha256"], str):
            raise ValueError(f"{name} has no sha256")
    if set(said) != set(wanted):
        raise ValueError(f"files that are not known: {sorted(set(said) - set(wanted))[:3]}")
    return {name: (np.dtype(kind), shape) for name, (kind, shape) in wanted.items()}


def _numbers(value: Any, shape: tuple[int, ...], dtype: np.dtype | None = None) -> np.ndarray:
    """An array of one row of that shape. Raises `ValueError` for what is none, or not finite."""
    array = np.asarray(value, dtype or np.float64)
    if array.shape != shape[1:] or not np.isfinite(array).all():
        raise ValueError("numbers that are not those of a row")
    return array


def map_files(path: Path, files: Mapping[str, tuple[np.dtype, tuple[int, ...]]], source: str) -> dict[str, np.ndarray]:
    """The values of a store's files, memory-mapped. Raises `LamoError` for one that is missing, of another size, lies
    outside the folder, or whose header says something else.
    """
    out: dict[str, np.ndarray] = {}
    for name, (dtype, shape) in files.items():
        file = inside(path / f"{name}.npy", path, source)
        wanted = HEADER + math.prod(shape) * dtype.itemsize
        try:
            if not file.is_file():
                raise LamoError(f"{source}: {name}.npy is missing; copy or convert the store again")
            if (size := file.stat().st_size) != wanted:
                raise LamoError(
                    f"{source}: {name}.npy has {size} bytes, {INDEX} says {wanted}; copy or convert the store again"
                )
            with file.open("rb") as start:
                if start.read(HEADER) != header(dtype, shape):
                    raise LamoError(f"{source}: {name}.npy says another type or shape than {INDEX}; convert it again")
            # as a plain array, whose rows are plain arrays as well; it keeps the map open
            out[name] = np.asarray(np.memmap(file, dtype, "r", HEADER, shape))
        except (OSError, ValueError) as error:
            raise LamoError(f"{source}: {name}.npy cannot be mapped ({error})") from error
    return out


def of_arrays(arrays: Mapping[str, np.ndarray], metadata: dict[str, Any]) -> Episodes:
    """Episodes of a store's arrays: steps stay mapped; what is per episode is looked at all the time, and read."""
    small = {name: np.array(arrays[name]) for name in ("offsets", "terminated", "truncated", "ids")}
    return Episodes(
        observations=arrays["observations"],
        actions=arrays["actions"],
        rewards=arrays["rewards"],
        offsets=small["offsets"],
        terminated=small["terminated"],
        truncated=small["truncated"],
        ids=small["ids"],
        final_observations=arrays.get("final_observations"),
        log_probs=arrays.get("log_probs"),
        metadata=metadata,
    )


def _verify(path: Path, index: Mapping[str, Any], episodes: Episodes, source: str) -> None:
    for name, file in index["files"].items():
        sha = hashlib.sha256()
        try:
            with (path / f"{name}.npy").open("rb") as stream:
                stream.seek(HEADER)
                while block := stream.read(1 << 22):
                    sha.update(block)
        except OSError as error:
            raise LamoError(f"{source}: {name}.npy cannot be read ({error.strerror or error})") from error
        if sha.hexdigest() != file["sha256"]:
            raise LamoError(f"{source}: {name}.npy is not what was written (its SHA-256 differs); convert it again")
    bare = replace(episodes, recorded=None)
    if bare.digest() != index["digest"]:
        raise LamoError(f"{source}: {INDEX} says another digest than the data has; convert it again")
