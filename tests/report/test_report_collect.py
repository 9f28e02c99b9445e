"""Run folders are read, checked and grouped; what is no run, or is damaged, is one clear line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from run_folders import RunMaker, arm_trace, write_json

from lamo.errors import LamoError
from lamo.report.collect import clean_text, read_run, read_runs
from lamo.report.groups import group_runs, make_sections
from lamo.report.trace import MAX_FRAMES, clean_trace


def test_a_whole_run(make_run: RunMaker) -> None:
    run = read_run(make_run(seed=3, episodes=2, steps=2_000))
    assert (run.name, run.seed, run.planned_steps, run.finished) == ("run", 3, 2_000, True)
    assert len(run.episodes) == 2 * 2 * 2 and run.episodes[0].step == 1_000
    assert len(run.metrics) == len(run.timing) == 20
    assert run.rollout is not None and run.rollout["kind"] == "segments" and not run.notes


def test_a_run_that_has_just_begun(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"seed": 0})
    run = read_run(tmp_path)
    assert run.summary is None and run.rollout is None and not run.finished
    assert not run.metrics and not run.episodes
    assert run.notes == ("provenance.json is missing: data, versions and machine are unknown",)


def test_folders_that_hold_no_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for name, words in (("absent", "no such folder"), ("file", "not a folder"), ("empty", "config.json is missing")):
        with pytest.raises(LamoError, match=words) as error:
            read_run(tmp_path / name)
        assert str(tmp_path / name) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(LamoError, match="give one run folder"):
        read_runs([])


@pytest.mark.parametrize("name", ["config.json", "provenance.json", "summary.json", "rollout.json"])
@pytest.mark.parametrize(
    "content", [b"", b'{"a": 1', b"[1]", b"\xff\xfe", b'{"a":' * 50_000, b'{"a":' * 30 + b"1" + b"}" * 30]
)
def test_a_torn_file_is_named(make_run: RunMaker, name: str, content: bytes) -> None:
    path = make_run(steps=1_000, episodes=1) / name
    path.write_bytes(content)
    with pytest.raises(LamoError) as error:
        read_run(path.parent)
    assert str(path) in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("name", ["metrics.jsonl", "timing.jsonl", "episodes.jsonl"])
def test_rows(make_run: RunMaker, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = make_run(steps=1_000, episodes=1) / name
    whole = path.read_text()

    path.write_text(whole + '{"step": 9')
    run = read_run(path.parent)
    assert run.notes == (f"the last line of {name} is unfinished and left out",)
    assert "unfinished" in capsys.readouterr().err

    for bad, words in (
        ('{"step": 9\n', "torn"),
        ("7\n", "expected a JSON object"),
        ('{"step": -1}\n', "'step'"),
        ("{}\n", "'step'"),
    ):
        path.write_text(whole + bad + whole)
        with pytest.raises(LamoError, match=words) as error:
            read_run(path.parent)
        assert f"{path}, line {whole.count(chr(10)) + 1}:" in str(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"episode": "0"}, "'episode'"),
        ({"step": 1.5}, "'step'"),
        ({"step": True}, "'step'"),
        ({"target": "76"}, "'target'"),
        ({"target": math.nan}, "'target'"),
        ({"return": "lots"}, "'return'"),
    ],
)
def test_an_episode_that_cannot_be_read(make_run: RunMaker, change: dict[str, Any], words: str) -> None:
    path = make_run(steps=1_000, episodes=1) / "episodes.jsonl"
    path.write_text(json.dumps({"step": 1, "target": 1, "episode": 0, "return": 1, **change}) + "\n")
    with pytest.raises(LamoError, match=words):
        read_run(path.parent)


def test_missing_numbers_of_an_episode_are_kept_as_missing(make_run: RunMaker) -> None:
    run = read_run(make_run(value=lambda s, t, e: (None, None) if e == 0 else (math.nan, math.inf)))
    assert all(math.isnan(episode.returned) and episode.score is None for episode in run.episodes)


def test_an_episode_twice_is_an_error(make_run: RunMaker) -> None:
    path = make_run(steps=1_000, episodes=1) / "episodes.jsonl"
    path.write_text(path.read_text() * 2)
    with pytest.raises(LamoError, match="stands there twice"):
        read_run(path.parent)


@pytest.mark.parametrize("seed", [None, "0", True, 0.5, 2**70])
def test_a_seed_is_a_whole_number(tmp_path: Path, seed: Any) -> None:
    write_json(tmp_path / "config.json", {"seed": seed})
    with pytest.raises(LamoError, match="'seed'"):
        read_run(tmp_path)


def test_text_loses_its_control_characters() -> None:
    assert clean_text("a\x1b[31mb\u202e\n\tc\x00") == "a [31mb c"
    assert len(clean_text("x" * 10_000, 50)) == 50


def test_runs_that_differ_only_in_seed_are_one_method(make_run: RunMaker) -> None:
    settings: dict[str, Any] = {"steps": 1_000, "episodes": 1, "rollout": False}
    paths = [
        make_run(f"{preset}{seed}", preset=preset, seed=seed, **settings)
        for preset in ("dt", "lamo")
        for seed in (2, 0)
    ]
    (section,) = make_sections(read_runs([*paths, paths[0]]))  # a folder given twice counts once
    assert section.title == "reacher2d-medium, 10 % of the data"
    assert [(group.label, [run.seed for run in group.runs]) for group in section.groups] == [
        ("dt", [0, 2]),
        ("lamo", [0, 2]),
    ]


def test_a_seed_twice_is_refused(make_run: RunMaker) -> None:
    settings: dict[str, Any] = {"steps": 1_000, "episodes": 1, "rollout": False}
    runs = read_runs([make_run("a", **settings), make_run("b", **settings)])
    with pytest.raises(LamoError, match="same settings and the same seed 0"):
        group_runs(runs)


def test_tasks_and_shares_of_the_data_are_not_compared(make_run: RunMaker) -> None:
    settings: dict[str, Any] = {"steps": 1_000, "episodes": 1, "rollout": False}
    changes: list[dict[str, Any]] = [{"task": "a"}, {"task": "b"}, {"task": "a", "config": {"ratio": 1.0}}]
    sections = make_sections(read_runs([make_run(f"r{i}", **settings, **change) for i, change in enumerate(changes)]))
    assert [section.title for section in sections] == ["a, 10 % of the data", "b, 10 % of the data", "a"]


def test_labels_name_what_differs(make_run: RunMaker) -> None:
    settings: dict[str, Any] = {"steps": 1_000, "episodes": 1, "rollout": False}
    algorithms = [{"name": "sequence", "context": 5}, {"name": "sequence", "context": 20}]
    paths = [make_run(f"k{i}", **settings, config={"algorithm": algorithm}) for i, algorithm in enumerate(algorithms)]
    (section,) = make_sections(read_runs([*paths, make_run("dt", preset="dt", **settings)]))
    assert [group.label for group in section.groups] == ["lamo (context 5)", "lamo (context 20)", "dt"]
    # A setting that only one of two has leaves labels that would be equal: they are numbered.
    (section,) = make_sections(read_runs([make_run("x", **settings), make_run("y", **settings, config={"extra": {}})]))
    assert len({group.label for group in section.groups}) == 2


def test_trace_of_segments() -> None:
    trace = clean_trace(arm_trace(steps=30), "rollout.json")
    assert len(trace["frames"]) == len(trace["rewards"]) == 31 and len(trace["frames"][0]) == 16
    assert trace["rewards"][0] == 0 and trace["rewards"][-1] == trace["return"]
    assert [part["colour"] for part in trace["parts"]] == [None, None, "#149a74", "#d93333"]
    assert not trace["follow"] and trace["seconds_per_frame"] == 0.05


def test_trace_of_a_walker_is_followed_and_thinned() -> None:
    steps = 4 * MAX_FRAMES
    frames = [[[0.01 * t, 0.0, 0.01 * t, 1.0]] for t in range(steps + 1)]
    found = {"view": "xz", "segments": [{"radius": 0.1}], "frames": frames, "rewards": [1.0] * steps, "fps": 100}
    trace = clean_trace(found, "rollout.json")
    assert trace["follow"] and trace["bounds"] == [-0.1, -0.1, 0.1, 1.1]
    assert len(trace["frames"]) <= MAX_FRAMES + 1 and trace["rewards"][-1] == steps
    assert trace["seconds_per_frame"] * len(trace["frames"]) == pytest.approx(steps / 100, rel=0.01)


def test_trace_of_curves() -> None:
    trace = clean_trace(
        {"kind": "curves", "observations": [[1, 2]] * 4, "rewards": [1, 1, 1], "fps": None}, "rollout.json"
    )
    assert trace["kind"] == "curves" and trace["rewards"] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"frames": None}, "'frames'"),
        ({"frames": [[[0, 0, 1]]] * 61}, "x0, y0, x1, y1"),
        ({"frames": [[[0, 0, 1, math.nan]]] * 61}, "NaN"),
        ({"frames": [[[0, 0], [1]]]}, "'frames'"),
        ({"frames": [[[0, 0, 1, 1]]] * 61}, "each of the 1 parts"),
        ({"rewards": [1.0] * 7}, "do not fit"),
        ({"rewards": "lots"}, "'rewards'"),
        ({"segments": [1, 2, 3, 4]}, "'segments'"),
    ],
)
def test_a_trace_that_cannot_be_drawn(change: dict[str, Any], words: str) -> None:
    with pytest.raises(LamoError, match=words) as error:
        clean_trace({**arm_trace(), **change}, "runs/a/rollout.json")
    assert "runs/a/rollout.json" in str(error.value)
    with pytest.raises(LamoError, match="neither"):
        clean_trace({}, "rollout.json")


def test_a_colour_from_a_file_is_a_colour_or_nothing() -> None:
    trace = arm_trace()
    colours: list[Any] = ["url(evil)", "#12345", [1, 2], {"a": 1}]
    trace["segments"] = [{"radius": -1, "colour": colour} for colour in colours]
    assert clean_trace(trace, "rollout.json")["parts"] == [{"radius": 0.0, "colour": None}] * 4
