"""Files that are wrong in every way that could be thought of, and the one thing that may come of reading them."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import shutil
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as parquet
from hypothesis import strategies as st
from lerobot_folders import write_lerobot

from lamo.data import Episodes, load_episodes
from lamo.data.sources import lerobot_writer
from lamo.data.store import header
from lamo.data.store_writer import write_store
from lamo.errors import LONGEST, LamoError

SECONDS, MEMORY = 10.0, 1 << 30  # that one reading may take, and may add to the process
Arrays = dict[str, Any]


class Files(dict[str, bytes]):
    """Content by path; a failing test shows sizes, not kilobytes."""

    def __repr__(self) -> str:
        return str({name: f"{len(content)} bytes" for name, content in self.items()})


def sound(width: int = 3) -> Episodes:
    """Three short episodes."""
    rng = np.random.default_rng(0)
    return Episodes(
        observations=rng.normal(size=(9, width)).astype(np.float32),
        actions=rng.uniform(-1, 1, (9, 2)).astype(np.float32),
        rewards=rng.normal(size=9).astype(np.float32),
        offsets=np.array([0, 3, 4, 9]),
        terminated=np.array([True, False, False]),
        truncated=np.array([False, True, False]),
        ids=np.arange(3),
    )


def flat_arrays() -> Arrays:
    """D4RL's arrays."""
    episodes = sound()
    ends = {"terminals": np.zeros(9, bool), "timeouts": np.zeros(9, bool)}
    ends["terminals"][2], ends["timeouts"][3] = True, True
    plain = {"observations": episodes.observations, "actions": episodes.actions, "rewards": episodes.rewards}
    return {**plain, **ends, "next_observations": episodes.observations, "infos/goal": np.zeros((9, 2))}


def per_episode(prefix: str, names: dict[str, str], *, extra: bool) -> Arrays:
    """Arrays of each episode under its group; `extra`: one observation more than steps."""
    episodes, out = sound(), {}
    for e, (start, stop) in enumerate([(0, 3), (3, 4), (4, 9)]):
        values = {
            "observations": np.concatenate([episodes.observations[start:stop], np.zeros((int(extra), 3), np.float32)]),
            "actions": episodes.actions[start:stop],
            "rewards": episodes.rewards[start:stop],
            "terminated": np.arange(start, stop) == 2,
            "truncated": np.arange(start, stop) == 3,
        }
        out |= {f"{prefix}{e}/{names[key]}": value for key, value in values.items() if key in names}
    return out


def columns() -> Arrays:
    """A table with the names that are known."""
    episodes = sound()
    return {
        "episode": np.repeat([0, 1, 2], [3, 1, 5]),
        "step": np.array([0, 1, 2, 0, 0, 1, 2, 3, 4]),
        **{f"obs_{i}": episodes.observations[:, i] for i in range(3)},
        "action_0": episodes.actions[:, 0],
        "reward": episodes.rewards,
        "terminated": np.arange(9) == 2,
    }


# --------------------------------------------------------------------------------------------- arrays -> files of bytes


def hdf5(arrays: Arrays, attributes: Arrays | None = None, **options: Any) -> Files:
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        for key, value in arrays.items():
            try:
                array = np.asarray(value)
                packed = options if array.ndim and array.size and array.dtype.kind != "O" else {}
                file.create_dataset(key, data=array, **packed)
            except (TypeError, ValueError, OSError):  # what HDF5 cannot hold, or two names of which one is a group
                continue
        for path, value in (attributes or {}).items():
            group, _, name = path.rpartition("@")
            if group in file or not group:
                file[group or "/"].attrs[name] = value
    return Files({"a.hdf5": stream.getvalue()})


def npz(arrays: Arrays, packed: bool = False) -> Files:
    stream = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(stream, **arrays)
    return Files({"a.npz": stream.getvalue()})


def minari(arrays: Arrays, stored: str = "hdf5") -> Files:
    low = [-1.0, -1.0]
    box = {"type": "Box", "dtype": "float32", "shape": [3], "low": [-9.0] * 3, "high": [9.0] * 3}
    act = {"type": "Box", "dtype": "float32", "shape": [2], "low": low, "high": [1.0, 1.0]}
    notes = {
        "observation_space": json.dumps(box),
        "action_space": json.dumps(act),
        "data_format": stored,
        "total_episodes": 3,
        "env_spec": json.dumps({"id": "Hopper-v5"}),
    }
    files = Files({"data/metadata.json": json.dumps(notes).encode()})
    if stored == "hdf5":
        files["data/main_data.hdf5"] = hdf5(arrays)["a.hdf5"]
        return files
    for e in range(3):
        found = {key.partition("/")[2]: value for key, value in arrays.items() if key.startswith(f"episode_{e}/")}
        table = as_table({key: padded(value) for key, value in found.items()})
        if table is not None:
            stream = io.BytesIO()
            if stored == "parquet":
                parquet.write_table(table, stream)
            else:
                with pa.ipc.new_file(stream, table.schema) as writer:
                    writer.write_table(table)
            files[f"data/{e}/part-0.{stored}"] = stream.getvalue()
    return files


def padded(value: Any) -> Any:
    """Minari's tables have T + 1 rows; what is one shorter repeats its last."""
    value = np.asarray(value)
    return np.concatenate([value, value[-1:]]) if value.ndim and len(value) in (3, 1, 5) else value


def as_table(arrays: Arrays) -> pa.Table | None:
    """Columns of equal length; shorter ones are filled up with nulls, and what Arrow cannot hold is left out."""
    made = {}
    for key, value in arrays.items():
        array = np.asarray(value)
        try:
            made[key] = pa.array(array.tolist() if array.ndim else [array.item()])
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            continue
    if not made:
        return None
    rows = max(map(len, made.values()))
    return pa.table(
        {key: pa.concat_arrays([each, pa.nulls(rows - len(each), each.type)]) for key, each in made.items()}
    )


def table(arrays: Arrays, kind: str) -> Files:
    made = as_table(arrays)
    if made is None:
        return Files({f"a.{kind}": b""})
    stream = io.BytesIO()
    if kind == "parquet":
        parquet.write_table(made, stream, row_group_size=4)
    else:
        names = [name for name in made.column_names if not pa.types.is_nested(made[name].type)]
        try:
            pa.csv.write_csv(made.select(names), stream)
        except pa.ArrowException:  # types without a text, names with a line break
            return Files({"a.csv": b",".join(name.encode("utf-8", "replace") for name in names)})
    return Files({f"a.{kind}": stream.getvalue()})


def tables(arrays: Arrays, kind: str) -> Files:
    """A folder of three files, an episode in each."""
    files = Files()
    for number, part in enumerate((slice(0, 3), slice(3, 4), slice(4, None))):
        values = {key: np.asarray(value)[part] if np.ndim(value) else value for key, value in arrays.items()}
        files[f"{number}.{kind}"] = table(values, kind)[f"a.{kind}"]
    return files


def lerobot(version: int) -> Files:
    with tempfile.TemporaryDirectory() as folder:
        root = write_lerobot(sound(), Path(folder) / "robot", version)
        paths = [path for path in sorted(root.rglob("*")) if path.is_file()]
        return Files({str(path.relative_to(root)): path.read_bytes() for path in paths})


def lerobot_of(arrays: Arrays, version: int) -> Files:
    """The folder, with these columns in its first file of data."""
    files = Files(LEROBOT[version])
    first = next(name for name in files if name.startswith("data/"))
    made = as_table(arrays)
    if made is not None:
        stream = io.BytesIO()
        parquet.write_table(made, stream)
        files[first] = stream.getvalue()
    return files


def lerobot_columns(version: int) -> Arrays:
    first = next(content for name, content in LEROBOT[version].items() if name.startswith("data/"))
    return {name: np.array(value) for name, value in parquet.read_table(io.BytesIO(first)).to_pydict().items()}


def lerobot_written() -> Files:
    """The same, as lamo writes it."""
    episodes = sound()
    episodes = replace(episodes, ids=np.array([4, 0, 2]), final_observations=episodes.observations[:3])
    with tempfile.TemporaryDirectory() as folder:
        root = lerobot_writer.write_lerobot(episodes, Path(folder) / "robot", fps=30)
        return Files({str(path.relative_to(root)): path.read_bytes() for path in sorted(root.glob("*/**/*.*"))})


def lerobot_noted(arrays: Arrays) -> Files:
    """That folder, with these columns in lamo's own file."""
    files, made = Files(WRITTEN), as_table(arrays)
    if made is not None:
        stream = io.BytesIO()
        parquet.write_table(made, stream)
        files["meta/lamo.parquet"] = stream.getvalue()
    return files


def pickled(arrays: Arrays) -> Files:
    parts = [{key: value for key, value in arrays.items() if "/" not in key}] * 2
    return Files({"a.pkl": pickle.dumps(parts, protocol=4)})


def flat_pickled(arrays: Arrays) -> Files:
    return Files({"a.pkl": pickle.dumps(arrays, protocol=2)})


def stored(arrays: Arrays) -> Files:
    """The files of a store, whose index stays that of `sound()`."""
    files = Files({"index.json": STORE["index.json"]})
    for key, value in arrays.items():
        if "/" not in key:
            array = np.asarray(value)
            files[f"{key}.npy"] = header(array.dtype, array.shape) + array.tobytes()
    return files


def two_stores(arrays: Arrays) -> Files:
    """A folder with the store and a sound one."""
    return Files(
        {f"{n}.lamo/{name}": each for n, part in enumerate((stored(arrays), STORE)) for name, each in part.items()}
    )


def store() -> Files:
    with tempfile.TemporaryDirectory() as folder:
        write_store(sound(), Path(folder) / "a.lamo")
        return Files({path.name: path.read_bytes() for path in sorted((Path(folder) / "a.lamo").iterdir())})


STORE = store()
STORED = {name[:-4]: np.load(io.BytesIO(each)) for name, each in STORE.items() if name.endswith(".npy")}
LEROBOT = {version: lerobot(version) for version in (2, 3)}
WRITTEN = lerobot_written()
NOTED = parquet.read_table(io.BytesIO(WRITTEN["meta/lamo.parquet"])).to_pydict()
MARKS = {"@lamo": ["lamo_id", "lamo_last_observation_repeated"], "episode_1@lamo_id": 7}
MARKS |= {"episode_2@lamo_last_observation_repeated": True}
MINARI = {"observations": "observations", "actions": "actions", "rewards": "rewards"}
MINARI |= {"terminated": "terminations", "truncated": "truncations"}
ROBOMIMIC = {"observations": "obs/object", "actions": "actions", "rewards": "rewards", "terminated": "dones"}
ROBOT = {"data@env_args": '{"env_name": "Lift", "env_type": 1}', "data@total": 9}
GZIP: Arrays = {"compression": "gzip", "shuffle": True}

# name: (arrays, how they are written, options of load_episodes)
READERS: dict[str, list[tuple[Arrays, Callable[[Arrays], Files], Arrays]]] = {
    "npz": [(flat_arrays(), npz, {}), (flat_arrays(), lambda a: npz(a, True), {})],
    "d4rl": [
        (flat_arrays(), lambda a: hdf5(a, {"@env_id": "Hopper-v5", "@action_low": [-1.0, -1.0]}), {}),
        (flat_arrays(), lambda a: hdf5(a, **GZIP), {"obs_keys": ["achieved_goal", "desired_goal", "observation"]}),
        (
            flat_arrays() | {"metadata/ids": np.arange(3), "metadata/unfinished": np.zeros(3, bool)},
            lambda a: hdf5(a, fletcher32=True),
            {"actions": "continuous"},
        ),
    ],
    "minari": [
        (per_episode("episode_", MINARI, extra=True), minari, {}),
        (per_episode("episode_", MINARI, extra=True), lambda a: minari(a, "arrow"), {}),
        (per_episode("episode_", MINARI, extra=True), lambda a: minari(a, "parquet"), {}),
        (
            per_episode("episode_", {**MINARI, "observations": "observations/a"}, extra=True),
            lambda a: hdf5(a, **GZIP),
            {},
        ),
        (per_episode("episode_", MINARI, extra=True), lambda a: hdf5(a, MARKS), {}),
    ],
    "trajectories": [(flat_arrays(), pickled, {}), (flat_arrays(), flat_pickled, {})],
    "tables": [
        (columns(), lambda a: table(a, "csv"), {}),
        (columns(), lambda a: table(a, "parquet"), {}),
        (columns(), lambda a: tables(a, "csv"), {"columns": ["time=step"]}),
        (columns(), lambda a: tables(a, "parquet"), {"columns": ["obs=obs_.", "episode=file"], "reward": "none"}),
    ],
    "lerobot": [
        (lerobot_columns(version), lambda a, version=version: lerobot_of(a, version), options)
        for version in (2, 3)
        for options in ({}, {"reward": "none", "columns": ["time=frame_index"]})
    ]
    + [({name: np.array(value) for name, value in NOTED.items()}, lerobot_noted, {})],
    "store": [(STORED, stored, {}), (STORED, two_stores, {})],
    "robomimic": [
        (per_episode("data/demo_", ROBOMIMIC, extra=False), lambda a: hdf5(a, ROBOT), {}),
        (
            per_episode("data/demo_", ROBOMIMIC, extra=False)
            | per_episode("data/demo_", {"observations": "next_obs/object"}, extra=False),
            lambda a: hdf5(a, ROBOT, **GZIP),
            {"obs_keys": ["object"], "reward": "none"},
        ),
        (
            per_episode("data/demo_", ROBOMIMIC, extra=False)
            | {"lamo": np.bytes_(json.dumps({"env": "Hopper-v5", "action_low": [-1.0, -1.0], "history": []}))},
            lambda a: hdf5(a, {"data/demo_1@lamo_id": 7}),
            {},
        ),
    ],
}

# --------------------------------------------------------------------------------------------------- what may go wrong

TYPES = ["f8", "f4", "f2", ">f8", "i8", "i1", "u1", "u8", "?", "c16", "S3", "U2", "M8[s]"]
ODD = [np.nan, np.inf, -np.inf, 1e300, -1e300, 2.0**63, -1.0, 0.5, 0.0]


@st.composite
def wrong_arrays(draw: st.DrawFn, arrays: Arrays) -> Arrays:
    """The arrays after one or two changes of names, types, shapes or values."""
    arrays = dict(arrays)
    for _ in range(draw(st.integers(1, 2))):
        if not arrays:
            break
        key = draw(st.sampled_from(sorted(arrays)))
        value, how = np.asarray(arrays[key]), draw(st.sampled_from(WAYS))
        if how == "delete":
            del arrays[key]
        elif how == "rename":
            arrays[
                draw(st.sampled_from(["x", f"{key}/x", f"{key}_", "observations", "episode_7/actions", "é\n\x1b[0m"]))
            ] = arrays.pop(key)
        elif how == "swap":
            other = draw(st.sampled_from(sorted(arrays)))
            arrays[key], arrays[other] = arrays[other], arrays[key]
        elif how == "type":
            arrays[key] = retyped(value, draw(st.sampled_from(TYPES)))
        elif how == "value" and value.dtype.kind == "f" and value.size:
            value = value.copy()
            value.reshape(-1)[draw(st.integers(0, value.size - 1))] = draw(st.sampled_from(ODD[:3]))
            arrays[key] = value
        elif how == "fill":
            arrays[key] = np.full(value.shape, draw(st.sampled_from(ODD)))
        elif how == "order" and value.ndim:
            arrays[key] = value[draw(st.permutations(range(len(value))))]
        elif how == "shape":
            arrays[key] = draw(st.sampled_from(SHAPES))(value)
    return arrays


def retyped(value: np.ndarray, kind: str) -> np.ndarray:
    try:
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return value.astype(kind)
    except (ValueError, TypeError, OverflowError, RuntimeError):  # text that is no number, a date as short text, …
        return value


WAYS = ["delete", "rename", "swap", "type", "value", "fill", "order", "shape"]
SHAPES: list[Callable[[np.ndarray], Any]] = [
    lambda v: v[:-1] if v.ndim else v,
    lambda v: v[:0] if v.ndim else v,
    lambda v: np.concatenate([v, v]) if v.ndim else v,
    lambda v: v.reshape(-1),
    lambda v: v[..., None],
    lambda v: v[..., None, None],
    lambda v: v[None],
    lambda v: v.reshape(len(v), -1)[:, :0] if v.ndim and len(v) else v,
    lambda v: v.T,
    lambda v: np.float64(1.0),
    lambda v: np.zeros((len(v), 8, 8, 3), np.uint8) if v.ndim else v,
    lambda v: np.zeros((2, 1000), np.float32),
    lambda v: np.zeros((0, 3, 0)),
]
VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    10**30,
    2.5,
    float("nan"),
    "",
    "../..",
    "/etc/{x}",
    "é" * 9,
    [],
    [[]],
    {},
    {"n": 1},
]
NOISE = st.binary(min_size=1, max_size=8)


@st.composite
def wrong_json(draw: st.DrawFn, content: bytes) -> bytes:
    """A JSON object with one value, somewhere in it or in a JSON text inside, replaced or taken away."""
    try:
        whole = json.loads(content)
    except ValueError:
        return content + draw(NOISE)
    here: Any = whole
    while isinstance(here, dict | list) and here:
        key = draw(st.sampled_from(sorted(here) if isinstance(here, dict) else range(len(here))))
        inner = here[key]
        if isinstance(inner, str) and inner.startswith("{") and draw(st.booleans()):
            here[key] = draw(wrong_json(inner.encode())).decode("utf-8", "replace")
            break
        if isinstance(inner, dict | list) and inner and draw(st.integers(0, 3)):
            here = inner
            continue
        if isinstance(here, dict) and draw(st.booleans()):
            del here[key]
        else:
            here[key] = draw(st.sampled_from(VALUES))
        break
    return json.dumps(whole).encode()


@st.composite
def wrong_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes that were flipped, cut off, added, moved or blotted out."""
    if not content:
        return draw(NOISE)
    at = draw(st.integers(0, len(content) - 1))
    how = draw(st.sampled_from(["flip", "flip", "flip", "cut", "add", "insert", "blot", "take", "twice"]))
    if how == "flip":
        changed = bytearray(content)
        for place in draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=6)):
            changed[place] ^= draw(st.integers(1, 255))
        return bytes(changed)
    length = draw(st.integers(1, 64))
    return {
        "cut": lambda: content[:at],
        "add": lambda: content + draw(NOISE) * 20,
        "insert": lambda: content[:at] + draw(NOISE) + content[at:],
        "blot": lambda: content[:at] + draw(st.sampled_from([b"\0", b"\xff"])) * length + content[at + length :],
        "take": lambda: content[:at] + content[at + length :],
        "twice": lambda: content[: at + length] + content[at:],
    }[how]()


@st.composite
def malformed(draw: st.DrawFn, reader: str) -> tuple[Files, Arrays]:
    """The files of a dataset of this reader after some harm, and the options that it is read with."""
    arrays, write, options = draw(st.sampled_from(READERS[reader]))
    harm = draw(st.sampled_from(["arrays", "arrays", "bytes", "bytes", "files"]))
    files = write(draw(wrong_arrays(arrays)) if harm == "arrays" else arrays)
    name = draw(st.sampled_from(sorted(files)))
    if harm == "bytes":
        described = name.endswith(("json", "jsonl")) and draw(st.booleans())
        files[name] = draw((wrong_json if described else wrong_bytes)(files[name]))
    elif harm == "files":
        other = draw(st.sampled_from(sorted(files)))
        change = draw(st.sampled_from(["empty", "delete", "other", "twin"]))
        if change == "empty":
            files[name] = b""
        elif change == "delete" and len(files) > 1:
            del files[name]
        elif change == "other":
            files[name] = files[other]
        else:
            files[f"{name}2{Path(name).suffix}"] = files[name]
    return files, options


# ---------------------------------------------------------------------------------------------- what may come of it


def read(files: Files, options: Arrays, folder: Path) -> str:
    """Write the files, read them; "read" or "refused". Whatever else comes, in time or memory too, is an error."""
    root = Path(tempfile.mkdtemp(dir=folder))
    try:
        for name, content in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        before = listing(root)
        only = next(iter(files))
        path = root / only if len(files) == 1 and "/" not in only else root
        with limited():
            try:
                episodes = load_episodes(path, **options)
            except LamoError as error:
                message = str(error)
                assert message.isprintable() and 0 < len(message) <= LONGEST + 10, message
                return "refused"
            finally:
                assert listing(root) == before
        episodes.validate()
        assert 0 < episodes.steps < 1000
        json.dumps(episodes.metadata, allow_nan=False)
        return "read"
    finally:
        shutil.rmtree(root)


def listing(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@contextmanager
def limited() -> Iterator[None]:
    """A limit of time and of the memory that is added meanwhile."""

    def late(*_: object) -> None:
        raise TimeoutError(f"reading took more than {SECONDS} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    statm = Path("/proc/self/statm")
    used = int(statm.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else None
    old = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    if used is not None:
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
