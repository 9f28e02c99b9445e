"""What every algorithm must do, whatever it is. A new entry of PRESETS is picked up by itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lamo.algorithms import PRESETS, get_algorithm, preset_algorithm, preset_settings
from lamo.algorithms.baselines import METHODS
from lamo.config import Spec
from lamo.data.actions import KIND_WORDS
from lamo.data.episodes import Episodes
from lamo.errors import LamoError
from lamo.policy import load_policy, save_policy_files

HORIZON = 12


def episodes(kind: str = "continuous") -> Episodes:
    """Ten episodes in which the right action is a linear function of the state: there is something to learn."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(4, HORIZON + 1, size=10)
    n = int(lengths.sum())
    observations = rng.normal(size=(n, 3)).astype(np.float32)
    signal = observations @ np.asarray([[0.5, 0.0], [-0.5, 0.5], [0.0, -0.5]], np.float32)
    actions: Any = np.tanh(signal)
    if kind == "discrete":
        actions = (signal[:, 0] > 0).astype(np.int64)
    elif kind == "multidiscrete":
        actions = np.stack([signal[:, 0] > 0, np.digitize(signal[:, 1], [-0.3, 0.3])], 1).astype(np.int64)
    return Episodes(
        observations=observations,
        actions=actions,
        rewards=rng.random(n).astype(np.float32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        terminated=np.zeros(10, bool),
        truncated=np.ones(10, bool),
        ids=np.arange(10),
        final_observations=None,
        metadata={},
    )


def spec(kind: str = "continuous") -> Spec:
    continuous = kind == "continuous"
    return Spec(
        observation_dim=3,
        action_dim=2,
        action_kind=kind,  # pyright: ignore[reportArgumentType]
        action_low=(-0.9, -0.9) if continuous else None,
        action_high=(0.9, 0.9) if continuous else None,
        horizon=HORIZON,
        return_scale=10.0,
        targets=(8.0,),
        env=None,
        score_range=None,
        action_nvec=(2, 3) if kind == "multidiscrete" else None,
    )


def guesses(kind: str) -> Episodes:
    """Episodes of one step: the reward is how near the action is to a function of the state, around which it lies."""
    rng = np.random.default_rng(1)
    n = 400
    observations = rng.normal(size=(n, 3)).astype(np.float32)
    right = best_guess(observations, kind)
    if kind == "continuous":
        actions = np.clip(right + 0.4 * rng.normal(size=right.shape), -0.9, 0.9).astype(np.float32)
    else:
        actions = np.where(rng.random(right.shape) < 0.6, right, 1 - right)
    return Episodes(
        observations=observations,
        actions=actions,
        rewards=guess_rewards(observations, actions, kind),
        offsets=np.arange(n + 1),
        terminated=np.ones(n, bool),
        truncated=np.zeros(n, bool),
        ids=np.arange(n),
        final_observations=None,
        metadata={},
    )


def best_guess(observations: np.ndarray, kind: str) -> np.ndarray:
    if kind == "continuous":
        return np.clip(observations[:, :2], -0.7, 0.7)
    signs = (observations[:, :2] > 0).astype(np.int64)
    return signs if kind == "multidiscrete" else signs[:, 0]


def guess_rewards(observations: np.ndarray, actions: np.ndarray, kind: str) -> np.ndarray:
    error = np.abs(actions - best_guess(observations, kind))
    return (1 - (error if kind == "discrete" else error.mean(1))).astype(np.float32)


def kinds(preset: str) -> list[str]:
    """The kinds of actions that a preset is for."""
    return list(METHODS.get(PRESETS[preset][0], KIND_WORDS))


OWN = [preset for preset in PRESETS if preset_algorithm(preset).learner.startswith("lamo.")]  # other tests add toys
BOTH = [(preset, kind) for preset in OWN for kind in kinds(preset)]


@pytest.fixture(params=OWN)
def preset(request: pytest.FixtureRequest) -> str:
    return request.param


def learner(preset: str, lm: Path, kind: str | None = None, seed: int = 0, **changes: Any) -> Any:
    kind = kinds(preset)[0] if kind is None else kind
    rates = {name: 3e-3 for name in ("learning_rate", "actor_learning_rate", "critic_learning_rate")}
    small = {"context": 5, "width": 32, "autoencoder_width": 32, "text_block": 32, "cosine_centres": 16}
    data = changes.pop("data", None)
    name, settings = preset_settings(
        preset, lm=str(lm), warmup_steps=1, iteration_steps=20, sampled_actions=4, **small, **rates, **changes
    )
    return get_algorithm(name)(settings, spec(kind), data or episodes(kind), batch_size=16, seed=seed)


def begin(policy: Any, targets: Any) -> Any:
    """`policy` after a reset that asks for `targets`, where it can be asked."""
    policy.reset(len(targets), np.asarray(targets, float) if policy.default_target is not None else None)
    return policy


def train(agent: Any, steps: int, seed: int = 0) -> list[dict[str, float]]:
    batches = agent.batches(np.random.default_rng(seed))
    return [agent.update(next(batches)) for _ in range(steps)]


@pytest.mark.parametrize(("preset", "kind"), [pair for pair in BOTH if preset_algorithm(pair[0]).conditioned])
def test_it_learns_to_imitate(preset: str, kind: str, small_lm: Path) -> None:
    log = train(learner(preset, small_lm, kind), 80)
    first, last = (np.mean([row["action_loss"] for row in rows]) for rows in (log[:10], log[-10:]))
    assert last < 0.75 * first
    assert all(np.isfinite(v) for row in log for v in row.values())


@pytest.mark.parametrize(("preset", "kind"), [pair for pair in BOTH if not preset_algorithm(pair[0]).conditioned])
def test_it_learns_to_earn_more_than_the_data(preset: str, kind: str, small_lm: Path) -> None:
    data = guesses(kind)
    agent = learner(preset, small_lm, kind, data=data)
    log = train(agent, 300 if kind == "multidiscrete" else 150)  # two rights to find
    assert all(np.isfinite(v) for row in log for v in row.values())
    observations = np.random.default_rng(7).normal(size=(200, 3)).astype(np.float32)
    actions = begin(agent.policy(), np.zeros(200)).act(observations)
    assert guess_rewards(observations, actions, kind).mean() > data.rewards.mean() + 0.1


def test_a_kind_of_actions_that_it_is_not_for_is_refused(preset: str, small_lm: Path) -> None:
    for kind in set(KIND_WORDS) - set(kinds(preset)):
        others = "use bc or iql" if kind == "multidiscrete" else "use bc, iql, cql.*or "
        with pytest.raises(LamoError, match=f"{preset} is for actions that are .*are {KIND_WORDS[kind]}; {others}"):
            learner(preset, small_lm, kind)


def test_two_runs_with_one_seed_agree(preset: str, small_lm: Path) -> None:
    assert train(learner(preset, small_lm), 5) == train(learner(preset, small_lm), 5)
    assert train(learner(preset, small_lm), 2) != train(learner(preset, small_lm, seed=1), 2)


def test_state_goes_on_bit_identically(preset: str, small_lm: Path) -> None:
    whole = learner(preset, small_lm)
    rng = np.random.default_rng(0)
    batches = whole.batches(rng)
    for _ in range(3):
        whole.update(next(batches))
    state = {k: v.clone() for k, v in whole.state_dict().items()}
    randomness = rng.bit_generator.state, torch.get_rng_state()
    expected = [whole.update(next(batches)) for _ in range(3)]

    resumed = learner(preset, small_lm)
    resumed.load_state_dict(state)
    rng = np.random.default_rng()
    rng.bit_generator.state = randomness[0]
    torch.set_rng_state(randomness[1])
    batches = resumed.batches(rng)
    assert [resumed.update(next(batches)) for _ in range(3)] == expected
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_frozen_weights_stay(preset: str, small_lm: Path) -> None:
    agent = learner(preset, small_lm)
    named = [(n, p) for n, p in agent.model.named_parameters() if not n.startswith("target")]  # targets follow
    frozen = {n: p.detach().clone() for n, p in named if not p.requires_grad}
    trained = {n: p.detach().clone() for n, p in agent.model.named_parameters() if p.requires_grad}
    train(agent, 3)
    now = dict(agent.model.named_parameters())
    assert all(torch.equal(now[n], p) for n, p in frozen.items())
    assert any(not torch.equal(now[n], p) for n, p in trained.items())


@pytest.mark.parametrize(("preset", "kind"), BOTH)
def test_a_saved_policy_acts_the_same(preset: str, kind: str, small_lm: Path, tmp_path: Path) -> None:
    agent = learner(preset, small_lm, kind)
    train(agent, 2)
    save_policy_files(tmp_path / "policy", *agent.export())
    json.loads((tmp_path / "policy" / "policy.json").read_text())
    rng = np.random.default_rng(3)
    observations, rewards = rng.normal(size=(8, 2, 3)), rng.random((8, 2))
    acted = []
    for policy in (agent.policy(), load_policy(tmp_path)):
        begin(policy, [8.0, 4.0])
        acted.append(
            [policy.act(o, None if t == 0 else r) for t, (o, r) in enumerate(zip(observations, rewards, strict=True))]
        )
    assert all(np.array_equal(a, b) for a, b in zip(*acted, strict=True))
    if kind == "continuous":
        assert np.abs(acted[0]).max() <= 0.9  # the environment's bounds
    elif kind == "multidiscrete":
        assert acted[0][0].shape == (2, 2) and acted[0][0].dtype == np.int64
        assert all((actions >= 0).all() and (actions < (2, 3)).all() for actions in acted[0])


@pytest.mark.parametrize("preset", ["dt", "bc", "iql", "td3bc"])
def test_a_box_of_any_bounds_is_learned_as_the_unit_box(preset: str, small_lm: Path) -> None:
    """What differs is the units alone: 3 to 11 is 7 ± 4, and the factors are powers of two."""
    unit = episodes()
    unit = replace(unit, actions=np.round(unit.actions * 512) / 512)  # so that no digit is lost on the way
    wide = replace(unit, actions=7 + 4 * unit.actions)
    specs = replace(spec(), action_low=(-1.0,) * 2, action_high=(1.0,) * 2), replace(spec(), action_low=(3.0,) * 2)
    agents = []
    for data, facts in zip((unit, wide), (specs[0], replace(specs[1], action_high=(11.0,) * 2)), strict=True):
        plain = learner(preset, small_lm, data=data)
        agents.append(type(plain)(plain.settings, facts, data, batch_size=16, seed=0))
    logs = []
    for agent in agents:
        torch.manual_seed(0)
        logs.append(train(agent, 5))
    assert logs[0] == logs[1]
    observations = np.random.default_rng(5).normal(size=(6, 4, 3)).astype(np.float32)
    acted = []
    for agent in agents:
        policy = begin(agent.policy(), [8.0] * 4)
        acted.append(np.stack([policy.act(o, None if t == 0 else np.ones(4)) for t, o in enumerate(observations)]))
    np.testing.assert_allclose(acted[1], 7 + 4 * acted[0], rtol=1e-6)
    assert agents[1].export()[1]["action_bounds"] == [[3.0, 3.0], [11.0, 11.0]]


def test_without_bounds_the_data_s_extremes_are_the_box(small_lm: Path) -> None:
    data = episodes()
    data = replace(data, actions=100 * data.actions)
    for preset in ("dt", "bc"):
        plain = learner(preset, small_lm)
        free = replace(spec(), action_low=(-np.inf, -np.inf), action_high=(np.inf, 50.0))
        agent = type(plain)(plain.settings, free, data, batch_size=16, seed=0)
        low, high = agent.export()[1]["action_bounds"]
        assert low == data.actions.min(0).tolist() and high == [float(data.actions[:, 0].max()), 50.0]
        batch = next(agent.batches(np.random.default_rng(0)))
        scaled = batch.windows.actions if preset == "dt" else batch.actions
        assert scaled[..., 0].min() >= -1 and scaled[..., 0].max() <= 1
        actions = begin(agent.policy(), [8.0] * 50).act(np.random.default_rng(0).normal(size=(50, 3)) * 5)
        assert (actions >= low).all() and (actions <= high).all()


def test_policy_in_a_batch_equals_alone(preset: str, small_lm: Path) -> None:
    agent = learner(preset, small_lm)
    train(agent, 2)
    rng = np.random.default_rng(3)
    observations, rewards, targets = rng.normal(size=(8, 3, 3)), rng.random((8, 3)), np.asarray([8.0, 4.0, 1.0])
    together = begin(agent.policy(), targets)
    # episode 1 ends after five steps: it drops out, the others go on
    joint: list[list[np.ndarray]] = [[], [], []]
    for t in range(8):
        rows = np.asarray([0, 1, 2] if t < 5 else [0, 2])
        actions = together.act(observations[t, rows], None if t == 0 else rewards[t, rows], rows)
        for row, action in zip(rows, actions, strict=True):
            joint[row].append(action)
    for row in range(3):
        alone = begin(agent.policy(), targets[row : row + 1])
        for t in range(len(joint[row])):
            action = alone.act(observations[t, row], None if t == 0 else rewards[t, row])
            np.testing.assert_allclose(action, joint[row][t], atol=1e-5)


def test_policy_refuses_misuse(preset: str, small_lm: Path) -> None:
    policy = learner(preset, small_lm).policy()
    with pytest.raises(LamoError, match="reset"):
        policy.act(np.zeros(3))
    policy.reset(1)
    with pytest.raises(LamoError, match="shape"):
        policy.act(np.zeros(4))
    with pytest.raises(LamoError, match="NaN or infinity"):
        policy.act(np.asarray([0.0, np.nan, 0.0]))


def test_state_of_another_model_is_refused(preset: str, small_lm: Path) -> None:
    state = learner(preset, small_lm).state_dict()
    state.pop(next(k for k in state if k.startswith("model.")))
    with pytest.raises(LamoError, match="another model"):
        learner(preset, small_lm).load_state_dict(state)


def test_summary_counts_add_up(preset: str, small_lm: Path) -> None:
    counts = learner(preset, small_lm).summary()["parameters"]
    assert counts["total"] == counts["frozen"] + counts["trainable"]
    assert counts["trainable"] > 0


WRONG = (None, [], {}, "x", -1, 0.5, [1], [[0.0], [1.0]], [[0.0, 0.0], [1.0, 1.0, 1.0]], [[1.0, 1.0], [0.0, 0.0]])
DAMAGED = {
    ("spec",): WRONG,
    ("settings",): WRONG,
    ("settings", "width"): (None, "x", -1),
    ("statistics",): WRONG,
    ("statistics", "mean"): (None, [0.0], [0.0] * 2, ["x"] * 3, [float("nan")] * 3),
    ("statistics", "std"): ([1.0] * 4, [0.0] * 3, [float("inf")] * 3),
    ("action_bounds",): WRONG,
    ("spec", "observation_dim"): (None, -1, 4, "3"),
    ("spec", "action_dim"): (0, 5),
    ("spec", "action_kind"): ("continuous", "discrete", "multidiscrete", "x", None),
    ("spec", "action_nvec"): ([], [2], [2, 0], [2, 3, 4], "x"),
    ("spec", "horizon"): (-1, None),
}


@pytest.mark.parametrize(("preset", "kind"), [("dt", "continuous"), ("iql", "continuous"), ("bc", "multidiscrete")])
def test_a_damaged_policy_json_is_one_line_or_harmless(preset: str, kind: str, small_lm: Path) -> None:
    agent = learner(preset, small_lm, kind)
    tensors, metadata = agent.export()
    whole, refused = json.dumps(metadata), set()
    for (first, *rest), values in DAMAGED.items():
        for value in values:
            damaged = json.loads(whole)
            (damaged[first] if rest else damaged)[rest[0] if rest else first] = value
            try:
                policy = type(agent).load_policy(tensors, damaged)
            except LamoError as error:
                assert str(error).startswith("policy.")
                refused.add((first, *rest))
                continue
            begin(policy, [8.0, 4.0])
            acted = policy.act(np.zeros((2, 3)))
            assert acted.shape == (2, 2) and np.isfinite(acted).all()
    assert refused == set(DAMAGED)


@pytest.mark.parametrize(("name", "value"), [("n_embd", "x"), ("n_embd", -1), ("n_head", 0), ("n_layer", None)])
def test_a_damaged_shape_of_the_language_model_is_one_line(name: str, value: Any, small_lm: Path) -> None:
    agent = learner("dt", small_lm)
    tensors, metadata = agent.export()
    with pytest.raises(LamoError, match="policy.json does not fit this lamo: lm_config"):
        type(agent).load_policy(tensors, {**metadata, "lm_config": {**metadata["lm_config"], name: value}})


def test_bounds_of_a_damaged_policy_are_never_stretched(small_lm: Path) -> None:
    """Bounds of one number would do for all of them; without any, a sequence policy of before acts in its own units."""
    for preset in ("iql", "dt"):
        agent = learner(preset, small_lm)
        tensors, metadata = agent.export()
        for bounds in ([[0.0], [1.0]], [[0.0, 0.0], [1.0, float("inf")]], [[1.0, 1.0], [0.0, 2.0]]):
            with pytest.raises(LamoError, match="policy.json does not fit this lamo: action_bounds"):
                type(agent).load_policy(tensors, {**metadata, "action_bounds": bounds})
        if preset == "dt":
            type(agent).load_policy(tensors, {**metadata, "action_bounds": None})
        else:
            with pytest.raises(LamoError, match="action_bounds are missing"):
                type(agent).load_policy(tensors, {**metadata, "action_bounds": None})
