"""LeRobot folders of versions 2 and 3."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lerobot_folders import write_lerobot

import toy
from lamo.cli import main
from lamo.data import load_episodes
from lamo.errors import LamoError
from lamo.runs import Run

KINDS = st.lists(
    st.tuples(st.integers(1, 5), st.sampled_from(["terminated", "truncated", "unfinished"])), min_size=1, max_size=7
)
FIRST = {2: "data/chunk-000/episode_000000.parquet", 3: "data/chunk-000/file-000.parquet"}


@pytest.fixture(params=[2, 3])
def version(request) -> int:
    return request.param


@pytest.fixture
def folder(make_episodes, tmp_path, version) -> Path:
    return write_lerobot(make_episodes([3, 4, 5, 2, 1]), tmp_path / "robot", version)


def refused(path: Path, *words: str, **options) -> str:
    with pytest.raises(LamoError) as caught:
        load_episodes(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in (f"{path.name}", *words):
        assert word in message, message
    return message


def edit(path: Path, **changes) -> None:
    """Change columns of a Parquet file, or leave them out (None)."""
    table = parquet.read_table(path)
    columns = {name: table[name] for name in table.column_names} | changes
    parquet.write_table(pa.table({name: value for name, value in columns.items() if value is not None}), path)


def edit_info(folder: Path, **changes) -> None:
    path = folder / "meta" / "info.json"
    info = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in info.items() if value is not None}))


@given(kinds=KINDS, discrete=st.booleans(), version=st.sampled_from([2, 3]))
@settings(max_examples=25)
def test_round_trip(make_episodes, assert_same, tmp_path_factory, kinds, discrete, version):
    lengths, ends = zip(*kinds, strict=True)
    episodes = make_episodes(lengths, ends=ends, actions=0 if discrete else 2)
    folder = write_lerobot(episodes, tmp_path_factory.mktemp("lerobot") / "robot", version)
    back = load_episodes(folder, actions="discrete" if discrete else None)
    assert_same(back, episodes)
    assert back.ids.tolist() == episodes.ids.tolist()


def test_what_is_known_of_it(folder, version):
    episodes = load_episodes(folder)
    assert episodes.metadata["format"] == "lerobot"
    assert episodes.metadata["attributes"] == {
        "robot_type": "so100",
        "fps": 30,
        "codebase_version": {2: "v2.1", 3: "v3.0"}[version],
    }
    assert episodes.metadata["columns"]["reward"] == "next.reward"
    assert json.loads(json.dumps(episodes.metadata, allow_nan=False)) == episodes.metadata


def test_as_the_datasets_library_writes_it(make_episodes, assert_same, tmp_path):
    """LeRobot's older writer goes through `datasets`, whose columns of tables have a type of their own."""
    episodes = make_episodes([3, 4], width=6)
    folder = write_lerobot(episodes, tmp_path / "robot", 3)
    kinds = {name: datasets.Value("int64") for name in ("frame_index", "episode_index", "index", "task_index")}
    kinds |= {"timestamp": datasets.Value("float32"), "next.reward": datasets.Value("float32")}
    kinds |= {"next.done": datasets.Value("bool"), "next.truncated": datasets.Value("bool")}
    features = datasets.Features(
        {
            "observation.state": datasets.Array2D((2, 3), "float32"),
            "action": datasets.Sequence(datasets.Value("float32"), length=2),
            **kinds,
        }
    )
    plain = parquet.read_table(folder / FIRST[3]).to_pydict()
    plain["observation.state"] = episodes.observations.reshape(-1, 2, 3)
    datasets.Dataset.from_dict(plain, features=features).to_parquet(folder / FIRST[3])
    info = json.loads((folder / "meta" / "info.json").read_text())
    info["features"]["observation.state"]["shape"] = [2, 3]
    edit_info(folder, features=info["features"])
    assert_same(load_episodes(folder), episodes)


def test_logs_without_reward(make_episodes, tmp_path, version):
    folder = write_lerobot(make_episodes([3, 4]), tmp_path / "robot", version, reward=False, ends=False)
    refused(folder, "no column is known to be reward", "the columns are observation.state, action", "--reward none")
    episodes = load_episodes(folder, reward="none")
    assert not episodes.rewards.any() and episodes.unfinished.all()


def test_both_parts_of_the_state_and_what_is_left_out(make_episodes, tmp_path, capsys, version):
    episodes = make_episodes([3])
    folder = write_lerobot(episodes, tmp_path / "robot", version)
    extra = {"observation.environment_state": [2], "observation.effort": [1]}
    info = json.loads((folder / "meta" / "info.json").read_text())
    info["features"] |= {name: {"dtype": "float32", "shape": shape} for name, shape in extra.items()}
    edit_info(folder, features=info["features"])
    box = np.arange(6, dtype=np.float32).reshape(3, 2)
    edit(
        folder / FIRST[version],
        **{"observation.environment_state": box.tolist(), "observation.effort": [7.0, 8.0, 9.0]},
    )
    both = load_episodes(folder)
    np.testing.assert_array_equal(both.observations, np.hstack([episodes.observations, box]))
    assert "observation.effort are left out" in capsys.readouterr().err
    said = load_episodes(folder, columns=["obs=observation.effort,observation.state"])
    assert said.observations[:, 0].tolist() == [7, 8, 9] and capsys.readouterr().err == ""


def test_one_command_trains(tmp_path, version):
    episodes = load_episodes(toy.write_dataset(tmp_path / "a.hdf5"))
    folder = write_lerobot(episodes, tmp_path / "robot", version, reward=False)
    run = ["--out", str(tmp_path / "run"), "--steps", "2", "--eval-episodes", "1", "--device", "cpu", "--quiet"]
    data = ["--dataset", str(folder), "--env", toy.ENV, "--reward", "none"]
    assert main(["train", "--preset", "toy", *data, *run]) == 0
    assert Run.open(tmp_path / "run").config["reward"] == "none"


# ------------------------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"codebase_version": "v1.6"}, "version 'v1.6' is not read"),
        ({"codebase_version": None}, "version 'None' is not read"),
        ({"features": None}, "info.json does not say type and shape"),
        ({"features": {"action": {"dtype": "float32"}}}, "info.json does not say type and shape"),
        ({"features": {"action": {"dtype": "float32", "shape": [-1]}}}, "info.json does not say type and shape"),
        ({"features": {"action": {"dtype": "float32", "shape": [2]}}}, "no column is known to be obs or reward"),
        ({"data_path": 3}, "data_path must be a path"),
        ({"data_path": "data/{video_key}.parquet"}, "data_path must be a path with"),
        ({"data_path": "data/{0.__class__}.parquet"}, "braces that mean nothing"),
        ({"data_path": "data/one.parquet"}, "one.parquet"),
    ],
)
def test_descriptions_that_make_no_sense(folder, changes, words):
    edit_info(folder, **changes)
    refused(folder, words)


@pytest.mark.parametrize("template", ["../../{name}", "{absolute}/{name}", "data/chunk-000/../../../{name}"])
def test_paths_out_of_the_folder(folder, tmp_path, version, template):
    shutil.copy(folder / FIRST[version], tmp_path / "outside-000.parquet")
    name = "outside-{file_index:03d}.parquet" if version == 3 else "outside-{episode_index:03d}.parquet"
    edit_info(folder, data_path=template.replace("{name}", name).replace("{absolute}", str(tmp_path)))
    refused(folder, "leads out of the dataset's folder")


def test_links(folder, tmp_path, version):
    first = folder / FIRST[version]
    (tmp_path / "blobs").mkdir()
    first.rename(tmp_path / "blobs" / "0123")
    first.symlink_to(tmp_path / "blobs" / "0123")
    refused(folder, "leads out of the dataset's folder")
    (tmp_path / "snapshots").mkdir()
    cached = folder.rename(tmp_path / "snapshots" / "abc")  # the Hugging Face cache keeps its files like this
    assert len(load_episodes(cached)) == 5
    first = cached / FIRST[version]
    first.unlink()
    first.symlink_to(first)
    refused(cached, "")


def test_a_width_that_would_fill_the_memory(folder, version):
    name = "episode_index" if version == 2 else "file_index"
    edit_info(folder, data_path=f"data/{{{name}:0999999999d}}.parquet")
    refused(folder, "braces that mean nothing")


def test_rows_that_are_not_what_meta_says(folder, version):
    first = folder / FIRST[version]
    table = parquet.read_table(first)
    parquet.write_table(table.slice(0, table.num_rows - 1), first)
    refused(folder, "rows in data, but meta says")
    parquet.write_table(pa.concat_tables([table.slice(1, 1), table.slice(0, 1), table.slice(2)]), first)
    refused(folder, "time goes from 1 to 0 at row 1")
    assert load_episodes(folder, columns=["time=frame_index"]).lengths.tolist() == [3, 4, 5, 2, 1]
    first.unlink()
    refused(folder, f"{FIRST[version]} is missing")


def test_episodes_that_are_listed_twice_or_not_at_all(folder, version):
    if version == 2:
        path = folder / "meta" / "episodes.jsonl"
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines, lines[0]]))
        refused(folder, "meta lists episode 0 twice")
        path.write_text("\n".join(lines[1:]))
        assert load_episodes(folder).ids.tolist() == [1, 2, 3, 4]  # its file is simply not asked for
        for bad in ('{"episode_index": 0}', "{", "[]", '{"episode_index": true, "length": 1}', "[" * 100_000):
            path.write_text(bad)
            refused(folder, "meta")
        path.write_text("")
        refused(folder, "lists no episodes")
        path.unlink()
        refused(folder, "episodes.jsonl is not readable")
    else:
        path = folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
        table = parquet.read_table(path)
        parquet.write_table(pa.concat_tables([table, table.slice(0, 1)]), path)
        refused(folder, "meta lists episode 0 twice")
        parquet.write_table(table.slice(1), path)
        refused(folder, "episode 0 has 3 rows in data, but meta says 0")
        parquet.write_table(table.drop_columns("length"), path)
        refused(folder, "column 'length' is missing")
        path.write_bytes(path.read_bytes()[:99])
        refused(folder, "not a whole Parquet file")
        path.unlink()
        refused(folder, "meta/episodes holds no Parquet file")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"action": None}, "column 'action' is missing"),
        ({"next.reward": lambda n: [float("nan")] * n}, "rewards holds nan at [0]"),
        ({"observation.state": lambda n: [[1.0]] * n}, "info.json says 3"),
        ({"observation.state": lambda n: [[1.0, 2.0]] + [[1.0]] * (n - 1)}, "has 1 numbers in row 1"),
        ({"episode_index": lambda n: ["a"] * n}, "column 'episode_index' holds text"),
        ({"episode_index": lambda n: [1] * n}, "episode 0 has 0 rows in data, but meta says 4"),
        ({"next.done": lambda n: ["x"] * n}, "which is not a number"),
    ],
)
def test_columns_that_are_wrong(make_episodes, tmp_path, version, changes, words):
    folder = write_lerobot(make_episodes([4]), tmp_path / "robot", version)
    edit(folder / FIRST[version], **{key: value and value(4) for key, value in changes.items()})
    refused(folder, words)


def test_a_description_of_any_size(folder):
    with (folder / "meta" / "info.json").open("ab") as file:
        file.truncate(1 << 25)
    refused(folder, "more than any description needs")
