"""Training from stores, by the command line: the same figures as from the file that they were made of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lamo.cli import main
from lamo.data import load_episodes

TRAIN = "--env Reacher2d-v0 --steps 20 --log-every 5 --eval-every 20 --eval-episodes 1 --batch-size 8 --context 5"


def train(out: Path, *arguments: str) -> list[str]:
    small = ["--layers", "1", "--width", "16", "--heads", "2"]
    command = ["train", "--preset", "dt", *TRAIN.split(), *small, *arguments, "--out", str(out), "--device", "cpu"]
    assert main(command) == 0
    return (out / "metrics.jsonl").read_text().splitlines()


@pytest.mark.parametrize("share", [(), ("--ratio", "0.5", "--holdout", "0.2")])
def test_the_same_figures_as_from_the_file(tmp_path, share, monkeypatch) -> None:
    monkeypatch.setattr("lamo.data.episodes.COPIED", 0)  # what is chosen of a store stays there
    source, store = "reacher2d-medium", tmp_path / "a.lamo"
    assert main(["data", "convert", source, str(store)]) == 0
    file = train(tmp_path / "file", "--dataset", source, *share)
    assert train(tmp_path / "store", "--dataset", str(store), *share) == file
    told = [json.loads((tmp_path / run / "provenance.json").read_text())["dataset"] for run in ("file", "store")]
    assert told[0]["digest"] == told[1]["digest"]


def test_several_stores_are_one_dataset(tmp_path) -> None:
    assert main(["data", "split", "reacher2d-medium", "--out", str(tmp_path / "parts"), "--parts", "3"]) == 0
    parts = sorted(map(str, (tmp_path / "parts").iterdir()))
    whole = load_episodes("reacher2d-medium").statistics()
    for mine, theirs in zip(load_episodes(parts).statistics(), whole, strict=True):
        assert abs(mine - theirs).max() < 1e-6
    file = [json.loads(line) for line in train(tmp_path / "file", "--dataset", "reacher2d-medium")]
    found = [json.loads(line) for line in train(tmp_path / "named", "--dataset", *parts)]
    folder = [json.loads(line) for line in train(tmp_path / "folder", "--dataset", str(tmp_path / "parts"))]
    for row, other, third in zip(file, found, folder, strict=True):
        assert other == third
        assert row == pytest.approx(other, rel=1e-4)
    assert main(["train", "--resume", str(tmp_path / "named"), "--steps", "24"]) == 0
