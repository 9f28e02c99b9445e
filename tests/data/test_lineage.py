"""What is known of a dataset stays true, and is said once, through every command that makes another of it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lamo.cli import main
from lamo.data import Episodes, load_episodes
from lamo.data.convert import write
from lamo.data.join import join
from lamo.data.recut import convert, merge, split, subsample
from lamo.data.relabel import delayed, warning
from lamo.data.rewrite import relabel
from lamo.data.store_writer import write_store
from lamo.data.stream import stream


@pytest.fixture
def log(make_episodes) -> Episodes:
    return make_episodes([5, 8, 3, 9, 4, 6])


def test_relabelled_rewards_are_known_from_a_folder_of_stores(log, tmp_path: Path) -> None:
    write_store(log, tmp_path / "log.lamo")
    relabel(tmp_path / "log.lamo", tmp_path / "late.lamo", delayed(3))
    folder = tmp_path / "parts"
    split(tmp_path / "late.lamo", folder, parts=2)
    (tmp_path / "again").mkdir()
    convert(folder, tmp_path / "a.hdf5")
    convert(folder, tmp_path / "again" / "a.lamo")
    convert(tmp_path / "again", tmp_path / "b.parquet")
    subsample(folder, tmp_path / "c.hdf5", episodes=2)
    merge([folder, tmp_path / "log.lamo"], tmp_path / "d.lamo")
    split(folder, tmp_path / "e", holdout=0.4)
    expected = warning(load_episodes(tmp_path / "late.lamo").metadata)
    assert expected is not None
    for made in (folder, *(tmp_path / name for name in ("a.hdf5", "again", "b.parquet", "c.hdf5", "d.lamo", "e"))):
        assert warning(load_episodes(made).metadata) == expected, made
    assert warning(load_episodes(tmp_path / "log.lamo").metadata) is None


def test_what_is_counted_of_all_is_counted_once(log, tmp_path: Path) -> None:
    whole = replace(log, metadata={**log.metadata, "ends_inside": 4})
    one_each = list(whole.blocks(1))
    assert len(one_each) == 6
    assert sum(block.metadata.get("ends_inside", 0) for block in one_each) == 4
    stored = write_store(one_each, tmp_path / "a.lamo")
    assert stored.metadata["ends_inside"] == 4
    assert "ends_inside" not in stored.subsample(0.5, 0).metadata
    assert join([stored, log, stored]).metadata["ends_inside"] == 8


def test_a_packed_copy_is_not_what_a_result_was_read_from(log, tmp_path: Path) -> None:
    cached = replace(log, metadata={**log.metadata, "cache": "elsewhere/copy.lamo"})
    written = write([cached], tmp_path / "a.lamo")
    assert "cache" not in written.metadata


def test_the_digest_of_a_source_is_not_that_of_what_is_made_of_it(log, tmp_path: Path) -> None:
    write_store(log, tmp_path / "log.lamo")
    about = [{"source": "log.lamo"}]
    found = stream(tmp_path / "log.lamo")
    half = found.map(lambda block: replace(block, rewards=block.rewards / 2))
    for blocks in (half, iter(half)):
        made = write(blocks, tmp_path / f"{type(blocks).__name__}.lamo", sources=about)
        assert made.metadata["history"][-1]["sources"] == about
    told = [{"source": "log.lamo", "digest": "known"}]
    assert write(half, tmp_path / "told.lamo", sources=told).metadata["history"][-1]["sources"] == told
    same = write(found, tmp_path / "same.lamo", sources=about)
    assert same.metadata["history"][-1]["sources"] == [{"source": "log.lamo", "digest": log.digest()}]


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_sigterm_leaves_nothing(tmp_path: Path) -> None:
    steps = 400_000
    ends = np.zeros(steps, bool)
    ends[99::100] = True
    np.savez(
        tmp_path / "log.npz", observations=np.random.default_rng(0).normal(size=(steps, 12)),
        actions=np.zeros((steps, 4)), rewards=np.zeros(steps), terminals=ends, timeouts=~ends & False,
    )  # fmt: skip
    command = [sys.executable, "-m", "lamo", "data", "convert", str(tmp_path / "log.npz"), str(tmp_path / "out.csv")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out.csv*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 143
    assert said.strip().splitlines()[-1] == "lamo: stopped"
    assert [path.name for path in tmp_path.iterdir()] == ["log.npz"]


def test_the_handler_of_a_program_around_it_stays(tmp_path: Path, capsys) -> None:
    def mine(number: int, frame: object) -> None: ...

    before = signal.signal(signal.SIGTERM, mine)
    try:
        assert main(["--version"]) == 0
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)
    assert main(["--version"]) == 0
    assert signal.getsignal(signal.SIGTERM) == before
