"""`lamo select` on tiny runs, by the real command line; and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import toy
from lamo.cli import main
from lamo.config import Experiment
from lamo.data.sources import load_episodes
from lamo.errors import LamoError
from lamo.policy import load_policy
from lamo.replay import action_errors, replay
from lamo.selection.pool import gather
from lamo.selection.rank import SelectSettings, select
from lamo.selection.tables import terminal
from lamo.train import train

SMALL = ["--fqe-steps", "20", "--members", "2", "--width", "8", "--batch-size", "16"]
QUICK = SelectSettings(fqe_steps=20, members=2, width=8, batch_size=16)


def experiment(data: Path, preset: str = "toy", **settings: Any) -> Experiment:
    small = {"steps": 4, "eval_episodes": 0, "batch_size": 16, "device": "cpu", "env": toy.ENV, "targets": (3.0, 9.0)}
    return Experiment.of(preset, dataset=str(data), **{**small, **settings})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.write_dataset(tmp_path_factory.mktemp("data") / "toy.hdf5")


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two seeds with a quarter held out, and one that trained far longer on a half of the same data."""
    folder = tmp_path_factory.mktemp("runs")
    plan = [
        experiment(data, holdout=0.25),
        experiment(data, holdout=0.25, seed=1),
        experiment(data, "toy-fast", holdout=0.5, ratio=0.5, steps=300),
    ]
    return [str(train(one, folder / name, quiet=True).path) for one, name in zip(plan, "abc", strict=True)]


@pytest.fixture
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("an environment was made")

    monkeypatch.setattr("gymnasium.make", refuse)


@pytest.mark.usefixtures("no_environment")
def test_by_the_command_line(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["select", *runs, *SMALL, "--json", "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr()
    result = json.loads(told.out)
    assert told.err.count("lamo select: ") == 7  # six policies and the data's own
    assert result == json.loads((tmp_path / "out" / "selection.json").read_text())
    assert result["methods"] == ["fqe", "holdout"] and result["ranked_by"] == "fqe"
    assert len(result["notes"]) == 1 and result["notes"][0].startswith("No importance-weighted returns: ")
    assert result["data"]["episodes"] == 12 and result["data"]["held_out_episodes"] >= 1
    assert [(row["run"], row["target"]) for row in sorted(result["policies"], key=lambda row: row["policy"])] == [
        (run, target) for run in runs for target in (3.0, 9.0)
    ]
    for method in result["methods"]:
        rows = [row[method] for row in result["policies"]]
        assert all(row["low"] <= row["estimate"] <= row["high"] for row in rows)
        assert sum(row["best"] for row in rows) == pytest.approx(1)
        assert min(row["rank"] for row in rows) == 1
    estimates = [row["fqe"]["estimate"] for row in result["policies"]]
    assert estimates == sorted(estimates, reverse=True)
    # a toy does not heed its target: two rows of one run are equal, and share a rank
    assert {row["run"]: row["fqe"]["rank"] for row in result["policies"]}.keys() == set(runs)
    best = min(result["policies"], key=lambda row: row["holdout"]["estimate"])
    assert best["run"] == runs[2]  # trained longest

    markdown = (tmp_path / "out" / "selection.md").read_text()
    assert markdown.count("\n| ") == 8 and "no importance\\-weighted" not in markdown
    assert main(["select", *runs, *SMALL, "--quiet", "--method", "holdout"]) == 0
    told = capsys.readouterr()
    assert told.err == "" and "held-out error" in told.out and "FQE" not in told.out


def test_two_calls_write_equal_bytes(runs: list[str], tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert main(["select", *runs[:2], *SMALL, "--quiet", "--out", str(tmp_path / name)]) == 0
    for file in ("selection.json", "selection.md"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert main(["select", *runs[:2], *SMALL, "--quiet", "--seed", "1", "--out", str(tmp_path / "c")]) == 0
    assert (tmp_path / "a" / "selection.json").read_bytes() != (tmp_path / "c" / "selection.json").read_bytes()


def test_held_out_episodes_are_those_that_no_run_has_seen(runs: list[str], data: Path) -> None:
    pool = gather(runs)
    whole = load_episodes(data)
    seen = set().union(*(one.trained_on for one in pool.entrants))
    assert pool.unseen is not None
    assert set(pool.unseen.ids) == set(whole.ids) - seen
    assert [len(one.trained_on) for one in pool.entrants] == [9, 9, 3]
    assert [len(one.given) for one in pool.entrants] == [12, 12, 6]
    found = select(runs[:1], methods=["holdout"])["policies"][0]["holdout"]
    held = whole.select(sorted(set(whole.ids) - pool.entrants[0].trained_on))
    asked = replay(load_policy(runs[0]), held, held.returns).actions
    assert found["estimate"] == pytest.approx(action_errors(asked, held.actions).mean())


def test_importance_where_log_probabilities_were_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = toy.write_dataset(tmp_path / "toy.hdf5")
    with h5py.File(data, "r+") as file:
        file["infos/action_log_probs"] = np.full(120, -1.0)
    episodes = load_episodes(data)
    assert episodes.log_probs is not None and episodes.digest() == load_episodes(data).digest()
    run = str(train(experiment(data, holdout=0.25), tmp_path / "a", quiet=True).path)
    result = select([run], targets=[5.0], settings=QUICK)
    assert result["methods"] == ["fqe", "importance", "holdout"]
    found = result["policies"][0]["importance"]
    assert found["low"] <= found["estimate"] <= found["high"] and 1 <= found["effective_size"] <= 12
    assert [row["target"] for row in result["policies"]] == [5.0]
    assert len(result["notes"]) == 1 and found["effective_size"] < 10
    assert f"comes first, on an effective sample of {found['effective_size']:.1f} episodes" in result["notes"][0]
    monkeypatch.setattr("lamo.selection.rank.FEW", 1.0)
    assert select([run], targets=[5.0], settings=QUICK)["notes"] == []
    assert main(["select", run, "--quiet", "--method", "importance"]) == 0
    assert "importance-weighted" in capsys.readouterr().out
    # at 80 columns the three methods do not fit side by side: policies, headings and numbers are whole all the same
    named = {**result, "policies": [{**row, "policy": "runs/lamo-s0, target 40"} for row in result["policies"]]}
    for width, times in ((200, 1), (80, 3), (50, 3)):
        shown = terminal(named, width).split(str(result["data"]["dataset"])[:20])[0]
        for head in ("FQE value", "importance-weighted", "episodes", "held-out error"):
            assert shown.count(head) == 1
        assert shown.count("runs/lamo-s0, target") == shown.count("  1  ") == times and "…" not in shown
    assert max(map(len, terminal(named, 80).splitlines())) <= 80


def test_importance_weights_that_would_not_fit_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = toy.write_dataset(tmp_path / "toy.hdf5")
    with h5py.File(data, "r+") as file:
        file["infos/action_log_probs"] = np.full(120, -1.0)
    run = str(train(experiment(data, holdout=0.25), tmp_path / "a", quiet=True).path)
    monkeypatch.setattr("lamo.selection.rank.LARGEST", 7 * 8 * 12 * 10 - 1)
    result = select([run], settings=QUICK)
    assert result["methods"] == ["fqe", "holdout"]
    assert "No importance-weighted returns: 12 episodes, the longest of 10 steps, would take" in result["notes"][0]
    assert main(["select", run, "--quiet", "--method", "importance"]) == 2
    told = capsys.readouterr().err
    assert "--method importance: no importance-weighted" in told and "give a smaller --max-steps" in told
    assert main(["select", run, "--quiet", "--method", "importance", "--max-steps", "60"]) == 0


def test_what_only_the_environment_said_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether whole numbers are choices: the run recorded it."""
    data, n = tmp_path / "plain.hdf5", 40
    with h5py.File(data, "w") as file:
        file["observations"] = np.random.default_rng(0).normal(size=(n, 4))
        file["actions"] = np.arange(n) % 2
        file["rewards"], file["terminals"] = np.arange(n, dtype=float), np.zeros(n, bool)
        file["timeouts"] = np.arange(n) % 10 == 9
    told: dict[str, Any] = {"env": "CartPole-v1", "eval_episodes": 1, "targets": None, "holdout": 0.25, "width": 8}
    run = train(experiment(data, "bc", **told), tmp_path / "run", quiet=True).path
    monkeypatch.setattr("gymnasium.make", lambda *_, **__: pytest.fail("an environment was made"))
    assert select([run], methods=["holdout"])["policies"][0]["holdout"]["estimate"] is not None


def test_runs_of_different_data_are_refused_by_name(runs: list[str], tmp_path: Path) -> None:
    other = toy.write_dataset(tmp_path / "other.hdf5", seed=5)
    run = train(experiment(other), tmp_path / "d", quiet=True).path
    with pytest.raises(LamoError, match=r"a was trained on .*toy.hdf5 \(digest .*d on .*other.hdf5 .*one dataset"):
        select([*runs, run])


def test_a_dataset_that_moved(runs: list[str], data: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved.hdf5"
    shutil.copy(data, moved)
    assert select(runs[:1], methods=["holdout"], dataset=moved)["data"]["dataset"] == str(moved)
    changed = toy.write_dataset(tmp_path / "changed.hdf5", seed=5)
    with pytest.raises(LamoError, match="is not the data that the run was trained on"):
        select(runs[:1], dataset=changed)


def test_what_cannot_be_ranked(runs: list[str], data: Path, tmp_path: Path) -> None:
    with pytest.raises(LamoError, match="no run to choose from"):
        select([])
    with pytest.raises(LamoError, match="--targets must be one or more finite returns"):
        select([tmp_path / "none"], targets=[])
    with pytest.raises(LamoError, match="no such run folder"):
        select([tmp_path / "none"])
    plain = str(train(experiment(data), tmp_path / "plain", quiet=True).path)
    with pytest.raises(LamoError, match="--method holdout: no held-out action error: .*train with --holdout 0.1"):
        select([plain], methods=["holdout"])
    with pytest.raises(LamoError, match="--method importance: no importance-weighted returns"):
        select([plain], methods=["importance"])
    both = select([plain], settings=QUICK)
    assert both["methods"] == ["fqe"] and len(both["notes"]) == 2
    unfinished = tmp_path / "unfinished"
    shutil.copytree(plain, unfinished)
    (unfinished / "summary.json").unlink()
    with pytest.raises(LamoError, match="has not finished; go on with it"):
        select([unfinished])
    with pytest.raises(LamoError, match="one episode says nothing about chance"):
        one = toy.write_dataset(tmp_path / "one.hdf5", episodes=1)
        select([train(experiment(one), tmp_path / "one", quiet=True).path])


def test_rewards_that_are_all_equal_rank_nothing(tmp_path: Path) -> None:
    """Values would be rounding noise, and `best` would be told with confidence."""
    alike = toy.write_dataset(tmp_path / "alike.hdf5")
    with h5py.File(alike, "r+") as file:
        file["rewards"][...] = 0
    runs = [train(experiment(alike, holdout=h), tmp_path / f"h{h}", quiet=True).path for h in (0.25, 0.0)]
    found = select(runs[:1], settings=QUICK)
    assert found["ranked_by"] == "holdout" and found["methods"] == ["holdout"]
    assert "No fitted Q evaluation: every reward of" in found["notes"][0]
    with pytest.raises(LamoError, match="--method fqe: no fitted Q evaluation: every reward of .* is 0"):
        select(runs[:1], methods=["fqe"])
    with pytest.raises(LamoError, match="nothing to choose by: no fitted Q .*every reward.*no held-out action error"):
        select(runs[1:])


def test_targets_for_policies_that_take_none(data: Path, runs: list[str], tmp_path: Path) -> None:
    settings = {"steps": 2, "eval_episodes": 0, "holdout": 0.25, "width": 8, "device": "cpu", "env": toy.ENV}
    bc = train(Experiment.of("bc", dataset=str(data), **settings), tmp_path / "bc", quiet=True).path
    with pytest.raises(LamoError, match="--targets: no policy of these runs is asked for a return; drop it"):
        select([bc], methods=["holdout"], targets=[40.0])
    both = select([bc, runs[0]], methods=["holdout"], targets=[40.0])["policies"]
    assert {row["target"] for row in both} == {None, 40.0}


def test_a_run_named_twice_counts_once(runs: list[str]) -> None:
    result = select([runs[0], f"{runs[0]}/.", runs[1]], methods=["holdout"])
    assert len(result["policies"]) == 4


def test_a_ranking_made_run_by_run_has_the_same_numbers(runs: list[str]) -> None:
    whole = {row["policy"]: row for row in select(runs, settings=QUICK)["policies"]}
    for run in runs:
        for row in select([run], beside=runs, settings=QUICK)["policies"]:
            for method in ("fqe", "holdout"):
                assert row[method]["estimate"] == whole[row["policy"]][method]["estimate"]
                assert row[method]["low"] == whole[row["policy"]][method]["low"]


def test_bad_usage_is_one_line(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for options, said in (
        (["--out", str(tmp_path / "file")], "is a file"),
        (["--discount", "1"], "--discount 1.0 lies outside"),
        (["--max-steps", "0"], "--max-steps 0 must be at least 1"),
        (["--sigma", "-1"], "--sigma -1.0 must be a positive number"),
        (["--epsilon", "nan"], "--epsilon nan lies outside [0, 1]"),
        (["--method", "magic"], "magic"),
        (["--targets", "nan"], "--targets must be one or more finite returns"),
        (["--targets", "3", "5", "3"], "--targets 3 5 3 names a return twice"),
    ):
        assert main(["select", runs[0], *options]) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1


def test_the_data_is_valued_beyond_time_limits_as_policies_are(tmp_path: Path) -> None:
    """Every step pays 1, so all policies are worth 1 / (1 - γ) = 5, while ten steps earn 4.46."""
    data = toy.write_dataset(tmp_path / "toy.hdf5")
    with h5py.File(data, "r+") as file:
        del file["rewards"]
        # all but alike: rewards that are equal rank nothing
        file["rewards"] = np.r_[1 + 1e-6, np.ones(119)].astype(np.float32)
    run = train(experiment(data), tmp_path / "a", quiet=True).path
    settings = SelectSettings(fqe_steps=400, members=2, width=16, batch_size=32, discount=0.8, learning_rate=1e-2)
    result = select([run], methods=["fqe"], targets=[5.0], settings=settings)
    behaviour, policy = result["behaviour"], result["policies"][0]["fqe"]
    assert behaviour["estimate"] == pytest.approx((1 - 0.8**10) / (1 - 0.8))
    assert [behaviour["fqe"]["estimate"], policy["estimate"]] == pytest.approx([5, 5], abs=0.2)
    assert behaviour["fqe"]["low"] <= behaviour["fqe"]["estimate"] <= behaviour["fqe"]["high"]
    assert f"The data itself: FQE value {behaviour['fqe']['estimate']:.4g} [" in terminal(result, 200)
    plain = select([train(experiment(data, holdout=0.25), tmp_path / "b", quiet=True).path], methods=["holdout"])
    assert plain["behaviour"]["fqe"] is None and "The data itself: its episodes earned" in terminal(plain, 200)


def test_few_steps_are_read_of_a_large_log(runs: list[str]) -> None:
    from dataclasses import replace

    result = select(runs[:1], methods=["fqe"], settings=replace(QUICK, max_steps=45))
    assert result["data"]["steps"] == 40 and result["notes"] == ["4 of 12 episodes are read (--max-steps 45)."]
    both = select(runs[:1], methods=["fqe", "holdout"], settings=replace(QUICK, max_steps=45))
    assert both["data"]["held_out_episodes"] == 3
    assert both["notes"] == [
        "4 of 12 episodes are read (--max-steps 45); the held-out error reads all that no run was trained on."
    ]


def test_a_critic_that_diverged_comes_last(
    runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = iter([np.full((2, 12), value) for value in (np.nan, 5.0, 4.0, 3.0)])  # of three runs and the data
    monkeypatch.setattr("lamo.selection.rank.first_values", lambda *_: next(values))
    asked = ["--method", "fqe", "--targets", "1", "--json", "--quiet", "--out", str(tmp_path / "out")]
    assert main(["select", *runs, *SMALL, *asked]) == 0
    rows = json.loads(capsys.readouterr().out)["policies"]
    assert [(row["run"], row["fqe"]["rank"]) for row in rows] == [(runs[1], 1), (runs[2], 2), (runs[0], 3)]
    lost = rows[2]["fqe"]
    assert (lost["estimate"], lost["low"], lost["members"], lost["best"]) == (None, None, [None, None], 0)
    assert "| 3 | " in (tmp_path / "out" / "selection.md").read_text()
