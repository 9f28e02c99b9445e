"""Runs that are stopped, refused or gone on with: what is said, and what is left behind."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest

import lamo
import lamo.selection.targets
import toy
from lamo.cli import main
from lamo.config import Experiment
from lamo.errors import LamoError
from lamo.runs import Run
from lamo.signals import Interrupted
from lamo.train import resume, resume_together, train, train_together


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.write_dataset(tmp_path_factory.mktemp("data") / "toy.hdf5")


def experiment(data: Path, **settings: Any) -> Experiment:
    small = {"steps": 6, "eval_every": 3, "eval_episodes": 1, "checkpoint_every": 3, "log_every": 2, "batch_size": 8}
    return Experiment.of("toy", dataset=str(data), **{**small, "device": "cpu", **settings})


@pytest.mark.parametrize("place", ["the policy is written", "a return target is chosen"])
def test_a_signal_at_the_end_of_a_run_is_heard(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """The steps are done and saved; what follows them takes minutes where a target is chosen from the data."""
    auto = place == "a return target is chosen"
    owner, name = (lamo.selection.targets, "fit") if auto else (Run, "save_policy")
    inner = getattr(owner, name)

    def outer(*args: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return inner(*args, **options)

    monkeypatch.setattr(owner, name, outer)
    with pytest.raises(Interrupted, match="stopped at step 6.*lamo train --resume") as caught:
        train(experiment(data, targets=(3.0, "auto") if auto else (3.0,)), tmp_path / "run", quiet=True)
    assert caught.value.exit_code == 143
    run = Run.open(tmp_path / "run")
    assert run.last_checkpoint() == 6 and (run.summary() is None) == auto


def test_what_stops_one_of_several_says_which_are_left(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    several, outs = [experiment(data, seed=seed) for seed in (0, 1)], [tmp_path / "a", tmp_path / "b"]
    inner = toy.ToyLearner.update

    def update(self: toy.ToyLearner, batch: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return inner(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(toy.ToyLearner, "update", update)
        with pytest.raises(Interrupted, match=r"--resume .*a; then begin --seeds 1 too, into .*b$") as caught:
            train_together(several, outs, quiet=True)
        assert caught.value.exit_code == 130 and not outs[1].exists()
        train_rest = Run.create(outs[1], several[1].to_json(), Run.open(outs[0]).provenance)
        with pytest.raises(Interrupted, match=r"--resume .*a; then lamo train --resume .*b$"):
            resume_together([outs[0], train_rest.path], quiet=True)
    monkeypatch.setattr(toy.ToyLearner, "update", lambda *_: {"loss": math.nan})
    with pytest.raises(LamoError, match=r"loss is nan at step 1.*; then begin --seeds 1 too, into .*d$"):
        train_together(several, [tmp_path / "c", tmp_path / "d"], quiet=True)


def test_a_refused_resume_changes_nothing(data: Path, tmp_path: Path) -> None:
    run = train(experiment(data, steps=4), tmp_path / "run", quiet=True)
    before = {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()}
    with run.locked(), pytest.raises(LamoError, match="another process is training in it"):
        resume(run.path, steps=99)
    with pytest.raises(LamoError, match="--workers 0 must be at least 1"):
        resume(run.path, steps=99, workers=0)
    assert {path.name: path.read_bytes() for path in run.path.iterdir() if path.is_file()} == before


def test_workers_and_names_are_checked_before_anything(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for call in (train, lambda one, out, **options: train_together([one], [out], **options)):
        with pytest.raises(LamoError, match="--workers -1 must be at least 1"):
            call(experiment(data), tmp_path / "run", workers=-1)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LamoError, match=r"--out \.: a run needs a folder of its own, with a name"):
        train(experiment(data), ".")


def test_an_earlier_end_of_a_run_that_goes_on_is_not_played(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(experiment(data, steps=4), tmp_path / "run", quiet=True)
    monkeypatch.setattr(toy.ToyLearner, "update", lambda *_: {"loss": math.nan})
    with pytest.raises(LamoError, match="loss is nan"):
        resume(run.path, steps=9, quiet=True)
    with pytest.raises(LamoError, match="has not finished; go on with it: lamo train --resume"):
        lamo.evaluate(run.path, episodes=1)
    record = ["data", "collect", "--task", toy.ENV, "--episodes", "1", "--policy", str(run.path)]
    assert main([*record, "--out", str(tmp_path / "new.hdf5")]) == 2
    assert "has not finished" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[1]", "{}", '{"steps": 4}', '{"steps": true, "seconds": 1}'])
def test_a_damaged_summary_is_one_line(data: Path, tmp_path: Path, text: str) -> None:
    run = train(experiment(data, steps=4, eval_episodes=0), tmp_path / "run", quiet=True)
    (run.path / "summary.json").write_text(text)
    with pytest.raises(LamoError, match=r"summary.json: damaged .*delete it, then: lamo train --resume"):
        resume(run.path)
