"""Minari datasets, from a local folder, a `main_data.hdf5`, or an id; the environment need not be installed.

    <id>/data/metadata.json       spaces, environment, storage format
    <id>/data/main_data.hdf5      episode_0/{observations, actions, rewards, terminations, truncations}, episode_1/…
    <id>/data/0/part-0.arrow      or one folder per episode, in Arrow or Parquet, padded to T + 1 rows

Dict and tuple observations are flattened as `gymnasium.spaces.flatten` does it: in the order of the recorded space
(which Gymnasium sorts by key when it is made from a plain dict), discrete parts one-hot. An episode of T steps has T
+ 1 observations; the last is kept in `final_observations`. Source: Minari 0.5's storages.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lamo.data.episodes import Episodes
from lamo.data.sources.d4rl import open_hdf5
from lamo.data.sources.episodic import Encoder, Part, Record, gather
from lamo.data.sources.flat import state_width
from lamo.errors import LamoError, warn

MAIN_FILE = "main_data.hdf5"
_EPISODE = re.compile(r"episode_(\d+)")
_ID = re.compile(r"(?:[-\w]+/)*[-\w]+-v\d+")
_SPACES = ("observation_space", "action_space", "env_spec")


def is_minari_id(text: str) -> bool:
    """Whether `text` has the form of an id: `mujoco/hopper/medium-v0`."""
    return _ID.fullmatch(text) is not None


def holds_episodes(file: Any) -> bool:
    """Whether an HDF5 file has Minari's layout, a group per episode."""
    return any(_EPISODE.fullmatch(key) for key in file)


def read_minari_id(name: str) -> Episodes:
    """The dataset with this id, from the local store (`MINARI_DATASETS_PATH`, else `~/.minari/datasets`) or downloaded.

    Raises `LamoError` when it is not there and cannot be downloaded.
    """
    root = os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets"
    folder = Path(root) / name
    if not (folder / "data").is_dir():
        try:
            import minari  # here: it takes a second to import and only downloads need it

            print(f"lamo: downloading Minari dataset {name} to {root}", file=sys.stderr, flush=True)
            with redirect_stdout(sys.stderr):  # minari speaks on standard output, which is for results
                logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # each retry would be a line
                minari.download_dataset(name)
        except ImportError as error:
            raise LamoError(
                f"Minari dataset {name} is not in {root}; `pip install 'minari[hdf5,hf]'` to download"
            ) from error
        except Exception as error:  # whatever network, hub or minari raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise LamoError(
                f"Minari dataset {name} is neither in {root} nor could it be downloaded ({reason}); "
                "check the id and the network, or give a folder or a file"
            ) from error
    return read_minari(folder, name)


def read_minari(path: Path, source: str) -> Episodes:
    """A dataset's folder, its `data` folder, or its `main_data.hdf5` -> Episodes.

    Raises `LamoError` for a folder without a dataset, a key missing, arrays of different lengths, no step, NaN, images.
    """
    data = path.parent if path.is_file() else path / "data" if (path / "data").is_dir() else path
    notes = _metadata(data / "metadata.json", source)
    stored = str(notes.get("data_format", "hdf5"))
    main = path if path.is_file() else data / MAIN_FILE
    if stored == "hdf5" and not main.is_file():
        raise LamoError(f"{source}: is a folder without a Minari dataset (no data/metadata.json, no data/{MAIN_FILE})")
    if stored not in ("hdf5", "arrow", "parquet"):
        raise LamoError(f"{source}: Minari storage {stored!r} is not one of hdf5, arrow, parquet")
    opened: AbstractContextManager[Any] = open_hdf5(main, source) if stored == "hdf5" else nullcontext()
    with opened as file:
        records = partial(_hdf5_records, file) if file is not None else partial(_arrow_records, data, stored, source)
        first = next(iter(records()), None)
        if first is None:
            raise LamoError(f"{source}: holds no episodes; an offline dataset needs at least one transition")
        space = _space(notes, "observation_space", source)
        try:
            if notes.get("jpeg_encoding", True) and _has_image(space):
                raise LamoError(f"{source}: observations are images; only state observations are supported")
            parts = _parts(space, first, "observations", source)
            metadata = _describe(notes, source, [part.key.partition("/")[2] for part in parts])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise LamoError(f"{source}: metadata.json describes a space that does not fit ({error!r})") from error
        episodes = gather(records, parts, ("terminations", "truncations"), source, metadata)
    told = notes.get("total_episodes")
    if isinstance(told, int) and told != len(episodes):
        warn(f"{source}: metadata.json speaks of {told} episodes, {len(episodes)} are there")
    return episodes


class _Group:
    """An episode in `main_data.hdf5`."""

    def __init__(self, group: Any, number: int) -> None:
        self.group, self.id, self.label = group, number, f"episode_{number}"
        self.opened: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        if key not in self.opened:  # opening costs more than reading the hundreds of rows of an episode
            self.opened[key] = self.group.get(key)
        return self.opened[key]

    def keys(self) -> list[str]:
        return list(self.group)


class _Table:
    """An episode in Arrow or Parquet; its last row pads actions, rewards and ends."""

    def __init__(self, table: Any, number: int) -> None:
        self.table, self.id, self.label = table, number, f"episode {number}"

    def keys(self) -> list[str]:
        return list(self.table.column_names)

    def get(self, key: str) -> Any:
        name, *inner = key.split("/")
        if name not in self.table.column_names:
            return None
        column = self.table[name].combine_chunks()
        for field in inner:
            names = _fields(column)
            field = field if field in names else field.removeprefix("_index_")  # a tuple's parts have bare numbers here
            if field not in names:
                return None
            column = column.field(field)
        if _fields(column):
            return _Branch(_fields(column))
        if hasattr(column.type, "list_size"):
            values = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
        else:
            values = column.to_numpy(zero_copy_only=False)
        return values if name == "observations" else values[:-1]


def _fields(column: Any) -> list[str]:
    """Names inside a struct column, none for others."""
    return [field.name for field in column.type] if str(column.type).startswith("struct") else []


class _Branch(list):
    """Names of the fields of a dict observation."""


def _hdf5_records(file: Any) -> Iterator[Record]:
    numbers = sorted(int(match[1]) for key in file if (match := _EPISODE.fullmatch(key)))
    return (_Group(file[f"episode_{number}"], number) for number in numbers)


def _arrow_records(data: Path, stored: str, source: str) -> Iterator[Record]:
    try:
        import pyarrow.dataset  # pyright: ignore[reportMissingImports]  # an extra
    except ImportError as error:
        raise LamoError(f"{source}: is stored as {stored}; `pip install pyarrow` to read it") from error
    for number in sorted(int(folder.name) for folder in data.iterdir() if folder.is_dir() and folder.name.isdigit()):
        try:
            files = pyarrow.dataset.dataset(
                str(data / str(number)), format=stored, ignore_prefixes=["_", ".", "metadata.json"]
            )
            yield _Table(files.to_table(), number)
        except (OSError, ValueError) as error:  # pyarrow's own errors derive from these
            reason = str(error).splitlines()[0]
            raise LamoError(f"{source}: episode {number} is not readable as {stored} ({reason})") from error


def _metadata(path: Path, source: str) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LamoError(f"{source}: metadata.json is not readable ({error})") from error
    if not isinstance(notes, dict):
        raise LamoError(f"{source}: metadata.json is not a JSON object")
    return notes


def _space(notes: dict[str, Any], key: str, source: str) -> dict[str, Any] | None:
    try:
        return json.loads(notes[key]) if key in notes else None
    except (TypeError, ValueError) as error:
        raise LamoError(f"{source}: metadata.json: {key} is not a serialised space ({error})") from error


def _subspaces(space: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    if space["type"] == "Dict":
        return list(space["subspaces"].items())
    return [(f"_index_{i}", inner) for i, inner in enumerate(space["subspaces"])]  # Minari's names for a tuple's parts


def _has_image(space: dict[str, Any] | None) -> bool:
    if space is None:
        return False
    if "subspaces" in space:
        return any(_has_image(inner) for _, inner in _subspaces(space))
    return space["type"] == "Box" and space["dtype"] == "uint8" and len(space["shape"]) in (2, 3)


def _parts(space: dict[str, Any] | None, record: Record, key: str, source: str) -> list[Part]:
    """The columns of the flattened observation, in order."""
    node: Any = record.get(key)
    if node is None:
        raise LamoError(
            f"{source}: {record.label}: key {key!r} is missing; the keys present are {', '.join(sorted(record.keys()))}"
        )
    if isinstance(node, h5py.Group | _Branch):
        inner = dict.fromkeys(sorted(node)) if space is None else dict(_subspaces(space))
        return [part for name, each in inner.items() for part in _parts(each, record, f"{key}/{name}", source)]
    leaf: Any = node
    width = state_width(leaf.shape, leaf.dtype, source, key)
    kind = "Box" if space is None else space["type"]
    if kind in ("Box", "MultiBinary"):
        return [Part(key, width)]
    if space is not None and kind == "Discrete":
        return [Part(key, int(space["n"]), _one_hot([int(space["n"])], [int(space.get("start", 0))], source, key))]
    if space is not None and kind == "MultiDiscrete":
        sizes = [int(n) for n in np.ravel(space["nvec"])]
        starts = [int(n) for n in np.ravel(space.get("start", np.zeros(len(sizes))))]
        return [Part(key, sum(sizes), _one_hot(sizes, starts, source, key))]
    raise LamoError(f"{source}: {key} is a {kind} space, which is not supported")


def _one_hot(sizes: list[int], starts: list[int], source: str, key: str) -> Encoder:
    begin = np.concatenate([[0], np.cumsum(sizes)[:-1]])

    def encode(values: np.ndarray) -> np.ndarray:
        choice = values.reshape(len(values), len(sizes)).astype(np.int64) - starts
        if (choice < 0).any() or (choice >= sizes).any():
            raise LamoError(f"{source}: {key} holds a choice outside its space")
        out = np.zeros((len(values), sum(sizes)), np.float32)
        np.put_along_axis(out, choice + begin, 1, axis=1)
        return out

    return encode


def _describe(notes: dict[str, Any], source: str, keys: list[str]) -> dict[str, Any]:
    action = _space(notes, "action_space", source) or {}
    bounds: dict[str, Callable[[], Any]] = {
        side: lambda side=side: np.ravel(action[side]).tolist() for side in ("low", "high")
    }
    box = action.get("type") == "Box" and all(np.isfinite(bounds[side]()).all() for side in bounds)
    spec = _space(notes, "env_spec", source) or {}
    return {
        "source": source,
        "format": "minari",
        "env": spec.get("id"),
        "action_low": bounds["low"]() if box else None,
        "action_high": bounds["high"]() if box else None,
        "action_choices": action.get("n") if action.get("type") == "Discrete" else None,
        "action_start": action.get("start", 0) if action.get("type") == "Discrete" else None,
        "observation_keys": keys if keys != [""] else [],
        "attributes": {key: value for key, value in notes.items() if key not in _SPACES},
    }
