"""`--obs-keys`: the same parts of dict observations from the data and from the environment, and in the policy."""

from __future__ import annotations

import json
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium import spaces

import toy
from lamo.cli import main
from lamo.collecting.collect import collect
from lamo.config import Experiment
from lamo.data import load_episodes
from lamo.data.convert import write
from lamo.data.sources.d4rl import write_d4rl
from lamo.data.sources.options import WriteOptions
from lamo.data.stream import stream
from lamo.envs.pool import EnvPool
from lamo.errors import LamoError
from lamo.evaluate_run import evaluate
from lamo.prepare import prepare
from lamo.runs import Run
from lamo.selection.pool import gather
from lamo.train import train

ENV = "LamoGoals-v0"
SPACE = spaces.Dict(
    {
        "observation": spaces.Box(-9, 9, (3,), np.float64),
        "goal": spaces.Dict({"left": spaces.Box(-9, 9, (1,)), "a right one": spaces.Box(-9, 9, (2,))}),
        "mode": spaces.Discrete(2),
    }
)
ORDER = ["goal/a right one", "goal/left", "mode", "observation"]


class Goals(gymnasium.Env):
    """Observations say which part they are: 1 and 2, 3, one of two, 4 to 6."""

    observation_space, action_space = SPACE, spaces.Box(-1, 1, (2,), np.float32)

    def _observe(self) -> dict[str, Any]:
        goal = {"left": np.array([3.0], np.float32), "a right one": np.array([1.0, 2.0], np.float32)}
        return {"observation": np.array([4.0, 5.0, 6.0]), "goal": goal, "mode": 1}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict, dict]:
        return self._observe(), {}

    def step(self, action: Any) -> tuple[dict, float, bool, bool, dict]:
        return self._observe(), 1.0, False, False, {}


@pytest.fixture(autouse=True, scope="module")
def registered():
    gymnasium.register(ENV, entry_point=Goals, max_episode_steps=4)
    yield
    del gymnasium.registry[ENV]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (None, [1, 2, 3, 0, 1, 4, 5, 6]),
        (["observation", "goal"], [1, 2, 3, 4, 5, 6]),  # in the space's order, whatever is said first
        (["goal/left", "mode"], [3, 0, 1]),
        (["goal", "goal/left"], [1, 2, 3]),
    ],
)
def test_an_environment_gives_the_keys_that_are_asked_for(keys, expected):
    with EnvPool(ENV, obs_keys=keys) as pool:
        assert pool.observation_dim == len(expected)
        assert pool.reset([0, 1]).tolist() == [expected, expected]
        assert pool.observation_keys == ORDER


def test_keys_that_an_environment_does_not_have():
    with pytest.raises(LamoError, match=r"no observation key 'observations'; did you mean observation\?"):
        EnvPool(ENV, obs_keys=["observations"])
    with pytest.raises(LamoError, match="not a dict"):
        EnvPool(toy.ENV, obs_keys=["observation"])


def minari_file(path: Path, episodes: int = 4, steps: int = 4) -> Path:
    """What Minari's HDF5 storage keeps of episodes in `Goals`, with a metadata.json beside."""
    from minari.serialization import serialize_space

    data = path / "data"
    data.mkdir(parents=True)
    notes = {"observation_space": serialize_space(SPACE), "action_space": serialize_space(Goals.action_space)}
    (data / "metadata.json").write_text(json.dumps(notes))
    rng = np.random.default_rng(0)
    with h5py.File(data / "main_data.hdf5", "w") as file:
        for number in range(episodes):
            group = file.create_group(f"episode_{number}")
            group["observations/observation"] = np.tile([4.0, 5.0, 6.0], (steps + 1, 1)) + rng.normal(
                size=(steps + 1, 1)
            )
            group["observations/goal/left"] = np.full((steps + 1, 1), 3.0)
            group["observations/goal/a right one"] = np.tile([1.0, 2.0], (steps + 1, 1))
            group["observations/mode"] = np.ones(steps + 1, np.int64)
            group["actions"] = rng.uniform(-1, 1, (steps, 2)).astype(np.float32)
            group["rewards"] = np.arange(steps, dtype=np.float64) * number
            group["terminations"], group["truncations"] = np.zeros(steps, bool), np.arange(steps) == steps - 1
    return path


def test_a_dataset_gives_the_keys_that_are_asked_for(tmp_path):
    folder = minari_file(tmp_path / "goals-v0")
    episodes = load_episodes(folder, obs_keys=["observation", "goal/left"])
    assert episodes.metadata["observation_keys"] == ["goal/left", "observation"]
    whole = load_episodes(folder)
    assert whole.metadata["observation_keys"] == ORDER
    np.testing.assert_array_equal(episodes.observations, whole.observations[:, [2, 5, 6, 7]])
    np.testing.assert_array_equal(episodes.final_observations, whole.final_observations[:, [2, 5, 6, 7]])
    with pytest.raises(LamoError, match=r"'lef' is no key of the observations; did you mean goal/left"):
        load_episodes(folder, obs_keys=["lef"])
    with pytest.raises(LamoError, match="known: goal, goal/a right one, goal/left, mode, observation"):
        load_episodes(folder, obs_keys=["xyz"])
    with pytest.raises(LamoError, match="names no key"):
        load_episodes(folder, obs_keys=[])


def test_every_format_gives_the_keys_that_are_asked_for_or_none(tmp_path, capsys):
    """Slices where the sizes of the parts are known, one line where they are not; never more than was asked for."""
    folder = minari_file(tmp_path / "goals-v0")
    keys = ["observation", "goal/left"]
    expected = load_episodes(folder, obs_keys=keys)
    store = tmp_path / "goals.lamo"
    write(stream(folder), store)
    write(stream(folder), tmp_path / "lerobot", WriteOptions("lerobot", 10))
    for kept in (store, tmp_path / "lerobot"):
        found = load_episodes(kept, obs_keys=keys)
        assert found.digest() == expected.digest()
        assert found.metadata["observation_keys"] == ["goal/left", "observation"]
        assert found.metadata["observation_sizes"] == [1, 3]
        assert load_episodes(kept, obs_keys=["goal", "mode", "observation"]).digest() == load_episodes(folder).digest()
        with pytest.raises(LamoError, match="'lef' is no key of the observations; did you mean goal/left"):
            load_episodes(kept, obs_keys=["lef"])
        out = tmp_path / f"{kept.name}.some.lamo"
        assert main(["data", "convert", str(kept), str(out), "--obs-keys", *keys]) == 0
        assert load_episodes(out).digest() == expected.digest()
    both = load_episodes([store, store], obs_keys=keys)
    assert both.observations.shape == (2 * expected.steps, 4)
    whole, plain = load_episodes(folder), []
    for name in ("x.hdf5", "x.npz", "x.parquet", "x.csv"):
        plain.append(tmp_path / name)
        write(stream(folder), plain[-1])
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(trajectories(whole)))
    for source in (*plain, tmp_path / "x.pkl"):
        with pytest.raises(LamoError, match=r"which of its numbers --obs-keys means"):
            load_episodes(source, obs_keys=keys)
        capsys.readouterr()
        assert main(["data", "convert", str(source), str(tmp_path / "never.lamo"), "--obs-keys", *keys]) == 2
        assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "never.lamo").exists()
    with pytest.raises(LamoError, match="which of its numbers --obs-keys means"):
        load_episodes({"observations": np.eye(3), "actions": np.eye(3), "rewards": np.ones(3)}, obs_keys=keys)


def trajectories(episodes) -> list[dict[str, np.ndarray]]:
    spans = [slice(a, b) for a, b in pairwise(episodes.offsets.tolist())]
    names = ("observations", "actions", "rewards")
    return [{name: np.array(getattr(episodes, name)[span]) for name in names} for span in spans]


def test_a_store_is_trained_on_by_some_of_its_keys(tmp_path):
    """What the message for a wrong size advises does work."""
    store = tmp_path / "goals.lamo"
    write(stream(minari_file(tmp_path / "goals-v0")), store)
    told: dict[str, Any] = {"dataset": str(store), "env": ENV, "eval_episodes": 1}
    assert prepare(Experiment.of("toy", **told, obs_keys=("goal", "observation"))).spec.observation_dim == 6
    assert prepare(Experiment.of("toy", **told)).spec.observation_dim == 8


def test_which_numbers_they_are_is_recorded_so_that_select_asks_no_environment(tmp_path, monkeypatch):
    store = tmp_path / "goals.hdf5"
    write(stream(minari_file(tmp_path / "goals-v0")), store)
    told: dict[str, Any] = {"steps": 2, "eval_episodes": 1, "batch_size": 2, "device": "cpu", "env": ENV}
    experiment = Experiment.of("toy", dataset=str(store), obs_keys=("goal", "observation"), **told)
    run = train(experiment, tmp_path / "run", quiet=True)
    assert run.provenance["dataset"]["parts_of_env"] == [ORDER, [2, 1, 2, 3]]
    monkeypatch.setattr("gymnasium.make", lambda *_, **__: pytest.fail("an environment was made"))
    assert gather([run.path]).episodes.observations.shape[1] == 6
    file = run.path / "provenance.json"
    for damaged, told in (
        (7, "damaged"),
        ([ORDER, [2]], "damaged"),
        ([ORDER, [2, 1, 2, "3"]], "damaged"),
        ([ORDER, [2, 1, 2, 4]], "observations of 8 numbers, and the run recorded parts of 9"),
    ):
        dataset = {**run.provenance["dataset"], "parts_of_env": damaged}
        file.write_text(json.dumps({**run.provenance, "dataset": dataset}))
        with pytest.raises(LamoError, match=told):
            gather([run.path])


def test_training_records_the_keys_and_evaluation_uses_them(tmp_path, capsys):
    folder = minari_file(tmp_path / "goals-v0")
    keys = ("goal", "observation")
    settings: dict[str, Any] = {"steps": 3, "eval_episodes": 1, "batch_size": 2, "device": "cpu"}
    run = train(
        Experiment.of("toy", dataset=str(folder), env=ENV, obs_keys=keys, **settings), tmp_path / "run", quiet=True
    )
    assert Run.open(run.path).provenance["spec"]["obs_keys"] == list(keys)
    assert json.loads((run.path / "policy" / "policy.json").read_text())["spec"]["observation_dim"] == 6
    assert evaluate(run.path, episodes=1)["records"][0]["return"] == 4.0
    recorded = collect(ENV, 2, tmp_path / "again.hdf5", policy=str(run.path))
    assert recorded.observations[0].tolist() == [1, 2, 3, 4, 5, 6]
    assert recorded.metadata["attributes"]["obs_keys"] == list(keys)
    again = Experiment.read(run.path / "config.json")
    assert again.obs_keys == keys
    # the whole observation does not fit what the environment then gives, and the message says so
    with pytest.raises(
        LamoError, match=r"observations of 6 numbers, but those of .* have 8; choose with --obs-keys among"
    ):
        train(Experiment.of("toy", dataset=str(tmp_path / "again.hdf5"), **settings), tmp_path / "other", quiet=True)
    assert main(["data", "inspect", str(folder), "--obs-keys", "goal", "mode", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["observation_dim"] == 5
    assert main(["data", "inspect", str(folder), "--obs-keys", "nothing"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# D4RL's mazes keep the goal apart from the observations --------------------------------------------------------------


@pytest.fixture
def maze(make_episodes, tmp_path):
    def write(width: int, final: bool = False) -> Path:
        path = write_d4rl(make_episodes([3, 4], width=width, final=final), tmp_path / f"maze{width}.hdf5")
        with h5py.File(path, "a") as file:
            file["infos/goal"] = np.arange(14, dtype=np.float64).reshape(7, 2)
            file["infos/qpos"] = np.zeros((7, 15))
        return path

    return write


GOAL = np.arange(14, dtype=np.float32).reshape(7, 2)
ALL = ["observation", "desired_goal", "achieved_goal"]


@pytest.mark.parametrize(
    ("width", "keys", "columns"),
    [
        (4, ALL, lambda o: [o[:, :2], GOAL, o]),  # PointMaze's observation holds the position as well
        (29, ALL, lambda o: [o[:, :2], GOAL, o[:, 2:]]),  # AntMaze's does not
        (29, ["desired_goal", "observation"], lambda o: [GOAL, o[:, 2:]]),
        (4, ["observation"], lambda o: [o]),
        (4, None, lambda o: [o]),
    ],
)
def test_goals_of_d4rl_s_mazes(maze, width, keys, columns):
    path = maze(width)
    plain = load_episodes(path).observations
    np.testing.assert_array_equal(load_episodes(path, obs_keys=keys).observations, np.hstack(columns(plain)))


def test_the_goal_goes_along_with_what_was_seen_last(maze):
    plain, goals = (
        load_episodes(maze(4, final=True)),
        load_episodes(maze(4, final=True), obs_keys=["desired_goal", "observation"]),
    )
    np.testing.assert_array_equal(goals.final_observations[:, 2:], plain.final_observations)
    np.testing.assert_array_equal(goals.final_observations[:, :2], GOAL[[2, 6]])


def test_bad_goals(maze):
    with pytest.raises(LamoError, match="'goal' is not one of achieved_goal, desired_goal, observation"):
        load_episodes(maze(4), obs_keys=["goal"])
    path = maze(29)
    with h5py.File(path, "a") as file:
        del file["infos/goal"]
        file["infos/goal"] = np.zeros((6, 2))
    with pytest.raises(LamoError, match=r"infos/goal has shape \(6, 2\)"):
        load_episodes(path, obs_keys=ALL)
    assert load_episodes(path).steps == 7  # nobody asked for it
