"""Arrays read past HDF5's library: what it would have given, or the library itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lamo.data import Episodes, load_episodes
from lamo.data.sources import hdf5_tables
from lamo.data.sources.hdf5_tables import FEWEST, tables
from lamo.errors import LamoError

KEYS = ("observations", "actions", "rewards", "terminations", "truncations")
PLAIN: dict[str, Any] = {"chunks": True}


def write(path: Path, lengths: list[int], *, width: int = 3, libver: Any = None, **how: Any) -> None:
    """Minari's layout; `how` as `create_dataset` takes it, `maxshape` for arrays that can grow."""
    rng = np.random.default_rng(len(lengths))
    with h5py.File(path, "w", libver=libver, track_order=True) as file:
        for number, steps in enumerate(lengths):
            group = file.create_group(f"episode_{number}")
            arrays = {
                "observations": rng.standard_normal((steps + 1, width)),
                "actions": rng.standard_normal((steps, 2), dtype=np.float32),
                "rewards": rng.random(steps),
                "terminations": np.arange(steps) == steps - 1,
                "truncations": np.zeros(steps, bool),
            }
            for key, array in arrays.items():
                grows = {"maxshape": (None, *array.shape[1:])} if how.get("chunks") else {}
                group.create_dataset(key, data=array, **grows, **how)


def read(path: Path) -> dict[str, np.ndarray]:
    """What h5py says of all arrays, end to end."""
    with h5py.File(path) as file:
        names = sorted(file, key=lambda name: int(name.split("_")[1]))
        return {key: np.concatenate([file[name][key][()] for name in names]) for key in KEYS}


def found(path: Path) -> dict[str, hdf5_tables.Table]:
    with h5py.File(path) as file:
        names = sorted(file, key=lambda name: int(name.split("_")[1]))
        return tables(file, names, KEYS, str(path))


def same(one: Episodes, other: Episodes) -> bool:
    return one.digest() == other.digest()


@pytest.fixture
def by_library(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Episodes]:
    """Reads without any table."""

    def load(path: Path) -> Episodes:
        with monkeypatch.context() as patch:
            patch.setattr(hdf5_tables, "FEWEST", 1 << 30)
            return load_episodes(path)

    return load


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 900), min_size=FEWEST, max_size=FEWEST + 4),
    width=st.integers(1, 40),
    chunks=st.sampled_from([True, None, (7, 2)]),
)
def test_every_array_is_what_h5py_reads(tmp_path: Path, lengths: list[int], width: int, chunks: Any) -> None:
    path = tmp_path / "main_data.hdf5"
    if isinstance(chunks, tuple):  # chunks of a shape of their own, of the observations alone
        write(path, lengths, width=width)
        with h5py.File(path, "r+") as file:
            for group in file.values():
                values = group["observations"][()]
                del group["observations"]
                group.create_dataset("observations", data=values, chunks=(min(chunks[0], len(values)), min(2, width)))
    else:
        write(path, lengths, width=width, chunks=chunks)
    made, expected = found(path), read(path)
    most = 64  # chunks that one node of a tree lists
    if not isinstance(chunks, tuple) or max(lengths) * width < most:
        assert made.keys() == set(KEYS)
    for key, table in made.items():
        got = [table[i] for i in range(len(lengths))]
        assert [each.shape[0] for each in got] == [n + (key == "observations") for n in lengths]
        np.testing.assert_array_equal(np.concatenate([each[0 : each.shape[0]] for each in got]), expected[key])
        part = got[0][1:3]
        np.testing.assert_array_equal(part, expected[key][: got[0].shape[0]][1:3])


def test_a_dataset_is_the_librarys(tmp_path: Path, by_library: Callable[[Path], Episodes]) -> None:
    path = tmp_path / "main_data.hdf5"
    write(path, list(range(1, FEWEST + 9)), chunks=True)
    assert found(path).keys() == set(KEYS)
    assert same(load_episodes(path), by_library(path))


def attribute(file: h5py.File) -> None:
    file["episode_3/actions"].attrs["unit"] = "N"


def other_type(file: h5py.File) -> None:
    values = file["episode_5/actions"][()].astype(np.float64)
    del file["episode_5/actions"]
    file.create_dataset("episode_5/actions", data=values, chunks=True, maxshape=(None, 2))


def missing(file: h5py.File) -> None:
    del file["episode_7/actions"]
    file.create_dataset("episode_7/actions", (50, 2), np.float32, chunks=(8, 2), maxshape=(None, 2))  # nothing written


def soft_link(file: h5py.File) -> None:
    del file["episode_2/actions"]
    file["episode_2/actions"] = h5py.SoftLink("/episode_1/actions")


@pytest.mark.parametrize("change", [attribute, other_type, missing, soft_link])
def test_what_is_not_plain_is_left_to_the_library(
    tmp_path: Path, by_library: Callable[[Path], Episodes], change: Callable[[h5py.File], None]
) -> None:
    path = tmp_path / "main_data.hdf5"
    write(path, [50] * FEWEST, chunks=True)
    with h5py.File(path, "r+") as file:
        change(file)
    made = found(path)
    assert made.keys() == set(KEYS) - {"actions"}
    expected = read(path)
    for key, table in made.items():
        np.testing.assert_array_equal(np.concatenate([table[i][0:99] for i in range(FEWEST)]), expected[key])
    assert same(load_episodes(path), by_library(path))


@pytest.mark.parametrize(
    "how", [{"chunks": True, "compression": "gzip"}, {"chunks": True, "shuffle": True}, {"libver": "latest"}], ids=str
)
def test_packed_and_newer_files_are_left_to_the_library(tmp_path: Path, how: dict[str, Any]) -> None:
    path = tmp_path / "main_data.hdf5"
    write(path, [50] * FEWEST, **how)
    assert not found(path)
    assert load_episodes(path).steps == 50 * FEWEST


def test_a_link_to_another_file_is_refused_all_the_same(tmp_path: Path) -> None:
    write(tmp_path / "other.hdf5", [50] * FEWEST, chunks=True)
    path = tmp_path / "main_data.hdf5"
    write(path, [50] * FEWEST, chunks=True)
    with h5py.File(path, "r+") as file:
        del file["episode_9/rewards"]
        file["episode_9/rewards"] = h5py.ExternalLink("other.hdf5", "/episode_9/rewards")
    with pytest.raises(LamoError, match="links to another file"):
        load_episodes(path)


def test_few_episodes_are_not_worth_it(tmp_path: Path) -> None:
    path = tmp_path / "main_data.hdf5"
    write(path, [50] * (FEWEST - 1), chunks=True)
    assert not found(path)


def test_without_room_for_the_file_the_library_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "main_data.hdf5"
    write(path, [50] * FEWEST, chunks=True)
    expected = load_episodes(path)
    monkeypatch.setattr(hdf5_tables, "MOST_CHUNKS", FEWEST - 1)
    assert not found(path)
    assert same(load_episodes(path), expected)
    monkeypatch.undo()
    assert found(path)

    def refuse(*_: Any) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(np, "memmap", refuse)
    assert not found(path)
    assert same(load_episodes(path), expected)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """A file's bytes, the addresses of its arrays' headers, episode by episode, and where headers and trees begin."""
    path = tmp_path_factory.mktemp("plain") / "main_data.hdf5"
    write(path, [20] * FEWEST, chunks=True)
    with h5py.File(path) as file:
        groups = [file[f"episode_{i}"].id for i in range(FEWEST)]
        found = [hdf5_tables._is(group, key, hdf5_tables.h5g.DATASET) for group in groups for key in KEYS]
    raw = np.fromfile(path, np.uint8)
    places = np.array([each for each in found if each is not None], np.int64)
    return raw, places, [*places.tolist(), *(match.start() for match in re.finditer(b"TREE", raw.tobytes()))]


@settings(max_examples=200)
@given(data=st.data())
def test_damage_is_no_more_than_an_error(plain: tuple[np.ndarray, np.ndarray, list[int]], data: st.DataObject) -> None:
    """Bytes of headers and trees changed, and the end cut off: no table, or one whose arrays can be read."""
    raw, places, starts = plain[0].copy(), *plain[1:]
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.sampled_from(starts)) + data.draw(st.integers(0, 300))
        raw[min(at, len(raw) - 1)] = data.draw(st.integers(0, 255))
    damaged = raw[: len(raw) - data.draw(st.integers(0, len(raw) // 4))]
    for dtype, chosen in ((np.float64, places[::5]), (np.float32, places[1::5]), (np.bool_, places[3::5])):
        table = hdf5_tables._understood(damaged, chosen, np.dtype(dtype))
        if table is not None:
            for i in range(len(chosen)):
                each = table[i]
                assert each[0 : each.shape[0]].nbytes <= len(damaged)
