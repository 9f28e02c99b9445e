"""robomimic's HDF5: demonstrations as groups, each with its observations by key.

    data                       attributes: total, env_args (JSON: env_name, env_type, env_kwargs)
    data/demo_0/actions        (T, A); rewards (T,), dones (T,)
    data/demo_0/obs/<key>      (T, …); next_obs/<key> the same, one step later
    mask/<name>                lists of demonstrations; not used

Observations are the keys in alphabetical order, as `gymnasium.spaces.flatten` has them; images are passed over.
Source: robomimic's documentation, "Dataset Structure".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lamo.data.episodes import Episodes
from lamo.data.sources.episodic import Array, Part, Record, gather_blocks
from lamo.data.sources.flat import state_width
from lamo.data.sources.hdf5 import H5Array, array, attribute, member, open_hdf5, scalar
from lamo.data.sources.minari import number_of, numbered
from lamo.data.sources.notes import CARRIED, PARTS, read_notes
from lamo.data.sources.options import ReadOptions, chosen, listed
from lamo.errors import LamoError, NoRewards, warn

_DEMO = re.compile(r"demo_(\d{1,18})")
GYM = 2  # robomimic's EnvType of Gym environments, whose names are Gymnasium's ids
FLAT = "flat"  # the key of observations that are one vector
NOTES = "lamo"  # where lamo leaves what the layout has no field for
_FLAGS = ("dones", "timeouts")  # robomimic does not know of time limits: the second is there where lamo wrote the file


def holds_demonstrations(file: h5py.File) -> bool:
    """Whether an HDF5 file has robomimic's layout: `data/demo_0`, `data/demo_1`, …"""
    if file.get("data", getclass=True, getlink=True) is not h5py.HardLink:
        return False
    data = file["data"]
    return isinstance(data, h5py.Group) and any(_DEMO.fullmatch(key) for key in map(str, data))


def read_robomimic(path: Path, source: str, options: ReadOptions) -> Episodes:
    """A robomimic file -> Episodes. An episode terminated where the last of its `dones` is set.

    Raises `LamoError` for a file without observations, rewards (unless `options.reward` is "none") or actions, arrays
    of different lengths, no step, NaN, and files that only robomimic's scripts can complete.
    """
    (episodes,) = robomimic_blocks(path, source, options, None)
    return episodes


def robomimic_blocks(path: Path, source: str, options: ReadOptions, size: int | None) -> Iterator[Episodes]:
    """The same in blocks of about `size` bytes, None: in one."""
    with open_hdf5(path, source) as file:
        data = member(file, "data", source)
        assert isinstance(data, h5py.Group)
        first = next(_demonstrations(data, source), None)
        if first is None:
            raise LamoError(f"{source}: holds no demonstrations; an offline dataset needs at least one transition")
        parts = _parts(first, options, source)
        if options.reward is None and first.get("rewards") is None:
            raise NoRewards(f"{source}: {first.label} has no rewards; robomimic's dataset_states_to_obs.py adds them")
        told = attribute(data, "env_args", source) if "env_args" in data.attrs else None
        env = _env(told, source)
        kwargs = env.get("env_kwargs")
        total = attribute(data, "total", source) if "total" in data.attrs else None
        metadata: dict[str, Any] = {
            "source": source,
            "format": "robomimic",
            "env": env.get("env_name") if env.get("env_type") == GYM else None,
            "env_kwargs": kwargs if env.get("env_type") == GYM and isinstance(kwargs, dict) else {},
            "action_low": None,
            "action_high": None,
            "observation_keys": [part.key.removeprefix("obs/") for part in parts],
            "observation_sizes": [part.width for part in parts],
            "attributes": {"env_args": env} if env else {},
        }
        notes = _notes(file, source)
        metadata |= {key: notes[key] for key in CARRIED if notes and key in notes}
        if notes is not None and list(metadata["observation_keys"]) == [FLAT]:  # of one vector the key says nothing
            metadata |= {key: notes.get(key, []) for key in PARTS}
        steps = 0
        for episodes in gather_blocks(
            lambda: _demonstrations(data, source), parts, _FLAGS, source, metadata, options, size
        ):
            steps += episodes.steps
            yield episodes
    if isinstance(total, int) and total != steps:
        warn(f"{source}: speaks of {total} steps in all, {steps} are there")


class _Demonstration:
    """One group; observations under `obs/<key>` end with the last of `next_obs/<key>`, where that is there."""

    def __init__(self, group: h5py.Group, number: int, name: str, source: str) -> None:
        self.group, self.id, self.label, self.source = group, number, name, source
        self.opened: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        if key not in self.opened:
            found = array(self.group, key, self.source)
            following = array(self.group, f"next_{key}", self.source) if key.startswith("obs/") else None
            if isinstance(found, H5Array) and isinstance(following, H5Array):
                found = _Followed(found, following) if _alike(found, following) else found
            self.opened[key] = found
        return self.opened[key]

    def keys(self) -> list[str]:
        return [str(key) for key in self.group]


def _alike(one: H5Array, two: H5Array) -> bool:
    return one.shape == two.shape and one.dtype == two.dtype and bool(one.shape) and one.shape[0] > 0


class _Followed:
    """(T + 1, …): an array and the last row of the one that lies a step later."""

    def __init__(self, data: H5Array, following: H5Array) -> None:
        self.data, self.following = data, following
        self.shape, self.dtype = (data.shape[0] + 1, *data.shape[1:]), data.dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(self.shape[0])
        steps = self.data.shape[0]
        values = self.data[start : min(stop, steps)]
        return values if stop <= steps else np.concatenate([values, self.following[steps - 1 : steps]])


def _notes(file: h5py.File, source: str) -> dict[str, Any] | None:
    """What lamo left in the file; None: it is not lamo's."""
    found = member(file, NOTES, source)
    text = scalar(found, NOTES, source) if isinstance(found, h5py.Dataset) and found.shape == () else None
    return read_notes(text, source) if isinstance(text, str) else None


def _demonstrations(data: h5py.Group, source: str) -> Iterator[Record]:
    used: set[int] = set()
    for number, name in numbered(map(str, data), _DEMO, source):
        group = member(data, name, source)
        if not isinstance(group, h5py.Group):
            raise LamoError(f"{source}: {name} is not a group of arrays")
        yield _Demonstration(group, number_of(group, number, name, used, source), name, source)


def _parts(first: Record, options: ReadOptions, source: str) -> list[Part]:
    """The keys that make up the observation: those chosen, else all that are no images."""
    group = first.get("obs")
    if not isinstance(group, h5py.Group):
        raise LamoError(
            f"{source}: {first.label} has no observations (obs); robomimic's dataset_states_to_obs.py adds them"
        )
    arrays: dict[str, Array] = {}
    for key in sorted(map(str, group)):
        found = first.get(f"obs/{key}")
        if found is not None and getattr(found, "shape", None):
            arrays[key] = found
    images = [key for key, array in arrays.items() if array.dtype == np.uint8 and len(array.shape) > 2]
    plain = [key for key in arrays if key not in images]
    if options.obs_keys is not None:
        plain = chosen(list(arrays), options.obs_keys, source)
    elif images:
        warn(f"{source}: {listed(images)} are images and are left out")
    if not plain:
        raise LamoError(
            f"{source}: {first.label} has no observations but images; only state observations are supported"
        )
    return [
        Part(f"obs/{key}", state_width(arrays[key].shape, arrays[key].dtype, source, f"obs/{key}")) for key in plain
    ]


def _env(text: Any, source: str) -> dict[str, Any]:
    """What `env_args` says of the environment; nothing where it is absent."""
    if text is None:
        return {}
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise LamoError(f"{source}: attribute env_args is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise LamoError(f"{source}: attribute env_args is not a JSON object")
    return value if isinstance(value.get("env_name", ""), str) else {}
