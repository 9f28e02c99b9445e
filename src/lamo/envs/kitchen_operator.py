"""A scripted operator of the kitchen: it does the subtasks of a plan one after another, by the environment's actions
alone.

    approach   to a point before the handle, the hand turned as the subtask wants it
    reach      to the handle
    grip       close the fingers, where the subtask holds on
    drive      lead the handle along the way its joint can go, until the joint is where it should be
    release    open the fingers
    leave      back off; then the next subtask, or the same again if it did not come off

It reads the simulator's state (where handles and hand are), closes the loop at every step, and sets no state. Without
noise and mistakes it finishes a subtask in 20 to 50 steps.
"""

# pyright: reportAttributeAccessIssue=false
# mujoco's own types live in compiled modules that say nothing to a type checker.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from lamo.envs.kitchen import FINISHED, SUBTASKS, goals
from lamo.envs.kitchen_arm import Arm, orientation
from lamo.envs.kitchen_skills import SKILLS, Skill
from lamo.errors import LamoError


@dataclass(frozen=True)
class Style:
    """How steady the operator's hand is. The default is as steady as it gets."""

    noise: float = 0.0
    """Standard deviation of what is added to the seven joints' actions, which lie in [-1, 1]; it lasts some steps."""
    aim: float = 0.0
    """Standard deviation, in metres, of the error in where an attempt takes the handle to be."""
    mistakes: float = 0.0
    """Probability that a subtask's first attempt goes several centimetres beside the handle."""
    slowest: float = 1.0
    """The speed of an episode is drawn uniformly from this to 1, which is as fast as the joints go."""

    def __post_init__(self) -> None:
        if min(self.noise, self.aim) < 0 or not 0 <= self.mistakes <= 1 or not 0 < self.slowest <= 1:
            raise LamoError(f"{self}: noise and aim are at least 0, mistakes is in [0, 1], slowest in (0, 1]")


PATIENCE = {"approach": 60, "reach": 15, "grip": 5, "drive": 35, "release": 4, "leave": 25}
_NEAR = {"approach": (0.04, 0.5), "reach": (0.015, 0.35), "leave": (0.08, 3.2)}  # metres and rad: near enough
_SLIPPED = 0.07  # metres from hand to handle
_REST = (-0.45, 0.12, 2.02)  # metres: about where the hand is at a reset
_ATTEMPTS = 3
_MISTAKE = 0.05  # metres
_NOISE_KEPT = 0.7  # of the noise of one step in the next


class Operator:
    """One episode of a plan, a sequence of subtasks, in a `KitchenEnv` that has just been reset.

    All its noise comes from `generator`. `act()` gives the next action from the state of the simulator as it is then.
    """

    def __init__(
        self, env: Any, plan: Sequence[str], generator: np.random.Generator, style: Style | None = None
    ) -> None:
        unknown = [name for name in plan if name not in SKILLS]
        if unknown:
            raise LamoError(f"the kitchen has no subtask {unknown[0]!r}; known: {', '.join(SUBTASKS)}")
        self._env, self._arm, self._generator, self._style = env, Arm(env), generator, style or Style()
        self.plan = tuple(plan)
        self._left, self._finished = list(plan), set[str]()
        self._speed = generator.uniform(self._style.slowest, 1.0)
        self._noise = np.zeros(9)
        self._attempt = 0
        self.idle = 0
        """Steps since the plan was over."""
        self._begin()

    def act(self) -> NDArray[np.float64]:
        """The next action, (9,) in [-1, 1]."""
        while self._left and self._over():
            self._advance()
        self._steps += 1
        self.idle += not self._left
        action = self._move() if self._left else self._rest()
        self._noise *= _NOISE_KEPT
        fresh = np.sqrt(1 - _NOISE_KEPT**2) * self._style.noise
        self._noise[:7] += fresh * self._generator.standard_normal(7)
        return np.clip(action + self._noise, -1.0, 1.0)

    def finished(self) -> set[str]:
        """The subtasks of the plan that are finished, or were when it went on to the next."""
        return self._finished | {name for name in self.plan if self._env.distance(name) < FINISHED}

    @property
    def _skill(self) -> Skill:
        return SKILLS[self._left[0]]

    def _begin(self) -> None:
        """Start an attempt at the first subtask that is left, with an aim of its own."""
        self._phase, self._steps = "approach", 0
        self._aim = self._style.aim * self._generator.standard_normal(3)
        if self._attempt == 0 and self._generator.random() < self._style.mistakes:
            beside = self._generator.standard_normal(2)
            self._aim[1:] += _MISTAKE * beside / np.linalg.norm(beside)

    def _over(self) -> bool:
        """Whether the phase has done its work, or has gone on for too long."""
        if self._steps >= PATIENCE[self._phase]:
            return True
        if self._needless():
            return True
        if self._phase == "drive":
            return self._done(self._skill.until) or (self._skill.hand == "grip" and self._slipped())
        if self._phase in _NEAR:
            metres, radians = self._arm.error(*self._pose(), self._skill.level)
            return metres < _NEAR[self._phase][0] and radians < _NEAR[self._phase][1]
        return False

    def _needless(self) -> bool:
        """Whether the subtask is finished before it is begun: something else has done it."""
        return self._phase == "approach" and self._steps == 0 and self._done(FINISHED)

    def _slipped(self) -> bool:
        """Whether the handle is no longer between the fingers."""
        return float(np.linalg.norm(self._handle() - self._arm.position)) > _SLIPPED

    def _done(self, distance: float) -> bool:
        return self._env.distance(self._left[0]) < distance

    def _advance(self) -> None:
        if self._phase == "leave" or self._needless():
            self._attempt += 1
            if self._done(FINISHED) or self._attempt >= _ATTEMPTS:
                self._finished |= self.finished()
                self._left.pop(0)
                self._attempt = 0
            if self._left:
                self._begin()
            return
        order = ["approach", "reach", "grip", "drive", "release", "leave"]
        skipped = () if self._skill.hand == "grip" else ("grip", "release")
        order = [phase for phase in order if phase not in skipped]
        self._phase, self._steps = order[order.index(self._phase) + 1], 0
        self._stay = self._arm.position, self._arm.axes

    def _handle(self) -> NDArray[np.float64]:
        model, data = self._env.model, self._env.data
        site = model.site(self._skill.site).id
        return data.site_xpos[site] + data.site_xmat[site].reshape(3, 3) @ self._skill.grasp

    def _pose(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Where the hand should be now, and how turned."""
        skill, phase = self._skill, self._phase
        if phase in ("release", "leave"):
            position, axes = self._stay
            return position + (axes @ skill.after[::-1] if phase == "leave" else 0), axes
        axes = orientation(skill.yaw, skill.pitch)
        offset = np.array(skill.before if phase == "approach" else skill.at) + self._aim
        position = self._handle() + axes @ offset[::-1]  # the axes' columns are up, right, forward
        if phase != "drive":
            return position, axes
        if skill.twists:
            return position, orientation(skill.yaw, skill.pitch, 0.5 - float(self._env.data.joint(skill.joint).qpos[0]))
        return position + skill.lead * self._way(), axes

    def _way(self) -> NDArray[np.float64]:
        """(3,): the direction in which the handle should go now, of length 1 or less."""
        skill, model, data = self._skill, self._env.model, self._env.data
        if skill.way == 0:
            here, goal = data.joint(skill.joint).qpos[:3], goals()[self._left[0]][1][:3]
            lifted = goal + [0, 0, 0.03] - here  # off the counter: friction would turn it
            return lifted / max(1.0, float(np.linalg.norm(lifted)) / skill.lead) / skill.lead
        joint = model.joint(skill.joint).id
        axis = skill.way * data.xaxis[joint]
        if model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_SLIDE:
            return axis
        along = np.cross(axis, self._handle() - data.xanchor[joint])
        return along / np.linalg.norm(along)

    def _move(self) -> NDArray[np.float64]:
        skill, phase = self._skill, self._phase
        position, axes = self._pose()
        driving = phase == "drive"
        closed = skill.hand == "fist" or (skill.hand == "grip" and phase in ("grip", "drive"))
        return self._arm.action(
            position,
            axes,
            closed=closed,
            level=skill.level,
            turning=skill.turning if driving else 0.3,
            posture=None if driving and not skill.twists else np.array(skill.posture),
            speed=self._speed,
        )

    def _rest(self) -> NDArray[np.float64]:
        return self._arm.action(np.array(_REST), orientation(), closed=False, level=0.1, speed=self._speed)
