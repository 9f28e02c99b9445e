"""Packed stores: what is written is what is read, whole, in parts, and as parts of a whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lamo.data import Windows, load_episodes
from lamo.data.store import verify_store
from lamo.data.store_writer import write_store


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
