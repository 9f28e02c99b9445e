"""Minari datasets, from a local folder or a `main_data.hdf5`; the environment need not be installed.

    <id>/data/metadata.json       spaces, environment, storage format
    <id>/data/main_data.hdf5      episode_0/{observations, actions, rewards, terminations, truncations}, episode_1/…
    <id>/data/0/part-0.arrow      or one folder per episode, in Arrow or Parquet, padded to T + 1 rows

Dict and tuple observations are flattened as `gymnasium.spaces.flatten` does it: in the order of the recorded space
(which Gymnasium sorts by key when it is made from a plain dict), discrete parts one-hot. An episode of T steps has T
+ 1 observations; the last is kept in `final_observations`. Source: Minari 0.5's storages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lamo.data.episodes import Episodes
from lamo.data.sources.arrow import import_pyarrow, numbers, open_parquet, parquet_names, read_ipc, reading
from lamo.data.sources.episodic import Encoder, Part, Record, gather_blocks, need
from lamo.data.sources.flat import state_width
from lamo.data.sources.folders import inside, read_object
from lamo.data.sources.hdf5 import H5Array, array, attribute, member, open_hdf5
from lamo.data.sources.hdf5_tables import Table, TableArray, tables
from lamo.data.sources.notes import HISTORY
from lamo.data.sources.options import ReadOptions, chosen, listed
from lamo.errors import LamoError, warn

MAIN_FILE = "main_data.hdf5"
KEPT = "lamo"
"""Attribute of a file that lamo wrote: which of the next two its episodes have."""
ID, REPEATED = "lamo_id", "lamo_last_observation_repeated"
"""Attributes of an episode: its number in the source; that its last observation stands for one that is not known."""
_ARRAYS = ("observations", "next_observations", "actions", "rewards", "terminations", "truncations")
_EPISODE = re.compile(r"episode_(\d{1,18})")
_FOLDER = re.compile(r"(\d{1,18})")
_SPACES = ("observation_space", "action_space", "env_spec")
_STATED: dict[str, Any] = {
    "Box": "continuous",
    "Discrete": "discrete",
    "MultiDiscrete": "discrete",
    "MultiBinary": "discrete",
}
_DEPTH, _ONE_HOT = 16, 1 << 16  # dicts within dicts, and choices of a discrete observation: more is no observation


def holds_episodes(file: Any) -> bool:
    """Whether an HDF5 file has Minari's layout, a group per episode."""
    return any(_EPISODE.fullmatch(key) for key in file)


def read_minari(path: Path, source: str, options: ReadOptions) -> Episodes:
    """A dataset's folder, its `data` folder, or its `main_data.hdf5` -> Episodes.

    Raises `LamoError` for a folder without a dataset, a key missing, arrays of different lengths, no step, NaN, images.
    """
    (episodes,) = minari_blocks(path, source, options, None)
    return episodes


def minari_blocks(path: Path, source: str, options: ReadOptions, size: int | None) -> Iterator[Episodes]:
    """The same in blocks of about `size` bytes, None: in one."""
    data = path.parent if path.is_file() else path / "data" if (path / "data").is_dir() else path
    root = data.parent if data.name == "data" else data
    notes = read_object(data / "metadata.json", root, source) if (data / "metadata.json").exists() else {}
    stored = str(notes.get("data_format", "hdf5"))
    main = path if path.is_file() else data / MAIN_FILE
    if stored == "hdf5" and not main.is_file():
        raise LamoError(f"{source}: is a folder without a Minari dataset (no data/metadata.json, no data/{MAIN_FILE})")
    if stored not in ("hdf5", "arrow", "parquet"):
        raise LamoError(f"{source}: Minari storage {stored!r} is not one of hdf5, arrow, parquet")
    opened: AbstractContextManager[Any] = (
        open_hdf5(inside(main, root, source) if main != path else main, source) if stored == "hdf5" else nullcontext()
    )
    with opened as file:
        records = (
            partial(_hdf5_records, file, *_listed(file, source), source)
            if file is not None
            else partial(_arrow_records, data, root, stored, source)
        )
        first = next(iter(records()), None)
        if first is None:
            raise LamoError(f"{source}: holds no episodes; an offline dataset needs at least one transition")
        space = _space(notes, "observation_space", source)
        try:
            leaves = _leaves(space, first, "observations", source)
            keys = list(leaves)
            if keys != ["observations"]:  # a dict; of a plain array the keys say nothing
                keys = [f"observations/{key}" for key in chosen([key[13:] for key in keys], options.obs_keys, source)]
            if notes.get("jpeg_encoding", True) and any(_is_image(leaves[key]) for key in keys):
                raise LamoError(f"{source}: observations are images; only state observations are supported")
            parts = [_part(key, leaves[key], first, source) for key in keys]
            action = _space(notes, "action_space", source) or {}
            metadata = _describe(notes, action, source, [key.partition("/")[2] for key in keys])
            metadata["observation_sizes"] = [part.width for part in parts]
            start, stated = _start(action), _STATED.get(action.get("type", ""))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
            raise LamoError(f"{source}: metadata.json describes a space that does not fit ({error!r})") from error
        if stated is not None and options.actions is None:
            options = replace(options, actions=stated)  # whatever type the numbers have
        found = 0
        flags = ("terminations", "truncations")
        for episodes in gather_blocks(records, parts, flags, source, metadata, options, size, start):
            found += len(episodes)
            yield episodes
    told = notes.get("total_episodes")
    if isinstance(told, int) and told != found:
        warn(f"{source}: metadata.json speaks of {told} episodes, {found} are there")


class _Group:
    """An episode in `main_data.hdf5`: `found` are its arrays that are in a table, others are looked for."""

    def __init__(self, file: Any, name: str, number: int, source: str, found: dict[str, TableArray]) -> None:
        self.file, self.label, self.id, self.source, self.found = file, name, number, source, found
        self.repeated = False
        self.opened: dict[str, Any] = {}

    @cached_property
    def group(self) -> h5py.Group:
        group = member(self.file, self.label, self.source)
        if not isinstance(group, h5py.Group):
            raise LamoError(f"{self.source}: {self.label} is not a group of arrays")
        return group

    def get(self, key: str) -> Any:
        if key not in self.opened:  # opening costs more than reading the hundreds of rows of an episode
            found = self.found[key] if key in self.found else array(self.group, key, self.source)
            if self.repeated and key.startswith("observations") and isinstance(found, H5Array | TableArray):
                found = _ButLast(found) if found.shape else found
            self.opened[key] = found
        return self.opened[key]

    def keys(self) -> list[str]:
        return list(self.group)


class _ButLast:
    """(T, …): an array without its last row."""

    def __init__(self, data: H5Array | TableArray) -> None:
        self.data, self.shape, self.dtype = data, (max(data.shape[0] - 1, 0), *data.shape[1:]), data.dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self.data[slice(*rows.indices(self.shape[0]))]


class _Table:
    """An episode in Arrow or Parquet, a column read when asked for; its last row pads actions, rewards and ends."""

    def __init__(self, number: int, names: list[str], column: Callable[[str], Any], source: str) -> None:
        self.names, self.column, self.id, self.label, self.source = names, column, number, f"episode {number}", source
        self.columns: dict[str, Any] = {}

    def keys(self) -> list[str]:
        return self.names

    def get(self, key: str) -> Any:
        with reading(self.source, f"{self.label}: {key} is not readable"):  # names, too, may be damaged
            return self._get(key)

    def _get(self, key: str) -> Any:
        name, *inner = key.split("/")
        if name not in self.names:
            return None
        if name not in self.columns:
            self.columns[name] = self.column(name)
        column = self.columns[name]
        for field in inner:
            names = _fields(column)
            field = field if field in names else field.removeprefix("_index_")  # a tuple's parts have bare numbers here
            if field not in names:
                return None
            column = column.field(field)
        if _fields(column):
            return _Branch(_fields(column))
        values = numbers(column, f"{self.source}: {self.label}: {key}")
        return values if name == "observations" else values[:-1]


def _fields(column: Any) -> list[str]:
    """Names inside a struct column, none for others."""
    return [field.name for field in column.type] if str(column.type).startswith("struct") else []


class _Branch(list):
    """Names of the fields of a dict observation."""


def numbered(names: Iterable[str], pattern: re.Pattern[str], source: str) -> list[tuple[int, str]]:
    """(number, name) of the names that match, by number. Raises `LamoError` where two have one number."""
    found = sorted((int(match[1]), name) for name in names if (match := pattern.fullmatch(name)))
    for (number, name), (other, twin) in pairwise(found):
        if number == other:
            raise LamoError(f"{source}: {name} and {twin} are the same episode number; remove one of them")
    return found


def number_of(group: h5py.Group, number: int, name: str, used: set[int], source: str) -> int:
    """The number that an episode had in its source, where lamo has left it in an attribute; it is added to `used`.

    Raises `LamoError` for one that is no number, or that of another episode.
    """
    if ID in group.attrs:
        number = attribute(group, ID, source)
        if type(number) is not int or not -(1 << 63) <= number < 1 << 63:
            raise LamoError(f"{source}: {name}: attribute {ID} is not a whole number; remove it from the file")
    if number in used:
        raise LamoError(f"{source}: {name} has the number {number} of one before; remove its attribute {ID}")
    used.add(number)
    return number


def _listed(file: Any, source: str) -> tuple[list[tuple[int, str]], dict[str, Table]]:
    """Numbers and names of the episodes, and those of their arrays that are all plain."""
    names = numbered(file, _EPISODE, source)
    return names, tables(file, [name for _, name in names], _ARRAYS, source)


def _hdf5_records(file: Any, names: list[tuple[int, str]], found: dict[str, Table], source: str) -> Iterator[Record]:
    kept = attribute(file, KEPT, source) if KEPT in file.attrs else []
    used: set[int] = set()
    for i, (number, name) in enumerate(names):
        record = _Group(file, name, number, source, {key: table[i] for key, table in found.items()})
        if kept:
            record.repeated = REPEATED in kept and REPEATED in record.group.attrs
            if ID in kept:
                record.id = number_of(record.group, number, name, used, source)
        yield record


def _arrow_records(data: Path, root: Path, stored: str, source: str) -> Iterator[Record]:
    import_pyarrow(source, f"is stored as {stored}")
    folders = (folder.name for folder in data.iterdir() if folder.is_dir())
    for number, name in numbered(folders, _FOLDER, source):
        where = f"{source}: episode {number}"
        with reading(source, f"episode {number} is not readable as {stored}"):
            paths = sorted(
                inside(path, root, source)
                for path in (data / name).iterdir()
                if path.name != "metadata.json" and not path.name.startswith(("_", "."))
            )
            if not paths:
                raise LamoError(f"{where} has no {stored} file; copy the whole folder again")
            tables = [read_ipc(path, where) for path in paths] if stored == "arrow" else []
            names = tables[0].column_names if tables else parquet_names(paths[0], where)
        yield _Table(number, names, partial(_column, paths, tables, stored, where, source), source)


def _column(paths: list[Path], tables: list[Any], stored: str, where: str, source: str, name: str) -> Any:
    """One column of an episode, from all its files."""
    import pyarrow as pa

    with reading(source, f"{where.removeprefix(source + ': ')} is not readable as {stored}"):
        parts = [table.select([name]) for table in tables]
        for path in paths if not tables else ():
            with open_parquet(path, [name], where) as file:
                parts.append(file.read(columns=[name], use_threads=False).select([name]))
        table = pa.concat_tables(parts)
        table.validate(full=True)  # offsets that point beyond their buffers would be read
        return table[name].combine_chunks()


def _space(notes: dict[str, Any], key: str, source: str) -> dict[str, Any] | None:
    try:
        return json.loads(notes[key]) if key in notes else None
    except (TypeError, ValueError, RecursionError) as error:
        raise LamoError(f"{source}: metadata.json: {key} is not a serialised space ({error})") from error


def _subspaces(space: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    if space["type"] == "Dict":
        return list(space["subspaces"].items())
    return [(f"_index_{i}", inner) for i, inner in enumerate(space["subspaces"])]  # Minari's names for a tuple's parts


def _is_image(space: dict[str, Any] | None) -> bool:
    return space is not None and space["type"] == "Box" and space["dtype"] == "uint8" and len(space["shape"]) in (2, 3)


def _leaves(space: dict[str, Any] | None, record: Record, key: str, source: str) -> dict[str, dict[str, Any] | None]:
    """The arrays of the observation and their spaces, in the order of the flattened observation."""
    node: Any = record.get(key)
    if node is None:
        raise LamoError(
            f"{source}: {record.label}: key {key!r} is missing; the keys present are {listed(sorted(record.keys()))}"
        )
    if not isinstance(node, h5py.Group | _Branch):
        return {key: space}
    if key.count("/") > _DEPTH:
        raise LamoError(f"{source}: {record.label}: observations are dicts within dicts without end")
    inner = dict.fromkeys(sorted(node)) if space is None else dict(_subspaces(space))
    found = [_leaves(each, record, f"{key}/{name}", source) for name, each in inner.items()]
    return {name: each for part in found for name, each in part.items()}


def _part(key: str, space: dict[str, Any] | None, record: Record, source: str) -> Part:
    """The columns of the flattened observation that one array gives."""
    leaf = need(record, key, source)
    width = state_width(leaf.shape, leaf.dtype, source, key)
    kind = "Box" if space is None else space["type"]
    if kind in ("Box", "MultiBinary"):
        return Part(key, width)
    if space is not None and kind == "Discrete":
        size = int(space["n"])
        return Part(key, size, _one_hot([size], [int(space.get("start", 0))], source, key))
    if space is not None and kind == "MultiDiscrete":
        sizes = [int(n) for n in np.ravel(space["nvec"])]
        starts = [int(n) for n in np.ravel(space.get("start", np.zeros(len(sizes))))]
        return Part(key, sum(sizes), _one_hot(sizes, starts, source, key))
    raise LamoError(f"{source}: {key} is a {kind} space, which is not supported")


def _one_hot(sizes: list[int], starts: list[int], source: str, key: str) -> Encoder:
    if min(sizes, default=0) < 1 or sum(sizes) > _ONE_HOT:
        raise LamoError(f"{source}: {key} has {sum(sizes)} choices, of which no observation can be made")
    begin = np.concatenate([[0], np.cumsum(sizes)[:-1]])

    def encode(values: np.ndarray) -> np.ndarray:
        choice = values.reshape(len(values), len(sizes)).astype(np.int64) - starts
        if (choice < 0).any() or (choice >= sizes).any():
            raise LamoError(f"{source}: {key} holds a choice outside its space")
        out = np.zeros((len(values), sum(sizes)), np.float32)
        np.put_along_axis(out, choice + begin, 1, axis=1)
        return out

    return encode


def _start(action: dict[str, Any]) -> np.ndarray | None:
    """(A,) int64: what choices are counted from; None where that is 0."""
    said = action.get("start", 0) if action.get("type") in ("Discrete", "MultiDiscrete") else 0
    start = np.ravel(np.asarray(said, np.int64))
    return start if start.any() else None


def _nvec(action: dict[str, Any]) -> list[int] | None:
    """Choices of each component of a MultiDiscrete or MultiBinary action."""
    if action.get("type") == "MultiDiscrete":
        return [int(n) for n in np.ravel(action["nvec"])]
    return [2] * int(np.prod(action["n"])) if action.get("type") == "MultiBinary" else None


def _describe(notes: dict[str, Any], action: dict[str, Any], source: str, keys: list[str]) -> dict[str, Any]:
    bounds: dict[str, Callable[[], Any]] = {
        side: lambda side=side: np.ravel(action[side]).tolist() for side in ("low", "high")
    }
    box = action.get("type") == "Box" and all(np.isfinite(bounds[side]()).all() for side in bounds)
    spec = _space(notes, "env_spec", source) or {}
    return {
        "source": source,
        "format": "minari",
        "env": spec["id"] if isinstance(spec.get("id"), str) else None,
        "env_kwargs": dict(spec.get("kwargs") or {}),
        "env_limit": limit if type(limit := spec.get("max_episode_steps")) is int and limit > 0 else None,
        "action_low": bounds["low"]() if box else None,
        "action_high": bounds["high"]() if box else None,
        "action_choices": action.get("n") if action.get("type") == "Discrete" else None,
        "action_nvec": _nvec(action),
        "observation_keys": keys if keys != [""] else [],
        "attributes": {key: value for key, value in notes.items() if key not in (*_SPACES, HISTORY)},
        **({HISTORY: notes[HISTORY]} if isinstance(notes.get(HISTORY), list) else {}),
    }
