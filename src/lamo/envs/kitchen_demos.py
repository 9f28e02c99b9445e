"""Demonstrations of the kitchen: which subtasks the operator does in an episode, and the operator as a behaviour to
record.

Three sets, in the spirit of D4RL's (arXiv 2004.07219, section 5.6). `targets` are the four subtasks that pay.

    complete   the four targets in their order, in every episode
    partial    four of the seven subtasks in any order; in one episode of ten the four targets in their order
    mixed      four of the seven subtasks in any order, never the four targets
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lamo.envs.kitchen import SUBTASKS, KitchenEnv
from lamo.envs.kitchen_operator import Operator, Style
from lamo.envs.pool import EnvPool
from lamo.errors import LamoError

Demonstrations = Literal["complete", "partial", "mixed"]
PARTIAL_SHARE = 0.1
HUMAN = Style(noise=0.06, aim=0.004, mistakes=0.06, slowest=0.85)
"""The style of the three sets: a hand that shakes a little, misses now and then, and is not always in a hurry."""
_LINGERS = 5  # steps recorded after the last subtask of a plan


def draw_plan(
    kind: Demonstrations, targets: Sequence[str], generator: np.random.Generator, length: int = 4
) -> tuple[str, ...]:
    """The subtasks of one episode, in order. Another `length` than 4 is of no use but to tests."""
    if kind == "complete" or (kind == "partial" and generator.random() < PARTIAL_SHARE):
        return tuple(targets)
    while True:
        plan = tuple(SUBTASKS[i] for i in generator.permutation(len(SUBTASKS))[:length])
        if not set(targets) <= set(plan):
            return plan


def read_manner(text: str) -> tuple[Style, tuple[str, ...] | None]:
    """`noise=0.1,aim=0.01,mistakes=0.2,slowest=0.8,plan=microwave+light-switch` -> (style, plan or None).

    Empty text is `HUMAN`; `steady` is neither noise nor mistakes; what is named changes from there. Raises `LamoError`.
    """
    style, plan = dict(vars(HUMAN)), None
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if part == "steady":
            style = dict(vars(Style()))
        elif name == "plan":
            plan = tuple(subtask.replace("-", " ") for subtask in value.split("+"))
            unknown = [subtask for subtask in plan if subtask not in SUBTASKS]
            if unknown:
                known = ", ".join(SUBTASKS).replace(" ", "-").replace(",-", ", ")
                raise LamoError(f"operator: the kitchen has no subtask {unknown[0]!r}; known: {known}")
        elif name in style and re.fullmatch(r"\d*\.?\d+", value):
            style[name] = float(value)
        else:
            raise LamoError(f"operator: {part!r} is not steady, plan=A+B or one of {', '.join(style)} with a number")
    return Style(**style), plan


class OperatorBehaviour:
    """The operator in every kitchen of `pool`, as `lamo.collecting` records it.

    `kind` chooses the plans and `manner` is read by `read_manner`. Raises `LamoError` for an environment that is no
    kitchen.
    """

    def __init__(self, pool: EnvPool, kind: Demonstrations = "complete", manner: str = "") -> None:
        if not isinstance(pool.envs[0].unwrapped, KitchenEnv):
            raise LamoError(f"{pool.env_id}: the scripted operator works in the kitchen alone; give another --policy")
        self._pool = pool
        self.kind: Demonstrations = kind
        self.style, self.plan = read_manner(manner)
        self._operators: list[Operator] = []
        self._intended = self._finished = 0

    def reset(self, generators: Sequence[np.random.Generator]) -> None:
        """Start one episode per generator; the environments are reset after this and before the next `act`."""
        self._tally()
        self._generators: list[np.random.Generator] = [generator.spawn(1)[0] for generator in generators]

    def act(
        self, observations: NDArray[np.float32], rewards: NDArray[np.float64] | None, rows: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """(m, 9) float32; the observations are not looked at."""
        if not self._operators:  # now, not in `reset`: an operator looks at its kitchen from the start
            self._operators = [self._begin(row) for row in range(len(self._generators))]
        return np.stack([self._operators[row].act() for row in rows]).astype(np.float32)

    def finished(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(m,): whose plan has been over for some steps. There the demonstration ends."""
        return np.array([self._operators[row].idle >= _LINGERS for row in rows])

    def keeps(self, total: float) -> bool:
        """Whether an episode of this return belongs to the set; what does not is recorded again with another seed."""
        if self.plan is not None:
            return True
        everything = len(self._kitchen(0).subtasks)
        return {"complete": total >= everything, "partial": True, "mixed": total < everything}[self.kind]

    def notes(self) -> dict[str, int]:
        """What came of the plans since it was last asked, in all episodes, refused ones too."""
        self._tally()
        told = {"subtasks_intended": self._intended, "subtasks_finished": self._finished}
        self._intended = self._finished = 0
        return told

    def _tally(self) -> None:
        self._intended += sum(len(operator.plan) for operator in self._operators)
        self._finished += sum(len(operator.finished()) for operator in self._operators)
        self._operators = []

    def _begin(self, row: int) -> Operator:
        kitchen, generator = self._kitchen(row), self._generators[row]
        plan = self.plan or draw_plan(self.kind, kitchen.subtasks, generator)
        return Operator(kitchen, plan, generator, self.style)

    def _kitchen(self, row: int) -> Any:
        return self._pool.envs[row].unwrapped


def demonstrations(task_or_env: str) -> Demonstrations:
    """Which set a task's name asks for: `kitchen-partial` -> partial; complete for everything else."""
    kind = task_or_env.rpartition("-")[2]
    return next((known for known in get_args(Demonstrations) if known == kind), "complete")
