"""`lamo data convert`, `merge`, `split`, `subsample`: the right episodes, what was done, and nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from lamo.cli import main
from lamo.data import Episodes, load_episodes
from lamo.data.convert import write
from lamo.data.join import join
from lamo.data.recut import convert, merge, split, subsample
from lamo.data.sources.d4rl import write_d4rl
from lamo.data.sources.options import WriteOptions
from lamo.data.split import hold_out
from lamo.data.store_writer import write_store
from lamo.data.stream import stream
from lamo.errors import LamoError


@pytest.fixture
def log(make_episodes, tmp_path: Path) -> tuple[Episodes, Path]:
    """Ten episodes, and the file they lie in."""
    episodes = make_episodes([5, 2, 7, 3, 1, 4, 6, 8, 2, 9], final=True)
    return episodes, write_d4rl(episodes, tmp_path / "log.hdf5")


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("suffix", [".lamo", ".hdf5", ".npz", ".parquet", ".csv", ".tsv"])
@pytest.mark.parametrize("actions", [0, 2])
def test_convert_and_back(make_episodes, assert_same, tmp_path, suffix, actions) -> None:
    kept = suffix in (".lamo", ".hdf5")
    episodes = make_episodes([5, 2, 7], actions=actions, final=kept)
    write_d4rl(episodes, tmp_path / "a.hdf5")
    told = convert(tmp_path / "a.hdf5", tmp_path / f"b{suffix}", command="lamo data convert a b")
    assert (told["episodes"], told["steps"], told["digest"]) == (3, 14, episodes.digest())
    kind = "discrete" if not actions and suffix in (".csv", ".tsv") else None  # CSV cannot say
    back = load_episodes(tmp_path / f"b{suffix}", actions=kind)
    assert_same(back, episodes)
    if suffix in (".lamo", ".hdf5", ".npz", ".parquet"):
        (done,) = back.metadata["history"]
        assert done["command"] == "lamo data convert a b"
        assert done["sources"] == [{"source": "a.hdf5", "digest": episodes.digest()}]
    assert left(tmp_path) == ["a.hdf5", f"b{suffix}"]


@pytest.mark.parametrize(
    ("out", "target"),
    [(f"b{suffix}", WriteOptions()) for suffix in (".lamo", ".hdf5", ".npz", ".parquet", ".csv", ".tsv")]
    + [("b.hdf5", WriteOptions("robomimic")), ("b", WriteOptions("lerobot")), ("b-v0", WriteOptions("minari"))],
)
def test_what_is_told_is_what_the_file_holds(make_episodes, tmp_path, out, target) -> None:
    """Last observations and unfinished episodes have no place in some formats."""
    made = make_episodes([5, 2, 7], ends=["unfinished", "terminated", "unfinished"], final=True)
    made.actions[:] = np.rint(made.actions)  # whole amounts, which CSV writes as whole numbers
    write_d4rl(made, tmp_path / "a.hdf5", {"env_id": "Toy-v0"})
    told = convert(tmp_path / "a.hdf5", tmp_path / out, target=target)
    back = load_episodes(tmp_path / out, actions="continuous" if out.endswith("sv") else None)
    assert told["digest"] == back.digest()
    assert left(tmp_path) == ["a.hdf5", out]


def test_what_cannot_be_read_back_is_not_left(log, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("lamo.data.convert.stream", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    for out, target in (("b.npz", WriteOptions()), ("b-v0", WriteOptions("minari"))):
        with pytest.raises(KeyboardInterrupt):
            write([log[0]], tmp_path / out, target)
    assert left(tmp_path) == ["log.hdf5"]


def test_merge_keeps_the_order_and_tells_numbers_apart(log, make_episodes, assert_same, tmp_path) -> None:
    episodes, path = log
    other = write_d4rl(make_episodes([4, 4], seed=1), tmp_path / "other.hdf5")
    merge([path, other], tmp_path / "all.lamo")
    whole = load_episodes(tmp_path / "all.lamo")
    assert_same(whole.select(range(10)), episodes)
    assert whole.ids.tolist() == list(range(12))
    sources = whole.metadata["history"][-1]["sources"]
    assert sources == [{"source": "log.hdf5", "digest": episodes.digest()}, {"source": "other.hdf5",
        "digest": load_episodes(other).digest()}]  # fmt: skip
    assert_same(load_episodes([path, other]), whole)


def test_split_and_together_again(log, assert_same, tmp_path) -> None:
    episodes, path = log
    results = split(path, tmp_path / "parts", parts=3)
    assert left(tmp_path / "parts") == ["part_0.lamo", "part_1.lamo", "part_2.lamo"]
    assert sum(each["steps"] for each in results) == episodes.steps
    together = load_episodes(tmp_path / "parts")
    assert_same(together, episodes)
    np.testing.assert_array_equal(together.ids, episodes.ids)
    split(path, tmp_path / "held", holdout=0.3, suffix="hdf5")  # with or without its dot
    for name, wanted in zip(("train", "holdout"), hold_out(episodes, 0.3), strict=True):
        found = load_episodes(tmp_path / "held" / f"{name}.hdf5")
        assert_same(found, wanted)
        np.testing.assert_array_equal(found.ids, wanted.ids)


@pytest.mark.parametrize("suffix", [".lamo", ".hdf5", ".npz", ".parquet"])
def test_parts_hold_out_what_the_whole_does(log, tmp_path, suffix) -> None:
    episodes, path = log
    split(path, tmp_path / "parts", parts=2, suffix=suffix)
    parts = [load_episodes(tmp_path / "parts" / f"part_{i}{suffix}") for i in range(2)]
    assert [part.ids.tolist() for part in parts] == [list(range(len(parts[0]))), list(range(len(parts[0]), 10))]
    assert hold_out(join(parts), 0.3)[1].ids.tolist() == hold_out(episodes, 0.3)[1].ids.tolist()


@pytest.mark.parametrize(
    "ids", [np.arange(3), np.arange(10.0), np.arange(10)[:, None], np.array([*range(9), 8]), np.array("all")]
)
def test_numbers_of_episodes_in_npz_that_are_none(log, flat_arrays, tmp_path, ids) -> None:
    np.savez(tmp_path / "a.npz", **flat_arrays(log[0]), **{"metadata/ids": ids})
    for read in (load_episodes, lambda path: list(stream(path, size=100))):
        with pytest.raises(LamoError, match=r"a\.npz: metadata/ids .*; remove it from the file$"):
            read(tmp_path / "a.npz")


def test_subsample_draws_what_training_draws(log, assert_same, tmp_path) -> None:
    episodes, path = log
    subsample(path, tmp_path / "share.lamo", ratio=0.4, seed=3)
    assert_same(load_episodes(tmp_path / "share.lamo"), episodes.subsample(0.4, 3))
    subsample(path, tmp_path / "four.lamo", episodes=4, seed=3)
    assert_same(load_episodes(tmp_path / "four.lamo"), episodes.subsample(0.4, 3))


RECORDED = {
    "policy": "sb3:é.zip", "seed": 3, "command": "lamo data collect …", "settings": "{}", "return_mean": 0.5,
    "episodes": 10, "sure": True, "scales": [1.5, 2.0], "names": ["a", "b"], "none": [], "text": "x" * 100_000,
}  # fmt: skip
BOUNDS = {"env_id": "Hopper-v5", "action_low": [-1.0, -1.0], "action_high": [1.0, 1.0]}


def test_hdf5_keeps_the_attributes_of_the_recording(log, tmp_path, capsys) -> None:
    episodes, _ = log
    write_d4rl(episodes, tmp_path / "a.hdf5", BOUNDS | RECORDED)
    convert(tmp_path / "a.hdf5", tmp_path / "b.hdf5", command="one")
    convert(tmp_path / "b.hdf5", tmp_path / "c.lamo", command="two")
    convert(tmp_path / "c.lamo", tmp_path / "d.h5", command="three")
    for name in ("a.hdf5", "b.hdf5", "d.h5"):
        assert load_episodes(tmp_path / name).metadata["attributes"] == BOUNDS | RECORDED
    assert [each["command"] for each in load_episodes(tmp_path / "d.h5").metadata["history"]] == ["one", "two", "three"]
    with h5py.File(tmp_path / "d.h5") as file:
        assert set(file.attrs) == set(BOUNDS | RECORDED)
    subsample(tmp_path / "a.hdf5", tmp_path / "few.hdf5", ratio=0.5)
    split(tmp_path / "a.hdf5", tmp_path / "parts", parts=2, suffix=".hdf5")
    for name in ("few.hdf5", "parts/part_0.hdf5"):  # what was said of all episodes is not true of some
        told = load_episodes(tmp_path / name).metadata["attributes"]
        assert RECORDED.keys() - told.keys() == {"return_mean", "episodes"}
    assert not capsys.readouterr().err


def test_attributes_that_hdf5_has_no_place_for_are_left_out_aloud(make_episodes, tmp_path, capsys) -> None:
    odd = {"": 1, "zero": "a\0b", "torn": "\udc80", "huge": 1 << 80, "long": [0] * 9_000, "mixed": [1, "a"], "deep": {}}
    told = {"attributes": {**odd, "unknown": None, "policy": "random", "env_name": "other", "action_choices": 7}}
    write_store(make_episodes([3, 4], metadata=told), tmp_path / "a.lamo")
    convert(tmp_path / "a.lamo", tmp_path / "b.hdf5")
    said = capsys.readouterr().err
    assert (
        said.count("\n") == 1 and "b.hdf5: attributes that HDF5 has no place for are left out: , zero, torn, " in said
    )
    back = load_episodes(tmp_path / "b.hdf5")
    assert back.metadata["attributes"] == {"policy": "random"} and back.metadata["env"] is None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("convert LOG LOG", "exists already"),
        ("convert LOG NEW", "no suffix is not a format that is written"),
        ("convert LOG NEW.pkl", ".pkl is not a format that is written"),
        ("convert nothing.hdf5 NEW.lamo", "no such file"),
        ("merge LOG --out NEW.lamo", "nothing to merge"),
        ("merge LOG WIDE --out NEW.lamo", "log.hdf5 has observations of 3 numbers, wide.hdf5 of 5"),
        ("merge LOG CHOICES --out NEW.lamo", "log.hdf5 has actions that are vectors, choices.hdf5 has choices"),
        (
            "merge LOG BOUNDED OTHER --out NEW.lamo",
            "bounded.hdf5 has action_low [-1.0, -1.0], other.hdf5 has [-2.0, -1.0]",
        ),
        ("split LOG --out NEW", "give --holdout"),
        ("split LOG --out NEW --parts 11", "--parts 11 is not within 2 … 10"),
        ("split LOG --out NEW --holdout 2", "--holdout 2"),
        ("split LOG --out LOG --parts 2", "exists already"),
        ("subsample LOG --out NEW.lamo", "give --ratio"),
        ("subsample LOG --out NEW.lamo --ratio 0.01", "leaves none"),
        ("subsample LOG --out NEW.lamo --episodes 11", "--episodes 11 is not within 1 … 10"),
        ("convert TORN NEW.lamo", "torn.hdf5"),
        ("convert NAN NEW.npz", "nan"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(log, make_episodes, tmp_path, capsys, line, words) -> None:
    episodes, path = log
    write_d4rl(make_episodes([3], width=5), tmp_path / "wide.hdf5")
    write_d4rl(make_episodes([3], actions=0), tmp_path / "choices.hdf5")
    write_d4rl(episodes, tmp_path / "bounded.hdf5", {"action_low": [-1.0, -1.0], "action_high": [1.0, 1.0]})
    write_d4rl(episodes, tmp_path / "other.hdf5", {"action_low": [-2.0, -1.0], "action_high": [1.0, 1.0]})
    (tmp_path / "torn.hdf5").write_bytes(path.read_bytes()[:3000])
    broken = make_episodes([3, 4])
    broken.rewards[5] = np.nan
    write_d4rl(broken, tmp_path / "nan.hdf5")
    before = left(tmp_path)
    for name in ("LOG", "WIDE", "CHOICES", "BOUNDED", "OTHER", "TORN", "NAN"):
        line = line.replace(name, str(tmp_path / f"{name.lower()}.hdf5"))
    assert main(["data", *line.replace("NEW", str(tmp_path / "new")).split()]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and words in said[0], said
    assert left(tmp_path) == before


def test_json(log, tmp_path, capsys) -> None:
    _, path = log
    assert main(["data", "split", str(path), f"--out={tmp_path / 'p'}", "--parts", "2", "--json"]) == 0
    parts = json.loads(capsys.readouterr().out)["parts"]
    assert [part["out"] for part in parts] == [str(tmp_path / "p" / f"part_{i}.lamo") for i in range(2)]
    assert main(["data", "inspect", str(tmp_path / "p"), "--json"]) == 0
    for part in sorted((tmp_path / "p").iterdir()):
        (entry,) = load_episodes(part).metadata["history"]
        assert entry["command"] == f"lamo data split {path.name} --out=p --parts 2 --json"  # names, not places
    assert json.loads(capsys.readouterr().out)["episodes"] == 10


def test_join_of_one_is_itself(make_episodes) -> None:
    episodes = make_episodes([2])
    assert join([episodes]) is episodes
