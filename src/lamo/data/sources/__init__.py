"""Where logs of behaviour come from: one reader per format, each a function (path, name for messages, options) ->
Episodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from lamo.data.episodes import Episodes
from lamo.data.join import join
from lamo.data.kitchen import adapt, is_kitchen
from lamo.data.mazes import end_at_goal, is_maze
from lamo.data.relabel import UNREWARDED
from lamo.data.sources.arrays import npz_blocks, read_npz
from lamo.data.sources.d4rl import d4rl_blocks, read_d4rl
from lamo.data.sources.hdf5 import open_hdf5
from lamo.data.sources.hub import is_minari_id, minari_folder
from lamo.data.sources.lerobot import INFO, lerobot_blocks, read_lerobot
from lamo.data.sources.memory import episodes_from
from lamo.data.sources.minari import MAIN_FILE, holds_episodes, minari_blocks, read_minari
from lamo.data.sources.options import ReadOptions
from lamo.data.sources.parts import take_parts
from lamo.data.sources.robomimic import holds_demonstrations, read_robomimic, robomimic_blocks
from lamo.data.sources.tables import SUFFIXES as TABLE_SUFFIXES
from lamo.data.sources.tables import read_tables, table_blocks, table_files
from lamo.data.sources.trajectories import read_trajectories
from lamo.data.store import SUFFIX, is_store, read_store, stores_in
from lamo.errors import LamoError

SOURCES: dict[str, Callable[[Path, str, ReadOptions], Episodes]] = {
    "minari": read_minari,
    "d4rl": read_d4rl,
    "npz": read_npz,
    "trajectories": read_trajectories,
    "tables": read_tables,
    "lerobot": read_lerobot,
    "robomimic": read_robomimic,
    "store": read_store,
}
BLOCKS: dict[str, Callable[[Path, str, ReadOptions, int], Iterator[Episodes]]] = {
    "minari": minari_blocks,
    "d4rl": d4rl_blocks,
    "npz": npz_blocks,
    "tables": table_blocks,
    "lerobot": lerobot_blocks,
    "robomimic": robomimic_blocks,
}
"""The same of formats that need not be held in memory, in blocks of about so many bytes."""
_SUFFIXES = {
    ".npz": "npz",
    ".pkl": "trajectories",
    ".pickle": "trajectories",
    **dict.fromkeys(TABLE_SUFFIXES, "tables"),
}
_HDF5 = (".hdf5", ".h5")
_SLOW = ("minari", "robomimic")  # a group per episode
_BLOCK_BYTES = 1 << 25
_TABLES = ("tables", "lerobot")  # whose columns are mapped


def embedded() -> list[str]:
    """The names of the datasets inside the package: `reacher2d-medium` is `lamo/assets/reacher2d-medium.hdf5`."""
    assets = resources.files("lamo") / "assets"
    return sorted(item.name.removesuffix(".hdf5") for item in assets.iterdir() if item.name.endswith(".hdf5"))


def load_episodes(
    source: str | Path | Sequence[str | Path] | Mapping[str, Any] | Iterable[Any],
    *,
    columns: Sequence[str] | None = None,
    obs_keys: Sequence[str] | None = None,
    actions: Literal["discrete", "continuous"] | None = None,
    reward: Literal["none"] | None = None,
) -> Episodes:
    """Read a dataset: a file, a folder, an embedded name, or a Minari id; several are one dataset, in that order.

    - `.hdf5`, `.h5`: Minari's and robomimic's layouts (a group per episode) or D4RL's flat one, told apart by what is
      inside;
    - `.npz`: D4RL's keys; `.pkl`, `.pickle`: a list of trajectories, read without executing anything;
    - `.csv`, `.tsv`, `.parquet`: a row per step, with `columns` where names are not known;
    - a folder: a Minari or LeRobot dataset, or tables;
    - `.lamo`: a packed store, or a folder of such; their steps stay on disk, however many they are;
    - `reacher2d-medium`: a dataset inside the package (`./reacher2d-medium` is always a path);
    - `mujoco/hopper/medium-v0`: a Minari id, from the local store or downloaded;
    - a dict of arrays, or an iterable of episodes: what `lamo.episodes_from` takes.

    Options, as on the command line: `columns` maps those of a table (`["obs=x,y", "action=ux", …]`), `obs_keys` chooses
    among dict observations, `actions` says what integers mean, `reward="none"` reads a log without rewards.
    Recordings of the kitchen are brought to what its environment sees and pays (`lamo.data.kitchen`), those of mazes
    end at the goal (`lamo.data.mazes`).
    Raises `LamoError`, one line, for whatever cannot be read or is not sound: see `docs/data.md`.
    """
    options = ReadOptions(
        tuple(columns) if columns is not None else None,
        tuple(obs_keys) if obs_keys is not None else None,
        actions,
        reward,
    )
    if isinstance(source, str | Path):
        return _load(source, options)
    named = list(source) if isinstance(source, Sequence) else None
    if named == []:
        raise LamoError("no dataset is named; give a file, a folder, a Minari id or an embedded name")
    if named is not None and all(isinstance(each, str | Path) for each in named):
        return join([_load(each, options) for each in named])
    options.refuse("columns", source="episodes", why=_NO_COLUMNS)
    return episodes_from(source, obs_keys=obs_keys, actions=actions, reward=reward)


def _load(source: str | Path, options: ReadOptions) -> Episodes:
    with located(source, options) as (kind, path, name):
        return read(kind, path, name, options)


@contextmanager
def located(source: str | Path, options: ReadOptions) -> Iterator[tuple[str, Path, str]]:
    """(which of `SOURCES` reads it, its path, its name in messages) of what `load_episodes` reads.

    Raises `LamoError` for what is not there, is in no known format, or has no use for one of the options.
    """
    if isinstance(source, str) and source in embedded():
        with resources.as_file(resources.files("lamo") / "assets" / f"{source}.hdf5") as path:
            found = "d4rl", path, source
            options.refuse("columns", source=source, why=_NO_COLUMNS)
            yield found
            return
    path = Path(source).expanduser()
    name = path.name if path.is_absolute() else str(path)
    if not path.exists():
        if not (isinstance(source, str) and is_minari_id(source)):
            raise LamoError(
                f"dataset {str(source)!r}: no such file or folder, and it is neither an embedded dataset "
                f"({', '.join(embedded()) or 'none here'}) nor a Minari id (like mujoco/hopper/medium-v0)"
            )
        options.refuse("columns", source=source, why=_NO_COLUMNS)
        yield "minari", minari_folder(source), source
        return
    kind = _format(path, name)
    if kind not in _TABLES:
        options.refuse("columns", source=name, why=_NO_COLUMNS)
    yield kind, path, name


def read(kind: str, path: Path, name: str, options: ReadOptions) -> Episodes:
    """What `located` found. Recordings of kitchens and mazes are adapted; stores hold what was. Files with a group per
    episode are read by way of a packed copy (`lamo.data.cache`), which is kept.
    """
    if kind in _SLOW and (files := _hdf5_files(path)):
        from lamo.data.cache import through_cache

        found = through_cache(files, name, options, lambda: _adapted_blocks(kind, path, name, options))
        if found is not None:
            return found
    return _read_whole(kind, path, name, options)


def _read_whole(kind: str, path: Path, name: str, options: ReadOptions) -> Episodes:
    episodes = _as_asked(SOURCES[kind](path, name, options), kind, options)
    return episodes if kind == "store" else _adapted(episodes)


def read_blocks(kind: str, path: Path, name: str, options: ReadOptions, size: int) -> Iterator[Episodes]:
    """What `located` found, of the formats in `BLOCKS`, in blocks of about `size` bytes; nothing is adapted."""
    return (_as_asked(block, kind, options) for block in BLOCKS[kind](path, name, options, size))


def _as_asked(episodes: Episodes, kind: str, options: ReadOptions) -> Episodes:
    """What a reader gives, with what all formats have in common done to it."""
    if options.reward == "none":
        episodes = replace(episodes, metadata={**episodes.metadata, UNREWARDED: True})
    # robomimic's keys are names in the file, which its reader looks up
    return episodes if kind == "robomimic" else take_parts(episodes, options.obs_keys)


def _adapted_blocks(kind: str, path: Path, name: str, options: ReadOptions) -> Iterator[Episodes]:
    """What `_read_whole` gives, in blocks where nothing has to be adapted."""
    first = True
    for block in read_blocks(kind, path, name, options, _BLOCK_BYTES):
        if first and is_adapted(block):
            yield from _read_whole(kind, path, name, options).blocks(_BLOCK_BYTES)
            return
        first = False
        yield block


def _hdf5_files(path: Path) -> list[Path]:
    """The HDF5 file that holds all episodes, and what describes it; none where they lie in several files."""
    candidates = [path] if path.is_file() else [path / "data" / MAIN_FILE, path / MAIN_FILE]
    main = next((each for each in candidates if each.is_file()), None)
    return [] if main is None else [each for each in (main, main.with_name("metadata.json")) if each.is_file()]


def is_adapted(episodes: Episodes) -> bool:
    """Whether `read` looks at all episodes of such a recording before it changes any."""
    return is_kitchen(episodes) or is_maze(episodes) or _is_array_of_one(episodes)


_NO_COLUMNS = "the names in this format are fixed; it maps those of a table (CSV, Parquet, LeRobot)"


def _adapted(episodes: Episodes) -> Episodes:
    """What is known of particular environments; and one choice per step where it is said to be an array of one."""
    if _is_array_of_one(episodes):
        episodes = replace(episodes, actions=episodes.actions[:, None])
    return end_at_goal(adapt(episodes))


def _is_array_of_one(episodes: Episodes) -> bool:
    return episodes.discrete and len(episodes.metadata.get("action_nvec") or ()) == 1


def _format(path: Path, name: str) -> str:
    """Which of `SOURCES` reads this file or folder, from its suffix and what is inside."""
    if is_store(path) or (path.is_dir() and stores_in(path)):
        return "store"
    if (path / INFO).is_file():
        return "lerobot"
    if path.is_dir():
        minari = (path / "data").is_dir() or (path / "metadata.json").exists() or (path / MAIN_FILE).exists()
        return "tables" if not minari and table_files(path) else "minari"
    suffix = path.suffix.lower()
    if suffix in _HDF5:
        with open_hdf5(path, name) as file:
            return "minari" if holds_episodes(file) else "robomimic" if holds_demonstrations(file) else "d4rl"
    if suffix not in _SUFFIXES:
        known = ", ".join((*_HDF5, *_SUFFIXES, SUFFIX))
        raise LamoError(f"{name}: {suffix or 'no suffix'} is not a format that is read; known are {known} and folders")
    return _SUFFIXES[suffix]
