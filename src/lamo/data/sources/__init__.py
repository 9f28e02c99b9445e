"""Where logs of behaviour come from: one reader per format, each a function (path, name for messages) -> Episodes."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from pathlib import Path

from lamo.data.episodes import Episodes
from lamo.data.sources.arrays import read_npz
from lamo.data.sources.d4rl import open_hdf5, read_d4rl
from lamo.data.sources.minari import holds_episodes, is_minari_id, read_minari, read_minari_id
from lamo.data.sources.trajectories import read_trajectories
from lamo.errors import LamoError

SOURCES: dict[str, Callable[[Path, str], Episodes]] = {
    "minari": read_minari,
    "d4rl": read_d4rl,
    "npz": read_npz,
    "trajectories": read_trajectories,
}
_SUFFIXES = {".npz": "npz", ".pkl": "trajectories", ".pickle": "trajectories"}
_HDF5 = (".hdf5", ".h5")


def embedded() -> list[str]:
    """The names of the datasets inside the package: `reacher2d-medium` is `lamo/assets/reacher2d-medium.hdf5`."""
    assets = resources.files("lamo") / "assets"
    return sorted(item.name.removesuffix(".hdf5") for item in assets.iterdir() if item.name.endswith(".hdf5"))


def load_episodes(source: str | Path) -> Episodes:
    """Read a dataset: a file, a folder, an embedded name, or a Minari id.

    - `.hdf5`, `.h5`: Minari's layout (a group per episode) or D4RL's flat one, told apart by what is inside;
    - `.npz`: D4RL's keys; `.pkl`, `.pickle`: a list of trajectories, read without executing anything;
    - a folder: a Minari dataset;
    - `reacher2d-medium`: a dataset inside the package (`./reacher2d-medium` is always a path);
    - `mujoco/hopper/medium-v0`: a Minari id, from the local store or downloaded.

    Raises `LamoError`, one line, for whatever cannot be read or is not sound: see `docs/data.md`.
    """
    if isinstance(source, str) and source in embedded():
        with resources.as_file(resources.files("lamo") / "assets" / f"{source}.hdf5") as path:
            return read_d4rl(path, source)
    path = Path(source).expanduser()
    name = path.name if path.is_absolute() else str(path)
    if path.is_dir():
        return read_minari(path, name)
    if not path.exists():
        if isinstance(source, str) and is_minari_id(source):
            return read_minari_id(source)
        raise LamoError(
            f"dataset {str(source)!r}: no such file or folder, and it is neither an embedded dataset "
            f"({', '.join(embedded()) or 'none here'}) nor a Minari id (like mujoco/hopper/medium-v0)"
        )
    suffix = path.suffix.lower()
    if suffix in _HDF5:
        with open_hdf5(path, name) as file:
            layout = "minari" if holds_episodes(file) else "d4rl"
        return SOURCES[layout](path, name)
    if suffix not in _SUFFIXES:
        known = ", ".join((*_HDF5, *_SUFFIXES))
        raise LamoError(f"{name}: {suffix or 'no suffix'} is not a format that is read; known are {known} and folders")
    return SOURCES[_SUFFIXES[suffix]](path, name)
