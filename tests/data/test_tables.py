"""CSV and Parquet: which column is what, which rows belong together, and what is refused."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import toy
from lamo.cli import main
from lamo.config import Experiment
from lamo.data import Episodes, load_episodes
from lamo.data.join import join
from lamo.data.sources.arrow import open_parquet
from lamo.data.sources.options import ReadOptions
from lamo.data.sources.tables import write_table
from lamo.data.stream import stream
from lamo.errors import LamoError
from lamo.prepare import prepare
from lamo.runs import Run

MAPPED = ("obs=x,y,vx", "action=ux", "reward=r", "episode=run", "time=t")
KINDS = st.lists(
    st.tuples(st.integers(1, 5), st.sampled_from(["terminated", "truncated", "unfinished"])), min_size=1, max_size=5
)


def log(rows: int = 12, runs: int = 3) -> pd.DataFrame:
    """Runs of equal length, one after the other."""
    rng = np.random.default_rng(0)
    data = {name: rng.normal(size=rows).astype(np.float32) for name in ("x", "y", "vx", "ux", "r")}
    each = rows // runs
    return pd.DataFrame(
        {"run": np.repeat(np.arange(runs) + 7, each), "t": np.tile(np.arange(each) * 0.1, runs), **data}
    )


def save(frame: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


def refused(path: Path, *words: str, **options) -> str:
    with pytest.raises(LamoError) as caught:
        load_episodes(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    return message


@pytest.fixture(params=["csv", "tsv", "parquet"])
def suffix(request) -> str:
    return request.param


def test_columns_are_mapped(tmp_path, suffix):
    frame = log()
    episodes = load_episodes(save(frame, tmp_path / f"log.{suffix}"), columns=MAPPED)
    np.testing.assert_array_equal(episodes.observations, frame[["x", "y", "vx"]].to_numpy())
    np.testing.assert_array_equal(episodes.actions, frame[["ux"]].to_numpy())
    np.testing.assert_array_equal(episodes.rewards, frame["r"].to_numpy())
    assert episodes.offsets.tolist() == [0, 4, 8, 12]
    assert episodes.ids.tolist() == [7, 8, 9]
    assert episodes.unfinished.all()
    assert episodes.metadata["columns"]["obs"] == ["x", "y", "vx"]
    assert json.loads(json.dumps(episodes.metadata, allow_nan=False)) == episodes.metadata


def test_regular_expressions_take_columns_in_the_order_of_the_file(tmp_path):
    path = save(log(), tmp_path / "log.csv")
    episodes = load_episodes(path, columns=["obs=v?[xy],t", "action=u.", "reward=r", "episode=run"])
    assert episodes.metadata["columns"]["obs"] == ["x", "y", "vx", "t"]
    episodes = load_episodes(path, columns=["obs=v{0,1}[x,y],t", "action=u.", "reward=r{1,}", "episode=run"])
    assert episodes.metadata["columns"]["obs"] == ["x", "y", "vx", "t"]


@given(kinds=KINDS, actions=st.sampled_from([2, 0, -3]), suffix=st.sampled_from(["csv", "tsv", "parquet"]))
@settings(max_examples=40)
def test_round_trip(make_episodes, assert_same, tmp_path_factory, kinds, actions, suffix):
    lengths, ends = zip(*kinds, strict=True)
    said = {0: {"action_choices": 7}, -3: {"action_nvec": [5, 4, 6]}}.get(actions)
    episodes = make_episodes(lengths, ends=ends, actions=actions, metadata=said)
    path = write_table(episodes, tmp_path_factory.mktemp("table") / f"log.{suffix}")
    back = load_episodes(path, actions="discrete" if actions <= 0 and suffix != "parquet" else None)
    assert_same(back, episodes)
    if suffix == "parquet":  # it remembers
        assert back.choices == episodes.choices
    assert back.ids.tolist() == episodes.ids.tolist()


def test_what_a_table_cannot_say_is_said(make_episodes, tmp_path, capsys):
    bounds = {"action_low": [-1.0, -1.0], "action_high": [1.0, 1.0], "env": "X-v0"}
    episodes = replace(make_episodes([3, 4], final=True, metadata=bounds), log_probs=np.full(7, -1, np.float32))
    back = load_episodes(write_table(episodes, tmp_path / "log.parquet"))
    said = capsys.readouterr().err
    assert "it is left out" in said and "no place for log-probabilities of actions; they are left out" in said
    assert {key: back.metadata[key] for key in bounds} == bounds
    with pytest.raises(LamoError, match=r"written as \.csv"):
        write_table(episodes, tmp_path / "log.xlsx")
    (tmp_path / "file").write_text("")
    with pytest.raises(LamoError, match="cannot write"):
        write_table(episodes, tmp_path / "file" / "log.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "log.parquet"]


@given(order=st.permutations(range(12)), suffix=st.sampled_from(["csv", "parquet"]))
@settings(max_examples=30)
def test_rows_in_any_order_are_sorted_where_the_time_is_named(tmp_path_factory, assert_same, order, suffix):
    folder = tmp_path_factory.mktemp("order")
    whole = load_episodes(save(log(), folder / f"whole.{suffix}"), columns=MAPPED)
    shuffled = save(log().iloc[list(order)], folder / f"shuffled.{suffix}")
    assert_same(load_episodes(shuffled, columns=MAPPED), whole)


def test_rows_that_are_not_in_order(tmp_path, capsys):
    frame = log()
    known = frame.rename(columns={"run": "episode", "t": "time", "r": "reward", "ux": "action_0", "x": "obs_0"})
    swapped = known.iloc[[0, 2, 1, *range(3, 12)]]
    refused(save(swapped, tmp_path / "a.csv"), "time goes from 0.2 to 0.1 at row 2", "--columns time=")
    assert load_episodes(tmp_path / "a.csv", columns=["time=time"]).steps == 12
    assert "sorted by episode and time" in capsys.readouterr().err
    mixed = known.iloc[[0, 1, 2, 4, 3, *range(5, 12)]]
    refused(save(mixed, tmp_path / "b.csv"), "episode 7 goes on at row 4, after others", "time=")
    refused(save(mixed.drop(columns="time"), tmp_path / "c.csv"), "episode 7 goes on at row 4")
    twice = known.iloc[[0, 1, 1, *range(2, 12)]]
    refused(save(twice, tmp_path / "d.csv"), "time goes from 0.1 to 0.1 at row 2")
    refused(tmp_path / "d.csv", "two rows of episode 7 have time 0.1", columns=["time=time"])
    again = pd.concat([known, known])
    refused(save(again, tmp_path / "e.csv"), "two rows of episode 7 have time 0.0", columns=["time=time"])
    known.loc[3, "time"] = np.inf
    refused(save(known, tmp_path / "f.parquet"), "time holds inf at [3]")


def test_rows_in_order_whose_time_is_too_coarse(tmp_path, assert_same, capsys):
    known = log().rename(columns={"ux": "action", "r": "reward", "x": "obs_0"}).drop(columns=["t", "y", "vx"])
    whole = load_episodes(save(known, tmp_path / "a.csv"), columns=["episode=run"])
    path = save(known.assign(timestamp=np.arange(12) // 3), tmp_path / "seconds.csv")  # whole ones, of three rows each
    refused(path, "time goes from 0 to 0", "time=none", columns=["episode=run"])
    refused(path, "two rows of episode 7 have time 0", "time=none", columns=["episode=run", "time=timestamp"])
    for read in (load_episodes, lambda path, columns: join(list(stream(path, ReadOptions(tuple(columns)), 40)))):
        back = read(path, columns=["episode=run", "time=none"])
        assert_same(back, whole)
        assert "time" not in back.metadata.get("columns", {})
    save(known.assign(none=np.arange(12)[::-1]), tmp_path / "none.csv")  # a column's name is a column's name
    load_episodes(tmp_path / "none.csv", columns=["episode=run", "time=none"])
    assert "sorted by episode and time" in capsys.readouterr().err
    refused(path, "no column 'none'", columns=["episode=none"])


def test_episodes_that_flags_end(tmp_path):
    frame = log().drop(columns="run").assign(done=[0, 0, 1, 0] * 3, timeout=[False] * 11 + [True])
    episodes = load_episodes(save(frame, tmp_path / "log.csv"), columns=[*MAPPED[:3]])
    assert episodes.lengths.tolist() == [3, 4, 4, 1]
    assert episodes.terminated.tolist() == [True, True, True, False]
    assert episodes.truncated.tolist() == [False, False, False, True]
    refused(tmp_path / "log.csv", "at row 4, within an episode", columns=[*MAPPED[:3], "time=t"])  # 0.3 to 0
    frame["done"] = np.nan
    refused(save(frame, tmp_path / "nan.parquet"), "'done' has no value in row 0", columns=MAPPED[:3])


def test_flags_inside_episodes_are_counted(tmp_path):
    frame = log().assign(terminated=[0, 1, 0, 1] * 3)
    episodes = load_episodes(save(frame, tmp_path / "log.csv"), columns=MAPPED)
    assert episodes.terminated.all() and episodes.metadata["ends_inside"] == 3


def test_names_of_episodes_and_times_of_day(tmp_path, suffix):
    frame = log()
    frame["run"] = frame["run"].map({7: "warm up", 8: "a", 9: "10"})
    frame["t"] = pd.Timestamp("2026-03-01 12:00") + pd.to_timedelta(frame["t"], unit="s")
    episodes = load_episodes(save(frame, tmp_path / f"log.{suffix}"), columns=MAPPED)
    assert episodes.ids.tolist() == [0, 1, 2]
    assert episodes.metadata["episode_names"] == ["warm up", "a", "10"]
    frame["run"] = frame["run"].astype("category")
    save(frame, tmp_path / "category.parquet")
    assert load_episodes(tmp_path / "category.parquet", columns=MAPPED).digest() == episodes.digest()


def test_a_folder_of_tables(tmp_path, suffix):
    frame = log()
    for number, (_, part) in zip((2, 10, 11), frame.groupby("run"), strict=True):
        save(part, tmp_path / f"run_{number}.{suffix}")
    (tmp_path / ".hidden.csv").write_text("x")
    (tmp_path / "README.md").write_text("x")
    whole = load_episodes(save(frame, tmp_path.parent / f"{tmp_path.name}.{suffix}"), columns=MAPPED)
    assert load_episodes(tmp_path, columns=MAPPED).digest() == whole.digest()
    by_file = load_episodes(tmp_path, columns=[*MAPPED[:3], "episode=file", "time=t"])
    assert by_file.digest() == whole.digest() and by_file.ids.tolist() == [0, 1, 2]


def test_files_that_number_their_episodes_alike(tmp_path):
    for number in range(2):
        save(log(4, 1), tmp_path / f"{number}.csv")
    refused(tmp_path, "two files hold episode 7", "episode=file", columns=MAPPED[:4])
    refused(tmp_path, "two rows of episode 7 have time 0.0", columns=MAPPED)
    assert len(load_episodes(tmp_path, columns=[*MAPPED[:3], "episode=file"])) == 2
    save(log(4, 1).drop(columns="ux"), tmp_path / "2.csv")
    refused(tmp_path, "2.csv: column 'ux' is missing; the columns are run, t, x", columns=MAPPED)
    save(log(4, 1), tmp_path / "2.parquet")
    refused(tmp_path, "both CSV and Parquet", columns=MAPPED)


def test_links_out_of_the_folder(tmp_path):
    (tmp_path / "in").mkdir()
    save(log(), tmp_path / "secret.csv")
    (tmp_path / "in" / "a.csv").symlink_to(tmp_path / "secret.csv")
    refused(tmp_path / "in", "a.csv leads out of the dataset's folder", columns=MAPPED)
    (tmp_path / "link.csv").symlink_to(tmp_path / "secret.csv")  # a link that the user names is the user's
    assert load_episodes(tmp_path / "link.csv", columns=MAPPED).steps == 12


def test_columns_of_lists(tmp_path):
    values = np.arange(24, dtype=np.float32).reshape(6, 4)
    plain = {"episode_index": [0] * 3 + [1] * 3, "frame_index": [0, 1, 2] * 2, "next.reward": np.ones(6)}
    shapes = {
        "lists": pa.array(values.tolist()),
        "large": pa.array(values.tolist(), pa.large_list(pa.float64())),
        "fixed": pa.FixedSizeListArray.from_arrays(values.reshape(-1), 4),
        "nested": pa.array(values.reshape(6, 2, 2).tolist()),
    }
    for name, column in shapes.items():
        table = pa.table({**plain, "observation.state": column, "action": pa.array(values[:, :2].tolist())})
        parquet.write_table(table, tmp_path / f"{name}.parquet", row_group_size=2)
        episodes = load_episodes(tmp_path / f"{name}.parquet")
        np.testing.assert_array_equal(episodes.observations, values)
        np.testing.assert_array_equal(episodes.actions, values[:, :2])
    table = pa.table({**plain, "observation.state": [[1.0, 2.0]] * 4 + [[1.0]] + [[1.0, 2.0]], "action": np.ones(6)})
    parquet.write_table(table, tmp_path / "ragged.parquet")
    refused(tmp_path / "ragged.parquet", "'observation.state' has 1 numbers in row 4, the rows before 2")
    table = pa.table({**plain, "observation.state": [[1.0, None]] * 6, "action": np.ones(6)})
    parquet.write_table(table, tmp_path / "null.parquet")
    refused(tmp_path / "null.parquet", "'observation.state' has no value in row 0")
    table = pa.table({**plain, "observation.state": [[1.0]] * 2 + [None] * 4, "action": np.ones(6)})
    parquet.write_table(table, tmp_path / "none.parquet")
    refused(tmp_path / "none.parquet", "'observation.state' has no value in row 2")
    table = pa.table({**plain, "observation.state": pa.array([[]] * 6, pa.list_(pa.float32())), "action": np.ones(6)})
    parquet.write_table(table, tmp_path / "empty.parquet")
    refused(tmp_path / "empty.parquet", "no numbers in a step")


@pytest.mark.parametrize(
    ("column", "early", "late"),
    [
        ("x", "1", "0.5"),
        ("run", "7", "seven"),
        ("t", "2026-03-01 12:00:00", "2026-03-01 12:00:00.5"),
        ("done", "0", "true"),
    ],
)
def test_a_late_row_that_shows_the_type(tmp_path, column, early, late):
    """CSV has no types; those of its first MiB need not hold for the rest."""
    rows = 60_000
    frame = pd.DataFrame({name: np.arange(rows) % 7 * 0.5 for name in ("x", "y", "vx", "ux", "r")})
    frame["run"], frame["t"], frame["done"] = [0] * (rows - 1) + [1], range(rows), 0
    frame[column] = frame[column].astype(object)
    frame.loc[: rows - 2, column] = early
    frame.loc[rows - 1, column] = late
    path = save(frame, tmp_path / "log.csv")
    assert path.stat().st_size > 1 << 20
    time = [] if column in ("t", "run") else ["time=t"]  # as text, and where names make two episodes, time has no say
    episodes = load_episodes(path, columns=[*MAPPED[:4], "terminated=done", *time])
    assert episodes.steps == rows and len(episodes) == 2
    if column == "x":
        assert episodes.observations[-1, 0] == 0.5
    if column == "done":
        assert episodes.terminated.tolist() == [False, True]


def test_a_late_fraction_is_not_read_whole(tmp_path, monkeypatch):
    """A reward of 0 for a long time, then 0.5; the actions, whole numbers throughout, are still a question."""
    rows = 60_000
    frame = pd.DataFrame({name: np.arange(rows) % 7 * 0.5 for name in ("x", "y", "vx")})
    frame["run"], frame["ux"], frame["r"] = 0, np.arange(rows) % 3, ["0"] * (rows - 1) + ["0.5"]
    path = save(frame, tmp_path / "log.csv")
    text = path.read_text().replace(",2,0\n", ", 2 ,0\n")
    path.write_text(text)
    assert len(text) > 1 << 20
    monkeypatch.setattr("pyarrow.csv.read_csv", lambda *_, **__: pytest.fail("read whole"))
    whole = load_episodes(path, columns=MAPPED[:4], actions="discrete")
    assert whole.rewards[-2:].tolist() == [0, 0.5] and whole.choices == (3,)
    np.testing.assert_array_equal(whole.actions, np.arange(rows) % 3)
    refused(path, "actions are whole numbers from 0 to 2", columns=MAPPED[:4])


def test_a_log_is_converted_block_by_block(tmp_path, monkeypatch):
    """Read whole, a CSV file takes nine times the memory of its numbers."""
    path = save(pd.concat([log()] * 8_000), tmp_path / "log.csv")
    assert path.stat().st_size > 5 << 20
    monkeypatch.setattr("pyarrow.csv.read_csv", lambda *_, **__: pytest.fail("read whole"))
    assert load_episodes(path, columns=[*MAPPED[:3], "episode=file"]).steps == 96_000


# ------------------------------------------------------------------------------------------------- what is not guessed


def test_columns_that_nobody_named(tmp_path, suffix):
    path = save(log(), tmp_path / f"log.{suffix}")
    message = refused(path, "no column is known to be obs or action or reward")
    assert "the columns are run, t, x, y, vx, ux, r" in message and "--columns obs=x,y,vx action=ux" in message
    refused(path, "known to be reward", "--reward none", columns=MAPPED[:2])
    refused(path, "no column says where episodes end", "episode=file", columns=MAPPED[:3])
    assert len(load_episodes(path, columns=[*MAPPED[:3], "episode=file"])) == 1
    zero = load_episodes(path, columns=[*MAPPED[:2], *MAPPED[3:]], reward="none")
    assert not zero.rewards.any()


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (["obs"], "'obs' is not role=columns; for example --columns obs=x,y,vx"),
        (["obs="], "is not role=columns"),
        (["observation=x"], "unknown role 'observation'"),
        (["rewrd=r"], "unknown role 'rewrd'; did you mean reward"),
        (["obs=x", "obs=y"], "names obs twice"),
        (["obs=x,x"], "names a column twice"),
        (["obs=z"], "no column 'z' (--columns obs=z); the columns are run, t, x, y, vx, ux, r"),
        (["obs=[x"], "is no column and no expression"),
        (["reward=x,y"], "names 2 columns (x, y); reward is one"),
        (["obs=.*", "action=ux", "reward=r"], "column 'ux' is both an observation and an action or reward"),
    ],
)
def test_mappings_that_make_no_sense(tmp_path, columns, words):
    refused(save(log(), tmp_path / "log.csv"), words, columns=columns)


def test_known_names_that_contradict_each_other(tmp_path):
    frame = log().rename(columns={"run": "episode", "ux": "action", "r": "reward", "x": "obs_0", "y": "obs_1"})
    assert load_episodes(save(frame, tmp_path / "a.csv")).observations.shape == (12, 2)
    refused(save(frame.rename(columns={"obs_1": "obs_2"}), tmp_path / "b.csv"), "column obs_1 is missing")
    refused(save(frame.assign(observation=1.0), tmp_path / "c.csv"), "both observation and obs_0, obs_1 may be obs")
    assert load_episodes(tmp_path / "c.csv", columns=["obs=observation"]).observations.shape == (12, 1)


@pytest.mark.parametrize("values", [[0, 1, 2, 1] * 3, [True, False] * 6])
def test_whole_numbers_among_the_actions_are_a_question(tmp_path, suffix, values):
    path = save(log().assign(ux=values), tmp_path / f"log.{suffix}")
    refused(path, "actions are whole numbers from 0 to", "--actions discrete", "--actions continuous", columns=MAPPED)
    choices = load_episodes(path, columns=MAPPED, actions="discrete")
    assert choices.actions.tolist() == [int(value) for value in values]
    amounts = load_episodes(path, columns=MAPPED, actions="continuous")
    assert amounts.actions.shape == (12, 1) and amounts.actions.dtype == np.float32
    two = ["action=ux,run", "obs=x", "reward=r", "episode=run"]
    refused(path, "--actions discrete", "--actions continuous", columns=two)
    both = load_episodes(path, columns=two, actions="discrete")
    assert both.action_kind == "multidiscrete" and both.choices == (max(map(int, values)) + 1, 10)
    assert both.actions[:, 0].tolist() == [int(value) for value in values]
    refused(save(log().assign(ux=-1), tmp_path / "minus.csv"), "counted from 0", columns=MAPPED, actions="discrete")
    with pytest.raises(LamoError, match="--actions sometimes is not known"):
        load_episodes(path, columns=MAPPED, actions="sometimes")


def test_one_file_of_several_with_fractions_answers_the_question(tmp_path):
    save(log(4, 1).assign(ux=0), tmp_path / "0.csv")
    save(log(4, 1).assign(ux=0.5), tmp_path / "1.csv")
    episodes = load_episodes(tmp_path, columns=[*MAPPED[:3], "episode=file"])
    assert episodes.actions[:, 0].tolist() == [0.0] * 4 + [0.5] * 4
    fractions = save(log(), tmp_path / "2.csv")
    refused(fractions, "small whole numbers", columns=MAPPED, actions="discrete")


# ------------------------------------------------------------------------------------------------------- what is wrong


def test_values_that_are_missing_or_no_numbers(tmp_path, suffix):
    frame = log()
    frame.loc[5, "y"] = np.nan
    refused(save(frame, tmp_path / f"nan.{suffix}"), "nan", "5", columns=MAPPED) if suffix == "parquet" else refused(
        save(frame, tmp_path / f"nan.{suffix}"), "column 'y' has no value in row 5", columns=MAPPED
    )
    refused(save(log().assign(r=1e300), tmp_path / f"inf.{suffix}"), "rewards holds inf at [0]", columns=MAPPED)
    words = save(log().assign(vx="left"), tmp_path / f"words.{suffix}")
    refused(words, "column 'vx' has type", "which is not a number", columns=MAPPED)
    refused(words, "column 'vx' has type", columns=[*MAPPED[:3], "episode=run", "time=vx"])
    half = save(log().assign(run=np.arange(12) / 2), tmp_path / f"half.{suffix}")
    refused(half, "'run' holds fractions", columns=MAPPED)


def test_tables_without_rows(tmp_path, suffix):
    refused(save(log().iloc[:0], tmp_path / f"log.{suffix}"), "holds no steps", columns=MAPPED)
    (tmp_path / f"empty.{suffix}").write_bytes(b"")
    refused(tmp_path / f"empty.{suffix}", f"empty.{suffix}: not", columns=MAPPED)


def test_torn_tables(tmp_path):
    path = save(log(), tmp_path / "log.csv")
    path.write_text(path.read_text().replace("\n9,", "\n9,1,", 1))
    refused(path, "not readable as CSV (CSV parse error: Row #10: Expected 7 columns", columns=MAPPED)
    path.write_bytes(b"run,t,x,y,vx,ux,r\n\xff\xfe,1,1,1,1,1,1\n")
    refused(path, "log.csv", columns=MAPPED)
    path.write_text(log().to_csv(index=False, sep=";"))
    refused(path, "separated by semicolons", columns=MAPPED)
    path = save(log(), tmp_path / "log.parquet")
    whole = path.read_bytes()
    for keep in (3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:keep])
        refused(path, "not a whole Parquet file", columns=MAPPED)
    log().to_parquet(path, index=False, write_page_checksum=True)  # without sums a changed number is a number
    whole = path.read_bytes()
    path.write_bytes(whole[:60] + b"\x55" * 4 + whole[64:])
    refused(path, "not a whole Parquet file", columns=MAPPED)
    frame = log().rename(columns={"y": "x"})
    frame.to_csv(tmp_path / "twice.csv", index=False)
    refused(tmp_path / "twice.csv", "column 'x' is there 2 times", columns=["obs=x", *MAPPED[1:]])


def test_a_parquet_file_that_unpacks_beyond_measure(tmp_path, monkeypatch):
    """Runs of one value take no room in Parquet; the rows are counted before they are read."""
    monkeypatch.setattr("lamo.data.sources.flat.BOMB_BYTES", 1 << 20)
    table = pa.table({name: np.zeros(1_000_000, np.float32) for name in ("x", "y", "vx", "ux", "r", "run", "t")})
    parquet.write_table(table, tmp_path / "bomb.parquet")
    assert (tmp_path / "bomb.parquet").stat().st_size < 100_000
    refused(tmp_path / "bomb.parquet", "would unpack from", "56000000 bytes", columns=MAPPED)
    once = {name: [0.0, 1.0] for name in ("y", "vx", "ux", "r", "run", "t")}
    wide = pa.ListArray.from_arrays(pa.array([0, 500_000, 1_000_000], pa.int32()), np.zeros(1_000_000, np.float32))
    parquet.write_table(pa.table({"x": wide, **once}), tmp_path / "wide.parquet")
    monkeypatch.setattr("pyarrow.parquet.ParquetFile.iter_batches", lambda *_, **__: pytest.fail("unpacked"))
    refused(tmp_path / "wide.parquet", "would unpack from", "8000096 bytes", columns=MAPPED)


def test_text_stays_coded(tmp_path):
    """One long name of many rows is held once, not once per row."""
    frame = log()
    frame["run"] = frame["run"].map({7: "a", 8: "b", 9: "c"})
    with open_parquet(save(frame, tmp_path / "log.parquet"), ["run", "t"], "log") as file:
        assert pa.types.is_dictionary(file.schema_arrow.field("run").type)
        assert pa.types.is_floating(file.schema_arrow.field("t").type)


def test_a_thousand_columns_are_not_all_listed(tmp_path):
    save(pd.DataFrame(np.zeros((2, 1000)), columns=[f"c{i}" for i in range(1000)]), tmp_path / "wide.csv")
    assert "c23 and 976 more" in refused(tmp_path / "wide.csv")


def test_without_pyarrow(tmp_path, monkeypatch):
    path = save(log(), tmp_path / "log.csv")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused(path, 'pip install "lamo[tables]"', columns=MAPPED)


def test_other_formats_have_no_columns(make_episodes, tmp_path):
    toy.write_dataset(tmp_path / "a.hdf5")
    refused(tmp_path / "a.hdf5", "--columns does not apply", columns=MAPPED)


# --------------------------------------------------------------------------------------------------- one command trains


def test_a_log_trains_with_one_command(tmp_path, capsys):
    data = load_episodes(toy.write_dataset(tmp_path / "a.hdf5"))
    frame = pd.DataFrame(data.observations, columns=["px", "py", "pz"])
    frame["fx"], frame["fy"], frame["reward"] = data.actions[:, 0], data.actions[:, 1], data.rewards
    frame["trial"], frame["tick"] = np.repeat(data.ids, data.lengths), np.tile(np.arange(10), len(data))
    mapping = ["obs=p.", "action=fx,fy", "episode=trial", "time=tick"]
    for suffix in ("parquet", "csv"):
        path = save(frame, tmp_path / f"log.{suffix}")
        assert main(["data", "inspect", str(path), "--columns", *mapping, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["episodes"] == 12
        run = ["--out", str(tmp_path / suffix), "--steps", "2", "--eval-episodes", "1", "--device", "cpu", "--quiet"]
        assert (
            main(["train", "--preset", "toy", "--dataset", str(path), "--env", toy.ENV, "--columns", *mapping, *run])
            == 0
        )
        saved = Run.open(tmp_path / suffix)
        assert saved.config["columns"] == mapping
        assert Experiment.read(saved.path / "config.json").columns == tuple(mapping)
        capsys.readouterr()
    left = sorted(path.name for path in tmp_path.iterdir())
    out = str(tmp_path / "none")
    assert main(["train", "--preset", "toy", "--dataset", str(path), "--env", toy.ENV, "--out", out]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == left


def test_the_environment_says_what_whole_numbers_mean(make_episodes, tmp_path):
    data: Episodes = make_episodes([4, 4], width=4, actions=0)
    data.actions[:] %= 2
    path = write_table(data, tmp_path / "log.csv")
    refused(path, "--actions discrete")
    setup = prepare(Experiment.of("toy", dataset=str(path), env="CartPole-v1", device="cpu"))
    assert setup.spec.action_kind == "discrete"
    with pytest.raises(LamoError, match="--actions discrete"):
        prepare(Experiment.of("toy", dataset=str(path), env="CartPole-v1", device="cpu", eval_episodes=0))
    wide = write_table(make_episodes([4], width=3, actions=2), tmp_path / "wide.csv")
    whole = pd.read_csv(wide).round({"action_0": 0, "action_1": 0}).astype({"action_0": int, "action_1": int})
    setup = prepare(Experiment.of("toy", dataset=str(save(whole, wide)), env=toy.ENV, device="cpu"))
    assert setup.spec.action_kind == "continuous"
