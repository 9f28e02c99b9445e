"""Any source in blocks is what it is in one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lerobot_folders import write_lerobot
from test_robomimic import write_robomimic

from lamo.data import Episodes, load_episodes
from lamo.data.join import join
from lamo.data.sources.arrays import write_npz
from lamo.data.sources.d4rl import write_d4rl
from lamo.data.sources.options import ReadOptions
from lamo.data.sources.tables import write_table
from lamo.data.store_writer import write_store
from lamo.data.stream import stream
from lamo.errors import LamoError


def minari(episodes: Episodes, path: Path) -> Path:
    """A main file in Minari's layout."""
    import h5py

    with h5py.File(path, "w") as file:
        for index, (start, end) in enumerate(zip(episodes.offsets[:-1], episodes.offsets[1:], strict=True)):
            group = file.create_group(f"episode_{index}")
            final = episodes.final_observations
            last = episodes.observations[:0] if final is None else final[index : index + 1]
            group["observations"] = np.concatenate([episodes.observations[start:end], last])
            group["actions"], group["rewards"] = episodes.actions[start:end], episodes.rewards[start:end]
            for key, ended in (("terminations", episodes.terminated), ("truncations", episodes.truncated)):
                flags = np.zeros(end - start, bool)
                flags[-1] = ended[index]
                group[key] = flags
    return path


def named(episodes: Episodes, path: Path) -> Path:
    """A table whose episodes have names."""
    table = parquet.read_table(write_table(episodes, path))
    names = pa.array([f"run {number}" for number in table["episode"].to_pylist()])
    parquet.write_table(table.set_column(0, "episode", names), path, row_group_size=4)
    return path


def flags_alone(episodes: Episodes, path: Path) -> Path:
    """A table that only says where episodes end."""
    parquet.write_table(parquet.read_table(write_table(episodes, path)).drop_columns(["episode", "step"]), path)
    return path


def untimed(episodes: Episodes, path: Path) -> Path:
    """A table that does not count the steps."""
    parquet.write_table(parquet.read_table(write_table(episodes, path)).drop_columns(["step"]), path)
    return path


def per_file(episodes: Episodes, path: Path) -> Path:
    """A folder with a table for each episode, and an empty one."""
    for index in range(len(episodes)):
        untimed(episodes.select([index]), path / f"{index}.parquet")
    parquet.write_table(parquet.read_table(path / "0.parquet").slice(0, 0), path / f"{len(episodes)}.parquet")
    return path


Writer = Callable[[Episodes, Path], Any]
FORMATS: dict[str, tuple[Writer, str, dict[str, Any]]] = {
    "d4rl": (write_d4rl, "x.hdf5", {}),
    "npz": (write_npz, "x.npz", {}),
    "minari": (minari, "x.hdf5", {}),
    "robomimic": (write_robomimic, "x.hdf5", {}),
    "parquet": (write_table, "x.parquet", {}),
    "csv": (write_table, "x.csv", {}),
    "named": (named, "x.parquet", {}),
    "flags": (flags_alone, "x.parquet", {}),
    "untimed": (untimed, "x.parquet", {}),
    "folder": (per_file, "x", {}),
    "files": (per_file, "x", {"columns": ("episode=file",)}),
    "lerobot2": (lambda episodes, path: write_lerobot(episodes, path, 2), "x", {}),
    "lerobot3": (lambda episodes, path: write_lerobot(episodes, path, 3), "x", {}),
    "store": (write_store, "x.lamo", {}),
}


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=8)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    size=st.integers(1, 800),
    final=st.booleans(),
    numbered=st.booleans(),
)
def test_blocks_are_the_whole(
    make_episodes, assert_same, tmp_path_factory, name, lengths, size, final, numbered
) -> None:
    write, file, options = FORMATS[name]
    made = make_episodes(lengths, final=final)
    episodes = replace(made, ids=3 + made.ids[::-1]) if numbered else made
    path = tmp_path_factory.mktemp("stream") / file
    write(episodes, path)
    whole = load_episodes(path, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lamo.data.sources.tables.BLOCK", 3)  # rows of a batch
        found = stream(path, ReadOptions(**options), size)
        walked = [list(found) for _ in range(2)]  # a stream can be walked through again
    for blocks in walked:
        assert max(len(block) for block in blocks) < 2 or size > 20
        joined = join(blocks)
        assert_same(joined, whole)
        np.testing.assert_array_equal(np.concatenate([block.ids for block in blocks]), whole.ids)
        assert sum(block.metadata.get("ends_inside", 0) for block in blocks) == whole.metadata.get("ends_inside", 0)
    assert found.metadata["format"] == whole.metadata["format"]


@pytest.mark.parametrize("name", ["d4rl", "minari", "parquet", "lerobot3"])
def test_a_value_that_is_none_is_named_by_its_place_in_the_source(make_episodes, tmp_path, name) -> None:
    write, file, _ = FORMATS[name]
    episodes = make_episodes([3, 4, 5])
    episodes.observations[9, 1] = np.nan
    write(episodes, tmp_path / file)
    with pytest.raises(LamoError, match=r"nan at \[9, 1\]" if name != "minari" else r"episode 2, step 2"):
        list(stream(tmp_path / file, size=1))


def test_changes(make_episodes, tmp_path) -> None:
    write_d4rl(make_episodes([3, 4, 5]), tmp_path / "x.hdf5")
    long = stream(tmp_path / "x.hdf5", size=1).map(lambda block: block if block.steps > 3 else None)
    assert [block.ids.tolist() for block in long] == [[1], [2]]


def test_an_episode_in_pieces(make_episodes, tmp_path) -> None:
    table = parquet.read_table(write_table(make_episodes([3, 4]), tmp_path / "x.parquet"))
    parquet.write_table(pa.concat_tables([table, table.slice(0, 3)]), tmp_path / "x.parquet")
    with pytest.raises(LamoError, match="episode 0 goes on at row 7"):
        list(stream(tmp_path / "x.parquet", size=1))
