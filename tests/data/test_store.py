"""Packed stores: what is written is what is read, whole, in parts, and as parts of a whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamo.cli import main
from lamo.data import Transitions, Windows, load_episodes
from lamo.data.join import join
from lamo.data.store import verify_store
from lamo.data.store_writer import write_store
from lamo.errors import LamoError


@pytest.mark.parametrize("actions", [0, 2])
@pytest.mark.parametrize("final", [False, True])
def test_round_trip(make_episodes, tmp_path: Path, actions: int, final: bool) -> None:
    episodes = make_episodes([3, 1, 5], actions=actions, final=final)
    stored = write_store(episodes.blocks(100), tmp_path / "x.lamo")
    assert stored.mapped
    assert replace(stored, recorded=None).digest() == stored.digest() == episodes.digest()
    np.testing.assert_array_equal(stored.returns_to_go, episodes.returns_to_go)
    np.testing.assert_array_equal(stored.ids, episodes.ids)
    for mine, theirs in zip(stored.statistics(), episodes.statistics(), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    verify_store(tmp_path / "x.lamo")


def test_stores_of_a_folder_are_one_dataset(make_episodes, tmp_path: Path, rng: np.random.Generator) -> None:
    episodes = make_episodes([3, 1, 5, 4], final=True)
    for number, chosen in enumerate(([0, 1], [2, 3])):
        write_store(episodes.select(chosen), tmp_path / "parts" / f"{number}.lamo")
    joined = load_episodes(tmp_path / "parts")
    assert replace(joined, recorded=None).digest() == episodes.digest()
    statistics = episodes.statistics()
    steps = rng.integers(episodes.steps, size=32)
    whole, parts = (Windows(each, 3, 2.0, statistics=statistics).at(steps) for each in (episodes, joined))
    for mine, theirs in zip(parts, whole, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    cuts=st.lists(st.integers(1, 7), max_size=3),
    actions=st.sampled_from([0, 1, 3]),
    final=st.booleans(),
    size=st.integers(1, 600),
    seed=st.integers(0, 99),
)
@settings(max_examples=12)
def test_any_division_into_stores_gives_the_same_windows(
    make_episodes, tmp_path_factory, lengths, cuts, actions, final, size, seed
) -> None:
    episodes = make_episodes(lengths, actions=actions, final=final, seed=seed)
    folder, edges = tmp_path_factory.mktemp("stores"), sorted({0, len(lengths), *(c for c in cuts if c < len(lengths))})
    for a, b in pairwise(edges):
        write_store(episodes.select(range(a, b)).blocks(size), folder / f"{a}.lamo")
    joined = load_episodes(folder)
    assert joined.mapped and replace(joined, recorded=None).digest() == episodes.digest()
    np.testing.assert_array_equal(joined.returns, episodes.returns)
    np.testing.assert_array_equal(joined.returns_to_go[:], episodes.returns_to_go)
    np.testing.assert_allclose(joined.statistics().std, episodes.statistics().std, rtol=1e-6)
    for key in ("observations", "actions", "rewards"):
        for mine, theirs in zip(joined.extremes(key), episodes.extremes(key), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    chosen = np.random.default_rng(seed).permutation(len(lengths))[: 1 + seed % len(lengths)]
    views = ((joined, episodes), (joined._remembered(chosen), episodes.select(chosen)))  # as of more than is copied
    statistics = episodes.statistics()
    for mine, theirs in (*views, (views[1][0]._remembered(np.array([0])), views[1][1].select([0]))):
        assert_drawn_alike(Windows(mine, 3, 2.0, statistics=statistics), Windows(theirs, 3, 2.0, statistics=statistics))
        for following in (False, True):
            try:
                wanted = Transitions(theirs, statistics, following=following)
            except LamoError:
                continue
            assert_drawn_alike(Transitions(mine, statistics, following=following), wanted)


@pytest.mark.parametrize("replaced", ["rewards", "observations"])
def test_one_array_of_joined_stores_is_in_memory(make_episodes, assert_same, tmp_path, monkeypatch, replaced) -> None:
    """What is chosen of it, and what it is joined with, are the rows of each array."""
    episodes = make_episodes([3, 1, 5, 4, 2])
    for name, chosen in (("a", [0, 1]), ("b", [2, 3, 4])):
        write_store(episodes.select(chosen), tmp_path / f"{name}.lamo")
    stores = load_episodes([tmp_path / "a.lamo", tmp_path / "b.lamo"])
    changed = {replaced: 2 * getattr(episodes, replaced)}
    mixed, wanted = replace(stores, **changed), replace(episodes, **changed)
    monkeypatch.setattr("lamo.data.episodes.COPIED", 0)
    for chosen in ([1, 3], [4, 0], [2]):
        assert_same(mixed.select(chosen), wanted.select(chosen))
        assert_same(mixed._remembered(np.array(chosen)), wanted.select(chosen))
    for parts, steps in (((mixed, stores), (0, 15)), ((stores, mixed), (15, 30))):
        whole = join(parts)
        for key in ("observations", "actions", "rewards", "returns_to_go"):
            np.testing.assert_array_equal(getattr(whole, key)[slice(*steps)], getattr(wanted, key))
    assert_drawn_alike(Windows(mixed, 3, 2.0), Windows(wanted, 3, 2.0))


def assert_drawn_alike(mine: Windows | Transitions, theirs: Windows | Transitions) -> None:
    for one, two in zip(*(each.sample(np.random.default_rng(0), 16) for each in (mine, theirs)), strict=True):
        np.testing.assert_array_equal(one, two)
        assert one.dtype == two.dtype


def harm_index(store: Path, **changes: Any) -> None:
    index = json.loads((store / "index.json").read_text())
    for path, value in changes.items():
        *keys, last = path.split("__")
        inner = index
        for key in keys:
            inner = inner[key]
        inner[last] = value
    (store / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"version": 2}, "reads 'lamo store', version 1"),
        ({"format": "x"}, "describes 'x'"),
        ({"steps": 10}, "does not describe a store"),
        ({"steps": -1}, "does not describe a store"),
        ({"steps": 1 << 60}, "does not describe a store"),
        ({"episodes": True}, "does not describe a store"),
        ({"files__rewards__dtype": "|O"}, "does not describe a store"),
        ({"files__observations__shape": [9, 0]}, "does not describe a store"),
        ({"files__../../x": {"dtype": "<f4", "shape": [9], "sha256": ""}}, "files that are not known"),
        ({"files__rewards__sha256": "0" * 64}, "rewards.npy is not what was written"),
        ({"digest": "0" * 64}, "says another digest"),
        ({"digest": 3}, "does not describe a store"),
        ({"moments__mean": [0.0]}, "does not describe a store"),
        ({"extremes__rewards__low": "NaN"}, "does not describe a store"),
        ({"metadata": 3}, "does not describe a store"),
    ],
)
def test_an_index_that_lies(make_episodes, tmp_path, capsys, changes, words) -> None:
    write_store(make_episodes([3, 1, 5]), tmp_path / "x.lamo")
    harm_index(tmp_path / "x.lamo", **changes)
    assert main(["data", "inspect", str(tmp_path / "x.lamo")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and words in said[0], said


def test_files_that_are_not_those_that_were_written(make_episodes, tmp_path, monkeypatch) -> None:
    store, outside = tmp_path / "x.lamo", tmp_path / "outside.npy"
    episodes = make_episodes([3, 1, 5])

    def refused(words: str, harm: Callable[[Path], Any], name: str = "rewards.npy") -> None:
        write_store(episodes, store)
        harm(store / name)
        with pytest.raises(LamoError, match=words):
            load_episodes(store)
        shutil.rmtree(store)

    refused("rewards.npy is missing", lambda file: file.unlink())
    refused("rewards.npy has 160 bytes, index.json says 164", lambda file: os.truncate(file, 160))
    refused("another type or shape", lambda file: file.write_bytes(b"\0" + file.read_bytes()[1:]))
    refused("SHA-256", lambda file: file.write_bytes(file.read_bytes()[:-1] + b"\7"))
    refused("leads out of", lambda file: (file.rename(outside), file.symlink_to(outside)))
    refused("is not whole", lambda file: file.unlink(), "index.json")
    refused("not readable", lambda file: os.truncate(file, 50), "index.json")
    monkeypatch.setattr("lamo.data.store.CHECKED", 0)  # what a large store is asked when it is opened
    write_store(episodes, store)
    (store / "rewards.npy").write_bytes((store / "rewards.npy").read_bytes()[:-1] + b"\7")
    load_episodes(store)
    with pytest.raises(LamoError, match="rewards.npy is not what was written"):
        verify_store(store)


def test_a_writer_leaves_nothing_when_it_fails(make_episodes, tmp_path) -> None:
    broken = make_episodes([2])
    broken.rewards[1] = np.inf
    for blocks, words in (
        ([make_episodes([3]), make_episodes([3], width=4)], "observations of 3 numbers"),
        ([make_episodes([3]), broken], "inf"),
        ([], "no episode is left"),
    ):
        with pytest.raises(LamoError, match=words):
            write_store(blocks, tmp_path / "x.lamo")
        assert list(tmp_path.iterdir()) == []
    write_store(make_episodes([3]), tmp_path / "x.lamo")
    with pytest.raises(LamoError, match="exists already"):
        write_store(make_episodes([3]), tmp_path / "x.lamo")
