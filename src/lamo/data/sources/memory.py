"""Episodes from Python: flat arrays, or one episode after another from any iterable.

lamo.episodes_from({"observations": o, "actions": a, "rewards": r, "terminals": t, "timeouts": u})
lamo.episodes_from({"observations": o, "actions": a, "rewards": r, "episode": e})
lamo.episodes_from({"observations": o, "actions": a, "rewards": r, "terminated": True} for o, a, r in recorded)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from lamo.data.episodes import BLOCK, Episodes
from lamo.data.sources.episodic import Part, gather
from lamo.data.sources.flat import TERMINALS, TIMEOUTS, action_type, as_flags, check_fits, flat_episodes, state_width
from lamo.data.sources.options import ReadOptions, as_kind, chosen
from lamo.data.sources.parts import UnknownParts
from lamo.data.sources.rows import Rows, episodes_of_rows
from lamo.errors import LamoError

_ENDS = {"terminated": TERMINALS, "truncated": TIMEOUTS}
_DEPTH = 16


def episodes_from(
    data: Mapping[str, Any] | Iterable[Any],
    *,
    env: str | None = None,
    action_low: Sequence[float] | None = None,
    action_high: Sequence[float] | None = None,
    actions: Literal["discrete", "continuous"] | None = None,
    obs_keys: Sequence[str] | None = None,
    reward: Literal["none"] | None = None,
    name: str = "episodes",
) -> Episodes:
    """Episodes from arrays or from an iterable of episodes, checked as a file would be; arrays are copied.

    One mapping holds all steps: `observations` (N, S), `actions` (N, A) floats, or (N,) or (N, A) integers, of which
    `actions` says whether they are choices from 0 on ("discrete") or amounts ("continuous"), `rewards` (N,), and either
    `episode` (N,), which changes where one begins, or `terminals` and `timeouts` (N,), after which one ends. Else each
    item is an episode: a mapping (or an object with these attributes, such as Minari's) with
    `observations` (T, S) or (T + 1, S), `actions`, `rewards` (T,), and its end as `terminated` and `truncated`, each
    one flag or one per step. What was seen after an episode's last action is the last row of T + 1 observations, or of
    `next_observations`. Observations may be dicts of arrays, flattened by sorted key; `obs_keys` chooses.
    `env` (a Gymnasium id) and the bounds of actions are kept; `name` is how messages call the data. An iterable is
    walked once, and its episodes are held until the last is there: twice the memory of the result.
    Raises `LamoError` for what is missing, of different lengths, not a number, or not finite.
    """
    options = ReadOptions(None, tuple(obs_keys) if obs_keys is not None else None, actions, reward)
    metadata: dict[str, Any] = {
        "source": name,
        "format": "memory",
        "env": env,
        "action_low": _bound(action_low, "action_low", name),
        "action_high": _bound(action_high, "action_high", name),
        "attributes": {},
    }
    if isinstance(data, Mapping):
        return _from_arrays(data, name, metadata, options)
    if not isinstance(data, Iterable) or isinstance(data, str | bytes | np.ndarray):
        raise LamoError(f"{name}: give a dict of arrays, or an iterable of episodes, not a {type(data).__name__}")
    episodes = [_Given(item, number, name, options) for number, item in enumerate(data)]
    if not episodes:
        raise LamoError(f"{name}: holds no episodes; an offline dataset needs at least one transition")
    if len({episode.id for episode in episodes}) < len(episodes):
        raise LamoError(f"{name}: two episodes have the same id")
    keys = episodes[0].observation_keys
    for episode in episodes:
        if episode.observation_keys != keys:
            raise LamoError(f"{name}: {episode.label} has other keys of observations than those before")
    if keys is not None:
        metadata["observation_keys"] = keys
    parts = [Part("observations", state_width(episodes[0].observations.shape, np.dtype(np.float32), name))]
    return gather(lambda: episodes, parts, ("terminated", "truncated"), name, metadata, options)


def _bound(value: Sequence[float] | None, what: str, name: str) -> list[float] | None:
    if value is None:
        return None
    numbers = _array(value, what, name).reshape(-1)
    if not np.isfinite(numbers).all():
        raise LamoError(f"{name}: {what} must be finite; leave it out where actions have no bounds")
    return [float(number) for number in numbers]


def _array(value: Any, what: str, name: str) -> np.ndarray:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:  # lists of different lengths, an object that refuses
        raise LamoError(f"{name}: {what} is not an array of numbers: its parts have different lengths") from error
    if array.dtype.kind not in "fiub":
        raise LamoError(f"{name}: {what} has type {array.dtype}, which is not a number")
    return array


class _Column:
    """An array as `flat_episodes` reads it."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def blocks(self) -> Iterator[np.ndarray]:
        return (self.array[row : row + BLOCK] for row in range(0, len(self.array), BLOCK))


def _from_arrays(data: Mapping[str, Any], name: str, metadata: dict[str, Any], options: ReadOptions) -> Episodes:
    known = {"observations", "actions", "rewards", "next_observations", "episode", *TERMINALS, *TIMEOUTS, *_ENDS}
    if unknown := [key for key in data if key not in known]:
        raise LamoError(f"{name}: {unknown[0]!r} is not known; the arrays are {', '.join(sorted(known))}")
    arrays: dict[str, np.ndarray] = {}
    for key, value in data.items():
        if key.endswith("observations"):
            arrays[key], keys = _observations(value, options, key, name)
            if keys is not None and key == "observations":
                metadata["observation_keys"] = keys
        else:
            arrays[key] = _array(value, key, name)
        if arrays[key].ndim == 0:
            raise LamoError(f"{name}: {key} is a single value, not an array with one row per step")
    for plain, names in _ENDS.items():
        if plain in arrays:
            arrays[names[0]] = arrays.pop(plain)
    if "episode" not in arrays:
        return flat_episodes({k: _Column(v) for k, v in arrays.items()}, name, metadata, options).validate()
    episode = arrays.pop("episode").reshape(-1)
    needed = ("observations", "actions", *(("rewards",) if options.reward is None else ()))
    for key in needed:
        if key not in arrays:
            raise LamoError(f"{name}: {key!r} is missing; the arrays present are {', '.join(sorted(arrays))}")
    lengths = {key: len(array) for key, array in {**arrays, "episode": episode}.items()}
    if len(set(lengths.values())) > 1:
        listing = ", ".join(f"{key} {count}" for key, count in lengths.items())
        raise LamoError(f"{name}: arrays have different lengths ({listing}); every array needs one row per step")
    if episode.dtype.kind not in "iub":
        raise LamoError(f"{name}: episode has type {episode.dtype}; it holds whole numbers")
    width = state_width(arrays["observations"].shape, arrays["observations"].dtype, name)
    kept = arrays["actions"].shape, arrays["actions"].dtype
    inner, kind = action_type(*kept, name, options.actions, metadata["env"])
    check_fits(len(episode) * 4 * (width + 2), name)
    rewards = np.zeros(len(episode), np.float32)
    with np.errstate(over="ignore"):  # what is too large for float32 becomes inf, which `validate` reports
        if options.reward is None:
            rewards[:] = _per_step(arrays["rewards"], "rewards", name)
        acted = as_kind(arrays["actions"].reshape(-1, *inner).astype(kind), options.actions, name)
        seen = arrays["observations"].reshape(-1, width).astype(np.float32)
    flags = {plain: next((arrays[key] for key in names if key in arrays), None) for plain, names in _ENDS.items()}
    ends = {
        key: None if flag is None else as_flags(_per_step(flag, key, name), name, key) for key, flag in flags.items()
    }
    rows = Rows(
        seen,
        acted if acted.ndim == 2 else acted[:, None],
        rewards,
        np.array([0, len(episode)]),
        episode.astype(np.int64),
        terminated=ends["terminated"],
        truncated=ends["truncated"],
    )
    said = ReadOptions(actions="continuous" if acted.dtype.kind == "f" else "discrete")
    episodes = episodes_of_rows(rows, name, metadata, said, per_file=False, may_sort=False)
    if (following := arrays.get("next_observations")) is None:
        return episodes
    if state_width(following.shape, following.dtype, name, "next_observations") != width:
        raise LamoError(f"{name}: next_observations and observations have different widths")
    with np.errstate(over="ignore"):
        final = following[episodes.offsets[1:] - 1].reshape(-1, width).astype(np.float32)
    return replace(episodes, final_observations=final).validate()


def _per_step(array: np.ndarray, what: str, name: str) -> np.ndarray:
    if array.size != len(array):
        raise LamoError(f"{name}: {what} has shape {array.shape}; it must be one number per step")
    return array.reshape(-1)


def _observations(value: Any, options: ReadOptions, what: str, name: str) -> tuple[np.ndarray, list[str] | None]:
    """(rows, …) numbers, and the keys that they come from where `value` is a dict of arrays."""
    if not isinstance(value, Mapping):
        if options.obs_keys is not None:
            raise UnknownParts(name)
        return _array(value, what, name), None
    leaves = dict(_leaves(value, "", what, name))
    keys = chosen(list(leaves), options.obs_keys, name)
    arrays = [leaves[key] for key in keys]
    if not arrays or len({len(array) for array in arrays}) != 1:
        raise LamoError(f"{name}: the parts of {what} ({', '.join(leaves) or 'none'}) have different lengths")
    for key, array in zip(keys, arrays, strict=True):
        state_width(array.shape, array.dtype, name, f"{what}/{key}")
    with np.errstate(over="ignore"):
        return np.concatenate([array.reshape(len(array), -1).astype(np.float32) for array in arrays], axis=1), keys


def _leaves(value: Mapping[str, Any], prefix: str, what: str, name: str) -> Iterator[tuple[str, np.ndarray]]:
    if prefix.count("/") > _DEPTH:
        raise LamoError(f"{name}: {what} are dicts within dicts without end")
    for key in sorted(value, key=str):
        inner = value[key]
        if isinstance(inner, Mapping):
            yield from _leaves(inner, f"{prefix}{key}/", what, name)
        else:
            array = _array(inner, f"{what}/{prefix}{key}", name)
            if array.ndim == 0:
                raise LamoError(f"{name}: {what}/{prefix}{key} is a single value, not an array with one row per step")
            yield f"{prefix}{key}", array


class _Given:
    """One episode of an iterable, its numbers kept as they will be."""

    def __init__(self, item: Any, number: int, name: str, options: ReadOptions) -> None:
        self.id, self.label = number, f"episode {number}"
        where = f"{name}: {self.label}"

        def read(key: str) -> Any:
            return item.get(key) if isinstance(item, Mapping) else getattr(item, key, None)

        own = read("id")
        if isinstance(own, int | np.integer) and not isinstance(own, bool):
            self.id = int(own)
        if read("observations") is None:
            raise LamoError(f"{where} has no observations; an episode has observations, actions and rewards")
        self.observations, self.observation_keys = _observations(read("observations"), options, "observations", where)
        self.arrays: dict[str, np.ndarray] = {"observations": self.observations}
        if read("next_observations") is not None:
            self.arrays["next_observations"], _ = _observations(
                read("next_observations"), options, "next_observations", where
            )
        for key in ("actions", "rewards"):
            if read(key) is not None:
                self.arrays[key] = _array(read(key), key, where)
        for key, names in _ENDS.items():
            value = next((found for name in (key, *names) if (found := read(name)) is not None), None)
            if value is not None:
                flag = _array(value, key, where)
                self.arrays[key] = flag if flag.ndim else self._at_end(bool(as_flags(flag.reshape(1), where, key)[0]))

    def _at_end(self, flag: bool) -> np.ndarray:
        out = np.zeros(len(self.arrays["actions"]) if "actions" in self.arrays else 0, bool)
        out[-1:] = flag
        return out

    def get(self, key: str) -> Any:
        return self.arrays.get(key)

    def keys(self) -> list[str]:
        return list(self.arrays)
