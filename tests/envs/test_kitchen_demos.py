"""What is in the three kitchen sets, and the words that describe an operator."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamo.envs.kitchen import SUBTASKS
from lamo.envs.kitchen_demos import HUMAN, OperatorBehaviour, demonstrations, draw_plan, read_manner
from lamo.envs.kitchen_operator import Style
from lamo.envs.pool import EnvPool
from lamo.errors import LamoError

TARGETS = ("microwave", "kettle", "light switch", "slide cabinet")


def plans(kind: str, count: int = 400) -> list[tuple[str, ...]]:
    generator = np.random.default_rng(0)
    return [draw_plan(kind, TARGETS, generator) for _ in range(count)]  # type: ignore[arg-type]


def test_complete_is_the_four_in_order() -> None:
    assert set(plans("complete", 20)) == {TARGETS}


def test_partial_has_them_now_and_then() -> None:
    drawn = plans("partial")
    share = np.mean([plan == TARGETS for plan in drawn])
    assert 0.05 < share < 0.15
    assert all(plan == TARGETS or set(plan) != set(TARGETS) for plan in drawn)


@given(st.integers(0, 2**32))
def test_mixed_never_has_all_four(seed: int) -> None:
    plan = draw_plan("mixed", TARGETS, np.random.default_rng(seed))
    assert len(plan) == len(set(plan)) == 4 and set(plan) <= set(SUBTASKS) and set(plan) != set(TARGETS)


def test_mixed_has_every_subtask_at_every_place() -> None:
    drawn = plans("mixed")
    assert all({plan[place] for plan in drawn} == set(SUBTASKS) for place in range(4))


def test_manner() -> None:
    assert read_manner("") == (HUMAN, None)
    assert read_manner("steady") == (Style(), None)
    style, plan = read_manner("steady,noise=0.25,plan=light-switch+kettle,slowest=.5")
    assert style == Style(noise=0.25, slowest=0.5) and plan == ("light switch", "kettle")
    assert read_manner("mistakes=1")[0] == Style(HUMAN.noise, HUMAN.aim, 1.0, HUMAN.slowest)


@pytest.mark.parametrize("text", ["noise", "noise=-1", "noise=nan", "speed=1", "plan=", "plan=oven", "mistakes=2", "x"])
def test_bad_manner(text: str) -> None:
    with pytest.raises(LamoError):
        read_manner(text)


def test_the_set_is_the_task_s_last_word() -> None:
    assert [demonstrations(name) for name in ("kitchen-mixed", "kitchen-partial", "kitchen-complete", "Other-v1")] == [
        "mixed",
        "partial",
        "complete",
        "complete",
    ]


def test_which_episodes_belong() -> None:
    with EnvPool("KitchenMicrowaveKettleLightSlider-v1") as pool:
        totals = (0.0, 3.0, 4.0)
        belongs = {
            kind: [OperatorBehaviour(pool, kind).keeps(total) for total in totals]  # type: ignore[arg-type]
            for kind in ("complete", "partial", "mixed")
        }
        assert belongs == {
            "complete": [False, False, True],
            "partial": [True, True, True],
            "mixed": [True, True, False],
        }
        assert OperatorBehaviour(pool, "complete", "plan=kettle").keeps(1.0), "a plan of one's own is kept as it fell"


def test_only_the_kitchen_has_an_operator() -> None:
    with EnvPool("Pendulum-v1") as pool, pytest.raises(LamoError, match="works in the kitchen alone"):
        OperatorBehaviour(pool)
