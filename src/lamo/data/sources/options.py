"""What a user says of a dataset that the file itself does not: which columns, which keys, what its actions mean."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lamo.errors import LamoError
from lamo.tasks import nearest


class UnstatedActions(LamoError):
    """Actions are whole numbers, and nothing says whether these are choices or amounts. `env`: the environment that
    the source names, which may know.
    """

    def __init__(self, source: str, env: str | None, span: str = "") -> None:
        super().__init__(
            f"{source}: actions are whole numbers{span}, which may mean two things; give --actions discrete if they "
            "are choices, --actions continuous if they are amounts"
        )
        self.env = env


LISTED = 24  # names that an error shows; a table may have thousands of columns


@dataclass(frozen=True)
class ReadOptions:
    """Options of `load_episodes`, the same for every format; one that a format has no use for is refused there."""

    columns: tuple[str, ...] | None = None
    """Columns of a table: obs=x,y,vx action=ux reward=r episode=run time=t terminated=done; regular expressions do."""
    obs_keys: tuple[str, ...] | None = None
    """Keys of dict observations to use, in data and environment; by default all of them."""
    actions: Literal["discrete", "continuous"] | None = None
    """What integers among the actions mean: choices (discrete; several columns: several choices at once) or amounts
    (continuous)."""
    reward: Literal["none"] | None = None
    """`none` reads a log without rewards: all are zero, which imitation can do with."""

    def __post_init__(self) -> None:
        for name in ("columns", "obs_keys"):
            value = getattr(self, name)
            if isinstance(value, str):
                object.__setattr__(self, name, (value,))
            elif value is not None:
                object.__setattr__(self, name, tuple(value))
        if self.actions not in (None, "discrete", "continuous"):
            raise LamoError(f"--actions {self.actions} is not known; use discrete or continuous")
        if self.reward not in (None, "none"):
            raise LamoError(f"--reward {self.reward} is not known; `none` sets all rewards to zero")

    def refuse(self, *names: str, source: str, why: str) -> None:
        """Raise `LamoError` if one of these options is given for a format that has no use for it."""
        for name in names:
            if getattr(self, name) is not None:
                raise LamoError(f"{source}: --{name.replace('_', '-')} does not apply: {why}")


@dataclass(frozen=True)
class WriteOptions:
    """What a result is, where its suffix does not say it."""

    format: Literal["minari", "lerobot", "robomimic"] | None = None
    """What to write where the suffix does not say it: minari (a folder, HDF5 inside), lerobot (a folder, version 3.0)
    or robomimic (a .hdf5)."""
    fps: float | None = None
    """lerobot: steps per second; by default what a LeRobot source says, else 30."""

    def __post_init__(self) -> None:
        if self.fps is not None and self.format != "lerobot":
            raise LamoError("--fps is written into LeRobot datasets alone; give --format lerobot with it")
        if self.fps is not None and not 0 < self.fps < math.inf:
            raise LamoError(f"--fps {self.fps} is no number of steps per second; give one above 0")


def listed(names: Iterable[object]) -> str:
    """Names for a message: `a, b, c and 970 more`."""
    names = [str(name) for name in names]
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return (", ".join(names[:LISTED]) or "none") + more


def chosen(leaves: Sequence[str], keys: Sequence[str] | None, source: str) -> list[str]:
    """Those of `leaves` (`achieved_goal/kettle`) that `keys` name, themselves or by the dict they lie in, in the order
    of `leaves`. None names all. Raises `LamoError` for a key that names none, with the nearest.
    """
    if keys is None:
        return list(leaves)
    if not keys:
        raise LamoError("--obs-keys names no key; leave it out to use all of them")
    for key in keys:
        if not any(leaf == key or leaf.startswith(f"{key}/") for leaf in leaves):
            known = sorted({*leaves, *(leaf.partition("/")[0] for leaf in leaves)})
            raise LamoError(f"{source}: --obs-keys {key!r} is no key of the observations; {_near(key, known)}")
    return [leaf for leaf in leaves if any(leaf == key or leaf.startswith(f"{key}/") for key in keys)]


def _near(key: str, known: list[str]) -> str:
    close = nearest(key, known)
    return close if close.startswith("did") else f"known: {listed(known)}"


def as_kind(actions: np.ndarray, kind: str | None, source: str) -> np.ndarray:
    """Actions (N, A) float32, (N,) or (N, A) int64 in the kind that `--actions` asks for, None as they are.

    Raises `LamoError` where vectors or fractions are to be choices.
    """
    if kind == "continuous" and actions.dtype.kind != "f":
        return actions.astype(np.float32).reshape(len(actions), -1)
    if kind == "discrete" and actions.ndim == 2:
        if not ((np.abs(actions) <= 2**24) & (actions == np.trunc(actions))).all():  # NaN fails both
            raise LamoError(f"{source}: --actions discrete needs small whole numbers, but actions holds others")
        whole = actions.astype(np.int64)
        return whole[:, 0] if whole.shape[1] == 1 else whole
    return actions
