"""Collecting behaviour: what is recorded, that it is the same twice, and the dataset that comes with the package."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lamo.cli import main
from lamo.collecting.behaviours import RandomBehaviour
from lamo.collecting.collect import collect, is_whole
from lamo.collecting.record import record_block
from lamo.collecting.request import Request
from lamo.data.recut import subsample
from lamo.data.sources import load_episodes
from lamo.envs.pool import EVALUATION_SEED_BASE, EnvPool
from lamo.errors import LamoError
from lamo.tasks import get_task

MIB = 1 << 20


def test_random_behaviour_is_recorded_and_read_back(tmp_path: Path) -> None:
    told: list[str] = []
    out = tmp_path / "deep" / "reacher2d.hdf5"
    episodes = collect("reacher2d", 3, out, policy="random", seed=1, progress=told.append)
    assert len(episodes) == 3 and episodes.truncated.all() and not episodes.terminated.any()
    assert told == [f"collected 3 of 3 episodes, mean return {episodes.returns.mean():.1f}"]
    again = load_episodes(out)
    assert again.digest() == episodes.digest()
    assert again.metadata["env"] == "Reacher2d-v0"
    assert (again.metadata["action_low"], again.metadata["action_high"]) == ([-1.0, -1.0], [1.0, 1.0])
    notes = again.metadata["attributes"]
    assert (
        notes["command"]
        == "lamo data collect --task reacher2d --episodes 3 --seed 1 --policy random --out reacher2d.hdf5"
    )
    assert notes["reset_seeds"] == "1000000 to 1000002" and notes["seed"] == 1
    assert {"python", "numpy", "gymnasium", "mujoco"} <= set(json.loads(notes["versions"]))
    assert str(tmp_path) not in json.dumps(again.metadata["attributes"])


def test_recording_is_what_happened(tmp_path: Path) -> None:
    episodes = collect("Hopper-v5", 4, policy="random", seed=2)
    assert episodes.terminated.all() and len(set(episodes.lengths)) > 1
    assert episodes.final_observations is not None
    with EnvPool("Hopper-v5") as pool:
        for e in range(4):
            start, end = episodes.offsets[e], episodes.offsets[e + 1]
            observation = pool.reset([2_000_000 + e])
            for t in range(start, end):
                np.testing.assert_array_equal(observation[0], episodes.observations[t])
                observation, reward, terminated, _ = pool.step(np.arange(1), episodes.actions[t][None])
                assert np.float32(reward[0]) == episodes.rewards[t] and terminated[0] == (t == end - 1)
            np.testing.assert_array_equal(observation[0], episodes.final_observations[e])


def test_same_seed_same_bytes_and_any_number_at_once(tmp_path: Path) -> None:
    a = collect("Hopper-v5", 5, tmp_path / "a.hdf5", policy="random", seed=0)
    collect("Hopper-v5", 5, tmp_path / "b" / "a.hdf5", policy="random", seed=0)
    assert (tmp_path / "a.hdf5").read_bytes() == (tmp_path / "b" / "a.hdf5").read_bytes()
    assert collect("Hopper-v5", 5, policy="random", seed=0, envs=2).digest() == a.digest()
    assert collect("Hopper-v5", 5, policy="random", seed=1).digest() != a.digest()


def test_horizon_cuts_episodes() -> None:
    episodes = collect("Pendulum-v1", 2, policy="random", horizon=7)
    assert list(episodes.lengths) == [7, 7] and episodes.truncated.all()
    assert "--horizon 7" in episodes.metadata["attributes"]["command"]


def test_discrete_actions() -> None:
    episodes = collect("CartPole-v1", 3, policy="random")
    assert episodes.discrete and set(episodes.actions) == {0, 1} and episodes.terminated.all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task_or_env": "reacher2", "episodes": 1}, "did you mean reacher2d"),
        ({"task_or_env": "Hoper-v5", "episodes": 1, "policy": "random"}, "did you mean"),
        ({"task_or_env": "reacher2d", "episodes": 0}, "cannot collect 0 episodes"),
        ({"task_or_env": "reacher2d", "episodes": 1, "seed": 1000}, "seeds 0 to 999"),
        ({"task_or_env": "reacher2d", "episodes": 1, "policy": "rnadom"}, "give random, train"),
        ({"task_or_env": "reacher2d", "episodes": 1, "policy": "train:mediun"}, "did you mean medium"),
        ({"task_or_env": "Pendulum-v1", "episodes": 1}, "no skill 'medium'; it has no score references: give train:re"),
        ({"task_or_env": "Hopper-v5", "episodes": 1, "policy": "train:good"}, "no skill 'good'; known: medium, expert"),
        ({"task_or_env": "CartPole-v1", "episodes": 1, "policy": "train:return=9,algorithm=sac"}, "SAC cannot choose"),
        ({"task_or_env": "CartPole-v1", "episodes": 1, "policy": "train:return=9,return=8"}, "is not one skill"),
        ({"task_or_env": "CartPole-v1", "episodes": 1, "policy": "train:return=9,steps=0"}, "is not one skill"),
        ({"task_or_env": "CartPole-v1", "episodes": 1, "policy": "random", "noise": 0.1}, "give --epsilon instead"),
        ({"task_or_env": "Pendulum-v1", "episodes": 1, "policy": "random", "noise": -1.0}, "must be at least 0"),
        ({"task_or_env": "Pendulum-v1", "episodes": 1, "policy": "random", "epsilon": 1.1}, "in \\[0, 1\\]"),
        *(
            (
                {"task_or_env": "Pendulum-v1", "episodes": 1, "policy": "runs/a", name: value},
                f"--{name} {value} must be",
            )
            for name, value in (("noise", np.nan), ("noise", np.inf), ("epsilon", np.nan), ("target", np.nan))
        ),
        (
            {"task_or_env": "Pendulum-v1", "episodes": 1, "policy": "random", "target": 1.0},
            "--target is for the policy",
        ),
        ({"task_or_env": "Pendulum-v1", "episodes": 1, "policy": "random", "envs": 0}, "--envs 0 must be at least 1"),
        ({"task_or_env": "Pendulum-v1", "episodes": 1, "policy": "random", "workers": 0}, "--workers 0 must be at"),
        ({"task_or_env": "reacher2d", "episodes": 1, "policy": "sb3:no.zip"}, "no.zip: no such file"),
    ],
)
def test_bad_requests(arguments: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(LamoError, match=message):
        collect(out=tmp_path / "deep" / "out.hdf5", **arguments)
    assert not list(tmp_path.iterdir())


def test_the_command_asks_for_the_same_numbers() -> None:
    asked = {
        "episodes": 2,
        "horizon": 1_234_567,
        "target": 12345.67,
        "noise": 0.1234567,
        "epsilon": 1 / 3,
        "envs": 10**6,
    }
    words = Request("CartPole-v1", policy="runs/a", **asked).command(Path("x.hdf5")).split()
    told = {word.removeprefix("--"): words[i + 1] for i, word in enumerate(words) if word.startswith("--")}
    assert {key: type(value)(told[key]) for key, value in asked.items()} == asked
    assert "--target 60 --out" in Request("CartPole-v1", 2, "runs/a", target=60.0).command(Path("x.hdf5"))


def test_what_was_made_of_a_recording_is_not_what_its_command_records(tmp_path: Path) -> None:
    request, out = Request("reacher2d", 4, "random"), tmp_path / "a.hdf5"
    collect("reacher2d", 4, out, policy="random")
    assert is_whole(request, out)
    subsample(out.rename(tmp_path / "b.hdf5"), out, ratio=0.5)
    assert load_episodes(out).metadata["attributes"]["command"] == request.command(out)
    assert not is_whole(request, out)


def test_an_existing_file_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "mine.hdf5"
    out.write_bytes(b"precious")
    with pytest.raises(LamoError, match=r"mine.hdf5 exists; choose another --out"):
        collect("reacher2d", 1, out, policy="random")
    assert out.read_bytes() == b"precious"


def test_a_run_folder_acts_through_its_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Still:
        def reset(self, n=1, targets=None):
            assert n == 2 and targets is None

        def act(self, observations, rewards=None, rows=None):
            return np.zeros((len(rows), 2), np.float32)

    monkeypatch.setattr("lamo.policy.load_policy", lambda folder: Still())
    episodes = collect("reacher2d", 2, policy=str(tmp_path))
    assert not episodes.actions.any() and episodes.metadata["attributes"]["policy"] == tmp_path.name


KITCHEN = {"policy": "operator:plan=light-switch", "seed": 4}


def test_the_kitchen_operator_is_recorded(tmp_path: Path) -> None:
    out = tmp_path / "kitchen.hdf5"
    episodes = collect("kitchen-complete", 2, out, **KITCHEN)
    assert episodes.observations.shape[1] == 59 and episodes.returns.tolist() == [1.0, 1.0]
    assert episodes.truncated.all() and episodes.lengths.max() < 120, "a demonstration ends when its plan is over"
    assert set(np.unique(episodes.rewards)) == {0.0, 1.0}
    again = load_episodes(out)
    assert again.digest() == episodes.digest() and again.metadata["env"] == "KitchenMicrowaveKettleLightSlider-v1"
    notes = again.metadata["attributes"]
    assert notes["policy"] == KITCHEN["policy"] and "plans: light switch; noise 0.06" in notes["policy_description"]
    assert "gymnasium-robotics" in json.loads(notes["versions"])
    assert (notes["subtasks_intended"], notes["subtasks_finished"]) == (2, 2)


def test_kitchen_demonstrations_are_the_same_twice() -> None:
    first = collect("kitchen-mixed", 2, horizon=12, policy="operator", seed=1)
    assert collect("kitchen-mixed", 2, horizon=12, policy="operator", seed=1, envs=1).digest() == first.digest()
    assert collect("kitchen-mixed", 2, horizon=12, policy="operator", seed=2).digest() != first.digest()


class Picky(RandomBehaviour):
    """Keeps every second episode it is asked about, and ends each after `patience` steps."""

    asked, patience = 0, 3

    def reset(self, generators) -> None:
        super().reset(generators)
        self.steps = 0

    def act(self, observations, rewards, rows):
        self.steps += 1
        return super().act(observations, rewards, rows)

    def finished(self, rows):
        return np.full(len(rows), self.steps >= self.patience)

    def keeps(self, total: float) -> bool:
        self.asked += 1
        return self.asked % 2 == 0


def test_a_behaviour_may_refuse_episodes_and_end_them() -> None:
    with EnvPool("Pendulum-v1") as pool:
        block = record_block(pool, Picky(pool), range(6), seed=0, horizon=9)
        assert (block.first, block.count, block.kept) == (0, 6, 3) and block.episodes is not None
        episodes = block.episodes
        assert episodes.ids.tolist() == [1, 3, 5] and episodes.lengths.tolist() == [3, 3, 3]
        assert episodes.truncated.all()
        for number, start in zip(episodes.ids, episodes.offsets, strict=False):
            np.testing.assert_array_equal(episodes.observations[start], pool.reset([number])[0])


def test_refused_episodes_are_recorded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lamo.collecting.request.RandomBehaviour", Picky)
    episodes = collect("Pendulum-v1", 5, policy="random", horizon=4, envs=2)
    # rounds: 0-4 in blocks 01 23 4, of which 1 and 3 stay; 5-7, of which 6 (the second asked of the third …)
    notes = episodes.metadata["attributes"]
    assert len(episodes) == 5 and notes["refused_episodes"] == episodes.ids[-1] + 1 - 5 >= 4
    assert notes["reset_seeds"] == f"0 to {episodes.ids[-1]}"


def test_a_behaviour_that_refuses_everything_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Never(Picky):
        def keeps(self, total: float) -> bool:
            return False

    monkeypatch.setattr("lamo.collecting.request.RandomBehaviour", Never)
    with pytest.raises(LamoError, match="0 of 200 episodes were what was asked for"):
        collect("Pendulum-v1", 10, policy="random", horizon=1)


def test_several_tasks_are_a_folder_of_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["data", "collect", "--policy", "random", "--episodes", "1", "--quiet", "--json"]
    assert main([*command, "--task", "reacher2d,Pendulum-v1", "--out", str(tmp_path / "sets")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [Path(each["out"]).name for each in report["datasets"]] == ["reacher2d.hdf5", "Pendulum-v1.hdf5"]
    assert load_episodes(tmp_path / "sets" / "Pendulum-v1.hdf5").metadata["env"] == "Pendulum-v1"
    (tmp_path / "sets" / "reacher2d.hdf5").unlink()
    before = (tmp_path / "sets" / "Pendulum-v1.hdf5").stat().st_mtime_ns
    assert main([*command, "--task", "reacher2d,Pendulum-v1", "--out", str(tmp_path / "sets")]) == 0
    assert before == (tmp_path / "sets" / "Pendulum-v1.hdf5").stat().st_mtime_ns, "it was whole already"
    capsys.readouterr()
    for tasks, message in (
        ("reacher2d,Pendulum-v1", "exists"),
        ("hopper,hopper", "twice"),
        ("hopper,Hoper", "unknown"),
    ):
        assert main([*command, "--task", tasks, "--out", str(tmp_path / "sets")]) == 2
        assert message in capsys.readouterr().err
    assert len(list((tmp_path / "sets").iterdir())) == 2


def test_what_is_large_is_not_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lamo.commands.data.LOOKED_THROUGH", 100)
    command = ["data", "collect", "--policy", "random", "--task", "Pendulum-v1", "--episodes", "2", "--quiet"]
    assert main([*command, "--json", "--out", str(tmp_path / "a.hdf5")]) == 0
    told, episodes = json.loads(capsys.readouterr().out), load_episodes(tmp_path / "a.hdf5")
    assert (told["episodes"], told["steps"], told["problems"]) == (2, 400, None)
    assert told["return_mean"] == pytest.approx(episodes.returns.mean())
    assert main([*command, "--out", str(tmp_path / "b.hdf5")]) == 0
    assert "b.hdf5: 2 episodes, 400 steps, return -" in capsys.readouterr().out


@pytest.mark.slow
def test_the_three_kitchen_sets_come_out_of_one_command_and_train(tmp_path: Path) -> None:
    tasks = "kitchen-complete,kitchen-partial,kitchen-mixed"
    command = ["data", "collect", "--task", tasks, "--policy", "operator", "--episodes", "12", "--quiet"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    complete, partial, mixed = (load_episodes(tmp_path / f"{name}.hdf5") for name in tasks.split(","))
    assert complete.returns.tolist() == [4.0] * 12 and complete.terminated.all()
    assert 1 < partial.returns.mean() < 4 and mixed.returns.max() == 3.0 and not mixed.terminated.any()
    assert mixed.metadata["env"] != partial.metadata["env"] == complete.metadata["env"]
    budget = ["--steps", "200", "--eval-every", "200", "--eval-episodes", "1", "--targets", "4", "--quiet"]
    for task in tasks.split(","):
        run, data = tmp_path / task, str(tmp_path / f"{task}.hdf5")
        assert main(["train", "--preset", "dt", "--task", task, "--dataset", data, "--out", str(run), *budget]) == 0
        rows = [json.loads(line) for line in (run / "episodes.jsonl").read_text().splitlines()]
        assert len(rows) == 1 and rows[0]["score"] == 25 * rows[0]["return"] and rows[0]["length"] <= 280


def test_missing_stable_baselines3_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "stable_baselines3", None)
    with pytest.raises(LamoError, match="pip install stable-baselines3"):
        collect("reacher2d", 1)


def test_embedded_dataset() -> None:
    import lamo.collecting.collect

    path = Path(lamo.collecting.collect.__file__).parents[1] / "assets" / "reacher2d-medium.hdf5"
    assert path.stat().st_size <= 6 * MIB
    episodes = load_episodes("reacher2d-medium")
    assert len(episodes) >= 1000 and (episodes.lengths == 100).all() and episodes.truncated.all()
    assert 30 <= episodes.returns.mean() <= 50 and episodes.returns.max() >= 76
    assert set(np.unique(episodes.rewards)) == {0.0, 1.0} and np.abs(episodes.actions).max() <= 1.0
    notes = episodes.metadata["attributes"]
    assert notes["command"].startswith("lamo data collect --task reacher2d --episodes 1000")
    assert notes["env_id"] == "Reacher2d-v0" and int(notes["reset_seeds"].split()[-1]) < EVALUATION_SEED_BASE


def test_embedded_kitchen() -> None:
    episodes = load_episodes("kitchen-complete")
    assert len(episodes) == 100 and (episodes.returns == 4).all() and episodes.terminated.all()
    assert set(np.unique(episodes.rewards)) == {0.0, 1.0} and episodes.lengths.max() <= 280
    task = get_task("kitchen-complete")
    assert task.dataset == "kitchen-complete" and task.env == episodes.metadata["env"]
    assert "notes" not in episodes.metadata, "nothing is left to relabel"
    assert episodes.metadata["attributes"]["command"] == (
        "lamo data collect --task kitchen-complete --episodes 100 --seed 0 --policy operator "
        "--out kitchen-complete.hdf5"
    )


@pytest.mark.slow
def test_medium_skill_is_reached_from_nothing() -> None:
    episodes = collect("reacher2d", 100, seed=1)
    assert 30 <= episodes.returns.mean() <= 50
