"""A run whose metrics are read one step late, as on a GPU, is the run whose metrics are read at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import toy
from lamo import member, progress
from lamo.algorithms import sequence
from lamo.algorithms.late import Arrival
from lamo.config import Experiment
from lamo.errors import LamoError
from lamo.runs import Run
from lamo.train import resume, train, train_together


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.write_dataset(tmp_path_factory.mktemp("data") / "toy.hdf5")


def experiment(data: Path, lm: Path, **settings: Any) -> Experiment:
    small = {"steps": 11, "eval_every": 4, "eval_episodes": 2, "checkpoint_every": 3, "log_every": 5, "batch_size": 8}
    model = {"lm": str(lm), "context": 4, "text_block": 32, "warmup_steps": 2, "device": "cpu"}
    return Experiment.of("lamo", dataset=str(data), **{**small, **model, **settings})


def assert_equal(ours: Path, theirs: Path) -> None:
    """To the last bit, and the sums of metrics that a checkpoint holds."""
    for name in ("metrics.jsonl", "episodes.jsonl", "policy/policy.safetensors"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
    first, second = (Run.open(path).load_checkpoint() for path in (ours, theirs))
    assert first is not None
    assert second is not None
    assert first[0] == second[0]
    assert first[2]["position"]["sums"] == second[2]["position"]["sums"]
    for name, value in second[1].items():
        np.testing.assert_array_equal(first[1][name], value, err_msg=name)


def test_late_or_at_once_alone_together_and_resumed(
    data: Path, small_lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiments = [experiment(data, small_lm, seed=seed) for seed in (0, 1)]
    for late in (False, True):
        monkeypatch.setattr(member, "reads_late", lambda device, late=late: late)
        folder = tmp_path / str(late)
        train(experiments[0], folder / "alone", quiet=True)
        train_together(experiments, [folder / "first", folder / "second"], quiet=True)
        train(experiment(data, small_lm, steps=7), folder / "resumed", quiet=True)
        assert Run.open(folder / "resumed").load_checkpoint() is not None
        resume(folder / "resumed", steps=11, quiet=True)
    for name in ("alone", "first", "second", "resumed"):
        assert_equal(tmp_path / "True" / name, tmp_path / "False" / name)


def test_each_step_is_begun_before_the_last_is_read(
    data: Path, small_lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But where something is written, which holds all steps that are done."""
    told: list[str] = []
    step, read = sequence.gradient_step, Arrival.read
    monkeypatch.setattr(member, "reads_late", lambda device: True)
    monkeypatch.setattr(sequence, "gradient_step", lambda *given: (told.append("step"), step(*given))[1])
    monkeypatch.setattr(Arrival, "read", lambda self: (told.append("read"), read(self))[1])
    train(
        experiment(data, small_lm, steps=6, eval_every=2, log_every=4, checkpoint_every=5), tmp_path / "a", quiet=True
    )
    expected = "step step read read step step read read step read step read"  # read at once: steps 2, 4, 5 and 6
    assert told == expected.split()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("at", "checkpoint"), [(4, 3), (6, 3), (8, 6), (10, 9), (11, 9)])
def test_a_loss_that_is_not_finite_is_named_with_its_step(
    at: int, checkpoint: int, late: bool, data: Path, small_lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not that step is evaluated, logged or kept; nothing is written of it."""
    done = 0
    step = sequence.gradient_step

    def exploding(*given: Any) -> Any:
        nonlocal done
        done += 1
        values = step(*given)
        if done == at:
            values[0]["loss"] = torch.tensor(torch.nan)
        return values

    monkeypatch.setattr(member, "reads_late", lambda device: late)
    monkeypatch.setattr(sequence, "gradient_step", exploding)
    with pytest.raises(LamoError, match=f"loss is nan at step {at}; the last good checkpoint is of step {checkpoint}"):
        train(experiment(data, small_lm), tmp_path / "run", quiet=True)
    assert done <= at + late
    run = Run.open(tmp_path / "run")
    assert max(row["step"] for row in [*run.read_metrics(), *run.read_episodes()]) < at


def test_the_bar_waits_for_a_loss_only_to_show_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.Bar("run", 10, 0, quiet=False) as bar:
        with monkeypatch.context() as patched:
            patched.setattr(torch.Tensor, "__float__", lambda self: pytest.fail("waits"))
            for loss in (1.0, 3.0):
                bar.step(torch.tensor(loss))
        monkeypatch.setattr(progress, "PLAIN_EVERY", 0.0)
        bar.step(torch.tensor(1.0))
    assert "run: step 3 of 10, loss 1.039," in capsys.readouterr().err
