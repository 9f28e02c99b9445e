"""LeRobot datasets written by lamo: read back bit for bit, and by the libraries through which LeRobot reads them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamo.data import load_episodes
from lamo.data.sources import lerobot_writer
from lamo.data.sources.lerobot_writer import write_lerobot
from lamo.errors import LamoError

ENDS = ["terminated", "truncated", "unfinished"]
KINDS = st.lists(st.tuples(st.integers(1, 6), st.sampled_from(ENDS), st.booleans()), min_size=1, max_size=12)


@given(
    kinds=KINDS,
    actions=st.sampled_from([2, 1, 0, -2, -1]),
    width=st.sampled_from([3, 1]),
    seed=st.integers(0, 9),
    told=st.sampled_from([{}, {"env": "Hopper-v5"}, {"observation_keys": ["a", "b"], "observation_sizes": [1, 2]}]),
    apart=st.booleans(),
)
@settings(max_examples=50)
def test_round_trip(make_episodes, assert_same, tmp_path_factory, kinds, actions, width, seed, told, apart) -> None:
    lengths, ends, known = zip(*kinds, strict=True)
    told = {**told, "history": [{"command": "made", "sources": []}], "attributes": {"fps": 12}}
    if actions > 0:
        told |= {"action_low": [-1.0] * actions, "action_high": [1.0] * actions}
    episodes = make_episodes(lengths, ends=ends, actions=actions, width=width, final=True, seed=seed, metadata=told)
    episodes.final_observations[~np.array(known)] = np.nan
    ids = np.random.default_rng(seed).permutation(1000)[: len(lengths)] if seed % 2 else np.arange(len(lengths))
    episodes = replace(episodes, ids=ids, final_observations=episodes.final_observations if any(known) else None)
    size = lerobot_writer.FILE_BYTES
    try:
        lerobot_writer.FILE_BYTES = 200 if apart else size  # bytes of a few steps: several files
        path = write_lerobot(episodes, tmp_path_factory.mktemp("lerobot") / "a")
    finally:
        lerobot_writer.FILE_BYTES = size
    back = load_episodes(path)
    assert_same(back, episodes)
    assert back.digest() == episodes.digest() and back.choices == episodes.choices
    assert back.ids.tolist() == ids.tolist()
    for key in ("env", "action_low", "action_high", "history", "observation_keys"):
        assert back.metadata.get(key) == told.get(key)
    assert back.metadata["attributes"]["fps"] == 12
    json.dumps(back.metadata, allow_nan=False)


def test_as_lerobot_reads_it(make_episodes, tmp_path, monkeypatch, capsys) -> None:
    """LeRobot reads steps and episodes through `datasets`, with the features of info.json, and tasks through pandas."""
    datasets = pytest.importorskip("datasets")
    pandas = pytest.importorskip("pandas")
    monkeypatch.setattr(lerobot_writer, "FILE_BYTES", 300)
    episodes = make_episodes([4, 1, 3, 6], final=True, metadata={"env": "Hopper-v5"})
    path = write_lerobot(episodes, tmp_path / "a")
    assert "nothing says how many steps are a second; 30 is written (see --fps)" in capsys.readouterr().err
    info = json.loads((path / "meta" / "info.json").read_text())
    assert (info["codebase_version"], info["fps"], info["splits"]) == ("v3.0", 30, {"train": "0:4"})
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (4, 14, 1)

    def kind(feature: dict[str, Any]) -> Any:
        value = datasets.Value(feature["dtype"])
        return value if feature["shape"] == [1] else datasets.List(value, length=feature["shape"][0])

    features = datasets.Features({name: kind(each) for name, each in info["features"].items()})
    files = sorted(map(str, (path / "data").glob("*/*.parquet")))
    assert len(files) > 1
    steps = datasets.Dataset.from_parquet(files, features=features, cache_dir=str(tmp_path / "cache")).with_format("np")
    np.testing.assert_array_equal(steps["observation.state"][:], episodes.observations)
    np.testing.assert_array_equal(steps["action"][:], episodes.actions)
    np.testing.assert_array_equal(steps["next.reward"][:], episodes.rewards)
    assert steps["index"][:].tolist() == list(range(14))
    within = np.concatenate([np.arange(length) for length in episodes.lengths])
    np.testing.assert_array_equal(steps["frame_index"][:], within)
    np.testing.assert_allclose(steps["timestamp"][:], within / 30, rtol=1e-6)
    listed = parquet.read_table(path / "meta" / "episodes" / "chunk-000" / "file-000.parquet").to_pylist()
    assert [each["length"] for each in listed] == [4, 1, 3, 6]
    for e, each in enumerate(listed):
        start, end = each["dataset_from_index"], each["dataset_to_index"]
        assert (start, end) == tuple(episodes.offsets[e : e + 2])
        name = info["data_path"].format(chunk_index=each["data/chunk_index"], file_index=each["data/file_index"])
        assert e in parquet.read_table(path / name)["episode_index"].to_pylist()
        np.testing.assert_allclose(each["stats/action/mean"], episodes.actions[start:end].mean(0), rtol=1e-5, atol=1e-7)
    stats = json.loads((path / "meta" / "stats.json").read_text())
    seen = episodes.observations.astype(np.float64)
    for key, wanted in (("min", seen.min(0)), ("max", seen.max(0)), ("mean", seen.mean(0)), ("std", seen.std(0))):
        np.testing.assert_allclose(stats["observation.state"][key], wanted, rtol=1e-9)
    assert stats["observation.state"]["count"] == [14] and set(stats) == set(info["features"])
    tasks = pandas.read_parquet(path / "meta" / "tasks.parquet")
    assert tasks.index.tolist() == ["Hopper-v5"] and tasks["task_index"].tolist() == [0]


def test_a_dataset_of_lerobot_goes_through(make_episodes, tmp_path, capsys) -> None:
    """Frames per second and robot stay; others may be asked for."""
    episodes = make_episodes([3], metadata={"attributes": {"fps": 50, "robot_type": "so100"}})
    read = load_episodes(write_lerobot(episodes, tmp_path / "a"))
    assert (read.metadata["attributes"]["fps"], read.metadata["attributes"]["robot_type"]) == (50, "so100")
    assert load_episodes(write_lerobot(read, tmp_path / "b", fps=12.5)).metadata["attributes"]["fps"] == 12.5
    assert "see --fps" not in capsys.readouterr().err


def test_equal_data_give_equal_bytes(make_episodes, tmp_path) -> None:
    one, two = (write_lerobot(make_episodes([3, 2], final=True), tmp_path / name, fps=5) for name in "ab")
    files = [file.relative_to(one) for file in one.rglob("*") if file.is_file()]
    assert len(files) == 6 and all((one / name).read_bytes() == (two / name).read_bytes() for name in files)


@pytest.fixture
def written(make_episodes, tmp_path) -> Path:
    episodes = replace(make_episodes([3, 2], final=True), ids=np.array([4, 1]))
    return write_lerobot(episodes, tmp_path / "a", fps=5)


def test_notes_of_other_episodes_are_passed_over(written, make_episodes, tmp_path, capsys) -> None:
    """The folder was changed by others since."""
    other = write_lerobot(make_episodes([2, 3]), tmp_path / "b", fps=5)
    shutil.copy(written / "meta" / "lamo.parquet", other / "meta" / "lamo.parquet")
    back = load_episodes(other)
    assert "is of other episodes than those that are there" in capsys.readouterr().err
    assert back.ids.tolist() == [0, 1] and back.final_observations is None


def test_other_columns_have_no_last_observation(written) -> None:
    back = load_episodes(written, columns=["obs=timestamp"])
    assert back.final_observations is None and back.ids.tolist() == [4, 1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": [1, 1]}, "numbers two episodes alike"),
        ({"id": [1.5, 2]}, "must be whole numbers"),
        ({"final_observation": [[1.0, np.inf, 0.0]] * 2}, "not finite"),
        ({"final_observation": [[1.0]] * 2}, "final_observations must be"),
        ({"id": None}, "column 'id' is missing"),
    ],
)
def test_damaged_notes_are_one_line(written, change, words) -> None:
    path = written / "meta" / "lamo.parquet"
    table = parquet.read_table(path)
    columns = {name: table[name] for name in table.column_names} | change
    parquet.write_table(pa.table({name: value for name, value in columns.items() if value is not None}), path)
    with pytest.raises(LamoError, match=words):
        load_episodes(written)


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_fails_leaves_nothing(make_episodes, tmp_path, monkeypatch, failure) -> None:
    def broken(*_: Any) -> None:
        raise failure

    monkeypatch.setattr(lerobot_writer, "_write_own", broken)
    with pytest.raises((LamoError, KeyboardInterrupt)):
        write_lerobot(make_episodes([3, 2]), tmp_path / "a", fps=5)
    assert list(tmp_path.iterdir()) == []
