"""Runs that train together are the runs that they are alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

import toy
from lamo.algorithms.sequence import SequenceLearner
from lamo.cli import main
from lamo.config import Experiment
from lamo.errors import LamoError
from lamo.models.backbone import Backbone
from lamo.runs import Run
from lamo.train import resume, resume_together, train, train_together

TOLERANCE = 1e-4  # of losses and weights, absolute: float32 sums in another order, over twelve steps
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.write_dataset(tmp_path_factory.mktemp("data") / "toy.hdf5")


def experiment(data: Path, lm: Path, preset: str = "lamo", **settings: Any) -> Experiment:
    small = {"steps": 12, "eval_every": 6, "eval_episodes": 2, "checkpoint_every": 6, "log_every": 3, "batch_size": 8}
    model = {"lm": str(lm), "context": 4, "text_block": 32, "warmup_steps": 2, "device": "cpu"}
    return Experiment.of(preset, dataset=str(data), **{**small, **model, "ratio": 0.5, **settings})


def assert_alike(together: Path, alone: Path) -> None:
    """Everything in the run folders but times, and sums rounded another way."""
    first, second = Run.open(together), Run.open(alone)
    assert first.config == second.config
    assert first.provenance["dataset"] == second.provenance["dataset"]
    for ours, theirs in zip(first.read_metrics(), second.read_metrics(), strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, rel=1e-3, abs=TOLERANCE), name
    found = [run.load_checkpoint() for run in (first, second)]
    assert found[0] is not None
    assert found[1] is not None
    assert found[0][0] == found[1][0]
    assert found[0][2]["batches"] == found[1][2]["batches"]
    tensors = [each[1] for each in found if each is not None]
    assert tensors[0].keys() == tensors[1].keys()
    for name, value in tensors[1].items():
        np.testing.assert_allclose(tensors[0][name], value, atol=TOLERANCE, rtol=1e-3, err_msg=name)
    policies = [load_file(path / "policy" / "policy.safetensors") for path in (together, alone)]
    for name, value in policies[1].items():
        np.testing.assert_allclose(policies[0][name], value, atol=TOLERANCE, rtol=1e-3, err_msg=name)


@pytest.mark.parametrize(
    ("preset", "extra"),
    [
        ("lamo", {}),
        ("lamo", {"lora_form": "separate", "gradient_checkpointing": True}),
        ("lamo-random", {"lm_seed": 5}),
    ],
)
def test_each_is_what_it_is_alone(
    preset: str, extra: dict[str, Any], data: Path, small_lm: Path, tmp_path: Path
) -> None:
    """With dropout, with text, on another half of the data for each seed."""
    experiments = [experiment(data, small_lm, preset, seed=seed, **extra) for seed in SEEDS]
    runs = train_together(experiments, [tmp_path / f"together-{seed}" for seed in SEEDS], quiet=True)
    for one, run in zip(experiments, runs, strict=True):
        assert_alike(run.path, train(one, tmp_path / f"alone-{one.seed}", quiet=True).path)


def test_the_transformer_runs_once_for_all(
    data: Path, small_lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hot path by counts: one forward on behaviour and one on text per step, whatever the number of runs."""
    calls = {"behaviour": 0, "text": 0}
    forward, read = Backbone.forward, Backbone.text_losses

    def counted(self: Backbone, tokens: Any, *rest: Any, **options: Any) -> Any:
        calls["behaviour"] += self.training
        return forward(self, tokens, *rest, **options)

    def counted_text(self: Backbone, ids: Any, **options: Any) -> Any:
        calls["text"] += self.training
        return read(self, ids, **options)

    monkeypatch.setattr(Backbone, "forward", counted)
    monkeypatch.setattr(Backbone, "text_losses", counted_text)
    experiments = [experiment(data, small_lm, seed=seed, eval_episodes=0) for seed in SEEDS]
    train_together(experiments, [tmp_path / str(seed) for seed in SEEDS], quiet=True)
    assert calls == {"behaviour": 12, "text": 12}


def test_frozen_weights_are_held_once(data: Path, small_lm: Path) -> None:
    from lamo.train import _build

    learners: list[SequenceLearner] = [_build(experiment(data, small_lm, seed=seed))[1] for seed in SEEDS]
    assert SequenceLearner.pack(learners) is None
    places = {learner.model.backbone.lm.transformer.h[0].mlp.c_fc.weight.data_ptr() for learner in learners}
    assert len(places) == 1


def test_learning_rates_may_differ_shapes_may_not(data: Path, small_lm: Path) -> None:
    from lamo.train import _build

    def why_not(**other: Any) -> str | None:
        pair = [_build(experiment(data, small_lm, **settings))[1] for settings in ({}, other)]
        return SequenceLearner.pack(pair)

    assert why_not(learning_rate=1e-3, seed=3) is None
    assert "--context" in str(why_not(context=3))
    assert "batch size" in str(why_not(batch_size=4))


def test_one_that_was_trained_in_company_goes_on_alone(data: Path, small_lm: Path, tmp_path: Path) -> None:
    experiments = [experiment(data, small_lm, seed=seed) for seed in (0, 1)]
    runs = train_together(experiments, [tmp_path / "a", tmp_path / "b"], quiet=True)
    alone = train(experiments[1], tmp_path / "c", quiet=True)
    for run in (runs[1], alone):
        resume(run.path, steps=18, quiet=True)
    assert_alike(runs[1].path, alone.path)


def test_they_go_on_together(data: Path, small_lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted in company and taken up in company, a run is what it is uninterrupted, to the bit."""
    experiments = [experiment(data, small_lm, seed=seed) for seed in SEEDS]
    whole = train_together(experiments, [tmp_path / f"whole-{seed}" for seed in SEEDS], quiet=True)
    shorter = [each.but(steps=6) for each in experiments]
    halves = train_together(shorter, [tmp_path / f"half-{seed}" for seed in SEEDS], quiet=True)
    packs: list[int] = []
    together = SequenceLearner.update_together
    monkeypatch.setattr(
        SequenceLearner,
        "update_together",
        staticmethod(lambda learners, batches: (packs.append(len(learners)), together(learners, batches))[1]),
    )
    assert main(["train", "--resume", *(str(run.path) for run in halves), "--steps", "12", "--quiet"]) == 0
    assert packs == [len(SEEDS)] * 6
    for once, twice in zip(whole, halves, strict=True):
        first, second = (load_file(run.path / "policy" / "policy.safetensors") for run in (once, twice))
        assert all(np.array_equal(first[name], second[name]) for name in first)
        assert [row["return"] for row in once.read_episodes()] == [row["return"] for row in twice.read_episodes()]
        states = [run.load_checkpoint() for run in (once, twice)]
        assert states[0] is not None
        assert states[1] is not None
        assert np.array_equal(states[0][1]["random.cpu"], states[1][1]["random.cpu"])


def test_runs_that_are_not_equally_far_go_on_in_turn(
    data: Path, small_lm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path, steps in zip(paths, (6, 9), strict=True):
        train(experiment(data, small_lm, steps=steps, eval_episodes=0), path, quiet=True)
    assert [run.path for run in resume_together(paths, steps=12, quiet=True)] == paths
    assert "not equally far" in capsys.readouterr().err
    assert all((Run.open(path).summary() or {})["steps"] == 12 for path in paths)
    assert main(["train", "--resume", str(paths[0]), str(paths[0]), "--quiet"]) == 2
    assert "twice" in capsys.readouterr().err


def test_runs_of_different_methods_go_on_in_turn(
    data: Path, small_lm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    train(experiment(data, small_lm, steps=6, eval_episodes=0), paths[0], quiet=True)
    plain = {"steps": 6, "eval_episodes": 0, "batch_size": 8, "device": "cpu"}
    train(Experiment.of("bc", dataset=str(data), **plain), paths[1], quiet=True)
    resume_together(paths, steps=9, quiet=True)
    assert "their methods differ" in capsys.readouterr().err
    assert all((Run.open(path).summary() or {})["steps"] == 9 for path in paths)


def test_a_damaged_newest_checkpoint_keeps_runs_from_going_on_together(
    data: Path, small_lm: Path, tmp_path: Path
) -> None:
    """The run would go on from the one before, and no longer be as far as the others."""
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        train(experiment(data, small_lm, eval_episodes=0), path, quiet=True)
    newest = max((paths[0] / "checkpoints").rglob("*.safetensors"), key=lambda file: file.parent.name + file.name)
    newest.write_bytes(newest.read_bytes()[:100])
    with pytest.raises(LamoError, match=r"not equally far: .*a at 6, .*b at 12; resume the runs one by one"):
        resume_together(paths, steps=18, quiet=True)


def test_one_that_diverges_does_not_take_the_others_along(data: Path, small_lm: Path, tmp_path: Path) -> None:
    good = experiment(data, small_lm, checkpoint_every=0, eval_episodes=0)
    bad = experiment(data, small_lm, checkpoint_every=0, eval_episodes=0, learning_rate=1e20)
    with pytest.raises(LamoError, match=r"bad: .*at step.*others are saved.*lamo train --resume .*good"):
        train_together([bad, good], [tmp_path / "bad", tmp_path / "good"], quiet=True)
    kept = Run.open(tmp_path / "good").last_checkpoint()
    assert kept is not None
    assert kept > 0
    assert_alike(resume(tmp_path / "good", quiet=True).path, train(good, tmp_path / "alone", quiet=True).path)


def test_what_cannot_share_is_trained_in_turn(
    data: Path, small_lm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for preset, reason in (("dt", "whole Transformer"), ("lamo-random", "--lm-seed")):
        experiments = [experiment(data, small_lm, preset, seed=seed) for seed in (0, 1)]
        runs = train_together(experiments, [tmp_path / f"{preset}{seed}" for seed in (0, 1)], quiet=True)
        assert reason in capsys.readouterr().err
        alone = train(experiments[1], tmp_path / f"{preset}-alone", quiet=True)
        assert (runs[1].path / "metrics.jsonl").read_bytes() == (alone.path / "metrics.jsonl").read_bytes()


def test_seeds_on_the_command_line(
    data: Path, small_lm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "--preset", "lamo", "--lm", str(small_lm), "--dataset", str(data), "--context", "4"]
    command += ["--text-block", "32", "--steps", "4", "--eval-episodes", "2", "--batch-size", "8", "--quiet"]
    command += ["--out", str(tmp_path / "a"), "--seeds"]
    assert main([*command, "0", "3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [Path(run["run"]).name for run in told["runs"]] == ["a-s0", "a-s3"]
    assert Run.open(tmp_path / "a-s3").config["seed"] == 3
    assert main([*command, "5", "5"]) == 2
    assert "twice" in capsys.readouterr().err
    assert main([*command, "0"]) == 2  # its folder holds a run
    assert main(command) == 2
    assert "--seeds needs" in capsys.readouterr().err
    assert main([*command, "7", "--seed", "3"]) == 2
    assert "--seed is of one run" in capsys.readouterr().err
    assert main(["train", "--resume", str(tmp_path / "a-s0"), "--seeds", "1"]) == 2


def test_unequal_lengths_are_refused(data: Path, small_lm: Path, tmp_path: Path) -> None:
    pair = [experiment(data, small_lm, seed=seed, steps=4 + seed) for seed in (0, 1)]
    with pytest.raises(LamoError, match="--steps"):
        train_together(pair, [tmp_path / "a", tmp_path / "b"])
    assert not list(tmp_path.iterdir())
