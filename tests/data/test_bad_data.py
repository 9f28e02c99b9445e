"""What is wrong with a file is said in one line that names file and key, and nothing is read that could hurt."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest

from lamo.cli import main
from lamo.data import load_episodes
from lamo.errors import LamoError

FORMATS = ["hdf5", "npz", "pkl", "flat.pkl"]


@pytest.fixture
def arrays(make_episodes, flat_arrays):
    return flat_arrays(make_episodes([4, 5, 300]))


def write(folder: Path, kind: str, arrays: dict[str, np.ndarray]) -> Path:
    """The arrays in a format; as trajectories, they are two, and the second one holds the first five rows."""
    path = folder / f"bad.{kind}"
    if kind == "hdf5":
        with h5py.File(path, "w") as file:
            for key, value in arrays.items():
                file[key] = value
    elif kind == "npz":
        np.savez(path, **arrays)
    elif kind == "pkl":
        path.write_bytes(pickle.dumps([arrays, {key: value[:5] for key, value in arrays.items()}]))
    else:
        path.write_bytes(pickle.dumps(arrays))
    return path


def refused(path: Path | str, *words: str) -> str:
    with pytest.raises(LamoError) as caught:
        load_episodes(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    return message


@pytest.mark.parametrize("name", ["none.hdf5", "none.npz", "no-such-name", "a/b.pkl", "folder/none", ""])
def test_missing_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    if name:
        refused(name, name, "no such file")
        refused(tmp_path / name, "no such file")
    else:
        refused(name)


def test_unknown_suffix_and_folder(tmp_path):
    (tmp_path / "a.xlsx").write_text("1,2")
    refused(tmp_path / "a.xlsx", "a.xlsx", ".xlsx is not a format", ".hdf5", ".npz", ".csv", ".parquet")
    (tmp_path / "runs").mkdir()
    refused(tmp_path / "runs", "runs", "without a Minari dataset")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("keep", [0, 3, 0.3, 0.9, -1])
def test_truncated_file(tmp_path, arrays, kind, keep):
    path = write(tmp_path, kind, arrays)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    refused(path, path.name, "not a whole")


@pytest.mark.parametrize("kind", ["hdf5", "npz"])
def test_damaged_inside(tmp_path, arrays, kind):
    """Bytes of the compressed data are overwritten: the file opens, its values do not."""
    path = tmp_path / f"bad.{kind}"
    if kind == "hdf5":
        with h5py.File(path, "w") as file:
            for key, value in arrays.items():
                file.create_dataset(key, data=value, compression="gzip", fletcher32=True)
            chunk = file["observations"].id.get_chunk_info(0)
            where = chunk.byte_offset + chunk.size // 2
    else:
        np.savez_compressed(path, **arrays)
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo("observations.npy")
            where = member.header_offset + 100 + member.compress_size // 2
    content = bytearray(path.read_bytes())
    content[where : where + 40] = b"\x55" * 40
    path.write_bytes(content)
    refused(path, path.name)


def test_a_text_file_with_a_data_suffix(tmp_path):
    for suffix in ("hdf5", "npz", "pkl"):
        path = tmp_path / f"bad.{suffix}"
        path.write_text("this is no dataset")
        refused(path, path.name, "not a whole")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("key", ["observations", "actions", "rewards"])
def test_missing_key_names_those_that_are_there(tmp_path, arrays, kind, key):
    del arrays[key]
    message = refused(write(tmp_path, kind, arrays), f"bad.{kind}", f"key {key!r} is missing")
    for other in arrays:
        assert other in message.split("present are")[1]


@pytest.mark.parametrize("kind", ["hdf5", "npz", "flat.pkl"])
def test_neither_terminals_nor_timeouts(tmp_path, arrays, kind):
    del arrays["terminals"], arrays["timeouts"]
    refused(write(tmp_path, kind, arrays), "key 'terminals' is missing")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("key", ["observations", "actions", "rewards", "terminals", "timeouts"])
def test_arrays_of_different_lengths(tmp_path, arrays, kind, key):
    arrays[key] = arrays[key][:-1]
    refused(write(tmp_path, kind, arrays), "different lengths", "308", "309", key)


@pytest.mark.parametrize("kind", FORMATS)
def test_zero_steps(tmp_path, arrays, kind):
    empty = {key: value[:0] for key, value in arrays.items()}
    refused(write(tmp_path, kind, empty), "no steps")


def test_no_trajectories(tmp_path):
    path = tmp_path / "bad.pkl"
    path.write_bytes(pickle.dumps([]))
    refused(path, "no trajectories")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("key", ["observations", "actions", "rewards"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite_names_file_key_and_first_index(tmp_path, arrays, kind, key, value):
    bad = arrays[key].copy()
    bad[7:] = value
    arrays[key] = bad
    index = "[7]" if bad.ndim == 1 else "[7, 0]"
    refused(write(tmp_path, kind, arrays), f"bad.{kind}: {key} holds {value} at {index}")


@pytest.mark.parametrize("kind", [*FORMATS, "csv", "parquet"])
@pytest.mark.parametrize("value", [0.5, -7, np.nan])
def test_an_end_that_is_neither_true_nor_false(tmp_path, arrays, kind, value):
    arrays = {**arrays, "terminals": arrays["terminals"].astype(np.float32)}
    arrays["terminals"][1] = value
    if kind in ("csv", "parquet"):
        path = tmp_path / f"a.{kind}"
        columns = {f"obs_{i}": column for i, column in enumerate(arrays["observations"].T)}
        columns |= {"action_0": arrays["actions"][:, 0], "reward": arrays["rewards"], "terminated": arrays["terminals"]}
        table = pyarrow.table(columns | {"truncated": arrays["timeouts"]})
        (pyarrow.csv.write_csv if kind == "csv" else pyarrow.parquet.write_table)(table, path)
        empty = kind == "csv" and np.isnan(value)
        refused(path, "column 'terminated'", "has no value" if empty else "which is neither true nor false")
        return
    path = write(tmp_path, kind, arrays)
    refused(path, "terminals holds", "which is neither true nor false")
    if kind == "hdf5":
        assert main(["data", "convert", str(path), str(tmp_path / "x.lamo")]) == 2
        with h5py.File(path, "a") as file:
            file["terminals"][1] = 1
        assert load_episodes(path).terminated[0]


def test_python_s_ends_are_true_or_false_as_well():
    steps = {"observations": np.eye(3), "actions": np.eye(3), "rewards": np.ones(3)}
    for data in (
        {**steps, "terminals": [0, 0, 2]},
        {**steps, "episode": [0, 0, 1], "terminated": [0, 0.5, 1]},
        [{**steps, "terminated": 0.5}],
        [{**steps, "truncated": [0, -1, 1]}],
    ):
        with pytest.raises(LamoError, match="neither true nor false"):
            load_episodes(data)


def test_a_number_too_large_for_float32(tmp_path, arrays):
    arrays["rewards"] = arrays["rewards"].astype(np.float64)
    arrays["rewards"][3] = 1e300
    for kind in FORMATS:
        refused(write(tmp_path, kind, arrays), "rewards holds inf at [3]")


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_no_number(tmp_path, arrays, kind):
    text = np.array(["left"] * 309, dtype="S4")
    refused(write(tmp_path, kind, {**arrays, "actions": text}), "actions", "S4")
    refused(write(tmp_path, kind, {**arrays, "observations": text}), "observations", "S4")
    refused(write(tmp_path, kind, {**arrays, "rewards": text}), "rewards", "S4")


@pytest.mark.parametrize("kind", FORMATS)
def test_shapes_that_are_not_supported(tmp_path, arrays, kind):
    refused(write(tmp_path, kind, {**arrays, "rewards": np.zeros((309, 2))}), "rewards")
    whole = write(tmp_path, kind, {**arrays, "actions": np.zeros((309, 2), np.int64)})
    refused(whole, "actions are whole numbers", "--actions discrete", "--actions continuous")
    pixels = np.zeros((309, 8, 8), np.uint8)
    refused(write(tmp_path, kind, {**arrays, "observations": pixels}), "images (8, 8)", "state observations")
    refused(write(tmp_path, kind, {**arrays, "rewards": np.float32(1)}) if kind != "pkl" else "", "")


@pytest.mark.parametrize("key", ["observations", "actions"])
def test_trajectories_that_differ_in_width(tmp_path, arrays, key):
    path = tmp_path / "bad.pkl"
    path.write_bytes(pickle.dumps([arrays, {**arrays, key: arrays[key][:, :1]}]))
    refused(path, "trajectory 1", key)


# npz ----------------------------------------------------------------------------------------------------------------


def header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def archive(path: Path, arrays: dict[str, np.ndarray], **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for key, value in arrays.items():
            stream = io.BytesIO()
            np.lib.format.write_array(stream, value)
            file.writestr(f"{key}.npy", stream.getvalue())
        for key, value in members.items():
            file.writestr(f"{key}.npy", value)
    return path


def test_object_arrays_are_refused_and_not_unpickled(tmp_path, arrays):
    arrays["rewards"] = np.array([Trap(tmp_path)] * 309, object)
    np.savez(tmp_path / "bad.npz", **arrays)
    refused(tmp_path / "bad.npz", "bad.npz: rewards holds Python objects")
    assert not (tmp_path / "trapped").exists()


def test_object_arrays_that_nobody_needs_are_passed_over(tmp_path, arrays):
    np.savez(tmp_path / "a.npz", notes=np.array([Trap(tmp_path)], object), **arrays)
    assert load_episodes(tmp_path / "a.npz").steps == 309
    assert not (tmp_path / "trapped").exists()


def test_a_header_that_claims_more_than_is_there(tmp_path, arrays):
    del arrays["rewards"]
    for shape in ((10**15,), (-1,), (2**40, 2**40)):
        refused(archive(tmp_path / "bad.npz", arrays, rewards=header(shape)), "rewards", "header")


def test_a_bomb_is_seen_before_it_is_unpacked(tmp_path, monkeypatch):
    """Zeros pack a thousandfold: refused from the sizes alone. The limit is lowered to keep the test short."""
    monkeypatch.setattr("lamo.data.sources.flat.BOMB_BYTES", 1 << 20)
    steps = 2**16
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for key, width in {"observations": (64,), "actions": (1,), "rewards": (), "terminals": ()}.items():
            shape = (steps, *width)
            file.writestr(f"{key}.npy", header(shape) + bytes(4 * int(np.prod(shape))))
    monkeypatch.setattr("lamo.data.sources.arrays.NpzColumn.blocks", lambda self: pytest.fail("unpacked"))
    refused(path, "bomb.npz: observations would unpack from", "as no recorded data does")


def test_more_than_the_memory_that_is_free(tmp_path, monkeypatch):
    """An HDF5 file of 2 KB may claim an array of any size; so may a Minari episode."""
    steps = 2**40
    with h5py.File(tmp_path / "bad.hdf5", "w") as file:
        for key, width in {
            "observations": (8,),
            "actions": (2,),
            "rewards": (),
            "terminals": (),
            "timeouts": (),
        }.items():
            file.create_dataset(key, shape=(steps, *width), dtype="f4", chunks=(1024, *width))
    refused(tmp_path / "bad.hdf5", "would unpack from 0 to", "as no recorded data does")
    monkeypatch.setattr("lamo.data.sources.flat.BOMB_BYTES", 2**80)
    refused(tmp_path / "bad.hdf5", "GiB of memory are free")


def test_an_encrypted_or_structured_archive(tmp_path, arrays):
    arrays["rewards"] = np.zeros(309, [("a", "f4"), ("b", "f4")])
    np.savez(tmp_path / "bad.npz", **arrays)
    refused(tmp_path / "bad.npz", "rewards")


class Trap:
    """Unpickling it writes a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return exec, (f"open({str(self.folder / 'trapped')!r}, 'w')",)
