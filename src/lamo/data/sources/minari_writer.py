"""Minari datasets, written as the HDF5 storage of Minari 0.5 keeps them; the library is not needed.

    <out>/data/metadata.json        spaces, environment, counts; `history`
    <out>/data/main_data.hdf5       episode_0 (attributes id, total_steps): observations (T + 1, S), actions, rewards,
                                    terminations and truncations (T,); episode_1 …

Minari numbers episodes from 0 on and has T + 1 observations for T steps. Numbers of the source that are others are kept
in an attribute of the episode, as is that its last observation is not known: a repetition of the one before takes its
place (robomimic's conversion of D4RL's data does the same). lamo reads both back as they were.
Source: Farama-Foundation/Minari 0.5, `dataset/_storages/hdf5_storage.py`, `serialization.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lamo.data.episodes import Episodes
from lamo.data.sources.beside import new_folder
from lamo.data.sources.folders import JSON_BYTES
from lamo.data.sources.hdf5 import new_hdf5
from lamo.data.sources.hub import is_minari_id, local_store
from lamo.data.sources.minari import ID, KEPT, MAIN_FILE, REPEATED
from lamo.data.sources.notes import HISTORY, history_text
from lamo.errors import LamoError, warn

VERSION = "0.5.0"
"""Of Minari's layout: all of 0.5 read it."""
BLOCK_BYTES = 1 << 25
_TEXTS = ("algorithm_name", "code_permalink", "description", "eval_env_spec")
_LISTS = ("author", "author_email", "requirements")
_NUMBERS = ("ref_min_score", "ref_max_score", "num_episodes_average_score")
_ENV = re.compile(r"(?:[\w:-]+/)?[\w:.-]+")  # what Gymnasium takes for an id
_NAME = re.compile(r"[^/\\\0]{1,200}")

Tree = dict[str, Any]
"""Names of a dict observation, each a tree of its own or the columns of the flat observation."""


def write_minari(episodes: Episodes, path: str | Path) -> Path:
    """Write a dataset's folder beside `path`, then rename it into place; return the path.

    Observations are a dict space where the episodes tell keys and sizes of its parts, else one Box. Bounds that are
    not known are infinite. The environment's specification is the registered one, where Gymnasium knows the name.
    The id is the place in Minari's local store, elsewhere the folder's name; `-v0` is added where there is no version.
    Equal episodes, names and registered environments give equal bytes. Raises `LamoError` where nothing can be written.
    """
    path = Path(path)
    tree = observation_tree(episodes)
    known = known_ends(episodes)
    repeated = len(episodes) - int(np.count_nonzero(known))
    if repeated:
        warn(
            f"{path.name}: Minari keeps what was seen after the last action, but of {repeated} episodes that is not "
            "known: their last observation is repeated, and marked"
        )
    if episodes.log_probs is not None:
        warn(f"{path.name}: Minari has no place for log-probabilities of actions; they are left out")
    kept = not np.array_equal(episodes.ids, np.arange(len(episodes)))
    with new_folder(path) as place:
        (place / "data").mkdir()
        main = place / "data" / MAIN_FILE
        with new_hdf5(main) as file:
            if kept or repeated:
                file.attrs[KEPT] = [name for name, there in ((ID, kept), (REPEATED, repeated)) if there]
            number = 0
            for block in episodes.blocks(BLOCK_BYTES):
                ends = known_ends(block)
                for e in range(len(block)):
                    group = file.create_group(f"episode_{number}")
                    group.attrs["id"] = number
                    group.attrs["total_steps"] = int(block.lengths[e])
                    if kept:
                        group.attrs[ID] = int(block.ids[e])
                    if not ends[e]:
                        group.attrs[REPEATED] = True
                    _write_episode(group, block, e, bool(ends[e]), tree)
                    number += 1
        notes = _notes(episodes, path, tree)
        notes["dataset_size"] = round(main.stat().st_size / 1e6, 1)
        (place / "data" / "metadata.json").write_text(json.dumps(notes), encoding="utf-8")
    return path


def known_ends(episodes: Episodes) -> np.ndarray:
    """(E,) bool: of which episodes it is known what was seen after the last action."""
    if episodes.final_observations is None:
        return np.zeros(len(episodes), bool)
    return np.asarray(~np.isnan(episodes.final_observations).all(axis=1))


def observation_tree(episodes: Episodes) -> Tree | None:
    """Which columns of the observation are under which name of a dict, where the metadata says that; None: one array.

    `achieved_goal/kettle` lies in a dict `achieved_goal`. None as well where such names cannot be those of a tree that
    has its leaves in the order of the columns.
    """
    keys, sizes = (episodes.metadata.get(name) or [] for name in ("observation_keys", "observation_sizes"))
    width = episodes.observations.shape[1]
    if not keys or len(keys) != len(sizes) or sum(sizes) != width or min(sizes) < 1:
        return None
    tree: Tree = {}
    ends = np.cumsum(sizes).tolist()
    for key, end, size in zip(keys, ends, sizes, strict=True):
        *folders, name = str(key).split("/")
        here = tree
        for folder in folders:
            here = here.setdefault(folder, {})
            if not isinstance(here, dict):
                return None
        if name in here or not all(_NAME.fullmatch(part) and part != "." for part in (*folders, name)):
            return None
        here[name] = slice(end - size, end)
    return tree if _starts(tree) == sorted(_starts(tree)) else None


def _starts(tree: Tree) -> list[int]:
    return [
        start
        for inner in tree.values()
        for start in (_starts(inner) if isinstance(inner, dict) else [inner.start])
    ]  # fmt: skip


def _write_episode(group: h5py.Group, block: Episodes, e: int, known: bool, tree: Tree | None) -> None:
    start, end = map(int, block.offsets[e : e + 2])
    final = block.final_observations
    last = final[e] if known and final is not None else block.observations[end - 1]
    seen = np.concatenate([block.observations[start:end], last[None]])
    if tree is None:
        _array(group, "observations", seen)
    else:
        _dict(group.create_group("observations"), tree, seen)
    _array(group, "actions", block.actions[start:end])
    _array(group, "rewards", block.rewards[start:end])
    for name, ended in (("terminations", block.terminated[e]), ("truncations", block.truncated[e])):
        flags = np.zeros(end - start, bool)
        flags[-1] = ended
        _array(group, name, flags)


def _dict(group: h5py.Group, tree: Tree, seen: np.ndarray) -> None:
    for name, inner in tree.items():
        if isinstance(inner, dict):
            _dict(group.create_group(name), inner, seen)
        else:
            _array(group, name, seen[:, inner])


def _array(group: h5py.Group, name: str, value: np.ndarray) -> None:
    group.create_dataset(name, data=value, chunks=True, maxshape=(None, *value.shape[1:]), track_times=False)


def _notes(episodes: Episodes, path: Path, tree: Tree | None) -> dict[str, Any]:
    """What `metadata.json` says."""
    metadata = episodes.metadata
    notes: dict[str, Any] = {
        "total_episodes": len(episodes),
        "total_steps": episodes.steps,
        "data_format": "hdf5",
        "jpeg_encoding": True,
        "observation_space": json.dumps(_space(tree, episodes.observations.shape[1])),
        "action_space": json.dumps(action_space(episodes)),
        "dataset_id": _id(path),
        "minari_version": VERSION,
    }
    if metadata.get("env") is not None:
        spec = _spec(str(metadata["env"]), metadata.get("env_kwargs") or {}, metadata.get("env_limit"))
        if spec is None:
            warn(f"{path.name}: {metadata['env']!r} is no id of an environment; the dataset names none")
        else:
            notes["env_spec"] = spec
    notes |= _carried(metadata.get("attributes") or {})
    if metadata.get(HISTORY):
        notes[HISTORY] = json.loads(history_text(metadata[HISTORY], JSON_BYTES // 2))
    return notes


def _carried(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """What Minari's own metadata said of authors and method, and only in the types that the library takes."""
    checks = {
        **dict.fromkeys(_TEXTS, lambda value: isinstance(value, str)),
        **dict.fromkeys(_LISTS, lambda value: isinstance(value, list) and all(isinstance(x, str) for x in value)),
        **dict.fromkeys(_NUMBERS, lambda value: isinstance(value, int | float)),
    }
    return {name: attributes[name] for name, check in checks.items() if name in attributes and check(attributes[name])}


def _space(tree: Tree | None, width: int) -> dict[str, Any]:
    """Minari's description of the observation space."""
    if tree is None:
        return _box([-np.inf] * width, [np.inf] * width)
    inner = {
        name: _space(each if isinstance(each, dict) else None, 0 if isinstance(each, dict) else each.stop - each.start)
        for name, each in tree.items()
    }
    return {"type": "Dict", "subspaces": inner}


def action_space(episodes: Episodes) -> dict[str, Any]:
    """Minari's description of the action space: choices are counted from 0, bounds that are not known are infinite."""
    counts = list(episodes.choices)
    if episodes.discrete:
        return {"type": "Discrete", "dtype": "int64", "start": 0, "n": counts[0]}
    if counts:
        return {"type": "MultiDiscrete", "dtype": "int64", "nvec": counts, "start": [0] * len(counts)}
    width = episodes.actions.shape[1]
    low, high = episodes.metadata.get("action_low"), episodes.metadata.get("action_high")
    if low is None or high is None or len(low) != width or len(high) != width:
        low, high = [-np.inf] * width, [np.inf] * width
    return _box(list(low), list(high))


def _box(low: list[float], high: list[float]) -> dict[str, Any]:
    return {"type": "Box", "dtype": "float32", "shape": [len(low)], "low": low, "high": high}


def _id(path: Path) -> str:
    """The id by which `minari.load_dataset` finds it, where it lies in the local store; else after its name."""
    name = path.name
    with suppress(ValueError, OSError):
        inside = path.resolve().relative_to(local_store().resolve())
        name = inside.as_posix() if not any(part.startswith(".") for part in inside.parts) else name
    name = re.sub(r"[^-\w/]", "-", name)
    return name if is_minari_id(name) else f"{name}-v0"


def _spec(env: str, kwargs: Mapping[str, Any], limit: int | None) -> str | None:
    """Gymnasium's specification as JSON, with the arguments and the limit (steps) of the recording; of an environment
    that is not registered here these and the name alone.
    """
    if not _ENV.fullmatch(env):
        return None
    import gymnasium  # here: only data that name their environment need it

    from lamo.envs.robotics import import_robotics, is_robotics

    if env not in gymnasium.registry and is_robotics(env):
        with suppress(LamoError):  # not installed
            import_robotics()
    spec: dict[str, Any] = {"id": env, "kwargs": {}, "additional_wrappers": []}
    if env in gymnasium.registry:
        with suppress(ValueError, TypeError):  # made by a function that no text can name
            spec = json.loads(gymnasium.registry[env].to_json())
    said = {} if limit is None else {"max_episode_steps": limit}
    return json.dumps({**spec, **said, "kwargs": {**spec["kwargs"], **kwargs}})
