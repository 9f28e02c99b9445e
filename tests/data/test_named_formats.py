"""`--format`: what a suffix cannot say, on the command line, for every verb that writes a dataset."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lamo.cli import main
from lamo.data import load_episodes
from lamo.data.convert import NAMED
from lamo.data.relabel import KEY
from lamo.data.sources.d4rl import write_d4rl

OUT = {"minari": "out-v0", "lerobot": "out", "robomimic": "out.hdf5"}


def run(*words: object) -> int:
    return main(["data", *map(str, words), *([] if words[0] in ("relabel", "inspect") else ["--quiet"])])


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_every_format_is_tried_here() -> None:
    assert set(OUT) == set(NAMED)


@pytest.mark.parametrize("name", OUT)
def test_there_and_back(make_episodes, assert_same, tmp_path, capsys, name) -> None:
    episodes = make_episodes([5, 2, 7], ends=["terminated", "truncated", "unfinished"], final=True)
    write_d4rl(episodes, tmp_path / "a.hdf5", {"env_id": "Hopper-v5", "action_low": [-1, -1], "action_high": [1, 1]})
    out = tmp_path / OUT[name]
    assert run("convert", tmp_path / "a.hdf5", out, "--format", name, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["format"], told["episodes"], told["digest"]) == (name, 3, episodes.digest())
    assert run("inspect", out, "--json") == 0
    seen = json.loads(capsys.readouterr().out)
    assert (seen["episodes"], seen["steps"], seen["env"]) == (3, 14, "Hopper-v5")
    assert run("convert", out, tmp_path / "b.lamo", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["digest"] == episodes.digest()
    back = load_episodes(tmp_path / "b.lamo")
    assert_same(back, episodes)
    assert back.ids.tolist() == episodes.ids.tolist()
    assert (back.metadata["action_low"], back.metadata["action_high"]) == ([-1, -1], [1, 1])
    first, second = back.metadata["history"]
    assert first["command"].startswith("lamo data convert a.hdf5") and second["sources"][0]["source"] == OUT[name]
    assert first["sources"] == [{"source": "a.hdf5", "digest": episodes.digest()}]
    assert left(tmp_path) == sorted(["a.hdf5", "b.lamo", OUT[name]])


@pytest.mark.parametrize("name", OUT)
def test_every_verb(make_episodes, assert_same, tmp_path, name) -> None:
    episodes = make_episodes([5, 2, 7, 3], ends=["terminated", "truncated"] * 2, final=True)
    log, other = (write_d4rl(episodes, tmp_path / f"{x}.hdf5") for x in "ab")
    suffix, ask = Path(OUT[name]).suffix, ("--format", name)
    assert run("merge", log, other, "--out", tmp_path / f"m{suffix}", *ask) == 0
    merged = load_episodes(tmp_path / f"m{suffix}")
    assert merged.ids.tolist() == list(range(8))
    assert run("subsample", log, "--out", tmp_path / f"s{suffix}", "--episodes", 2, *ask) == 0
    few = load_episodes(tmp_path / f"s{suffix}")
    assert_same(few, episodes.subsample(0.5, 0))
    assert few.ids.tolist() == episodes.subsample(0.5, 0).ids.tolist()
    assert run("split", log, "--out", tmp_path / "parts", "--parts", 2, *ask) == 0
    assert left(tmp_path / "parts") == [f"part_0{suffix}", f"part_1{suffix}"]
    assert load_episodes(tmp_path / "parts" / f"part_1{suffix}").ids.tolist()[-1] == 3
    assert run("relabel", log, tmp_path / f"r{suffix}", "--reward", "delayed", *ask) == 0
    (done,) = load_episodes(tmp_path / f"r{suffix}").metadata["history"]
    assert KEY in done
    assert run("score", log, "--task", "hopper-medium", "--out", tmp_path / f"c{suffix}", *ask) == 0
    assert "score" in load_episodes(tmp_path / f"c{suffix}").metadata["history"][0]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("convert LOG NEW", "or --format minari"),
        ("convert LOG NEW.hdf5 --format minari", "--format minari is a folder; give it a name without .hdf5"),
        ("convert LOG LOG.x --format minari", "exists already"),
        ("convert LOG NEW --format pickle", "invalid choice"),
        ("convert LOG NEW --format robomimic", "--format robomimic is a file; give it the suffix .hdf5"),
        ("convert CHOICES NEW.hdf5 --format robomimic", "robomimic's actions are vectors, these are choices"),
        ("convert LOG NEW --format minari --fps 10", "--fps is written into LeRobot datasets alone"),
        ("convert LOG NEW --format lerobot --fps 0", "--fps 0.0 is no number of steps per second"),
        ("score LOG --task hopper-medium --format minari", "--format says what --out is"),
    ],
)
def test_what_cannot_be_is_one_line(make_episodes, tmp_path, capsys, line, words) -> None:
    log = write_d4rl(make_episodes([3, 4]), tmp_path / "log.hdf5")
    line = line.replace("CHOICES", str(write_d4rl(make_episodes([3], actions=0), tmp_path / "choices.hdf5")))
    (tmp_path / "log.hdf5.x").mkdir()
    before = left(tmp_path)
    assert main(["data", *line.replace("LOG", str(log)).replace("NEW", str(tmp_path / "new")).split()]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and words in said[0], said
    assert left(tmp_path) == before
