"""What is particular to imitation and the value-based methods: known values, choices, their settings, their files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from test_contract import begin, episodes, learner, spec, train
from torch import Tensor

from lamo.algorithms import PRESETS, preset_settings, settings_type
from lamo.algorithms.baselines import METHODS, Baseline
from lamo.config import Experiment, Spec
from lamo.data.episodes import Episodes
from lamo.data.sources.d4rl import write_d4rl
from lamo.data.transitions import return_range_scale
from lamo.errors import LamoError
from lamo.evaluate import rollout
from lamo.policy import load_policy, save_policy_files
from lamo.train import resume
from lamo.train import train as run_training

# ------------------------------------------------------------------------------------------------------- two states

GAMMA = 0.5
# State "on" pays 1 and goes on for ever; a time limit cuts its episodes after two steps. State "end" pays 1 and ends.
VALUE_ON, VALUE_END = 1 / (1 - GAMMA), 1.0


def two_states(kind: str, count: int = 60) -> Episodes:
    """`count` episodes of each state. Actions are random and do nothing. Every final observation is "on"."""
    rng = np.random.default_rng(0)
    on, end = np.asarray([1.0, 0.0], np.float32), np.asarray([0.0, 1.0], np.float32)
    n = 3 * count
    shape = (n, 2) if kind == "multidiscrete" else n
    return Episodes(
        observations=np.concatenate([np.tile(on, (2 * count, 1)), np.tile(end, (count, 1))]),
        actions=rng.uniform(-1, 1, (n, 1)).astype(np.float32) if kind == "continuous" else rng.integers(2, size=shape),
        rewards=np.ones(n, np.float32),
        offsets=np.concatenate([np.arange(0, 2 * count, 2), np.arange(2 * count, n + 1)]),
        terminated=np.repeat([False, True], count),
        truncated=np.repeat([True, False], count),
        ids=np.arange(2 * count),
        final_observations=np.tile(on, (2 * count, 1)),
        metadata={},
    )


Q: dict[tuple[str, str], Callable[[Any, Tensor, Tensor], Tensor]] = {
    ("iql", "continuous"): lambda m, s, a: m.critic(s, a).mean(0),
    ("iql", "discrete"): lambda m, s, a: m.critic(s, a).mean(0),
    ("iql", "multidiscrete"): lambda m, s, a: m.critic(s, a).mean(0),
    ("td3bc", "continuous"): lambda m, s, a: m.critic(s, a).mean(0),
    ("cql", "continuous"): lambda m, s, a: m.critic(s, a).mean(0),
    ("cql", "discrete"): lambda m, s, a: m.actor(s).mean(-1),
    ("bcq", "continuous"): lambda m, s, a: m.actor.critic(s, a).mean(0),
    ("bcq", "discrete"): lambda m, s, a: m.actor.values(s).mean(-1),
    ("nfq", "discrete"): lambda m, s, a: m.actor(s).mean(-1),
}


def test_every_value_based_method_is_held_to_the_known_values() -> None:
    assert set(Q) == {(name, kind) for name, kinds in METHODS.items() for kind in kinds if name != "bc"}


@pytest.mark.parametrize(("name", "kind"), list(Q))
def test_terminations_end_the_return_and_time_limits_do_not(name: str, kind: str) -> None:
    """Were a time limit the end, half of the targets in "on" would be 1, and its value 4/3 instead of 2. Were a
    termination not the end, "end" would be worth 1 + γ · 2 = 2 instead of 1."""
    small = {"width": 16, "discount": GAMMA, "polyak": 0.1, "reward_scaling": "none", "conservative_weight": 0.0}
    rates = {key: 3e-3 for key in ("learning_rate", "actor_learning_rate", "critic_learning_rate")}
    few = {"sampled_actions": 1, "autoencoder_width": 16, "iteration_steps": 40, "candidates": 2, "expectile": 0.5}
    _, settings = preset_settings(name, **small, **rates, **few)
    low, high = ((-1.0,), (1.0,)) if kind == "continuous" else (None, None)
    size = 1 if kind == "continuous" else 2
    nvec = (2, 2) if kind == "multidiscrete" else None
    task = Spec(2, size, kind, low, high, 2, 1.0, (), action_nvec=nvec)  # pyright: ignore[reportArgumentType]
    agent = Baseline(settings, task, two_states(kind), batch_size=64, seed=0, steps=300)
    batches = agent.batches(np.random.default_rng(0))
    for _ in range(300):
        agent.update(next(batches))
    states = torch.from_numpy((np.eye(2, dtype=np.float32) - agent.statistics.mean) / agent.statistics.std)
    actions = torch.zeros_like(torch.from_numpy(agent.transitions.episodes.actions[:2]))
    with torch.no_grad():
        on, end = Q[name, kind](agent.model, states, actions).tolist()
    assert on == pytest.approx(VALUE_ON, abs=0.2)
    assert end == pytest.approx(VALUE_END, abs=0.2)


# ---------------------------------------------------------------------------------------------------------- CartPole


@pytest.fixture(scope="module")
def cartpole() -> Episodes:
    """Forty episodes of a controller that is attentive in two of five steps and guesses in the others."""
    rng = np.random.default_rng(0)
    env: Any = gymnasium.make("CartPole-v1", max_episode_steps=200, disable_env_checker=True)
    rows: dict[str, list] = {"observations": [], "actions": [], "rewards": []}
    lengths, terminations, finals = [], [], []
    for e in range(40):
        observation, _ = env.reset(seed=e)
        steps, terminated, truncated = 0, False, False
        while not (terminated or truncated):
            action = int(observation[2] + 0.3 * observation[3] > 0) if rng.random() < 0.4 else int(rng.integers(2))
            rows["observations"].append(observation)
            rows["actions"].append(action)
            observation, reward, terminated, truncated, _ = env.step(action)
            rows["rewards"].append(reward)
            steps += 1
        lengths.append(steps)
        terminations.append(terminated)
        finals.append(observation)
    env.close()
    return Episodes(
        observations=np.asarray(rows["observations"], np.float32),
        actions=np.asarray(rows["actions"], np.int64),
        rewards=np.asarray(rows["rewards"], np.float32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        terminated=np.asarray(terminations),
        truncated=~np.asarray(terminations),
        ids=np.arange(40),
        final_observations=np.asarray(finals, np.float32),
        metadata={"source": "cartpole"},
    )


@pytest.mark.parametrize("preset", ["bc", "bc10", "iql", "cql", "bcq", "nfq"])
def test_cartpole_is_played_better_than_in_the_data(preset: str, cartpole: Episodes) -> None:
    quick = {"discount": 0.9, "polyak": 0.05, "iteration_steps": 40}
    rates = {key: 1e-3 for key in ("learning_rate", "actor_learning_rate", "critic_learning_rate")}
    name, settings = preset_settings(preset, width=64, **quick, **rates)
    task = Spec(4, 2, "discrete", None, None, 200, 1.0, (), env="CartPole-v1")
    steps = {"bc": 300, "bc10": 300, "iql": 500, "cql": 500}.get(preset, 1000)
    agent = Baseline(settings, task, cartpole, batch_size=64, seed=0, steps=steps)
    batches = agent.batches(np.random.default_rng(0))
    for _ in range(steps):
        agent.update(next(batches))
    records = rollout(agent.policy(), "CartPole-v1", (None,), 5, seed=0, horizon=200)
    assert agent.name == name
    assert np.mean([record["return"] for record in records]) > cartpole.returns.mean()


# ---------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("iql", {"expectile": 0.0}, r"--expectile 0.0 must lie in \(0, 1\)"),
        ("iql", {"expectile": 1.0}, "--expectile 1.0"),
        ("iql", {"expectile": float("nan")}, "--expectile nan"),
        ("iql", {"temperature": 0.0}, "--temperature 0.0 must be a positive number"),
        ("iql", {"temperature": -3.0}, "--temperature -3.0 must be a positive number"),
        ("iql", {"temperature": float("inf")}, "--temperature inf must be a positive number"),
        ("iql", {"weight_clip": 0.0}, "--weight-clip"),
        ("iql", {"dropout": 1.0}, "--dropout"),
        ("iql", {"actor_learning_rate": 0.0}, "--actor-learning-rate"),
        ("cql", {"conservative_weight": -1.0}, "--conservative-weight"),
        ("cql", {"sampled_actions": 0}, "--sampled-actions"),
        ("cql", {"bound_margin": -0.1}, r"--bound-margin -0.1 must lie in \[0, 1\]"),
        ("cql", {"discount": 1.0}, r"--discount 1.0 must lie in \[0, 1\)"),
        ("td3bc", {"alpha": 0.0}, "--alpha"),
        ("td3bc", {"policy_delay": 0}, "--policy-delay"),
        ("td3bc", {"polyak": 0.0}, "--polyak"),
        ("td3bc", {"policy_noise": -0.1}, "--policy-noise"),
        ("bcq", {"threshold": 1.5}, "--threshold"),
        ("bcq", {"candidates": 0}, "--candidates"),
        ("bcq", {"learning_rate": 0.0}, "--learning-rate"),
        ("nfq", {"iteration_steps": 0}, "--iteration-steps"),
        ("nfq", {"learning_rate": float("inf")}, "--learning-rate"),
        ("bc", {"top_fraction": 0.0}, r"--top-fraction 0.0 must lie in \(0, 1\]"),
        ("bc", {"layers": 0}, "--layers"),
        ("bc", {"weight_decay": -1.0}, "--weight-decay"),
    ],
)
def test_settings_that_cannot_be(name: str, values: dict, words: str) -> None:
    with pytest.raises(LamoError, match=words):
        settings_type(name)(**values)


def test_a_tasks_published_settings_are_not_for_them() -> None:
    """The row's learning rate is that of the paper's sequence models."""
    experiment = Experiment(preset="bc", task="hopper-medium")
    assert (experiment.algorithm.learning_rate, experiment.algorithm.weight_decay) == (3e-4, 0.0)
    assert (experiment.batch_size, experiment.steps, experiment.targets) == (256, 100_000, None)
    assert Experiment(preset="lamo", task="hopper-medium").batch_size == 64


def test_return_targets_are_refused() -> None:
    with pytest.raises(LamoError, match="--targets: the policy of preset iql is not asked for a return"):
        Experiment.of("iql", targets=(40.0,))


def test_targets_are_left_out_when_the_preset_changes(capsys: pytest.CaptureFixture[str]) -> None:
    experiment = Experiment.of("lamo", "reacher2d-medium", targets=(3.0,)).but(preset="iql")
    assert experiment.targets is None and "--targets" in capsys.readouterr().err


@pytest.mark.parametrize("preset", [preset for preset in PRESETS if PRESETS[preset][0] in METHODS])
def test_a_policy_that_is_asked_for_a_return_says_no(preset: str, small_lm: Path) -> None:
    with pytest.raises(LamoError, match="return targets"):
        learner(preset, small_lm).policy().reset(1, np.asarray([3.0]))


# ------------------------------------------------------------------------------------------------ data and its units


def test_top_fraction_imitates_the_best_only(small_lm: Path) -> None:
    data = episodes()
    agent = learner("bc10", small_lm, data=data)
    best = data.select([int(np.argmax(data.returns))])
    assert agent.transitions.count == best.steps
    np.testing.assert_allclose(agent.statistics.mean, best.statistics().mean, rtol=1e-5)


def test_actions_are_scaled_by_the_bounds(small_lm: Path) -> None:
    agent = learner("td3bc", small_lm)
    raw = agent.transitions.sample(np.random.default_rng(0), agent.batch_size).actions
    np.testing.assert_allclose(next(agent.batches(np.random.default_rng(0))).actions, raw / 0.9, rtol=1e-6)


def clipped(count: int = 400, length: int = 50) -> Episodes:
    """Episodes of random observations and actions, drawn so wide that clipping leaves half of their numbers at a
    bound."""
    rng, n = np.random.default_rng(0), count * length
    return Episodes(
        observations=rng.normal(size=(n, 2)).astype(np.float32),
        actions=np.clip(rng.normal(0, 1.5, (n, 2)), -1, 1).astype(np.float32),
        rewards=np.zeros(n, np.float32),
        offsets=np.arange(0, n + 1, length),
        terminated=np.zeros(count, bool),
        truncated=np.ones(count, bool),
        ids=np.arange(count),
        final_observations=rng.normal(size=(count, 2)).astype(np.float32),
        metadata={},
    )


def cql_of_clipped(margin: float, **settings: Any) -> Baseline:
    chosen = settings_type("cql")(bound_margin=margin, **settings)
    box = Spec(2, 2, "continuous", (-1.0, -1.0), (1.0, 1.0), 50, 1.0, ())
    return Baseline(chosen, box, clipped(), batch_size=128, seed=0)


def test_cql_learns_actions_at_the_bounds_as_drawn_from_beside_them() -> None:
    left, moved, again = (
        next(cql_of_clipped(margin).batches(np.random.default_rng(0))).actions for margin in (0.0, 0.2, 0.2)
    )
    at = np.abs(left) == 1
    assert 0.4 < at.mean() < 0.6
    np.testing.assert_array_equal(moved[~at], left[~at])
    assert (np.abs(moved[at]) >= 0.8 - 1e-6).all() and (np.abs(moved) < 1).mean() > 0.99
    np.testing.assert_array_equal(moved, again)


def test_a_run_from_before_the_margin_goes_on_without(tmp_path: Path) -> None:
    settings = {"eval_episodes": 0, "width": 8, "batch_size": 8, "sampled_actions": 1, "device": "cpu"}
    run = run_training(Experiment.of("cql", "reacher2d-medium", steps=2, **settings), tmp_path / "run", quiet=True)
    assert run.config["algorithm"]["bound_margin"] == 0.1
    config = {**run.config, "algorithm": {k: v for k, v in run.config["algorithm"].items() if k != "bound_margin"}}
    (run.path / "config.json").write_text(json.dumps(config))
    assert resume(run.path, steps=3, quiet=True).config["algorithm"]["bound_margin"] == 0.0


def test_without_the_margin_cqls_conservative_term_has_no_floor() -> None:
    """Why there is one (docs/baselines.md): the term fits a density, which is infinite where points have weight."""
    small: dict[str, Any] = {"width": 64, "sampled_actions": 4, "critic_learning_rate": 3e-3, "discount": 0.5}
    gaps = {}
    for margin in (0.0, 0.1):
        agent = cql_of_clipped(margin, **small)
        batches = agent.batches(np.random.default_rng(0))
        gaps[margin] = np.mean([agent.update(next(batches))["conservative_gap"] for _ in range(400)][-50:])
    assert gaps[0.0] < -2 and gaps[0.1] > 1


def test_an_action_number_that_never_changes_can_be_learned(small_lm: Path) -> None:
    data = episodes()
    data.actions[:, 1] = 0.25
    task = Spec(3, 2, "continuous", None, None, 12, 1.0, ())
    agent = Baseline(settings_type("bc")(width=32, learning_rate=3e-3), task, data, batch_size=32, seed=0)
    train(agent, 200)
    assert begin(agent.policy(), [0.0]).act(data.observations[0])[1] == pytest.approx(0.25, abs=0.1)


def test_rewards_are_scaled_by_the_spread_of_returns(small_lm: Path) -> None:
    data = episodes()
    spread = data.returns.max() - data.returns.min()
    assert learner("iql", small_lm).reward_scale == pytest.approx(spec().horizon / spread)
    assert learner("iql", small_lm, reward_scaling="none").reward_scale == 1.0
    assert learner("td3bc", small_lm).reward_scale == 1.0
    tiny = replace(data, rewards=data.rewards * np.float32(1e-9))
    assert return_range_scale(tiny, 12) == pytest.approx(1e9 * return_range_scale(data, 12), rel=1e-3)
    assert return_range_scale(replace(data, rewards=np.zeros_like(data.rewards)), 12) == 1.0
    for name in ("iql", "td3bc"):
        less = learner(name, small_lm, reward_scaling="minus-one")
        assert less.reward_scale == 1.0
        np.testing.assert_array_equal(less.transitions.at(np.arange(5)).rewards, data.rewards[:5] - 1)


@pytest.mark.parametrize("name", ["iql", "td3bc", "cql", "bcq"])
def test_one_transition_that_can_be_used_is_too_few(name: str) -> None:
    """An episode of two steps that a time limit cuts: what followed the second is not logged."""
    whole = episodes()
    cut = replace(
        whole.select(np.arange(1)),
        **{part: getattr(whole, part)[:2] for part in ("observations", "actions", "rewards")},
        offsets=np.array([0, 2]),
        terminated=np.array([False]),
        truncated=np.array([True]),
        final_observations=None,
    )
    task = Spec(3, 2, "continuous", (-1.0, -1.0), (1.0, 1.0), 12, 1.0, ())
    with pytest.raises(LamoError, match=f"one transition is all that {name} can learn from \\(of 2 steps\\)"):
        Baseline(settings_type(name)(), task, cut)


def test_the_policys_learning_rate_falls_along_a_cosine() -> None:
    def rates(**changes: Any) -> list[float]:
        settings = settings_type("iql")(width=8, **changes)
        agent = Baseline(settings, spec(), episodes(), batch_size=4, seed=0, steps=10)
        return [row["learning_rate"] for row in train(agent, 10)]

    expected = [0.5 * (1 + np.cos(np.pi * t / 10)) * 3e-4 for t in range(10)]
    np.testing.assert_allclose(rates(), expected)
    assert set(rates(actor_schedule="constant")) == {3e-4}


def test_a_cosine_that_is_stretched_by_a_resume_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    def agent(steps: int, **changes: Any) -> Baseline:
        settings = settings_type("iql")(width=8, **changes)
        return Baseline(settings, spec(), episodes(), batch_size=4, seed=0, steps=steps)

    def resumed(steps: int, **changes: Any) -> str:
        first = agent(10, **changes)
        train(first, 10)
        agent(steps, **changes).load_state_dict(first.state_dict())
        return capsys.readouterr().err

    said = resumed(20)
    assert said.count("\n") == 1 and "was 10 steps and is now 20: it leaps from 0.0e+00 to 1.5e-04 at step 10" in said
    assert resumed(10) == "" and resumed(20, actor_schedule="constant") == ""


def test_the_policy_and_the_targets_of_td3bc_wait(small_lm: Path) -> None:
    agent = learner("td3bc", small_lm, policy_delay=3)
    log = train(agent, 6)
    assert ["actor_loss" in row for row in log] == [False, False, True] * 2


def test_nfq_keeps_its_targets_through_an_iteration(small_lm: Path) -> None:
    agent = learner("nfq", small_lm)  # iterations of 20 steps
    before = [p.clone() for p in agent.model.target_actor.parameters()]
    train(agent, 19)
    assert all(torch.equal(a, b) for a, b in zip(before, agent.model.target_actor.parameters(), strict=True))
    train(agent, 1)
    pairs = zip(agent.model.actor.parameters(), agent.model.target_actor.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_damaged_policy_is_one_line(small_lm: Path, tmp_path: Path) -> None:
    tensors, metadata = learner("iql", small_lm).export()
    save_policy_files(tmp_path / "a", tensors, {**metadata, "settings": {"widht": 3}})
    with pytest.raises(LamoError, match="does not fit this lamo"):
        load_policy(tmp_path / "a")
    save_policy_files(tmp_path / "b", tensors, {**metadata, "settings": {**metadata["settings"], "width": 16}})
    with pytest.raises(LamoError, match="does not fit policy.json"):
        load_policy(tmp_path / "b")
    assert "target" not in json.dumps(sorted(tensors))  # what acting does not need is not deployed


# ------------------------------------------------------------------------------------------------- the command line


def test_from_the_command_line_to_an_evaluation(
    tmp_path: Path, cartpole: Episodes, capsys: pytest.CaptureFixture[str]
) -> None:
    from lamo.cli import main

    data, run = str(write_d4rl(cartpole, tmp_path / "cartpole.hdf5", {"env_id": "CartPole-v1"})), str(tmp_path / "run")
    small = ["--steps", "30", "--width", "16", "--batch-size", "16", "--eval-episodes", "2", "--eval-every", "20"]
    assert main(["train", "--preset", "iql", "--dataset", data, "--out", run, "--quiet", *small]) == 0
    assert main(["evaluate", run, "--episodes", "2", "--json"]) == 0
    out = capsys.readouterr().out
    told = json.loads(out[out.index('{"') :])
    assert [row["target"] for row in told["targets"]] == [None]
    assert main(["report", run, "--out", str(tmp_path / "report")]) == 0
    assert main(["evaluate", run, "--targets", "40"]) == 2
    assert main(["train", "--preset", "td3bc", "--dataset", data, "--out", str(tmp_path / "other"), *small]) == 2
    assert "use bc, iql, cql, bcq or nfq" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
