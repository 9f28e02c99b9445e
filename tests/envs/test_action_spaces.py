"""Every kind of action space, from recording to evaluation, through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from lamo.cli import main
from lamo.collecting.collect import collect
from lamo.config import Experiment
from lamo.data.inspect import inspect
from lamo.data.sources import load_episodes
from lamo.data.sources.d4rl import write_d4rl
from lamo.envs.pool import EnvPool
from lamo.errors import LamoError
from lamo.policy import load_policy
from lamo.prepare import prepare
from lamo.selection.pool import gather
from lamo.train import train


class Echo(gymnasium.Env):
    """The first two observations are the signs that the action should have; it is paid for those that it has."""

    observation_space = spaces.Box(-1, 1, (3,), np.float32)
    received: Any = None  # by any of them

    def __init__(self, action_space: spaces.Space) -> None:
        self.action_space = action_space

    def _observe(self) -> np.ndarray:
        self.at = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        return self.at

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert self.action_space.contains(action) or isinstance(self.action_space, spaces.Box), action
        type(self).received = action
        reward = float(np.ravel(action)[0] > 0) == float(self.at[0] > 0)
        return self._observe(), float(reward), False, False, {}


SPACES: dict[str, spaces.Space] = {
    "Several": spaces.MultiDiscrete([2, 3], start=[0, 5]),
    "Grid": spaces.MultiDiscrete(np.array([[2, 2], [3, 2]])),
    "Switches": spaces.MultiBinary(3),
    "Late": spaces.Discrete(3, start=4),
    "Wide": spaces.Box(np.array([0, -300], np.float32), np.array([10, 500], np.float32)),
    "Square": spaces.Box(-2, 2, (2, 2), np.float32),
    "Whole": spaces.Box(0, 9, (2,), np.int64),
    "Free": spaces.Box(-np.inf, np.inf, (2,), np.float32),
    "One": spaces.MultiDiscrete([4]),
}
KINDS = {"Late": "discrete", **dict.fromkeys(("Several", "Grid", "Switches", "One"), "multidiscrete")}
for name, space in SPACES.items():
    if f"Echo{name}-v0" not in gymnasium.registry:
        gymnasium.register(
            f"Echo{name}-v0", entry_point=Echo, max_episode_steps=8, kwargs={"action_space": space}, order_enforce=False
        )


@pytest.mark.parametrize("name", [name for name in SPACES if name != "Free"])
def test_recorded_read_trained_and_evaluated(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    env, path = f"Echo{name}-v0", tmp_path / "data.hdf5"
    kind = KINDS.get(name, "continuous")
    recorded = collect(env, 6, path, policy="random")
    episodes = load_episodes(path)
    assert episodes.digest() == recorded.digest() and episodes.action_kind == kind
    with EnvPool(env) as pool:
        assert (pool.action_kind, pool.choices) == (kind, episodes.choices)
        assert inspect(episodes, pool.envs[0])["problems"] == inspect(episodes)["problems"]
        width = 1 if kind == "discrete" else pool.action_dim
    told = inspect(episodes)
    assert told["action_kind"] == kind and told["action_dim"] == width
    for preset in ("dt", "bc", "iql"):
        small = ["--steps", "3", "--batch-size", "4", "--eval-episodes", "1", "--device", "cpu", "--quiet", "--json"]
        chunks = [] if preset == "iql" else ["--chunk", "3"]
        shape = ["--context", "2", "--layers", "1"] if preset == "dt" else []
        out = tmp_path / preset
        asked = ["--preset", preset, "--dataset", str(path), "--out", str(out), "--env", env]
        capsys.readouterr()
        assert main(["train", *asked, *small, *chunks, *shape]) == 0
        assert json.loads(capsys.readouterr().out)["final"]["targets"][0]["episodes"] == 1
        policy = load_policy(out)
        policy.reset(2, None if policy.default_target is None else np.ones(2))
        acted = policy.act(np.zeros((2, 3)))
        assert acted.shape == (2, *episodes.actions.shape[1:])
        assert main(["evaluate", str(out), "--episodes", "1", "--json"]) == 0


def test_each_space_gets_what_it_holds() -> None:
    def given(name: str, action: list[Any]) -> Any:
        with EnvPool(f"Echo{name}-v0") as pool:
            pool.reset([0])
            pool.step(np.arange(1), np.array([action]) if name != "Late" else np.array(action))
        return Echo.received

    assert given("Several", [1, 2]).tolist() == [1, 7]
    assert given("Grid", [1, 0, 2, 1]).tolist() == [[1, 0], [2, 1]]
    assert given("Switches", [1, 0, 1]).tolist() == [1, 0, 1]
    assert given("Late", [2]) == 6
    assert given("Whole", [3.6, 99.0]).tolist() == [4, 9]
    assert given("Square", [1, 2, 3, -4]).tolist() == [[1, 2], [2, -2]]
    with pytest.raises(LamoError, match=r"the policy chose .*; actions are below \[2, 3\]"):
        given("Several", [1, 3])


def test_a_wide_box_is_learned_in_its_own_units(tmp_path: Path) -> None:
    path = tmp_path / "data.hdf5"
    collect("EchoWide-v0", 5, path, policy="random")
    setup = prepare(Experiment.of("dt", dataset=str(path), eval_episodes=1))
    assert (setup.spec.action_low, setup.spec.action_high) == ((0.0, -300.0), (10.0, 500.0))


def test_a_box_without_bounds_takes_the_data_s_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = collect("EchoWide-v0", 5, policy="random")
    data.metadata.update(env="EchoFree-v0", action_low=None, action_high=None)
    path = write_d4rl(data, tmp_path / "data.hdf5")
    setup = prepare(Experiment.of("dt", dataset=str(path), eval_episodes=1))
    assert setup.spec.action_low == tuple(data.actions.min(0).tolist())
    assert setup.spec.action_high == tuple(data.actions.max(0).tolist())
    told = capsys.readouterr().err
    assert "EchoFree-v0 sets no bounds to numbers 0, 1 of an action; taken are the data's extremes, " in told
    prepare(Experiment.of("dt", dataset=str(path), eval_episodes=0))
    assert capsys.readouterr().err == ""  # no environment was asked


def test_whole_numbers_are_asked_about_and_the_environment_answers(tmp_path: Path) -> None:
    """Also the environment that the data itself names."""
    data = collect("EchoSeveral-v0", 4, policy="random")
    arrays = {"observations": data.observations, "actions": data.actions, "rewards": data.rewards}
    ends = {"terminals": np.zeros(data.steps, bool), "timeouts": np.arange(data.steps) % 8 == 7}
    np.savez(tmp_path / "named.npz", **arrays, **ends, env_id="EchoSeveral-v0")
    np.savez(tmp_path / "unnamed.npz", **arrays, **ends)
    with pytest.raises(LamoError, match="actions are whole numbers"):
        load_episodes(tmp_path / "named.npz")
    named = Experiment.of("dt", dataset=str(tmp_path / "named.npz"), eval_episodes=1)
    assert prepare(named).spec.choices == (2, 3)
    unnamed = Experiment.of("dt", dataset=str(tmp_path / "unnamed.npz"), eval_episodes=1)
    with pytest.raises(LamoError, match="actions are whole numbers"):
        prepare(unnamed)
    assert prepare(unnamed.but(env="EchoSeveral-v0")).spec.choices == (2, 3)
    assert prepare(unnamed.but(env="EchoWhole-v0")).spec.action_kind == "continuous"
    said = unnamed.but(actions="discrete", eval_episodes=0)
    assert prepare(said).spec.action_nvec == data.choices


@pytest.mark.parametrize(
    ("source", "env", "message"),
    [
        ("Several", "EchoLate-v0", "actions that are several choices at once, those of EchoLate-v0 are choices"),
        ("Late", "EchoSeveral-v0", "actions that are choices, those of EchoSeveral-v0 are several choices at once"),
        ("Several", "EchoSwitches-v0", "actions of 2 numbers, those of EchoSwitches-v0 have 3"),
        ("Grid", "EchoSquare-v0", "several choices at once, those of EchoSquare-v0 are vectors"),
    ],
)
def test_data_of_another_space_is_refused(source: str, env: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "data.hdf5"
    collect(f"Echo{source}-v0", 3, path, policy="random")
    with pytest.raises(LamoError, match=message):
        prepare(Experiment.of("dt", dataset=str(path), env=env, eval_episodes=1))


def test_choices_that_the_environment_does_not_have(tmp_path: Path) -> None:
    data = collect("EchoLate-v0", 3, policy="random")
    data.actions[:] += 4  # as the space counts them
    path = write_d4rl(data, tmp_path / "late.hdf5")
    with pytest.raises(
        LamoError, match="knows 0 to 2; choices are counted from 0 here, by EchoLate-v0 from 4: subtract 4"
    ):
        prepare(Experiment.of("dt", dataset=str(path), eval_episodes=1))
    several = collect("EchoSeveral-v0", 3, policy="random")
    several.actions[0, 1] = 3
    path = write_d4rl(several, tmp_path / "several.hdf5")
    with pytest.raises(LamoError, match="in component 1 action 3, but EchoSeveral-v0 knows 0 to 2; .* subtract 5"):
        prepare(Experiment.of("dt", dataset=str(path), eval_episodes=1))


def one_column(folder: Path, episodes: int) -> Path:
    """A log of an environment whose action is an array of one choice, with the choices as (N,)."""
    data = collect("EchoOne-v0", episodes, policy="random")
    path = folder / "one.npz"
    np.savez(
        path,
        observations=data.observations,
        actions=data.actions[:, 0],
        rewards=data.rewards,
        terminals=np.zeros(data.steps, bool),
        timeouts=np.arange(data.steps) % 8 == 7,
    )
    return path


def test_one_column_of_choices_fits_an_array_of_one(tmp_path: Path) -> None:
    path = one_column(tmp_path, 3)
    experiment = Experiment.of("dt", dataset=str(path), env="EchoOne-v0", eval_episodes=1)
    setup = prepare(experiment)
    assert setup.episodes.actions.shape == (24, 1) and setup.spec.action_nvec == (4,)


def test_a_run_on_an_array_of_one_finds_its_data_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ranked, and with a target chosen from the data, though the file has the choices as one column."""
    path = one_column(tmp_path, 6)
    out = str(tmp_path / "run")
    data_of = [
        "--dataset",
        str(path),
        "--env",
        "EchoOne-v0",
        "--actions",
        "discrete",
        "--holdout",
        "0.3",
    ]
    small = ["--steps", "3", "--batch-size", "4", "--eval-episodes", "1", "--context", "2", "--layers", "1"]
    assert main(["train", "--preset", "dt", *data_of, *small, "--device", "cpu", "--quiet", "--out", out]) == 0
    assert gather([out]).episodes.actions.shape == (48, 1)
    assert main(["select", out, "--fqe-steps", "3", "--members", "2", "--quiet"]) == 0
    capsys.readouterr()
    assert main(["evaluate", out, "--targets", "auto", "--episodes", "1", "--json", "--quiet"]) == 0
    assert "auto_target" in json.loads(capsys.readouterr().out)


def test_runs_that_read_one_file_in_two_ways_are_refused_with_the_reason(tmp_path: Path) -> None:
    path = one_column(tmp_path, 6)
    small: dict[str, Any] = {"steps": 2, "width": 8, "batch_size": 4, "device": "cpu", "actions": "discrete"}
    told = {"dataset": str(path), "env": "EchoOne-v0", **small}
    runs = [
        train(Experiment.of("bc", eval_episodes=count, **told), tmp_path / f"run{count}", quiet=True).path
        for count in (0, 1)
    ]
    reason = "run0 and .*run1 read .* in two ways .actions that are choices, and several choices at once"
    with pytest.raises(LamoError, match=reason):
        gather(runs)
