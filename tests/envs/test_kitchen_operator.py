"""The operator finishes what it sets out to do, by actions alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from lamo.envs.kitchen import SUBTASKS, KitchenEnv
from lamo.envs.kitchen_arm import Arm, orientation
from lamo.envs.kitchen_operator import SKILLS, Operator, Style
from lamo.errors import LamoError

LIMIT = 280


@pytest.fixture(scope="module")
def env() -> KitchenEnv:
    """A kitchen in which everything pays, and which therefore ends when all seven are finished."""
    return KitchenEnv(SUBTASKS)


def work(
    env: KitchenEnv, plan: Sequence[str], seed: int = 0, style: Style | None = None
) -> tuple[dict[str, int], np.ndarray, np.ndarray]:
    """Until the plan is finished or time is up -> (subtask: step it was finished at), actions, observations."""
    first, _ = env.reset(seed=seed)
    operator = Operator(env, plan, np.random.default_rng(seed), style)
    finished: dict[str, int] = {}
    actions, observations = [], [first]
    while len(actions) < LIMIT and not set(plan) <= set(finished):
        actions.append(operator.act())
        observation, _, _, _, info = env.step(actions[-1])
        observations.append(observation)
        for subtask in info["finished"]:
            finished.setdefault(subtask, len(actions))
    return finished, np.array(actions), np.array(observations)


def test_every_subtask_has_its_skill() -> None:
    assert set(SKILLS) == set(SUBTASKS)


@pytest.mark.parametrize(
    "plan",
    [
        ("microwave", "kettle", "light switch", "slide cabinet"),
        ("bottom burner",),
        ("hinge cabinet", "top burner"),
    ],
)
def test_a_steady_hand_does_the_plan_in_order(env: KitchenEnv, plan: tuple[str, ...]) -> None:
    finished, actions, _ = work(env, plan)
    assert tuple(finished) == plan, "all, in order, and nothing else"
    assert len(actions) <= 200 and np.abs(actions).max() <= 1


def test_it_acts_through_actions_alone(env: KitchenEnv) -> None:
    """The same actions in a kitchen without an operator lead to the same states, to the last bit."""
    _, actions, observations = work(env, ["light switch"], seed=3)
    other = KitchenEnv(SUBTASKS)
    first, _ = other.reset(seed=3)
    np.testing.assert_array_equal([first, *(other.step(action)[0] for action in actions)], observations)


def test_same_seed_same_actions_and_noise_is_the_generator_s(env: KitchenEnv) -> None:
    style = Style(noise=0.1, aim=0.01, mistakes=0.5, slowest=0.7)
    first, again, other = (_first_actions(env, np.random.default_rng(seed), style) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    steady = [_first_actions(env, np.random.default_rng(seed), None) for seed in (1, 2)]
    np.testing.assert_array_equal(*steady)


def _first_actions(env: KitchenEnv, generator: np.random.Generator, style: Style | None) -> np.ndarray:
    env.reset(seed=0)
    operator = Operator(env, ["kettle"], generator, style)
    actions = []
    for _ in range(4):
        actions.append(operator.act())
        env.step(actions[-1])
    return np.array(actions)


def test_a_mistake_aims_beside_and_the_next_attempt_does_not(env: KitchenEnv) -> None:
    finished, actions, _ = work(env, ["light switch"], seed=1, style=Style(mistakes=1.0))
    sure, quick, _ = work(env, ["light switch"], seed=1)
    assert list(finished) == list(sure) == ["light switch"] and len(actions) > len(quick)


def test_after_the_plan_it_rests(env: KitchenEnv) -> None:
    env.reset(seed=0)
    operator = Operator(env, [], np.random.default_rng(0))
    assert operator.finished() == set()
    for step in range(12):
        assert operator.idle == step
        env.step(operator.act())
    assert np.abs(env.data.qvel[:7]).max() < 0.3


@pytest.mark.parametrize("yaw", [-1.0, 0.0, 0.4])
@pytest.mark.parametrize("pitch", [0.0, 0.7])
@pytest.mark.parametrize("roll", [-0.5, 0.0, 1.0])
def test_orientation(yaw: float, pitch: float, roll: float) -> None:
    axes = orientation(yaw, pitch, roll)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-12)
    assert np.linalg.det(axes) == pytest.approx(1)
    up, right, forward = axes.T
    assert forward[2] == pytest.approx(-np.sin(pitch)), "a nod points down"
    assert np.arctan2(-forward[0], forward[1]) == pytest.approx(yaw), "yaw turns left"
    if yaw == pitch == 0:
        assert up[0] == pytest.approx(np.sin(roll)) and right[2] == pytest.approx(-np.sin(roll)), "clockwise"


def test_the_arm_goes_where_it_is_sent(env: KitchenEnv) -> None:
    env.reset(seed=0)
    arm = Arm(env)
    target, axes = arm.position + [0.05, 0.05, 0.1], orientation(0.2)
    before = arm.error(target, axes, 1.0)
    for _ in range(25):
        env.step(arm.action(target, axes, closed=False))
    metres, radians = arm.error(target, axes, 1.0)
    assert metres < 0.01 < before[0] and radians < 0.05 < before[1]


def test_bad_requests(env: KitchenEnv) -> None:
    with pytest.raises(LamoError, match="no subtask 'oven'; known: microwave"):
        Operator(env, ["oven"], np.random.default_rng(0))
    for wrong in ({"noise": -1.0}, {"mistakes": 1.5}, {"slowest": 0.0}):
        with pytest.raises(LamoError, match="mistakes is in"):
            Style(**wrong)


@pytest.mark.slow
def test_a_steady_hand_does_nine_of_ten_whatever_the_order(env: KitchenEnv) -> None:
    generator = np.random.default_rng(5)
    asked = done = 0
    for seed in range(40):
        plan = [SUBTASKS[i] for i in generator.permutation(len(SUBTASKS))[:4]]
        finished, _, _ = work(env, plan, seed)
        asked, done = asked + len(plan), done + len(set(plan) & set(finished))
    assert done >= 0.9 * asked, f"{done} of {asked}"


@pytest.mark.slow
@pytest.mark.parametrize("subtask", SUBTASKS)
def test_each_subtask_alone(env: KitchenEnv, subtask: str) -> None:
    counts = [len(work(env, [subtask], seed)[1]) for seed in range(5)]
    assert max(counts) <= 100, counts
