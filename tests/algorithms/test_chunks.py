"""Chunks: several actions predicted at once and executed without looking again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_contract import begin, episodes, learner, train

from lamo.algorithms import preset_settings
from lamo.errors import LamoError
from lamo.policy import load_policy, save_policy_files
from lamo.replay import replay

KINDS = ["continuous", "discrete", "multidiscrete"]
CHUNKED = ["dt", "lamo-random", "bc"]


def act(policy: Any, observations: np.ndarray, rows: Any = None) -> list[np.ndarray]:
    """(T, n, S) -> T actions."""
    return [policy.act(o, None if t == 0 else np.ones(len(o)), rows=rows) for t, o in enumerate(observations)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("preset", CHUNKED)
def test_they_are_learned_and_a_saved_policy_acts_the_same(
    preset: str, kind: str, small_lm: Path, tmp_path: Path
) -> None:
    agent = learner(preset, small_lm, kind, chunk=3, execute=2)
    log = train(agent, 40)
    assert np.mean([row["action_loss"] for row in log[-8:]]) < np.mean([row["action_loss"] for row in log[:8]])
    save_policy_files(tmp_path / "policy", *agent.export())
    observations = np.random.default_rng(3).normal(size=(9, 2, 3))
    acted = [act(begin(policy, [8.0, 4.0]), observations) for policy in (agent.policy(), load_policy(tmp_path))]
    assert all(np.array_equal(a, b) for a, b in zip(*acted, strict=True))
    assert acted[0][0].shape == ((2,) if kind == "discrete" else (2, 2))


@pytest.mark.parametrize("preset", CHUNKED)
def test_within_a_chunk_what_is_seen_changes_nothing(preset: str, small_lm: Path) -> None:
    agent = learner(preset, small_lm, chunk=4)
    train(agent, 10)
    observations = np.random.default_rng(3).normal(size=(8, 1, 3))
    other = observations.copy()
    other[1:4] += 3
    one, two = (act(begin(agent.policy(), [8.0]), each) for each in (observations, other))
    assert all(np.array_equal(a, b) for a, b in zip(one[:4], two[:4], strict=True))
    if preset == "bc":
        assert all(np.array_equal(a, b) for a, b in zip(one[4:], two[4:], strict=True))
    else:  # the context holds what was seen
        assert not np.array_equal(one[4], two[4])
    assert len({a.tobytes() for a in one[:4]}) == 4


@pytest.mark.parametrize("preset", CHUNKED)
def test_one_that_looks_at_every_step_executes_the_first_of_each_chunk(preset: str, small_lm: Path) -> None:
    agent = learner(preset, small_lm, chunk=3, execute=1)
    train(agent, 10)
    open_loop = learner(preset, small_lm, chunk=3)
    open_loop.load_state_dict(agent.state_dict())
    observations = np.random.default_rng(3).normal(size=(7, 2, 3))
    looking, blind = (act(begin(each.policy(), [8.0, 4.0]), observations) for each in (agent, open_loop))
    np.testing.assert_allclose(
        looking[0], blind[0], atol=1e-5
    )  # one remembers keys and values, one computes them again
    assert not np.allclose(looking[1], blind[1], atol=1e-4)


@pytest.mark.parametrize("preset", CHUNKED)
def test_episodes_of_different_age_act_as_alone(preset: str, small_lm: Path) -> None:
    agent = learner(preset, small_lm, chunk=3, execute=2)
    train(agent, 5)
    rng = np.random.default_rng(3)
    observations = rng.normal(size=(8, 2, 3))
    policy = begin(agent.policy(), [8.0, 4.0])
    joint: list[list[np.ndarray]] = [[], []]
    ages = [0, 0]
    for turn in range(8):
        rows = np.array([0, 1] if turn % 3 else [0])  # the second falls behind
        seen = np.stack([observations[ages[row], row] for row in rows])
        rewards = None if turn == 0 else np.array([float(ages[row] > 0) for row in rows])
        for row, action in zip(rows, policy.act(seen, rewards, rows=rows), strict=True):
            joint[row].append(action)
            ages[row] += 1
    for row in range(2):
        alone = act(begin(agent.policy(), [[8.0, 4.0][row]]), observations[: ages[row], row : row + 1])
        np.testing.assert_allclose(np.concatenate(alone), np.stack(joint[row]), atol=1e-5)


def test_a_band_computes_every_step_and_predicts_at_some(small_lm: Path) -> None:
    """With --span keys and values are remembered for ever, so each token must be computed in its turn."""
    banded = {"span": 3, "initialise": "pretrained", "lora_rank": 2}
    agent = learner("lamo-random", small_lm, chunk=2, **banded)
    train(agent, 5)
    policy = begin(agent.policy(), [8.0, 4.0])
    assert policy.cache is not None and policy.execute == 2
    acted = act(policy, np.random.default_rng(3).normal(size=(9, 2, 3)))
    assert np.isfinite(acted).all()
    plain = begin(learner("lamo-random", small_lm, chunk=2).policy(), [8.0, 4.0])
    assert plain.cache is None
    assert begin(learner("lamo-random", small_lm, chunk=2, execute=1).policy(), [8.0, 4.0]).cache is not None


def test_the_target_is_what_the_episode_holds(small_lm: Path) -> None:
    """The loss of a model that answers zero is the mean square of the actions that are there."""
    data = episodes()
    agent = learner("dt", small_lm, chunk=4, data=data)
    for parameter in agent.model.head.parameters():
        parameter.data.zero_()
    batch = next(agent.batches(np.random.default_rng(0)))
    assert batch.wanted is not None
    actions, real = batch.wanted
    assert actions.shape == (16, 5, 4, 2) and real.shape == (16, 5, 4)
    assert agent.update(batch)["action_loss"] == pytest.approx(float(np.square(actions[real]).mean()), rel=1e-5)
    at = np.flatnonzero(batch.windows.mask[:, -1] & (batch.windows.timesteps[:, -1] + 1 < 4))
    assert (real[:, :, 0] == batch.windows.mask).all() and len(at) >= 0
    np.testing.assert_array_equal(actions[:, :, 0] * real[:, :, :1], batch.windows.actions)


def test_replay_asks_for_chunks_too(small_lm: Path) -> None:
    agent = learner("bc", small_lm, chunk=3)
    data = episodes()
    asked = replay(agent.policy(), data)
    assert asked.actions.shape == data.actions.shape
    alone = begin(agent.policy(), [0.0])
    first = [alone.act(o[None])[0] for o in data.observations[: data.offsets[1]]]
    np.testing.assert_allclose(asked.actions[: data.offsets[1]], first, atol=1e-6)


def test_runs_train_together_with_chunks(small_lm: Path) -> None:
    agents = [learner("lamo-random", small_lm, chunk=3, lm_seed=1, seed=seed) for seed in (0, 1)]
    assert type(agents[0]).pack(agents) is None
    together = type(agents[0]).update_together(
        agents, [next(agent.batches(np.random.default_rng(7))) for agent in agents]
    )
    alone = learner("lamo-random", small_lm, chunk=3, lm_seed=1)
    assert together[0]["loss"] == pytest.approx(train(alone, 1, seed=7)[0]["loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"chunk": 0}, "--chunk 0"), ({"chunk": 2, "execute": 3}, "--execute 3"), ({"execute": 2}, "and --chunk 1")],
)
def test_what_cannot_be_is_refused(changes: dict[str, int], message: str) -> None:
    for preset in ("lamo", "bc"):
        with pytest.raises(LamoError, match=message):
            preset_settings(preset, **changes)


def test_an_old_policy_has_no_box_and_no_chunks(small_lm: Path, tmp_path: Path) -> None:
    """Written before actions were scaled: in the environment's units, cut to its bounds."""
    agent = learner("dt", small_lm)
    tensors, metadata = agent.export()
    for key in ("chunk", "execute"):
        metadata["settings"].pop(key)
    metadata["spec"].pop("action_nvec")
    metadata.pop("action_bounds")
    save_policy_files(tmp_path / "policy", tensors, metadata)
    old = begin(load_policy(tmp_path), [8.0])
    assert old.scaling is None and old.execute == 1  # pyright: ignore[reportAttributeAccessIssue]
    seen = np.random.default_rng(1).normal(size=(1, 3))
    unit = begin(type(agent).load_policy(*agent.export()), [8.0])
    np.testing.assert_allclose(unit.act(seen), 0.9 * np.clip(_raw(agent, seen), -1, 1), rtol=1e-5)
    np.testing.assert_allclose(old.act(seen), np.clip(_raw(agent, seen), -0.9, 0.9), rtol=1e-5)


def _raw(agent: Any, seen: np.ndarray) -> np.ndarray:
    """The model's own first answer."""
    free = replace(agent.spec, action_low=(-9.0, -9.0), action_high=(9.0, 9.0))
    policy = type(agent.policy())(agent.model, agent.settings, free, agent.statistics)
    return begin(policy, [8.0]).act(seen)
