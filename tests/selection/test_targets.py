"""The return target that the data believe in: the rule on problems where the answer is known, and in the commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import toy
from lamo.cli import main
from lamo.data.episodes import Episodes
from lamo.errors import LamoError
from lamo.runs import Run
from lamo.selection import targets
from lamo.selection.fqe import CriticSettings
from lamo.selection.targets import candidates, choose_target

SMALL = CriticSettings(fqe_steps=300, members=2, width=32, batch_size=64, learning_rate=1e-2, target_rate=0.1)


def test_candidates() -> None:
    returns = np.arange(101.0)
    assert candidates(returns) == [50.0, 75.0, 90.0, 100.0, 112.0, 125.0]
    assert candidates(-returns)[-1] == 25.0  # beyond the best is above it, whatever its sign
    assert candidates(np.full(4, 7.0)) == [7.0]


def levers(episodes: int, rng: np.random.Generator) -> Episodes:
    """Episodes of one step: the reward is 10 - 10 · |lever - 0.5|, the lever was put anywhere in [-1, 1]."""
    lever = rng.uniform(-1, 1, (episodes, 1)).astype(np.float32)
    return Episodes(
        observations=rng.normal(size=(episodes, 1)).astype(np.float32),
        actions=lever,
        rewards=10 - 10 * np.abs(lever[:, 0] - 0.5),
        offsets=np.arange(episodes + 1),
        terminated=np.ones(episodes, bool),
        truncated=np.zeros(episodes, bool),
        ids=np.arange(episodes),
    )


class Lever:
    """Puts the lever where the return that it is asked for was earned; asked for too much, it breaks down."""

    default_target: float | None = 5.0

    def __init__(self, breaks_at: float) -> None:
        self.breaks_at = breaks_at

    def reset(self, n: int = 1, targets: np.ndarray | None = None) -> None:
        assert targets is not None
        self.lever = np.where(targets < self.breaks_at, 0.5 - (10 - np.minimum(targets, 10)) / 10, -1.0)

    def act(self, observations: np.ndarray, rewards: Any = None, rows: Any = None) -> np.ndarray:
        return self.lever[rows, None].astype(np.float32)


def test_it_asks_for_as_much_as_the_critic_believes(rng: np.random.Generator) -> None:
    episodes = levers(400, rng)
    asked = candidates(episodes.returns)
    best = float(f"{episodes.returns.max():.3g}")
    found = choose_target(Lever(breaks_at=best + 0.01), episodes, settings=SMALL)
    assert found["target"] == best
    values = {row["target"]: row for row in found["candidates"]}
    assert list(values) == asked
    assert values[best]["value"] == pytest.approx(10, abs=1)
    assert values[asked[-1]]["value"] == pytest.approx(-5, abs=2) and not values[asked[-1]]["believed"]
    assert not values[asked[0]]["believed"]  # half the log earned as much
    never = choose_target(Lever(breaks_at=1e9), episodes, settings=SMALL)
    assert never["target"] == asked[-1]  # nothing is lost by asking for more
    assert choose_target(Lever(breaks_at=best + 0.01), episodes, settings=SMALL) == found


def test_the_rule_by_hand() -> None:
    episodes = levers(4, np.random.default_rng(0))
    # 3 is the best; 4 is worse by 1 in every episode, 5 by 3, -2, 1 and 0, which is half as much but may be chance
    sums = np.array([[0.0, 5, 4, 2], [0, 5, 4, 7], [0, 5, 4, 4], [0, 5, 4, 5]])
    found = targets._choice([1.0, 3.0, 4.0, 5.0], sums, episodes, SMALL, 0)
    assert found["target"] == 5.0
    assert [row["believed"] for row in found["candidates"]] == [False, True, False, True]
    assert [row["below_best"] for row in found["candidates"]] == [5, 0, 1, 0.5]
    assert found["candidates"][3]["standard_error"] == pytest.approx(np.std([3, -2, 1, 0]) / 2, rel=0.05)
    assert found["candidates"][2]["standard_error"] == pytest.approx(0, abs=1e-9)


def test_what_cannot_be_chosen(rng: np.random.Generator) -> None:
    policy = Lever(1.0)
    with pytest.raises(LamoError, match="one episode cannot be judged"):
        choose_target(policy, levers(1, rng))
    cut = replace(levers(3, rng), terminated=np.zeros(3, bool), truncated=np.ones(3, bool))
    with pytest.raises(LamoError, match="holds single steps that a time limit cut off"):
        choose_target(policy, cut)
    with pytest.raises(LamoError, match="members must be 2 or more"):
        choose_target(policy, levers(3, rng), settings=CriticSettings(members=1))
    policy.default_target = None
    with pytest.raises(LamoError, match="not asked for a return"):
        choose_target(policy, levers(3, rng))


def test_in_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(targets, "CriticSettings", lambda: SMALL)
    data, run = toy.write_dataset(tmp_path / "toy.hdf5"), tmp_path / "run"
    options = ["--steps", "3", "--eval-episodes", "2", "--device", "cpu", "--quiet"]
    line = ["train", "--preset", "toy", "--dataset", str(data), "--targets", "5", "auto", *options]
    assert main([*line, "--out", str(run), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    choice = summary["auto_target"]
    assert choice["target"] in [row["target"] for row in choice["candidates"]]
    assert choice["evaluation"]["episodes"] == 2
    # beside the fixed targets, never instead of them
    assert [row["target"] for row in summary["final"]["targets"]] == [5.0]
    assert {row["target"] for row in Run.open(run).read_episodes()} == {5.0}
    kept = json.loads((run / "auto_target.json").read_text())
    assert len(kept["records"]) == 2 and kept["target"] == choice["target"]

    assert main(["evaluate", str(run), "--targets", "auto", "--episodes", "2", "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["auto_target"]["target"] == choice["target"]
    assert [row["target"] for row in found["targets"]] == [5.0, choice["target"]]
    assert [row["return"] for row in found["records"][2:]] == [row["return"] for row in kept["records"]]
    assert main(["evaluate", str(run), "--targets", "auto", "7", "--episodes", "1", "--quiet"]) == 0
    assert f"auto target {choice['target']:g}, chosen from the training data alone" in capsys.readouterr().out


def test_a_method_without_targets_has_none_to_choose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = toy.write_dataset(tmp_path / "toy.hdf5")
    inner = toy.ToyPolicy.__init__

    def without(self: toy.ToyPolicy, *args: Any) -> None:
        inner(self, *args)
        self.default_target = None

    monkeypatch.setattr(toy.ToyPolicy, "__init__", without)
    line = ["train", "--preset", "toy", "--dataset", str(data), "--targets", "auto", "--out", str(tmp_path / "run")]
    assert main([*line, "--steps", "3", "--quiet"]) == 2
    assert "a policy of toy is not asked for a return; drop auto" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_chosen_is_said_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = toy.write_dataset(tmp_path / "one.hdf5", episodes=1)
    line = [
        "train",
        "--preset",
        "toy",
        "--dataset",
        str(data),
        "--targets",
        "1",
        "auto",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main([*line, "--steps", "3", "--eval-episodes", "0", "--quiet"]) == 2
    told = capsys.readouterr().err
    assert "--targets auto: one episode cannot be judged" in told and told.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_run_finishes_where_none_can_be_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise LamoError("too few episodes")

    monkeypatch.setattr(targets, "choose_target", refuse)
    data, run = toy.write_dataset(tmp_path / "toy.hdf5"), tmp_path / "run"
    line = ["train", "--preset", "toy", "--dataset", str(data), "--targets", "1", "auto", "--out", str(run)]
    assert main([*line, "--steps", "3", "--eval-episodes", "1", "--device", "cpu", "--quiet"]) == 0
    assert "no return target is chosen, auto_target is null: too few episodes" in capsys.readouterr().err
    summary = json.loads((run / "summary.json").read_text())
    assert summary["finished"] and summary["auto_target"] is None and not (run / "auto_target.json").exists()
    assert main(["report", str(run), "--out", str(tmp_path / "report")]) == 0
