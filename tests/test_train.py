"""The loop: what it writes, that it repeats, that it goes on after any kind of stop, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lamo
import toy
from lamo.config import Experiment
from lamo.errors import LamoError
from lamo.runs import Run
from lamo.signals import Interrupted
from lamo.train import resume, train

SETTINGS: dict[str, Any] = {
    "steps": 23,
    "eval_every": 8,
    "eval_episodes": 3,
    "checkpoint_every": 5,
    "log_every": 4,
    "batch_size": 16,
    "device": "cpu",
}
RECORDS = ("metrics.jsonl", "episodes.jsonl", "rollout.json", "policy/policy.safetensors", "policy/policy.json")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.write_dataset(tmp_path_factory.mktemp("data") / "toy.hdf5")


def experiment(data: Path, preset: str = "toy", **settings: Any) -> Experiment:
    return Experiment.of(preset, dataset=str(data), **{**SETTINGS, **settings})


def records(run: Path) -> dict[str, bytes]:
    """Everything that must not depend on when a run was stopped, and the tensors of its last checkpoint."""
    found = {name: (run / name).read_bytes() for name in RECORDS}
    checkpoint = Run.open(run).load_checkpoint()
    assert checkpoint is not None
    found["step"] = str(checkpoint[0]).encode()
    found |= {name: bytes(tensor.numpy().tobytes()) for name, tensor in checkpoint[1].items()}
    return found


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped."""
    return train(experiment(data), tmp_path_factory.mktemp("whole") / "run", quiet=True).path


# ------------------------------------------------------------------------------------------------------ what it writes


def test_run_folder(whole: Path) -> None:
    run = Run.open(whole)
    assert {path.name for path in whole.iterdir()} == {
        *("config.json", "provenance.json", "summary.json", "rollout.json", "policy", "checkpoints"),
        *("metrics.jsonl", "timing.jsonl", "episodes.jsonl"),
    }
    metrics = run.read_metrics()
    assert [row["step"] for row in metrics] == [0, 4, 8, 12, 16, 20, 23]
    assert metrics[0].keys() == {"step", "perplexity"}
    assert metrics[1].keys() == {"step", "loss", "learning_rate"}
    assert metrics[-1].keys() == {"step", "loss", "learning_rate", "perplexity"}
    assert metrics[1]["learning_rate"] == pytest.approx(0.04)  # that of step 4, not the mean of four steps
    assert metrics[-1]["loss"] < metrics[1]["loss"]
    timing = run.read("timing.jsonl")
    assert [row["step"] for row in timing] == [4, 8, 12, 16, 20, 23]
    assert all(row.keys() == {"step", "seconds", "steps_per_second"} for row in timing)
    episodes = run.read_episodes()
    keys = [(row["step"], row["target"], row["episode"]) for row in episodes]
    targets = run.provenance["spec"]["targets"]
    assert keys == [(s, t, e) for s in (8, 16, 23) for t in targets for e in range(3)]
    assert all(row["seed"] >= 1_000_000_000 for row in episodes)
    assert run.last_checkpoint() == 23


def test_summary_and_provenance(whole: Path) -> None:
    run = Run.open(whole)
    summary = run.summary()
    assert summary is not None and summary["finished"] and summary["steps"] == 23 and summary["seconds"] > 0
    assert summary["parameters"]["total"] == 50
    assert summary["perplexity"] == {
        "before": run.read_metrics()[0]["perplexity"],
        "after": run.read_metrics()[-1]["perplexity"],
    }
    assert [row["target"] for row in summary["final"]["targets"]] == run.provenance["spec"]["targets"]
    notes = run.provenance
    assert notes["dataset"]["episodes"] == 12 and notes["dataset"]["ids"] == list(range(12))
    assert notes["published"] == Experiment.from_json(run.config).published
    assert notes["task"]["env"] == toy.ENV and notes["task"]["score_range"] is None
    assert notes["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert notes["machine"]["cores"] >= 1 and notes["device"] == "cpu"
    assert Experiment.from_json(run.config).algorithm == toy.ToySettings()


def test_two_runs_with_one_seed_are_equal_and_with_another_are_not(data: Path, whole: Path, tmp_path: Path) -> None:
    torch.rand(5)  # whatever was drawn before must not matter
    again = train(experiment(data), tmp_path / "again", quiet=True).path
    assert records(again) == records(whole)
    other = train(experiment(data, seed=1), tmp_path / "other", quiet=True).path
    assert (other / "metrics.jsonl").read_bytes() != (whole / "metrics.jsonl").read_bytes()


def test_evaluation_does_not_disturb_training(data: Path, whole: Path, tmp_path: Path) -> None:
    seldom = train(experiment(data, eval_every=1000, eval_episodes=1), tmp_path / "a", quiet=True).path
    assert (seldom / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert (seldom / "policy/policy.safetensors").read_bytes() == (whole / "policy/policy.safetensors").read_bytes()


def test_config_runs_it_again(whole: Path, tmp_path: Path) -> None:
    again = train(Experiment.read(whole / "config.json"), tmp_path / "again", quiet=True).path
    assert records(again) == records(whole)


def test_the_policy_of_a_run_acts(whole: Path) -> None:
    policy = lamo.load_policy(whole)
    policy.reset(1)
    assert policy.act(np.zeros((1, 3))).shape == (1, 2)
    found = lamo.evaluate(whole, episodes=3)
    last = [row for row in Run.open(whole).read_episodes() if row["step"] == 23]
    assert [row["return"] for row in found["records"]] == [row["return"] for row in last]
    assert lamo.evaluate(whole, targets=[1.0], episodes=2, seed=9)["targets"][0]["episodes"] == 2


def test_ratio_chooses_episodes_by_seed(data: Path, tmp_path: Path) -> None:
    ids = [
        train(experiment(data, ratio=0.25, seed=seed, steps=1), tmp_path / str(seed), quiet=True).provenance["dataset"][
            "ids"
        ]
        for seed in (0, 1)
    ]
    assert [len(chosen) for chosen in ids] == [3, 3] and ids[0] != ids[1]


def test_without_an_environment(tmp_path: Path) -> None:
    data = toy.write_dataset(tmp_path / "toy.hdf5", env=None)
    with pytest.raises(LamoError, match="--env ID, or --eval-episodes 0"):
        train(experiment(data), tmp_path / "a", quiet=True)
    run = train(experiment(data, eval_episodes=0), tmp_path / "b", quiet=True)
    assert run.read_episodes() == [] and run.summary()["final"] is None  # type: ignore[index]
    assert not (run.path / "rollout.json").exists() and (run.path / "policy").exists()
    with pytest.raises(LamoError, match="no environment; give --env"):
        lamo.evaluate(run.path)
    assert lamo.evaluate(run.path, env=toy.ENV, episodes=1)["targets"][0]["episodes"] == 1


def test_a_learner_without_text_has_no_perplexity(data: Path, tmp_path: Path) -> None:
    run = train(experiment(data, text=False, steps=3), tmp_path / "a", quiet=True)
    assert run.summary()["perplexity"] is None  # type: ignore[index]
    assert [row["step"] for row in run.read_metrics()] == [3]


def test_tensorboard(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(experiment(data), tmp_path / "a", quiet=True, tensorboard=True)
    board = EventAccumulator(str(run.path / "tensorboard"))
    board.Reload()
    losses = [(event.step, event.value) for event in board.Scalars("train/loss")]
    expected = [(row["step"], row["loss"]) for row in run.read_metrics() if "loss" in row]
    assert losses == [(step, pytest.approx(value, rel=1e-6)) for step, value in expected]
    assert any(tag.startswith("evaluation/target") for tag in board.Tags()["scalars"])


# --------------------------------------------------------------------------------------------------------- going on


class Killer:
    """One process that has torch loaded and forks a child per task, so that each can be killed by a real SIGKILL."""

    def __init__(self) -> None:
        here = Path(__file__).parent
        path = os.pathsep.join([str(here), str(here.parent / "src")])
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        )  # fmt: skip

    def run(self, **task: Any) -> int:
        """The exit status of the child that did `task`, negative for the signal that killed it."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(task) + "\n")
        return int(self.process.stdout.readline())


SERVER = """
import contextlib, json, os, signal, sys, tempfile
import toy
import lamo.runs, lamo.train
from lamo.config import Experiment

def die_at(place, count):
    # a real kill of the whole process, at the count-th time that `place` is reached
    seen = 0
    def here():
        nonlocal seen
        seen += 1
        if seen == count:
            os.kill(os.getpid(), signal.SIGKILL)
    def before(owner, name, act=None):
        inner = getattr(owner, name)
        def outer(*args, **options):
            if act is None:
                here()
                return inner(*args, **options)
            return act(inner, *args, **options)
        setattr(owner, name, outer)
    if place == "step":
        before(toy.ToyLearner, "update")
    elif place == "evaluation":
        before(toy.ToyPolicy, "act")
    elif place == "row":  # half a row is on disk
        def half(inner, run, row):
            with (run.path / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(row)[:9])
            here()
            with (run.path / "metrics.jsonl").open("r+") as file:
                file.truncate(file.seek(0, 2) - 9)
            inner(run, row)
        before(lamo.runs.Run, "log", half)
    elif place == "tensors written":
        before(lamo.runs, "_digest")
    elif place == "renaming":  # config.json, provenance.json and the folder are the first three
        before(lamo.runs.os, "replace")
    elif place == "renamed":
        def after(inner, *args):
            inner(*args)
            here()
        before(lamo.runs.os, "replace", after)
    elif place == "tensors torn":
        import safetensors.torch
        def torn(inner, tensors, path):
            inner(tensors, path)
            os.truncate(path, os.path.getsize(path) // 2)
            here()
            inner(tensors, path)
        before(safetensors.torch, "save_file", torn)

with tempfile.TemporaryDirectory() as folder:  # what is imported on the way of a run is imported once, here
    data = toy.write_dataset(lamo.runs.Path(folder) / "toy.hdf5")
    warm = Experiment.of("toy", dataset=str(data), steps=2, device="cpu")
    lamo.train.train(warm, folder + "/run", quiet=True)
    lamo.runs.Run.open(folder + "/run").load_checkpoint()

for line in sys.stdin:
    task = json.loads(line)
    child = os.fork()
    if child == 0:
        code = 1
        with open(os.devnull, "w") as null, contextlib.redirect_stderr(null):
            if "place" in task:
                die_at(task["place"], task["count"])
            if "config" in task:
                lamo.train.train(Experiment.from_json(task["config"]), task["out"], quiet=True)
            else:
                lamo.train.resume(task["out"], quiet=True)
            code = 0
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def killer() -> Iterator[Killer]:
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    killer = Killer()
    yield killer
    assert killer.process.stdin is not None and killer.process.stdout is not None
    killer.process.stdin.close()
    killer.process.wait(timeout=30)
    killer.process.stdout.close()


PLACES = [
    *(("step", count) for count in (1, 4, 6, 17, 23)),  # before the first checkpoint, and at others
    *(("evaluation", count) for count in (1, 15)),
    *(("row", count) for count in (1, 2, 4, 7)),
    *(("tensors written", count) for count in (1, 3)),
    *(("tensors torn", count) for count in (1, 3, 6)),
    *(("renaming", count) for count in (4, 5, 9, 13, 14, 15, 16)),
    *(("renamed", count) for count in (3, 5, 9, 13, 14, 15)),
]


@pytest.mark.parametrize(("place", "count"), PLACES, ids=[f"{place} {count}" for place, count in PLACES])
def test_killed_anywhere_it_goes_on_bit_by_bit(
    killer: Killer, data: Path, whole: Path, tmp_path: Path, place: str, count: int
) -> None:
    out = tmp_path / "run"
    config = experiment(data).to_json()
    assert killer.run(config=config, out=str(out), place=place, count=count) == -signal.SIGKILL
    assert killer.run(out=str(out)) == 0
    assert records(out) == records(whole)
    left = [path.name for path in out.rglob(".*")]
    assert left == []


def test_killed_again_and_again(killer: Killer, data: Path, whole: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    assert killer.run(config=experiment(data).to_json(), out=out, place="step", count=7) == -signal.SIGKILL
    for place, count in (("step", 4), ("evaluation", 12), ("tensors torn", 1), ("row", 2)):
        assert killer.run(out=out, place=place, count=count) == -signal.SIGKILL, place
    assert killer.run(out=out) == 0
    assert records(tmp_path / "run") == records(whole)


def test_killed_before_the_folder_has_its_name_leaves_no_run(killer: Killer, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = experiment(data).to_json()
    assert killer.run(config=config, out=str(out), place="renaming", count=3) == -signal.SIGKILL
    assert not out.exists()
    assert killer.run(config=config, out=str(out)) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_torn_newest_checkpoint_costs_steps_but_no_bits(
    killer: Killer, data: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert killer.run(config=experiment(data).to_json(), out=str(out), place="step", count=22) == -signal.SIGKILL
    newest = out / "checkpoints" / "00000020" / "tensors.safetensors"
    newest.write_bytes(newest.read_bytes()[:100])
    resume(out, quiet=True)
    assert "going on from the checkpoint of step 15" in capsys.readouterr().err
    assert records(out) == records(whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("moment", ["step", "evaluation"])
def test_signals_save_and_leave(
    data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int, moment: str
) -> None:
    owner, name, count = {"step": (toy.ToyLearner, "update", 7), "evaluation": (toy.ToyPolicy, "act", 13)}[moment]
    inner, seen = getattr(owner, name), []

    def outer(*args: Any, **options: Any) -> Any:
        seen.append(1)
        if len(seen) == count:
            os.kill(os.getpid(), number)
        return inner(*args, **options)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, outer)
        with pytest.raises(Interrupted, match="lamo train --resume") as caught:
            train(experiment(data), tmp_path / "run", quiet=True)
    assert caught.value.exit_code == code and signal.getsignal(number) == before
    assert Run.open(tmp_path / "run").last_checkpoint() == (7 if moment == "step" else 16)
    assert Run.open(tmp_path / "run").summary() is None
    resume(tmp_path / "run", quiet=True)
    assert records(tmp_path / "run") == records(whole)


def test_a_second_signal_stops_at_once(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(*_: Any) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
        return {"loss": 0.0}

    monkeypatch.setattr(toy.ToyLearner, "update", twice)
    with pytest.raises(KeyboardInterrupt) as caught:
        train(experiment(data), tmp_path / "run", quiet=True)
    assert not isinstance(caught.value, Interrupted)


def test_resume_with_more_steps(data: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = train(experiment(data, steps=10), tmp_path / "run", quiet=True).path
    with pytest.raises(LamoError, match="has done 10 steps"):
        resume(out, steps=9)
    run = resume(out, steps=23, quiet=True)
    assert run.config["steps"] == 23 and run.summary()["steps"] == 23  # type: ignore[index]
    assert (out / "policy/policy.safetensors").read_bytes() == (whole / "policy/policy.safetensors").read_bytes()
    before = records(out)
    resume(out)  # finished: nothing to do
    assert "has finished" in capsys.readouterr().err and records(out) == before


@pytest.fixture(scope="module")
def held(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with episodes held out, which nothing stopped."""
    return train(experiment(data, holdout=0.25), tmp_path_factory.mktemp("held") / "run", quiet=True).path


def test_held_out_episodes(data: Path, held: Path, whole: Path, tmp_path: Path) -> None:
    run = Run.open(held)
    notes = run.provenance["dataset"]
    kept, out = notes["ids"], notes["holdout"]["ids"]
    assert len(out) == 3 and notes["holdout"]["episodes"] == 3 and sorted([*kept, *out]) == list(range(12))
    errors = [(row["step"], row["holdout_action_error"]) for row in run.read_metrics() if "holdout_action_error" in row]
    assert [step for step, _ in errors] == [8, 16, 23]
    episodes = lamo.load_episodes(data).select(out)
    policy = lamo.load_policy(held)
    expected = np.square(policy.act(episodes.observations).astype(np.float64) - episodes.actions).mean()
    assert errors[-1][1] == pytest.approx(expected) == pytest.approx(run.summary()["holdout_action_error"])  # type: ignore[index]
    assert errors[-1][1] < errors[0][1]
    assert Run.open(whole).provenance["dataset"]["holdout"] is None
    assert Run.open(whole).summary()["holdout_action_error"] is None  # type: ignore[index]
    again = train(experiment(data, holdout=0.25), tmp_path / "again", quiet=True).path
    assert records(again) == records(held)
    other = train(experiment(data, holdout=0.25, seed=1, steps=1), tmp_path / "other", quiet=True)
    assert other.provenance["dataset"]["holdout"]["ids"] == out


def test_held_out_error_without_an_environment(data: Path, held: Path, tmp_path: Path) -> None:
    run = train(experiment(data, holdout=0.25, eval_episodes=0), tmp_path / "a", quiet=True)
    assert (run.path / "metrics.jsonl").read_bytes() == (held / "metrics.jsonl").read_bytes()
    assert run.summary()["final"] is None and run.summary()["holdout_action_error"] > 0  # type: ignore[index]


@pytest.mark.parametrize(
    ("place", "count"), [("step", 4), ("evaluation", 12), ("evaluation", 25), ("row", 3), ("row", 4), ("renamed", 9)]
)
def test_with_held_out_episodes_it_goes_on_bit_by_bit(
    killer: Killer, data: Path, held: Path, tmp_path: Path, place: str, count: int
) -> None:
    out, config = tmp_path / "run", experiment(data, holdout=0.25).to_json()
    assert killer.run(config=config, out=str(out), place=place, count=count) == -signal.SIGKILL
    assert killer.run(out=str(out)) == 0
    assert records(out) == records(held)


def test_a_checkpoint_older_than_its_evaluation_does_not_write_an_error_twice(
    killer: Killer, data: Path, held: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the evaluation of step 16, the run saves its state; going on it measures, and is killed after that."""
    out, inner, seen = tmp_path / "run", toy.ToyPolicy.act, []

    def outer(*args: Any, **options: Any) -> Any:
        seen.append(1)
        if len(seen) == 25:
            os.kill(os.getpid(), signal.SIGINT)
        return inner(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(toy.ToyPolicy, "act", outer)
        with pytest.raises(Interrupted, match="stopped at step 16"):
            train(experiment(data, holdout=0.25), out, quiet=True)
    assert killer.run(out=str(out), place="step", count=2) == -signal.SIGKILL
    assert Run.open(out).read_metrics()[-1].keys() == {"step", "holdout_action_error"}
    assert killer.run(out=str(out)) == 0
    assert records(out) == records(held)


def test_resume_with_other_data_is_refused(tmp_path: Path) -> None:
    data = toy.write_dataset(tmp_path / "toy.hdf5")
    out = train(experiment(data, steps=3), tmp_path / "run", quiet=True).path
    toy.write_dataset(data, seed=1)
    with pytest.raises(LamoError, match="is not the data"):
        resume(out, steps=6)


def test_resume_with_other_held_out_data_is_refused(tmp_path: Path) -> None:
    import h5py

    data = toy.write_dataset(tmp_path / "toy.hdf5")
    run = train(experiment(data, steps=3, holdout=0.25), tmp_path / "run", quiet=True)
    with h5py.File(data, "r+") as file:  # one number of one episode that the run never trained on
        actions = file["actions"][:]
        actions[10 * run.provenance["dataset"]["holdout"]["ids"][0]] = 0.5
        file["actions"][:] = actions
    with pytest.raises(LamoError, match="is not the data"):
        resume(run.path, steps=6)


def test_constant_rewards_and_single_transitions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import h5py

    data = toy.write_dataset(tmp_path / "toy.hdf5")
    with h5py.File(data, "r+") as file:
        file["rewards"][:] = 2.0
    train(experiment(data, steps=1), tmp_path / "a", quiet=True)
    assert "every reward is 2: there is nothing to learn from them" in capsys.readouterr().err
    with h5py.File(data, "r+") as file:
        file["terminals"][9] = True  # now the length of an episode tells good behaviour from bad
    train(experiment(data, steps=1), tmp_path / "paid-to-live", quiet=True)
    assert "every reward" not in capsys.readouterr().err
    episode = lamo.load_episodes(data).select([0])
    with h5py.File(tmp_path / "one.hdf5", "w") as file:
        for key in ("observations", "actions", "rewards"):
            file[key] = getattr(episode, key)[:1]
        file["terminals"], file["timeouts"], file.attrs["env_id"] = [False], [True], toy.ENV
    with pytest.raises(LamoError, match="one transition is all there is"):
        train(experiment(tmp_path / "one.hdf5"), tmp_path / "b", quiet=True)
    assert not (tmp_path / "b").exists()


# ------------------------------------------------------------------------------------------------------ what it refuses


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(LamoError, match=r"loss is nan at step 13; the last good checkpoint is of step 10"):
        train(experiment(data, explode_at=13), out, quiet=True)
    run = Run.open(out)
    found = run.load_checkpoint()
    assert found is not None and found[0] == 10
    assert run.read_metrics()[-1]["step"] == 12 and run.summary() is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": "none.hdf5"}, "none.hdf5"),
        ({"dataset": None}, "give --task NAME .* or --dataset"),
        ({"env": "LamoToi-v0"}, "LamoToy-v0"),
        ({"env": "Reacher2d-v0"}, r"observations of 3 numbers, but those of Reacher2d-v0 have 12"),
        ({"ratio": 0.01}, "smallest usable ratio"),
        ({"holdout": 0.01}, "the smallest that can be used is"),
        ({"device": "cuda:99"}, "--device cuda:99"),
    ],
)
def test_refusals_leave_nothing_behind(data: Path, tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(LamoError, match=message):
        train(
            experiment(data, **settings) if "dataset" not in settings else Experiment.of("toy", **settings),
            tmp_path / "run",
        )
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_another_run_is_refused_before_anything_is_read(whole: Path) -> None:
    before = records(whole)
    with pytest.raises(LamoError, match="holds another run"):
        train(Experiment.of("toy", dataset="none.hdf5"), whole)
    assert records(whole) == before


def test_actions_beyond_the_bounds_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import h5py

    data = toy.write_dataset(tmp_path / "toy.hdf5")
    with h5py.File(data, "r+") as file:
        actions = file["actions"][:]
        actions[3:5] = 7.0
        file["actions"][:] = actions
    train(experiment(data, steps=1), tmp_path / "run", quiet=True)
    assert "2 of 120 actions lie outside the bounds" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------- with the real learner


@pytest.mark.parametrize("preset", ["dt", "lamo"])
def test_sequence_learner_goes_on_bit_by_bit(preset: str, data: Path, small_lm: Path, tmp_path: Path) -> None:
    small = {"context": 4, "steps": 4, "warmup_steps": 3, "checkpoint_every": 2, "log_every": 1, "eval_episodes": 1}
    shape = {"width": 16, "layers": 1} if preset == "dt" else {"lm": str(small_lm), "text_block": 32, "lora_rank": 2}
    whole = train(experiment(data, preset, **small, **shape), tmp_path / "whole", quiet=True).path
    parts = train(experiment(data, preset, **small, **shape).but(steps=2), tmp_path / "parts", quiet=True).path
    resume(parts, steps=4, quiet=True)
    for name in ("policy/policy.safetensors", "policy/policy.json"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    rows = [
        [{k: v for k, v in row.items() if k != "perplexity"} for row in Run.open(p).read_metrics()]
        for p in (parts, whole)
    ]
    assert rows[0] == rows[1]
