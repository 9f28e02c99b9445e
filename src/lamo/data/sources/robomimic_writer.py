"""robomimic's HDF5, written.

    data                        attributes: total, env_args where an environment is named
    data/demo_0                 attribute num_samples; obs/<key>, next_obs/<key>, actions, rewards, dones, timeouts
    lamo                        text: what the layout has no field for

`dones` say that the environment ended the episode. That a time limit did so has no field: `timeouts` is lamo's own,
which robomimic passes over. Observations that are one vector have the key `flat`, as in robomimic's conversion of D4RL.
Source: robomimic's documentation, "Dataset Structure"; `scripts/conversion/convert_d4rl.py`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lamo.data.episodes import Episodes
from lamo.data.sources.beside import new_file
from lamo.data.sources.hdf5 import new_hdf5
from lamo.data.sources.minari import ID
from lamo.data.sources.minari_writer import BLOCK_BYTES, known_ends
from lamo.data.sources.notes import notes_text
from lamo.data.sources.robomimic import FLAT, GYM, NOTES
from lamo.errors import LamoError, warn

_KEY = re.compile(r"[\w.-]{1,200}")


def write_robomimic(episodes: Episodes, path: str | Path) -> Path:
    """Write a robomimic file beside `path`, then rename it into place; return the path.

    Observations are divided among keys where the episodes tell keys (in alphabetical order) and sizes. Episodes of
    which it is not known what was seen last have no `next_obs`. Demonstrations have the episodes' numbers where these
    rise. Equal data give equal bytes. Raises `LamoError` for actions that are choices, which robomimic has not, and
    where nothing can be written.
    """
    path = Path(path)
    if episodes.action_kind != "continuous":
        raise LamoError(f"{path.name}: robomimic's actions are vectors, these are choices; write another format")
    _tell_lost(episodes, path)
    parts = _parts(episodes)
    rising = bool((np.diff(episodes.ids) > 0).all()) and int(episodes.ids[0]) >= 0 and int(episodes.ids[-1]) < 10**18
    with new_file(path) as beside, new_hdf5(beside) as file:
        data = file.create_group("data")
        data.attrs["total"] = episodes.steps
        if (env := _env_args(episodes)) is not None:
            data.attrs["env_args"] = json.dumps(env)
        number = 0
        for block in episodes.blocks(BLOCK_BYTES):
            known = known_ends(block)
            for e in range(len(block)):
                demo = data.create_group(f"demo_{block.ids[e] if rising else number}")
                demo.attrs["num_samples"] = int(block.lengths[e])
                if not rising:
                    demo.attrs[ID] = int(block.ids[e])
                _write_demo(demo, block, e, bool(known[e]), parts)
                number += 1
        file.create_dataset(NOTES, data=notes_text(episodes, parts=True), track_times=False)
    return path


def _tell_lost(episodes: Episodes, path: Path) -> None:
    """Warn of what robomimic will miss, and of what is not written."""
    if unknown := len(episodes) - int(np.count_nonzero(known_ends(episodes))):
        warn(
            f"{path.name}: of {unknown} episodes it is not known what was seen after the last action: they have no "
            "next_obs, without which robomimic learns no values"
        )
    low, high = episodes.extremes("actions")
    if low.min() < -1 or high.max() > 1:
        warn(f"{path.name}: actions lie in {low.min():g} … {high.max():g}; those of robomimic's policies in -1 … 1")
    if episodes.log_probs is not None:
        warn(f"{path.name}: robomimic has no place for log-probabilities of actions; they are left out")


def _parts(episodes: Episodes) -> dict[str, slice]:
    """Columns of the observation by their key, in alphabetical order: that in which they are read."""
    keys, sizes = (episodes.metadata.get(name) or [] for name in ("observation_keys", "observation_sizes"))
    width = episodes.observations.shape[1]
    whole = {FLAT: slice(0, width)}
    if len(keys) != len(sizes) or sum(sizes) != width or min(sizes, default=0) < 1:
        return whole
    if list(keys) != sorted(set(keys)) or not all(_KEY.fullmatch(key) and key.strip(".") for key in keys):
        return whole
    ends = np.cumsum(sizes).tolist()
    return {key: slice(end - size, end) for key, end, size in zip(keys, ends, sizes, strict=True)}


def _env_args(episodes: Episodes) -> dict[str, Any] | None:
    """What robomimic makes environments from: as its file said it, else a Gymnasium environment."""
    env = episodes.metadata.get("env")
    told = (episodes.metadata.get("attributes") or {}).get("env_args")
    if isinstance(told, dict) and env in (None, told.get("env_name")):
        return told
    kwargs = episodes.metadata.get("env_kwargs") or {}
    return None if env is None else {"env_name": env, "env_type": GYM, "env_kwargs": kwargs}


def _write_demo(demo: h5py.Group, block: Episodes, e: int, known: bool, parts: dict[str, slice]) -> None:
    start, end = map(int, block.offsets[e : e + 2])
    seen = {"obs": block.observations[start:end]}
    if known and block.final_observations is not None:
        seen["next_obs"] = np.concatenate([block.observations[start + 1 : end], block.final_observations[e][None]])
    for group, rows in seen.items():
        for key, columns in parts.items():
            _array(demo, f"{group}/{key}", rows[:, columns])
    _array(demo, "actions", block.actions[start:end])
    _array(demo, "rewards", block.rewards[start:end])
    for name, ended in (("dones", block.terminated[e]), ("timeouts", block.truncated[e])):
        flags = np.zeros(end - start, np.int64)
        flags[-1] = ended
        _array(demo, name, flags)


def _array(demo: h5py.Group, name: str, value: np.ndarray) -> None:
    demo.create_dataset(name, data=value, track_times=False)
