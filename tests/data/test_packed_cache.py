"""Packed copies of slow files: used for the very file they were made of, and for nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import pytest
from test_stream import minari

from lamo.data import Episodes, cache, load_episodes
from lamo.data.inspect import inspect
from lamo.data.sources.options import ReadOptions
from lamo.errors import LamoError


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Where copies are kept, of files of any size."""
    monkeypatch.setattr(cache, "WORTHWHILE", 0)
    monkeypatch.setenv("LAMO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def log(make_episodes, tmp_path) -> tuple[Episodes, Path]:
    episodes = make_episodes([5, 3], final=True)
    return episodes, minari(episodes, tmp_path / "log.hdf5")


def copies(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_the_second_time_it_is_the_copy(log, folder, assert_same, capsys) -> None:
    episodes, path = log
    first = load_episodes(path)
    assert "a packed copy is kept" in capsys.readouterr().err
    again = load_episodes(path)
    assert capsys.readouterr().err == ""
    for found in (first, again):
        assert_same(found, episodes)
        assert found.mapped and found.source == "log.hdf5" and found.metadata["format"] == "minari"
        assert found.metadata["cache"] == str(folder / copies(folder)[0])
    assert len(copies(folder)) == 1
    assert any("packed copy" in note for note in inspect(again)["notes"])


def test_a_file_that_changed_is_read_anew(log, folder, make_episodes, assert_same) -> None:
    _, path = log
    load_episodes(path)
    status = path.stat()
    with h5py.File(path, "r+") as file:
        file["episode_0/rewards"][0] = 7.0
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as if nothing had happened
    assert path.stat().st_size == status.st_size
    assert load_episodes(path).rewards[0] == 7.0
    assert len(copies(folder)) == 1
    minari(other := make_episodes([2, 2, 2], seed=3), path)
    assert_same(load_episodes(path), other)


def test_options_have_copies_of_their_own(log, folder) -> None:
    _, path = log
    assert load_episodes(path, reward="none").rewards.max() == 0
    assert load_episodes(path).rewards.max() > 0
    assert len(copies(folder)) == 2


def test_switched_off_or_too_small(log, folder, monkeypatch) -> None:
    _, path = log
    monkeypatch.setenv("LAMO_CACHE", "off")
    assert not load_episodes(path).mapped
    monkeypatch.setenv("LAMO_CACHE", str(folder))
    monkeypatch.setattr(cache, "WORTHWHILE", 1 << 30)
    assert not load_episodes(path).mapped
    assert copies(folder) == []


def test_a_damaged_copy_is_made_anew(log, folder, assert_same, capsys) -> None:
    episodes, path = log
    load_episodes(path)
    (copy,) = folder.iterdir()
    (copy / "rewards.npy").write_bytes(b"")
    assert_same(load_episodes(path), episodes)
    assert "made anew" in capsys.readouterr().err
    (copy / "index.json").unlink()
    assert_same(load_episodes(path), episodes)
    assert len(copies(folder)) == 1


def test_a_damaged_source_leaves_no_copy(log, folder) -> None:
    _, path = log
    with h5py.File(path, "r+") as file:
        file["episode_1/rewards"][0] = float("nan")
    with pytest.raises(LamoError, match="nan"):
        load_episodes(path)
    assert copies(folder) == []


def test_a_folder_that_cannot_be_written_is_said_and_does_no_harm(log, folder, assert_same, capsys) -> None:
    episodes, path = log
    folder.write_text("a file where the folder should be")
    assert_same(load_episodes(path), episodes)
    assert "no packed copy is kept" in capsys.readouterr().err


def test_processes_at_once(log, folder) -> None:
    episodes, path = log
    code = (
        "import sys, lamo.data.cache as cache; cache.WORTHWHILE = 0; from lamo.data import load_episodes; "
        "print(load_episodes(sys.argv[1]).digest())"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    assert {each.communicate()[0].strip() for each in running} == {episodes.digest()}
    assert len(copies(folder)) == 1


def test_what_blocks_count_is_added_up(log, folder, make_episodes) -> None:
    blocks = [replace(make_episodes([4], seed=seed), metadata={"ends_inside": seed}) for seed in (1, 2)]
    for _ in ("made", "used"):
        found = cache.through_cache([log[1]], "log", ReadOptions(), lambda: blocks)
        assert found is not None and found.metadata["ends_inside"] == 3
