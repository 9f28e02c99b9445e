"""`lamo data relabel` and `lamo data score`, from the command line to training."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pyarrow.parquet as parquet
import pytest
from gymnasium import spaces

from lamo.cli import main
from lamo.config import Experiment
from lamo.data import load_episodes
from lamo.data.relabel import relabellings, warning
from lamo.data.sources.d4rl import write_d4rl
from lamo.data.sources.tables import write_table
from lamo.data.store_writer import write_store
from lamo.prepare import prepare
from lamo.provenance import provenance


@pytest.fixture
def log(make_episodes, tmp_path):
    """Ten episodes of a made-up environment, as a file."""
    episodes = make_episodes([7, 3, 9, 4, 5, 8, 6, 2, 5, 5], final=True, metadata={"env": "Hopper-v5"})
    return episodes, str(write_d4rl(episodes, tmp_path / "log.hdf5"))


def run(*argv: object) -> int:
    return main([str(word) for word in argv])


@pytest.mark.parametrize("suffix", [".lamo", ".hdf5", ".npz", ".parquet"])
def test_delayed_rewards_and_who_hears_of_them(log, tmp_path, capsys, suffix):
    episodes, path = log
    out = tmp_path / f"late{suffix}"
    assert run("data", "relabel", path, out, "--reward", "delayed", "--every", 3) == 0
    said = capsys.readouterr()
    assert "rewards are relabelled (delayed: paid every 3 steps" in said.out and str(out) in said.out
    late = load_episodes(out)
    again = tmp_path / f"again{suffix}"
    assert run("data", "relabel", path, again, "--reward", "delayed", "--every", 3, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["digest"], report["format"]) == (late.digest(), late.metadata["format"])
    assert report["final_observations"] == (late.final_observations is not None)
    shutil.rmtree(again) if again.is_dir() else again.unlink()
    np.testing.assert_allclose(late.returns, episodes.returns, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(late.observations, episodes.observations)
    np.testing.assert_array_equal(late.actions, episodes.actions)
    np.testing.assert_array_equal(late.ids, episodes.ids)
    (entry,) = late.metadata["history"]
    assert entry["command"] == f"lamo data relabel log.hdf5 late{suffix} --reward delayed --every 3"
    assert entry["sources"] == [{"source": "log.hdf5", "digest": load_episodes(path).digest()}]
    assert "delayed: paid every 3 steps" in str(warning(late.metadata))
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(["log.hdf5", out.name])
    # training says so, and the run's provenance
    experiment = Experiment(dataset=str(out), eval_episodes=0, device="cpu")
    setup = prepare(experiment)
    assert "rewards are relabelled" in capsys.readouterr().err
    told = provenance(setup.episodes, setup.task, "cpu", None)["dataset"]
    assert told["relabelled"] == relabellings(late.metadata) and told["history"][0]["command"] == entry["command"]


def test_one_after_another(log, tmp_path, capsys):
    episodes, path = log
    one, two, page = tmp_path / "one.lamo", tmp_path / "two.hdf5", tmp_path / "page.html"
    assert run("data", "relabel", path, one, "--reward", "scaled", "--scale", 2, "--shift", -1, "--clip", -2, 2) == 0
    assert run("data", "relabel", one, two, "--reward", "sparse", "--threshold", 0) == 0
    first, second = load_episodes(one), load_episodes(two)
    expected = np.clip(episodes.rewards.astype(np.float64) * 2 - 1, -2, 2).astype(np.float32)
    np.testing.assert_array_equal(first.rewards, expected)
    np.testing.assert_array_equal(second.returns, first.returns >= 0)
    assert [each.split(":")[0] for each in relabellings(second.metadata)] == ["scaled", "sparse"]
    capsys.readouterr()
    assert run("data", "inspect", two, "--html", page, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert "scaled: 2 · reward + -1, kept within -2 and 2; then sparse" in report["notes"][-1]
    assert len(report["history"]) == 2
    assert "How it was made (2)" in page.read_text() and "then sparse" in page.read_text()


def test_a_count_of_subtasks_is_not_recognised_in_relabelled_rewards(make_episodes, tmp_path):
    episodes = make_episodes([5, 6], width=59, metadata={"env": "KitchenMicrowaveKettleLightSlider-v1"})
    episodes.rewards[:] = np.arange(11) % 2
    path = write_d4rl(episodes, tmp_path / "kitchen.hdf5")
    assert run("data", "relabel", path, tmp_path / "more.hdf5", "--reward", "scaled", "--scale", 5) == 0
    np.testing.assert_array_equal(load_episodes(tmp_path / "more.hdf5").rewards, 5 * episodes.rewards)


class Plane(gymnasium.Env):
    """A point in a plane, its goal, and the rest; ends at the goal."""

    observation_space = spaces.Dict(
        achieved_goal=spaces.Box(-9, 9, (2,)), desired_goal=spaces.Box(-9, 9, (2,)), observation=spaces.Box(-9, 9, (3,))
    )
    action_space = spaces.Box(-1, 1, (2,))

    def compute_reward(self, achieved, desired, info):
        return -(np.linalg.norm(achieved - desired, axis=-1) > 0.25).astype(np.float32)

    def compute_terminated(self, achieved, desired, info):
        return bool(np.linalg.norm(achieved - desired) <= 0.25)


@pytest.fixture
def plane():
    gymnasium.register("LamoTestPlane-v0", entry_point=lambda **_: Plane(), max_episode_steps=10)
    yield "LamoTestPlane-v0"
    del gymnasium.registry["LamoTestPlane-v0"]


@pytest.fixture
def goals(make_episodes, tmp_path):
    """Random walks that are asked for a place they never reach."""
    episodes = make_episodes([6, 1, 9, 4], width=7, final=True)
    final = episodes.final_observations
    rng = np.random.default_rng(0)
    for e, (start, end) in enumerate(zip(episodes.offsets[:-1], episodes.offsets[1:], strict=True)):
        walk = np.cumsum(rng.uniform(0.3, 1, (end - start + 1, 2)), axis=0)
        episodes.observations[start:end, :2], final[e, :2] = walk[:-1], walk[-1]
        episodes.observations[start:end, 2:4] = final[e, 2:4] = -8
    return episodes, str(write_store(episodes, tmp_path / "goals.lamo").source)


WHERE = ("--achieved", "0:2", "--desired", "2:4")


def test_hindsight(goals, tmp_path, capsys):
    _, path = goals
    out = tmp_path / "her.lamo"
    assert run("data", "relabel", path, out, "--reward", "hindsight", "--threshold", 0.05, *WHERE, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    found = load_episodes(out)
    assert report["hindsight"] == {"copies": 4 + 1 + 4 + 4, "at_goal": 0, "without": 0, "cut": 0}
    assert len(found) == 4 + 13 and len(set(found.ids.tolist())) == 17
    copies = found.ids % 5 != 0
    np.testing.assert_array_equal(found.returns[copies], 1)
    np.testing.assert_array_equal(found.returns[~copies], 0)
    assert "13 copies of episodes with goals achieved at later steps" in str(warning(found.metadata))
    again = tmp_path / "again.lamo"
    assert run("data", "relabel", path, again, "--reward", "hindsight", "--threshold", 0.05, *WHERE, "--seed", 0) == 0
    assert load_episodes(again).digest() == found.digest()
    other = tmp_path / "other.lamo"
    assert run("data", "relabel", path, other, "--reward", "hindsight", "--threshold", 0.05, *WHERE, "--seed", 1) == 0
    assert load_episodes(other).digest() != found.digest()


def test_hindsight_by_the_environment(goals, plane, tmp_path):
    episodes, path = goals
    out = tmp_path / "her.hdf5"
    argv = ("--reward", "hindsight", "--env", plane, "--strategy", "final", "--copies-only", *WHERE)
    assert run("data", "relabel", path, out, *argv) == 0
    found = load_episodes(out)
    np.testing.assert_array_equal(found.lengths, episodes.lengths)
    assert found.terminated.all() and not found.truncated.any()
    np.testing.assert_array_equal(found.returns, 1 - episodes.lengths)
    np.testing.assert_array_equal(found.rewards[found.offsets[1:] - 1], 0)
    assert relabellings(found.metadata)[0].endswith(f"without the recorded ones; as {plane} pays")


def test_hindsight_of_a_log_without_rewards(goals, tmp_path, capsys):
    episodes, _ = goals
    table = parquet.read_table(write_table(replace(episodes, final_observations=None), tmp_path / "log.parquet"))
    capsys.readouterr()
    out = tmp_path / "her.lamo"
    hindsight = ("--reward", "hindsight", "--threshold", 0.05, *WHERE)
    assert run("data", "relabel", tmp_path / "log.parquet", out, *hindsight) == 0
    parquet.write_table(table.drop_columns(["reward"]), tmp_path / "bare.parquet")
    capsys.readouterr()
    for kind, advice in ((hindsight, "give --without-rewards"), (("--reward", "delayed"), "is made of rewards")):
        assert run("data", "relabel", tmp_path / "bare.parquet", tmp_path / "bare.lamo", *kind) == 2
        said = capsys.readouterr().err
        assert "no column is known to be reward" in said and advice in said and "--reward none" not in said
    assert (
        run("data", "relabel", tmp_path / "bare.parquet", tmp_path / "bare.lamo", *hindsight, "--without-rewards") == 0
    )
    assert load_episodes(tmp_path / "bare.lamo").digest() == load_episodes(out).digest()


BAD = [
    ("{log} {out}.lamo --reward", "Missing value"),
    ("{log} {out}.lamo", "reward"),
    ("{log} --reward delayed", "Missing"),
    ("{log} {out}.lamo --reward late", "Expected one of"),
    ("{log} {out}.lamo --reward delayed --every 0", "--every 0"),
    ("{log} {out}.lamo --reward delayed --scale 2", "--scale does not apply to --reward delayed"),
    ("{log} {out}.lamo --reward scaled", "changes nothing"),
    ("{log} {out}.lamo --reward scaled --scale 1e300", "too large for float32"),
    ("{log} {out}.lamo --reward scaled --clip 2 1", "lowest comes first"),
    ("{log} {out}.lamo --reward scaled --scale nan", "finite"),
    ("{log} {out}.lamo --reward sparse", "needs --threshold"),
    ("{log} {out}.csv --reward delayed", "no place to say"),
    ("{log} {out}.xyz --reward delayed", "not a format that is written"),
    ("{log} {log} --reward delayed", "exists"),
    ("{log} {log}/x.lamo --reward delayed", "cannot write"),
    ("{none} {out}.lamo --reward delayed", "no such file"),
    ("{log} {out}.lamo --reward delayed --without-rewards", "does not apply to --reward delayed"),
    ("{log} {out}.lamo --reward hindsight", "needs --threshold"),
    ("{log} {out}.lamo --reward hindsight --threshold 1", "is not told"),
    ("{log} {out}.lamo --reward hindsight --threshold -1", "must be a distance"),
    ("{log} {out}.lamo --reward hindsight --threshold 1 --achieved 0:1 --desired 1:9", "there are columns 0:3"),
    ("{log} {out}.lamo --reward hindsight --threshold 1 --env Reacher2d-v0", "--threshold does not apply with --env"),
    ("{log} {out}.lamo --reward hindsight --env Reacher2d-v0", "no achieved_goal"),
    ("{log} {out}.lamo --reward hindsight --threshold 1 --strategy final --copies 3", "one goal per episode"),
    ("{log} {out}.lamo --reward hindsight --threshold 1 --copies 0 --seed 4", "--copies 0"),
]


@pytest.mark.parametrize(("argv", "words"), BAD)
def test_bad_input_is_one_line_and_leaves_nothing(log, tmp_path, capsys, argv, words):
    _, path = log
    before = Path(path).read_bytes()
    places = {"log": path, "out": str(tmp_path / "out"), "none": str(tmp_path / "none.hdf5")}
    assert main(["data", "relabel", *shlex.split(argv.format(**places))]) == 2
    out, error = capsys.readouterr()
    assert not out and words in error and error.count("\n") == 1, error
    assert [each.name for each in tmp_path.iterdir()] == ["log.hdf5"] and Path(path).read_bytes() == before


def test_scores(log, tmp_path, capsys):
    episodes, path = log
    assert run("data", "score", path, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    expected = 100 * (episodes.returns + 20.272305) / (3234.3 + 20.272305)
    np.testing.assert_allclose([row["score"] for row in report["episode_scores"]], expected)
    assert report["score_mean"] == pytest.approx(expected.mean()) and report["env"] == "Hopper-v5"
    assert run("data", "score", path, "--task", "hopper-expert", "--table") == 0
    text = capsys.readouterr().out
    assert "-20.2723 and 3234.3 are the scores 0 and 100" in text and text.count("terminated") == 5
    out = tmp_path / "scored.hdf5"
    assert run("data", "score", path, "--out", out) == 0
    copy = load_episodes(out)
    assert copy.digest() == load_episodes(path).digest()
    (entry,) = copy.metadata["history"]
    assert entry["score"]["score_mean"] == pytest.approx(expected.mean()) and warning(copy.metadata) is None


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("{log} --task hoper-medium", "unknown task"),
        ("{none}", "no such file"),
        ("{log} --out {log}", "exists"),
        ("{log} --task kitchen-mixed --out {out}.xyz", "not a format"),
        ("{log} --out {out}.csv", "no place to say"),
        ("", "Missing"),
    ],
)
def test_bad_scores(log, tmp_path, capsys, argv, words):
    places = {"log": log[1], "out": str(tmp_path / "out"), "none": str(tmp_path / "none.hdf5")}
    assert main(["data", "score", *shlex.split(argv.format(**places))]) == 2
    out, error = capsys.readouterr()
    assert not out and words in error and error.count("\n") == 1, error
    assert [each.name for each in tmp_path.iterdir()] == ["log.hdf5"]


def test_what_is_made_of_relabelled_data_says_so_too(log, tmp_path, capsys):
    _, path = log
    late, plain, merged = tmp_path / "late.lamo", tmp_path / "plain.lamo", tmp_path / "merged.hdf5"
    assert run("data", "relabel", path, late, "--reward", "delayed") == 0
    assert run("data", "convert", path, plain) == 0
    assert run("data", "merge", plain, late, "--out", merged) == 0
    assert run("data", "subsample", merged, "--ratio", 0.5, "--out", tmp_path / "half.parquet") == 0
    for each in (merged, tmp_path / "half.parquet"):
        assert relabellings(load_episodes(each).metadata)[0].startswith("delayed:")
    assert warning(load_episodes(plain).metadata) is None
    assert run("data", "convert", merged, tmp_path / "late.csv") == 0
    assert ".csv has no place to say it: rewards are relabelled" in capsys.readouterr().err
    assert run("data", "score", merged) == 0
    assert "not comparable" in capsys.readouterr().out


def test_a_long_history_is_still_read(make_episodes, tmp_path):
    sources = [{"source": f"part {i}", "digest": "0" * 64} for i in range(20_000)]
    told = {"history": [{"command": "lamo data merge …", "sources": sources, "rewards": "scaled: …"}]}
    path = write_d4rl(make_episodes([4, 5], metadata=told), tmp_path / "a.hdf5")
    assert relabellings(load_episodes(path).metadata) == ["scaled: …"]
