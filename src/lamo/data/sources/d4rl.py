"""D4RL's flat HDF5 layout, read and written: `observations`, `actions`, `rewards`, `terminals`, `timeouts`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
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

    def read_direct(self, out: np.ndarray) -> bool:
        """Fill `out` where HDF5 itself can (float64 to float32 on the way); say whether that was so."""
        fits = self.shape == out.shape and self.dtype.kind == out.dtype.kind
        if fits and out.size:
            self.data.read_direct(out)
        return fits


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
        group = file.get("metadata")
        notes: dict[str, h5py.Dataset] = (
            {key: value for key, value in group.items() if isinstance(value, h5py.Dataset)}
            if isinstance(group, h5py.Group)
            else {}
        )
        attributes = {key: plain(value) for key, value in file.attrs.items()}
        attributes |= {key: plain(value[()]) for key, value in notes.items() if value.shape == ()}
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
        return _own_notes(flat_episodes(columns, source, metadata), notes).validate()


def write_d4rl(episodes: Episodes, path: str | Path, attributes: Mapping[str, Any] | None = None) -> Path:
    """Write D4RL's flat layout (gzip and shuffle) beside `path`, then rename it into place; return the path.

    `attributes` become attributes of the file; those that are None are left out. `env_id`, `action_low` and
    `action_high` are taken from the episodes' metadata unless given. What the flat layout cannot say is kept under
    `metadata/`, which D4RL's readers pass over: `final_observations` (E, S), episode `ids` (E,) and which are
    `unfinished` (E,): one that is not the last is closed by a timeout in the flat arrays, else it would run into the
    next. Equal episodes and attributes give equal bytes. Raises `LamoError` where the file cannot be written.
    """
    path = Path(path)
    known = {"env_id": "env", "action_low": "action_low", "action_high": "action_high"}
    carried = {key: episodes.metadata.get(name) for key, name in known.items()} | dict(attributes or {})
    attributes = {key: value for key, value in carried.items() if value is not None}
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
            for key, value in attributes.items():
                file.attrs[key] = json.dumps(value) if isinstance(value, dict) else value
            for key, value in arrays.items():
                file.create_dataset(
                    key, data=value, compression="gzip", compression_opts=9, shuffle=True, track_times=False
                )
        os.replace(beside, path)
    except OSError as error:
        raise LamoError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # renamed by now, unless something failed
            beside.unlink()
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
    numbers = isinstance(value, list) and value and all(isinstance(item, int | float) for item in value)
    return [float(item) for item in value] if numbers else None


def _own_notes(episodes: Episodes, notes: dict[str, h5py.Dataset]) -> Episodes:
    """Take back what `write_d4rl` left under `metadata/`."""
    count = (len(episodes),)
    if any(key not in notes or notes[key].shape != count for key in ("ids", "unfinished")):
        return episodes
    final = episodes.final_observations
    if "final_observations" in notes:
        final = np.asarray(notes["final_observations"][()], np.float32)
    return replace(
        episodes,
        truncated=episodes.truncated & ~np.asarray(notes["unfinished"][()], bool),
        ids=np.asarray(notes["ids"][()], np.int64),
        final_observations=final,
    )
