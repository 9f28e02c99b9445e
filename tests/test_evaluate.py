"""Rollouts see a policy through its protocol only; these policies are a few lines each."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lamo.envs.pool import EVALUATION_SEED_BASE, EnvPool, collection_seed
from lamo.errors import LamoError
from lamo.evaluate import rollout, summarise, trace

ACTIONS = {"Hopper-v5": 3, "Reacher2d-v0": 2, "HalfCheetah-v5": 6, "Pendulum-v1": 1, "Reacher-v4": 2}


class Fake:
    """Acts by its target, its step, and what it sees; keeps what it was asked."""

    default_target = 1.0

    def __init__(self, env: str) -> None:
        self.size = ACTIONS[env]
        self.resets: list[tuple[int, list[float] | None]] = []
        self.asked: list[list[int]] = []
        self.rewards: list[np.ndarray | None] = []

    def reset(self, n=1, targets=None):
        self.resets.append((n, None if targets is None else list(targets)))
        self.targets = np.ones(n) if targets is None else np.asarray(targets)
        self.steps = np.zeros(n, int)

    def act(self, observations, rewards=None, rows=None):
        assert observations.shape[0] == len(rows) and observations.dtype == np.float32
        assert rewards is None or rewards.shape == (len(rows),)
        self.asked.append(rows.tolist())
        self.rewards.append(rewards)
        self.steps[rows] += 1
        wave = np.sin(self.steps[rows] * 0.7 + self.targets[rows])[:, None] + observations[:, :1]
        return 3.0 * np.repeat(wave, self.size, axis=1)  # often beyond the bounds


def test_records_come_in_order_with_paired_seeds() -> None:
    policy = Fake("Reacher2d-v0")
    records = rollout(policy, "Reacher2d-v0", [76.0, 40.0], 3, seed=2, score=lambda value: value / 2, horizon=4)
    assert [(r["target"], r["episode"]) for r in records] == [(t, e) for t in (76.0, 40.0) for e in range(3)]
    assert (
        [r["seed"] for r in records[:3]]
        == [r["seed"] for r in records[3:]]
        == [EVALUATION_SEED_BASE + 20_000 + e for e in range(3)]
    )
    assert all(r["score"] == r["return"] / 2 and r["length"] == 4 and r["terminated"] is False for r in records)
    assert policy.resets == [(6, [76.0] * 3 + [40.0] * 3)] and policy.asked == [list(range(6))] * 4
    assert policy.rewards[0] is None and policy.rewards[1] is not None
    json.dumps(records)


def test_rewards_given_to_the_policy_add_up_to_the_return() -> None:
    policy = Fake("Pendulum-v1")
    records = rollout(policy, "Pendulum-v1", [1.0, 5.0], 2, seed=0, horizon=6)
    told = np.sum([r for r in policy.rewards if r is not None], axis=0)
    assert len(policy.rewards) == 6
    with EnvPool("Pendulum-v1") as pool:  # the last reward reaches no policy: replay for it
        assert pool.max_episode_steps == 200
    shorter = rollout(Fake("Pendulum-v1"), "Pendulum-v1", [1.0, 5.0], 2, seed=0, horizon=5)
    np.testing.assert_allclose(told, [r["return"] for r in shorter])
    assert all(
        a["return"] < b["return"] for a, b in zip(records, shorter, strict=True)
    )  # Pendulum's rewards are negative


@pytest.mark.parametrize("env", ["Reacher2d-v0", "Hopper-v5", "Reacher-v4"])
def test_all_at_once_equals_one_at_a_time(env: str) -> None:
    together = rollout(Fake(env), env, [1.0, 2.0], 4, seed=0, horizon=60)
    for size in (1, 3):
        assert rollout(Fake(env), env, [1.0, 2.0], 4, seed=0, horizon=60, max_parallel=size) == together
    assert len({r["return"] for r in together}) > 1


def test_finished_rows_drop_out() -> None:
    policy = Fake("Hopper-v5")
    records = rollout(policy, "Hopper-v5", [1.0, 2.0], 5, seed=0)
    lengths = [r["length"] for r in records]
    assert len(set(lengths)) > 2 and all(r["terminated"] for r in records)  # such a hopper falls
    for step, rows in enumerate(policy.asked):
        assert rows == [i for i, length in enumerate(lengths) if length > step]
    assert len(policy.asked) == max(lengths)


def test_no_targets_leaves_the_policy_its_own() -> None:
    policy = Fake("Reacher2d-v0")
    records = rollout(policy, "Reacher2d-v0", [None], 2, seed=0, horizon=2)
    assert policy.resets == [(2, None)] and [r["target"] for r in records] == [None, None]
    assert records[0]["score"] is None
    assert summarise(records)["targets"][0]["score_mean"] is None


@pytest.mark.parametrize("targets", [[None, 1.0], [float("nan")], []])
def test_senseless_targets_are_refused(targets: list[float | None]) -> None:
    with pytest.raises(LamoError, match="target"):
        rollout(Fake("Reacher2d-v0"), "Reacher2d-v0", targets, 1, seed=0)


def test_no_episodes_and_too_many_are_refused() -> None:
    with pytest.raises(LamoError, match="nothing to evaluate: 0 episodes"):
        rollout(Fake("Reacher2d-v0"), "Reacher2d-v0", [1.0], 0, seed=0)
    with pytest.raises(LamoError, match="at most 10000 episodes"):  # before one is played, or an environment made
        rollout(Fake("Reacher2d-v0"), "NoSuch-v0", [1.0], 10_001, seed=0)
    with pytest.raises(LamoError, match="no evaluation episodes"):
        summarise([])


def test_progress_counts_and_may_stop() -> None:
    seen: list[tuple[int, int]] = []
    rollout(
        Fake("Reacher2d-v0"), "Reacher2d-v0", [1.0], 3, seed=0, progress=lambda *at: seen.append(at), max_parallel=2
    )
    assert seen[0] == (0, 3) and seen[99] == (2, 3) and seen[-1] == (3, 3) and len(seen) == 200

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rollout(Fake("Reacher2d-v0"), "Reacher2d-v0", [1.0], 3, seed=0, progress=stop)


def test_a_pool_is_shared_between_calls() -> None:
    with EnvPool("Reacher2d-v0") as pool:
        first = rollout(Fake("Reacher2d-v0"), "Reacher2d-v0", [1.0], 2, seed=0, horizon=20, pool=pool)
        kept = list(pool.envs)
        assert rollout(Fake("Reacher2d-v0"), "Reacher2d-v0", [1.0], 2, seed=0, horizon=20, pool=pool) == first
        assert pool.envs == kept


def test_no_evaluation_start_was_collected() -> None:
    evaluated = {r["seed"] for r in rollout(Fake("Reacher2d-v0"), "Reacher2d-v0", [1.0], 5, seed=0, horizon=1)}
    assert evaluated.isdisjoint({collection_seed(0, e) for e in range(1000)})


def test_actions_that_are_not_finite_are_named() -> None:
    class Broken(Fake):
        def act(self, observations, rewards=None, rows=None):
            return np.full((len(rows), 2), np.inf)

    with pytest.raises(LamoError, match="Reacher2d-v0: the policy's action is not finite"):
        rollout(Broken("Reacher2d-v0"), "Reacher2d-v0", [1.0], 1, seed=0)


def test_summary() -> None:
    def row(target: float, value: float, score: float | None) -> dict:
        return {"target": target, "return": value, "score": score, "length": 10}

    summary = summarise([row(76.0, 2.0, 2.0), row(76.0, 4.0, 4.0), row(40.0, 3.5, None)])
    first, second = summary["targets"]
    assert first == {
        "target": 76.0,
        "episodes": 2,
        "return_mean": 3.0,
        "return_std": 1.0,
        "return_min": 2.0,
        "return_max": 4.0,
        "score_mean": 3.0,
        "score_std": 1.0,
        "length_mean": 10.0,
    }
    assert second["score_mean"] is None and summary["best_target"] == 40.0
    json.dumps(summary)


@pytest.mark.parametrize(("env", "view"), [("Reacher2d-v0", "xy"), ("HalfCheetah-v5", "xz")])
def test_trace_of_a_mujoco_environment(env: str, view: str) -> None:
    told = trace(Fake(env), env, 3.0, seed=0, horizon=25)
    record = rollout(Fake(env), env, [3.0], 1, seed=0, horizon=25)[0]
    assert told["return"] == pytest.approx(record["return"]) and told["seed"] == record["seed"]
    assert (told["kind"], told["view"], told["env"], told["target"]) == ("segments", view, env, 3.0)
    frames = np.array(told["frames"])
    assert frames.shape == (26, len(told["segments"]), 4) and len(told["rewards"]) == 25
    assert np.ptp(frames, axis=0).max() > 0.1  # something moves
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_trace_of_another_environment_is_curves() -> None:
    told = trace(Fake("Pendulum-v1"), "Pendulum-v1", None, seed=0, horizon=10)
    assert told["kind"] == "curves" and told["fps"] == pytest.approx(20)
    assert np.shape(told["observations"]) == (11, 3) and np.shape(told["actions"]) == (10, 1)
    assert np.abs(told["actions"]).max() <= 2.0  # as executed
    json.dumps(told, allow_nan=False)


def test_traces_are_what_the_report_draws() -> None:
    from lamo.report.trace import clean_trace

    for env in ("Reacher2d-v0", "Pendulum-v1"):
        told = json.loads(json.dumps(trace(Fake(env), env, 1.0, seed=0, horizon=5)))
        assert clean_trace(told, "here")["length"] == 5
