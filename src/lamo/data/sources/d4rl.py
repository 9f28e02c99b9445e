"""D4RL's flat HDF5 layout, read and written: `observations`, `actions`, `rewards`, `terminals`, `timeouts`, one row per step."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lamo.data.episodes import BLOCK, Episodes
from lamo.data.sources.flat import flat_episodes
from lamo.errors import LamoError

_ENV_NAMES = ("env_id", "env", "env_name", "environment")


class H5Column:
    """An HDF5 array, read straight into the memory it will live in."""

    def __init__(self, data: h5py.Dataset) -> None:
        self.data, self.shape, self.dtype = data, data.shape, data.dtype

    def blocks(self) -> Iterator[np.ndarray]:
        chunk = self.data.chunks[0] if self.data.chunks else 1
        size = max(chunk, BLOCK // chunk * chunk)  # whole chunks: each is unpacked once
        return (self.data[start : start + size] for start in range(0, self.shape[0], size))

    def read_into(self, out: np.ndarray) -> None:
        if self.shape == out.shape and self.dtype.kind == out.dtype.kind:
            self.data.read_direct(out)  # HDF5 converts float64 to float32 on the way
            return
        row = 0
        for block in self.blocks():
            out[row : row + len(block)] = block.reshape(len(block), *out.shape[1:])
            row += len(block)


@contextmanager
def open_hdf5(path: Path, source: str) -> Iterator[h5py.File]:
    """Open for reading; what HDF5 cannot read, now or inside the block, becomes a `LamoError`."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError) as error:  # h5py raises OSError for most, RuntimeError for some torn structures
        raise LamoError(f"{source}: not a whole HDF5 file ({error}); copy or download it again") from error


def read_d4rl(path: Path, source: str) -> Episodes:
    """A flat HDF5 file -> Episodes. Attributes of the file and the scalars under `metadata/` land in `metadata`.

    Source: the layout of D4RL (Fu et al. 2020), in which `terminals` and `timeouts` both end an episode.
    Raises `LamoError` for a file that is torn, lacks a key, has arrays of different lengths, no step, or NaN.
    """
    with open_hdf5(path, source) as file:
        columns = {key: H5Column(value) for key, value in file.items() if isinstance(value, h5py.Dataset)}
        notes = file.get("metadata")
        notes = notes if isinstance(notes, h5py.Group) else None
        attributes = {key: plain(value) for key, value in file.attrs.items()}
        attributes |= {key: plain(value[()]) for key, value in (notes or {}).items() if getattr(value, "shape", None) == ()}
        infos = file.get("infos")
        metadata = {
            "source": source,
            "format": "d4rl",
            "env": next((attributes[key] for key in _ENV_NAMES if isinstance(attributes.get(key), str)), None),
            "action_low": _bound(attributes.get("action_low")),
            "action_high": _bound(attributes.get("action_high")),
            "attributes": attributes,
            "infos": sorted(infos) if isinstance(infos, h5py.Group) else [],
        }
        return _own_notes(flat_episodes(columns, source, metadata), notes)


def write_d4rl(episodes: Episodes, path: str | Path, attributes: Mapping[str, Any] | None = None) -> Path:
    """Write D4RL's flat layout (gzip and shuffle) beside `path`, then rename it into place; return the path.

    `attributes` become attributes of the file (`env_id` names the environment). What the flat layout cannot say is kept
    under `metadata/`, which D4RL's readers pass over: `final_observations` (E, S), episode `ids` (E,) and which episodes
    are `unfinished` (E,): one that is not the last is closed by a timeout in the flat arrays, else it would run into the
    next. Equal episodes and attributes give equal bytes.
    """
    path = Path(path)
    last = episodes.offsets[1:] - 1
    terminals, timeouts = np.zeros(episodes.steps, bool), np.zeros(episodes.steps, bool)
    terminals[last] = episodes.terminated
    timeouts[last] = episodes.truncated
    timeouts[last[:-1]] |= episodes.unfinished[:-1]
    arrays = {
        "observations": episodes.observations,
        "actions": episodes.actions,
        "rewards": episodes.rewards,
        "terminals": terminals,
        "timeouts": timeouts,
        "metadata/ids": episodes.ids,
        "metadata/unfinished": episodes.unfinished,
    }
    if episodes.final_observations is not None:
        arrays["metadata/final_observations"] = episodes.final_observations
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(beside, "w") as file:
            for key, value in (attributes or {}).items():
                file.attrs[key] = value
            for key, value in arrays.items():
                file.create_dataset(key, data=value, compression="gzip", compression_opts=9, shuffle=True, track_times=False)
        os.replace(beside, path)
    except OSError as error:
        raise LamoError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        beside.unlink(missing_ok=True)
    return path


def plain(value: Any) -> Any:
    """An HDF5 attribute as JSON would have it."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray):
        return [plain(item) for item in value.tolist()]
    if isinstance(value, np.generic):
        return plain(value.item())
    return value if isinstance(value, str | int | float | bool | list) else str(value)


def _bound(value: Any) -> list[float] | None:
    return [float(item) for item in value] if isinstance(value, list) and value else None


def _own_notes(episodes: Episodes, notes: h5py.Group | None) -> Episodes:
    """Take back what `write_d4rl` left under `metadata/`; files by others that happen to use a name of ours keep theirs."""
    if notes is None or not {"ids", "unfinished"} <= set(notes) or notes["ids"].shape != (len(episodes),):
        return episodes
    unfinished = notes["unfinished"][:].astype(bool)
    final = notes["final_observations"][:] if "final_observations" in notes else episodes.final_observations
    return Episodes(
        **{key: getattr(episodes, key) for key in ("observations", "actions", "rewards", "offsets", "terminated")},
        truncated=episodes.truncated & ~unfinished,
        ids=notes["ids"][:].astype(np.int64),
        final_observations=final,
        metadata=episodes.metadata,
    ).validate()
