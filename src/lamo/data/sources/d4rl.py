"""D4RL's flat HDF5 layout, read and written: `observations`, `actions`, `rewards`, `terminals`, `timeouts`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lamo.data.episodes import Episodes
from lamo.data.sources.beside import new_file
from lamo.data.sources.flat import LOG_PROBS, USED, Piece, check_fits, flat_blocks, state_width
from lamo.data.sources.hdf5 import ATTRIBUTE_BYTES, H5Column, attributes, member, new_hdf5, open_hdf5, scalar
from lamo.data.sources.notes import HISTORY, history_in, history_text
from lamo.data.sources.options import ReadOptions, listed
from lamo.errors import LamoError, warn

_ENV_NAMES = ("env_id", "env", "env_name", "environment")
_BOUNDS_AND_COUNTS = ("action_low", "action_high", "action_choices", "action_nvec")
_ATTRIBUTE = 60_000  # bytes; HDF5 has room for 64 KiB
_GOAL_KEYS = ("achieved_goal", "desired_goal", "observation")  # in Gymnasium's flattening order
_ANTMAZE = 29  # numbers in AntMaze's observations: the position, which is the achieved goal, and 27 of the ant


def read_d4rl(path: Path, source: str, options: ReadOptions) -> Episodes:
    """A flat HDF5 file -> Episodes. Attributes of the file and the scalars under `metadata/` land in `metadata`.

    D4RL keeps the goals of its mazes apart, in `infos/goal`; they are left out unless `options.obs_keys` names keys of
    Gymnasium-Robotics' mazes (`achieved_goal`, `desired_goal`, `observation`): then observations are those of these
    environments, flattened. Without `infos/goal` the keys say nothing of the file.

    Source: the layout of D4RL (Fu et al. 2020), in which `terminals` and `timeouts` both end an episode.
    Raises `LamoError` for a file that is torn, lacks a key, has arrays of different lengths, no step, or NaN.
    """
    (episodes,) = d4rl_blocks(path, source, options, None)
    return episodes


def d4rl_blocks(path: Path, source: str, options: ReadOptions, size: int | None) -> Iterator[Episodes]:
    """The same in blocks of about `size` bytes, None: in one."""
    with open_hdf5(path, source) as file:
        columns: dict[str, H5Column] = {}
        for key in map(str, file):
            found = member(file, key, source) if key in USED else None
            if found is None and file.get(key, getclass=True, getlink=True) is h5py.HardLink:
                found = file[key]  # named in messages, never read
            if isinstance(found, h5py.Dataset):
                columns[key] = H5Column(found)
        notes, infos = _datasets(file, "metadata", source), _datasets(file, "infos", source)
        about = attributes(file, source)
        about |= {key: scalar(value, key, source) for key, value in notes.items() if value.shape == ()}
        logged = LOG_PROBS[1].removeprefix("infos/")
        if logged in infos:
            columns[LOG_PROBS[1]] = H5Column(infos[logged])
        metadata = {
            "source": source,
            "format": "d4rl",
            "env": next((about[key] for key in _ENV_NAMES if isinstance(about.get(key), str)), None),
            "action_low": _bound(about.get("action_low")),
            "action_high": _bound(about.get("action_high")),
            "action_choices": _count(about.get("action_choices")),
            "action_nvec": _counts(about.get("action_nvec")),
            "attributes": about,
            "infos": sorted(infos),
            **history_in(about.pop(HISTORY, None)),
        }
        if options.actions is None and (metadata["action_choices"] or metadata["action_nvec"]):
            options = replace(options, actions="discrete")
        for piece in flat_blocks(columns, source, metadata, options, size):
            episodes = _own_notes(piece, notes, source)
            if options.obs_keys is not None and "goal" in infos:
                steps = columns["observations"].shape[0]
                episodes = _with_goals(episodes, infos["goal"], piece.rows, steps, options.obs_keys, source)
            yield episodes.validate(first=piece.rows.start)


def _datasets(file: h5py.File, name: str, source: str) -> dict[str, h5py.Dataset]:
    """The arrays in a group of the file, by name; a group that is not there has none."""
    group = member(file, name, source)
    found = {str(key): member(group, str(key), source) for key in group} if isinstance(group, h5py.Group) else {}
    return {key: value for key, value in found.items() if isinstance(value, h5py.Dataset)}


def _with_goals(
    episodes: Episodes, goals: h5py.Dataset, place: slice, steps: int, keys: tuple[str, ...], source: str
) -> Episodes:
    """Observations as Gymnasium-Robotics' mazes give them: the chosen of `_GOAL_KEYS`, one after the other. `place`:
    which of the file's `steps` rows the episodes are.
    """
    for key in keys:
        if key not in _GOAL_KEYS:
            raise LamoError(f"{source}: --obs-keys {key!r} is not one of {', '.join(_GOAL_KEYS)}")
    width, column = episodes.observations.shape[1], H5Column(goals)
    size = state_width(column.shape, column.dtype, source, "infos/goal") if column.shape else 0
    if len(column.shape) != 2 or column.shape[0] != steps or size > width:
        raise LamoError(f"{source}: infos/goal has shape {column.shape}; it must be one goal per step")
    check_fits(8 * episodes.steps * (width + size), source)
    with np.errstate(over="ignore"):  # what is too large for float32 becomes inf, which `validate` reports
        goal = goals[place].astype(np.float32)

    def dressed(observations: np.ndarray, goal: np.ndarray) -> np.ndarray:
        return np.concatenate(_parts(observations, goal, size, keys), axis=1)

    final = episodes.final_observations
    if final is not None:
        final = dressed(final, goal[episodes.offsets[1:] - 1])
        final[np.isnan(final).any(axis=1)] = np.nan  # where the observation is not known the goal alone is none
    return replace(
        episodes,
        observations=dressed(episodes.observations, goal),
        final_observations=final,
        metadata={
            **episodes.metadata,
            "observation_keys": [key for key in _GOAL_KEYS if key in keys],
            "observation_sizes": [part.shape[1] for part in _parts(episodes.observations[:1], goal[:1], size, keys)],
        },
    )


def _parts(observations: np.ndarray, goal: np.ndarray, size: int, keys: tuple[str, ...]) -> list[np.ndarray]:
    """The chosen of `_GOAL_KEYS`, in their order."""
    parts = {
        "achieved_goal": observations[:, :size],
        "desired_goal": goal,
        "observation": observations[:, size if observations.shape[1] == _ANTMAZE else 0 :],
    }
    return [parts[key] for key in _GOAL_KEYS if key in keys]


def write_d4rl(episodes: Episodes, path: str | Path, attributes: Mapping[str, Any] | None = None) -> Path:
    """Write D4RL's flat layout (gzip and shuffle) beside `path`, then rename it into place; return the path.

    `attributes` become attributes of the file; those that are None are left out. `env_id`, `action_low`,
    `action_high` and, of choices, `action_choices` or `action_nvec`, which say that they are choices, are taken from
    the episodes unless given. What the flat layout cannot say is kept under `metadata/`, which D4RL's readers pass
    over: `final_observations` (E, S), episode `ids` (E,), which are `unfinished` (E,): one that is not the last is
    closed by a timeout in the flat arrays, else it would run into the next; and the `history` of commands that made the
    data. Equal episodes, history and attributes give equal bytes. Raises `LamoError` where the file cannot be written.
    """
    return write_d4rl_parts([episodes], len(episodes), episodes.steps, path, attributes)


def recorded_attributes(episodes: Episodes, name: str) -> dict[str, Any]:
    """What the source's attributes said, for `write_d4rl`, but for what that writes by itself. What is no plain value,
    or has no room in an attribute, is left out, with a warning that begins with `name`.
    """
    env, found = episodes.metadata.get("env"), dict(episodes.metadata.get("attributes") or {})
    for key in (*_BOUNDS_AND_COUNTS, *(key for key in _ENV_NAMES if found.get(key) != env)):
        found.pop(key, None)
    kept = {key: value for key, value in found.items() if value is None or (key and _fits(key) and _fits(value))}
    if left := [key for key in found if key not in kept]:
        warn(f"{name}: attributes that HDF5 has no place for are left out: {listed(left)}")
    return kept


def _fits(value: Any) -> bool:
    """Whether HDF5 takes it as an attribute: text, a number, or a list of either."""
    items = value if isinstance(value, list) else [value]
    if items and all(isinstance(item, str) for item in items):
        return 16 * len(items) < _ATTRIBUTE and not any("\0" in item or _is_torn(item) for item in items)
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths
        return False
    return array.dtype.kind in "biuf" and array.nbytes < _ATTRIBUTE


def _is_torn(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)


def write_d4rl_parts(
    parts: Iterable[Episodes], count: int, steps: int, path: str | Path, attributes: Mapping[str, Any] | None = None
) -> Path:
    """`write_d4rl` of parts that follow one another, `count` episodes and `steps` steps in all; one part is in memory
    at a time. All parts have the columns of the first, whose metadata are used.
    """
    path = Path(path)
    with new_file(path) as beside, new_hdf5(beside) as file:
        episode = step = 0
        rooms: dict[str, h5py.Dataset] = {}
        for part in parts:
            columns = _columns(part, last=episode + len(part) == count)
            if not rooms:
                rooms = _begin(file, part, columns, count, steps, attributes)
            for key, value in columns.items():
                start = episode if key.startswith("metadata/") else step
                rooms[key][start : start + len(value)] = value
            episode, step = episode + len(part), step + part.steps
        if (episode, step) != (count, steps):
            raise ValueError(f"{episode} episodes of {step} steps, where {count} of {steps} were announced")
    return path


def _columns(episodes: Episodes, last: bool) -> dict[str, np.ndarray]:
    """The arrays of the file; `last`: nothing follows these episodes."""
    ends = episodes.offsets[1:] - 1
    terminals, timeouts = np.zeros(episodes.steps, bool), np.zeros(episodes.steps, bool)
    terminals[ends] = episodes.terminated
    timeouts[ends] = episodes.truncated
    closed = len(ends) - 1 if last else len(ends)
    timeouts[ends[:closed]] |= episodes.unfinished[:closed]
    columns = {
        "observations": episodes.observations,
        "actions": episodes.actions,
        "rewards": episodes.rewards,
        "terminals": terminals,
        "timeouts": timeouts,
        "metadata/ids": episodes.ids,
        "metadata/unfinished": episodes.unfinished,
    }
    if episodes.log_probs is not None:
        columns[LOG_PROBS[0]] = episodes.log_probs
    if episodes.final_observations is not None:
        columns["metadata/final_observations"] = episodes.final_observations
    return columns


def _begin(
    file: h5py.File,
    first: Episodes,
    columns: Mapping[str, np.ndarray],
    count: int,
    steps: int,
    attributes: Mapping[str, Any] | None,
) -> dict[str, h5py.Dataset]:
    """Attributes, and room for all rows of every column."""
    known = {"env_id": "env", "action_low": "action_low", "action_high": "action_high"}
    carried = {key: first.metadata.get(name) for key, name in known.items()} | dict(attributes or {})
    if counts := list(first.choices):
        carried = ({"action_choices": counts[0]} if first.discrete else {"action_nvec": counts}) | carried
    for key, value in carried.items():
        if value is not None:
            file.attrs[key] = json.dumps(value) if isinstance(value, dict) else value
    rooms = {}
    for key, value in columns.items():
        rows = count if key.startswith("metadata/") else steps
        rooms[key] = file.create_dataset(
            key, (rows, *value.shape[1:]), value.dtype,
            compression="gzip", compression_opts=9, shuffle=True, track_times=False,
        )  # fmt: skip
    if history := first.metadata.get(HISTORY):
        file.create_dataset(f"metadata/{HISTORY}", data=history_text(history, ATTRIBUTE_BYTES), track_times=False)
    return rooms


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 < value < 1 << 62 else None


def _counts(value: Any) -> list[int] | None:
    return value if isinstance(value, list) and value and all(_count(item) for item in value) else None


def _bound(value: Any) -> list[float] | None:
    numbers = isinstance(value, list) and value and all(isinstance(item, int | float) for item in value)
    return [float(item) for item in value] if numbers else None


def _own_notes(piece: Piece, notes: dict[str, h5py.Dataset], source: str) -> Episodes:
    """Take back what `write_d4rl` left under `metadata/`."""
    episodes, place, count = piece.episodes, piece.place, (piece.count,)
    kinds = {"ids": "iu", "unfinished": "b"}
    if any(key not in notes or notes[key].shape != count or notes[key].dtype.kind not in kinds[key] for key in kinds):
        return episodes
    final = episodes.final_observations
    if place.start == 0 and len(np.unique(notes["ids"][()])) < piece.count:
        raise LamoError(f"{source}: metadata/ids numbers two episodes alike; remove it from the file")
    if "final_observations" in notes:
        stored = notes["final_observations"]
        if stored.shape != (*count, episodes.observations.shape[1]) or stored.dtype.kind != "f":
            raise LamoError(f"{source}: metadata/final_observations has shape {stored.shape}; remove it from the file")
        final = np.asarray(stored[place], np.float32)
    return replace(
        episodes,
        truncated=episodes.truncated & ~np.asarray(notes["unfinished"][place], bool),
        ids=np.asarray(notes["ids"][place], np.int64),
        final_observations=final,
    )
