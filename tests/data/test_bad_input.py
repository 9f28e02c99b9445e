"""Every reader meets every harm that can befall its format: one line, exit code 2, nothing left behind."""

from __future__ import annotations

import io
import itertools
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from malformed import READERS, Arrays, Files, as_table, hdf5, npz

from lamo.cli import main

HARMS = [
    "truncated", "empty", "no steps", "wrong dtype", "ragged", "reordered", "duplicate ids", "missing column",
    "unsorted time", "NaN", "mixed shapes", "huge attribute", "bomb", "escape",
]  # fmt: skip


class Kind(NamedTuple):
    """A format: sound arrays, how they are written, the file of the data, and what its arrays are called."""

    arrays: Arrays
    write: Callable[[Arrays], Files]
    data: str
    observations: str
    actions: str
    rewards: str


FLAT = ("observations", "actions", "rewards")
KINDS = {
    "npz": Kind(*READERS["npz"][0][:2], "a.npz", *FLAT),
    "d4rl": Kind(*READERS["d4rl"][0][:2], "a.hdf5", *FLAT),
    "trajectories": Kind(*READERS["trajectories"][0][:2], "a.pkl", *FLAT),
    "minari": Kind(*READERS["minari"][0][:2], "data/main_data.hdf5", *(f"episode_1/{key}" for key in FLAT)),
    "minari arrow": Kind(*READERS["minari"][1][:2], "data/1/part-0.arrow", *(f"episode_1/{key}" for key in FLAT)),
    "csv": Kind(*READERS["tables"][0][:2], "a.csv", "obs_0", "action_0", "reward"),
    "parquet": Kind(*READERS["tables"][1][:2], "a.parquet", "obs_0", "action_0", "reward"),
    "lerobot 2": Kind(
        *READERS["lerobot"][0][:2],
        "data/chunk-000/episode_000000.parquet",
        *("observation.state", "action", "next.reward"),
    ),
    "lerobot 3": Kind(
        *READERS["lerobot"][2][:2], "data/chunk-000/file-000.parquet", *("observation.state", "action", "next.reward")
    ),
    "robomimic": Kind(
        *READERS["robomimic"][0][:2], "a.hdf5", "data/demo_1/obs/object", "data/demo_1/actions", "data/demo_1/rewards"
    ),
}
KINDS["store"] = Kind(*READERS["store"][0][:2], "observations.npy", *FLAT)
LEROBOT, TABLES = ("lerobot 2", "lerobot 3"), ("csv", "parquet", "lerobot 2", "lerobot 3")

# What cannot befall a format, and why.
CANNOT = {
    **dict.fromkeys(itertools.product(("npz", "d4rl", "trajectories", "store"), ["reordered"]), "steps have no number"),
    ("trajectories", "duplicate ids"): "an episode's number is its place",
    **dict.fromkeys(itertools.product(set(KINDS) - set(TABLES), ["unsorted time"]), "there is no time"),
    ("csv", "mixed shapes"): "a cell is one number",
    ("trajectories", "huge attribute"): "there are no attributes",
    ("trajectories", "bomb"): "nothing is packed",
    ("csv", "bomb"): "nothing is packed",
    ("store", "bomb"): "nothing is packed",
    ("trajectories", "escape"): "names no file; names of code are refused in test_pickles.py",
}
READS = {  # what does no harm, for it is never read: (reader, harm) -> why
    ("minari", "reordered"): "groups are read by their numbers",
    ("minari arrow", "reordered"): "folders are read by their numbers",
    ("robomimic", "reordered"): "groups are read by their numbers",
    ("npz", "huge attribute"): "text that is too long to be the name of an environment is not unpacked",
    ("npz", "escape"): "members of the archive are never written anywhere",
}


def changed(kind: Kind, **arrays: Any) -> Files:
    return kind.write({**kind.arrays, **arrays})


def without(kind: Kind, key: str) -> Files:
    return kind.write({name: value for name, value in kind.arrays.items() if name != key})


def permuted(kind: Kind, order: list[int]) -> Files:
    order = [*order, *range(len(order), len(kind.arrays[kind.rewards]))]
    return kind.write({key: np.asarray(value)[order] for key, value in kind.arrays.items()})


def lists(reader: str, rows: list[list[float]]) -> Files:
    """A table of these observations."""
    kind = KINDS[reader]
    if reader == "parquet":
        kept = {key: value for key, value in kind.arrays.items() if not key.startswith("obs_")}
        made = as_table({key: np.asarray(value)[: len(rows)] for key, value in kept.items()})
        assert made is not None
        made = made.append_column("obs", pa.array(rows))
    else:
        made = as_table(kind.arrays)
        assert made is not None
        place = made.column_names.index(kind.observations)
        made = made.set_column(place, kind.observations, pa.array(rows))
    stream = io.BytesIO()
    parquet.write_table(made, stream)
    return Files({**kind.write(kind.arrays), kind.data: stream.getvalue()})


def sliced(content: bytes, rows: int) -> bytes:
    """The first rows of an Arrow file; other files as they are."""
    if not content.startswith(b"ARROW1"):
        return content
    part, stream = pa.ipc.open_file(content).read_all().slice(0, rows), io.BytesIO()
    with pa.ipc.new_file(stream, part.schema) as writer:
        writer.write_table(part)
    return stream.getvalue()


def attributed(arrays: Arrays, group: str, name: str) -> bytes:
    """An HDF5 file with an attribute of 2 MiB, which only its newer versions can hold."""
    stream = io.BytesIO()
    with h5py.File(stream, "w", libver="latest") as file:
        for key, value in arrays.items():
            file[key] = value
        file[group].attrs[name] = np.zeros(1 << 18)
    return stream.getvalue()


# A store knows sizes, types and digests of its files, so any change of them is seen as one.
SIZE, DIGEST = "index.json says", "is not what was written"
STORE: dict[str, Callable[[Kind], tuple[Files, str]]] = {
    "truncated": lambda kind: (changed(kind, observations=kind.arrays["observations"][:-1]), SIZE),
    "empty": lambda kind: (Files({**kind.write(kind.arrays), kind.data: b""}), SIZE),
    "no steps": lambda kind: (kind.write({key: value[:0] for key, value in kind.arrays.items()}), SIZE),
    "wrong dtype": lambda kind: (changed(kind, actions=kind.arrays["actions"].astype(">f4")), "says another type or"),
    "ragged": lambda kind: (changed(kind, rewards=np.zeros(11, np.float32)), SIZE),
    "duplicate ids": lambda kind: (changed(kind, ids=np.array([0, 1, 1])), "ids"),
    "missing column": lambda kind: (without(kind, "rewards"), "rewards.npy is missing"),
    "NaN": lambda kind: (changed(kind, rewards=np.full(9, np.nan, np.float32)), DIGEST),
    "mixed shapes": lambda kind: (changed(kind, observations=np.zeros((3, 9), np.float32)), "says another type or"),
}


def harmed(reader: str, harm: str, root: Path) -> tuple[Files, str]:
    """The files of a dataset after the harm, and words of the message; links are put into `root` at once."""
    kind = KINDS[reader]
    files = kind.write(kind.arrays)
    steps = len(kind.arrays[kind.rewards])
    if reader == "store" and harm in STORE:
        return STORE[harm](kind)
    if harm == "truncated":
        files[kind.data] = files[kind.data][: len(files[kind.data]) // 2]
        return files, "not readable as" if reader in ("csv", "minari arrow") else "not a whole"
    if harm == "empty":
        files[kind.data] = b""
        return files, "not readable as" if reader in ("csv", "minari arrow") else "not a whole"
    if harm == "no steps":
        if reader == "minari arrow":  # one row, that of the observation after the last action
            return Files({name: sliced(content, 1) for name, content in files.items()}), "holds no steps"
        files = kind.write({key: np.asarray(value)[:0] for key, value in kind.arrays.items()})
        return files, "has 0 rows in data, but meta says" if reader in LEROBOT else "holds no steps"
    if harm == "wrong dtype":
        name = kind.actions.rpartition("/")[2]
        return changed(kind, **{kind.actions: np.array(["left"] * steps, "U4")}), f"{name}"
    if harm == "ragged":
        if reader == "csv":
            files[kind.data] = files[kind.data].replace(b"\n", b"\n1,", 1)
            return files, "not readable as CSV"
        if reader in ("parquet", *LEROBOT):
            return lists(
                reader, [[1.0, 2.0, 3.0]] * (steps - 1) + [[1.0]]
            ), f"has 1 numbers in row {steps - 1}, the rows"
        if reader == "minari arrow":
            return changed(kind, **{kind.rewards: np.zeros(0)}), "rewards has no value in row 0"
        return changed(kind, **{kind.rewards: np.zeros(steps + 2)}), "different lengths"
    if harm == "reordered":
        if reader in TABLES:
            return permuted(kind, [1, 0, 2]), "time goes from 1 to 0 at row 1"
        if reader == "minari arrow":
            return Files(reversed(files.items())), ""
        return kind.write(dict(reversed(kind.arrays.items()))), ""
    if harm == "duplicate ids":
        return duplicated(reader, files)
    if harm == "missing column":
        return without(kind, kind.rewards), kind.rewards.rpartition("/")[2]
    if harm == "unsorted time":
        time = "step" if reader in ("csv", "parquet") else "frame_index"
        return changed(kind, **{time: np.zeros(steps, np.int64)}), "time goes from 0 to 0 at row 1, within an episode"
    if harm == "NaN":
        place = "column 'reward' has" if reader == "csv" else "rewards holds nan at ["
        return changed(kind, **{kind.rewards: np.full(steps, np.nan)}), place
    if harm == "mixed shapes":
        return mixed(reader)
    if harm == "huge attribute":
        return described(reader, files)
    if harm == "bomb":
        return bomb(reader), "is compressed" if reader == "minari arrow" else "as no recorded data does"
    return escaping(reader, files, root)


def duplicated(reader: str, files: Files) -> tuple[Files, str]:
    kind = KINDS[reader]
    arrays = dict(kind.arrays)
    if reader in ("npz", "d4rl"):
        notes = {"metadata/ids": np.array([0, 1, 1]), "metadata/unfinished": np.zeros(3, bool)}
        return changed(kind, **notes), "metadata/ids numbers two episodes alike"
    if reader in ("minari", "robomimic"):
        arrays |= {key.replace("_1/", "_01/"): value for key, value in arrays.items() if "_1/" in key}
        return kind.write(arrays), "are the same episode number"
    if reader == "minari arrow":
        files["data/01/part-0.arrow"] = files["data/1/part-0.arrow"]
        return files, "are the same episode number"
    if reader in ("csv", "parquet"):
        twice = {key: np.concatenate([value, value]) for key, value in arrays.items()}
        return kind.write(twice), "episode 0 goes on at row 9"
    if reader == "lerobot 2":
        files["meta/episodes.jsonl"] *= 2
    else:
        name = next(name for name in files if name.startswith("meta/episodes/"))
        listing, stream = parquet.read_table(io.BytesIO(files[name])), io.BytesIO()
        parquet.write_table(pa.concat_tables([listing, listing]), stream)
        files[name] = stream.getvalue()
    return files, "meta lists episode 0 twice"


def mixed(reader: str) -> tuple[Files, str]:
    kind = KINDS[reader]
    if reader in ("npz", "d4rl"):
        return changed(kind, next_observations=np.zeros((9, 2))), "next_observations and observations have different"
    if reader == "trajectories":
        plain = {key: value for key, value in kind.arrays.items() if "/" not in key}
        content = [plain, {**plain, "actions": np.zeros((9, 5))}]
        return Files({"a.pkl": pickle.dumps(content)}), "trajectory 1: actions (9, 5) float64 differ"
    if reader in ("parquet", *LEROBOT):
        steps = len(kind.arrays[kind.rewards])
        files = lists(reader, [[1.0, 2.0]] * steps)
        if reader == "parquet":
            other = {**kind.arrays, "episode": np.asarray(kind.arrays["episode"]) + 3}
            plain = as_table({key: value for key, value in other.items() if not key.startswith("obs_")})
            assert plain is not None
            stream = io.BytesIO()
            parquet.write_table(plain.append_column("obs", pa.array([[1.0]] * steps)), stream)
            files["b.parquet"] = stream.getvalue()
        return files, "every row needs as many"
    steps = len(kind.arrays[kind.rewards])
    return changed(kind, **{kind.actions: np.zeros((steps, 5))}), "differ from those before"


def described(reader: str, files: Files) -> tuple[Files, str]:
    kind = KINDS[reader]
    if reader == "npz":
        return npz({**kind.arrays, "env_id": np.array("x" * (1 << 20))}), ""
    if reader == "d4rl":
        return Files({"a.hdf5": attributed(kind.arrays, "/", "notes")}), "attribute 'notes' has 2097152 bytes"
    if reader == "robomimic":
        return Files({"a.hdf5": attributed(kind.arrays, "data", "env_args")}), "attribute 'env_args' has 2097152 bytes"
    if reader == "csv":
        files[kind.data] = b"x" * (1 << 22) + b"," + files[kind.data]
        return files, "not readable as CSV"
    if reader == "parquet":
        made = as_table(kind.arrays)
        assert made is not None
        stream = io.BytesIO()
        parquet.write_table(made.replace_schema_metadata({"lamo": json.dumps({"env": "x" * (1 << 21)})}), stream)
        return Files({"a.parquet": stream.getvalue()}), "its notes under 'lamo' are damaged"
    name = next(name for name in ("data/metadata.json", "meta/info.json", "index.json") if name in files)
    files[name] = files[name].replace(b"{", b'{"notes": "' + b"x" * (1 << 24) + b'", ', 1)
    return files, "more than any description needs"


def bomb(reader: str) -> Files:
    """2 MiB of zeros, packed; the limit is lowered to 1 MiB."""
    kind, zeros = KINDS[reader], np.zeros((1 << 15, 8))
    if reader == "npz":
        return npz({**kind.arrays, "observations": zeros}, packed=True)
    if reader in ("d4rl", "minari", "robomimic"):
        packed = hdf5({**kind.arrays, kind.observations: zeros}, {"data@env_args": "{}"}, compression="gzip")
        return Files({**kind.write(kind.arrays), kind.data: packed["a.hdf5"]})
    if reader == "minari arrow":
        files, stream = kind.write(kind.arrays), io.BytesIO()
        rows = pa.ipc.open_file(files[kind.data]).read_all()
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_file(stream, rows.schema, options=options) as writer:
            writer.write_table(rows)
        return Files({**files, kind.data: stream.getvalue()})
    if reader == "parquet":
        stream = io.BytesIO()
        parquet.write_table(pa.table(dict.fromkeys(kind.arrays, np.zeros(1 << 17))), stream)
        return Files({"a.parquet": stream.getvalue()})
    return lists(reader, np.zeros((len(kind.arrays[kind.rewards]), 1 << 17)).tolist())


def escaping(reader: str, files: Files, root: Path) -> tuple[Files, str]:
    kind = KINDS[reader]
    outside = root.parent / "outside"
    if reader == "npz":
        stream = io.BytesIO(files["a.npz"])
        with zipfile.ZipFile(stream, "a") as archive:
            archive.writestr("../../escaped.npy", archive.read("rewards.npy"))
        return Files({"a.npz": stream.getvalue()}), ""
    if reader in ("d4rl", "robomimic"):
        stream = io.BytesIO(files["a.hdf5"])
        with h5py.File(stream, "a") as file:
            del file[kind.rewards]
            file[kind.rewards] = h5py.ExternalLink(str(outside), "rewards")
        return Files({"a.hdf5": stream.getvalue()}), "links to another file, which is not followed"
    if reader in LEROBOT:
        info = json.loads(files["meta/info.json"])
        info["data_path"] = f"../{info['data_path']}"
        files["meta/info.json"] = json.dumps(info).encode()
        return files, "leads out of the dataset's folder"
    outside.write_bytes(files.pop(kind.data))
    name = "b/a.csv" if reader == "csv" else "b/a.parquet" if reader == "parquet" else kind.data
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).symlink_to(outside)
    return files, "leads out of the dataset's folder"


def everything(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.lstat().st_size) for path in folder.rglob("*"))


def test_the_table_is_whole():
    every = set(itertools.product(KINDS, HARMS))
    assert set(CANNOT) | set(READS) <= every and not set(CANNOT) & set(READS)
    assert {name.partition(" ")[0] for name in KINDS} - {"csv", "parquet"} | {"tables"} == set(READERS)


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("reader", KINDS)
def test_every_harm_to_every_reader(reader, harm, tmp_path, monkeypatch, capsys):
    if (reader, harm) in CANNOT:
        return
    monkeypatch.setattr("lamo.data.sources.flat.BOMB_BYTES", 1 << 20)
    root = tmp_path / "root"
    files, words = harmed(reader, harm, root)
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    alone = len(files) == 1 and len(list(root.rglob("*"))) == 1
    path = root / "b" if (root / "b").is_dir() else root / next(iter(files)) if alone else root
    before = everything(tmp_path)
    code = main(["data", "inspect", str(path), "--json"])
    assert everything(tmp_path) == before
    out, err = capsys.readouterr()
    if (reader, harm) in READS:
        assert code == 0 and json.loads(out)["steps"] == 9, err
        return
    lines = [line for line in err.splitlines() if not line.startswith("lamo: warning: ")]
    assert (code, out, len(lines)) == (2, "", 1), err
    assert words in lines[0] and path.name in lines[0], err
