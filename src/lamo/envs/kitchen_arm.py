"""Moving the kitchen's arm: from where its hand should be to an action, by damped least squares on MuJoCo's Jacobian.

The hand's axes: forward (where it points), right (along which the fingers open), up. Yaw turns it left about the
vertical, pitch nods it downwards, roll turns it clockwise about its own forward axis, as the robot sees it.
"""

# pyright: reportAttributeAccessIssue=false
# mujoco's own types live in compiled modules that say nothing to a type checker.

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

JOINTS = 7
_DAMPING = 1e-3
_MARGIN = 0.04  # rad kept from the ends of the joints
# rad that each joint goes in one step at full command: what 87 and 12 N m do against damping and gravity
_FASTEST = (0.068, 0.054, 0.06, 0.06, 0.09, 0.09, 0.09)
_GRIP = 0.5  # anything from 0.25 sends a finger all the way within a step


def orientation(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> NDArray[np.float64]:
    """(3, 3): the columns are up, right and forward of a hand in the world; all zero is level, facing +y."""
    cy, sy, cp, sp, cr, sr = *_turn(yaw), *_turn(pitch), *_turn(roll)
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    about_forward = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    level = np.array([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]])
    return about_z @ about_x @ level @ about_forward


def _turn(angle: float) -> tuple[float, float]:
    return float(np.cos(angle)), float(np.sin(angle))


class Arm:
    """The arm of a `KitchenEnv`: where its hand is, and which action brings it nearer to where it should be.

    It reads the simulator's state and writes nothing.
    """

    def __init__(self, env: Any) -> None:
        self._env, self._model = env, env.model
        model = env.model
        self._site = model.site("end_effector").id
        self._low, self._high = model.jnt_range[:JOINTS, 0] + _MARGIN, model.jnt_range[:JOINTS, 1] - _MARGIN
        self._low[5] = _MARGIN  # the environment's own bound for this joint, tighter than the model's
        self._stiffness = model.actuator_gainprm[:JOINTS, 0].copy()
        self._fastest = np.array(_FASTEST) / env.dt
        # A position servo against damping closes this share of its error in one step.
        share = 1 - np.exp(-self._stiffness / model.dof_damping[:JOINTS] * env.dt)
        self._gain = 1 / share

    @property
    def position(self) -> NDArray[np.float64]:
        """(3,) metres: the point between the fingers, 4 cm before their tips."""
        return self._env.data.site_xpos[self._site].copy()

    @property
    def axes(self) -> NDArray[np.float64]:
        """(3, 3): up, right and forward of the hand, as columns."""
        return self._env.data.site_xmat[self._site].reshape(3, 3).copy()

    def error(self, position: NDArray[np.float64], axes: NDArray[np.float64], level: float) -> tuple[float, float]:
        """(metres, rad) to a pose, a nod counted by the share `level`."""
        turn = self._levelled(self._turn_to(axes), level)
        return float(np.linalg.norm(position - self.position)), float(np.linalg.norm(turn))

    def action(
        self,
        position: NDArray[np.float64],
        axes: NDArray[np.float64],
        *,
        closed: bool,
        level: float = 1.0,
        turning: float = 0.3,
        posture: NDArray[np.float64] | None = None,
        speed: float = 1.0,
    ) -> NDArray[np.float64]:
        """(9,) in [-1, 1]: one step towards a pose of the hand.

        `level` in [0, 1]: how much the asked pitch matters; where it does not, the arm nods as it likes. `turning`:
        metres that a radian of turning is worth. `posture` (7,): joint angles to lean to where the pose leaves a
        choice. `speed`: share of what the joints can do.
        """
        model, data = self._model, self._env.data
        moving, rotating = np.zeros((3, model.nv)), np.zeros((3, model.nv))
        mujoco.mj_jacSite(model, data, moving, rotating, self._site)
        free = np.eye(3) - (1 - level) * np.outer(self.axes[:, 1], self.axes[:, 1])
        jacobian = np.vstack([moving[:, :JOINTS], turning * free @ rotating[:, :JOINTS]])
        towards = _limited(6.0 * (position - self.position), 0.8)
        twist = np.concatenate([towards, turning * free @ _limited(4.0 * self._turn_to(axes), 2.5)])
        joints = data.qpos[:JOINTS]
        lean = None if posture is None else 1.5 * (posture - joints)
        # Close to an end a joint slows down, and the others do its work.
        low = 0.7 * np.minimum(self._low - joints, 0) / self._env.dt
        high = 0.7 * np.maximum(self._high - joints, 0) / self._env.dt
        wanted = _solve(jacobian, twist, lean, low, high)
        wanted *= min(1.0, speed / float(np.max(np.abs(wanted) / self._fastest)))
        action = np.empty(9)
        held = data.qfrc_bias[:JOINTS] / self._stiffness  # what gravity would pull the servo down by
        action[:JOINTS] = (wanted * self._env.dt * self._gain + held) / (2 * self._env.dt)
        action[JOINTS:] = -_GRIP if closed else _GRIP
        return np.clip(action, -1.0, 1.0)

    def _turn_to(self, axes: NDArray[np.float64]) -> NDArray[np.float64]:
        quaternion, turn = np.zeros(4), np.zeros(3)
        mujoco.mju_mat2Quat(quaternion, (axes @ self.axes.T).ravel())
        mujoco.mju_quat2Vel(turn, quaternion, 1.0)
        return turn

    def _levelled(self, turn: NDArray[np.float64], level: float) -> NDArray[np.float64]:
        right = self.axes[:, 1]
        return turn - (1 - level) * right * (right @ turn)


def _solve(
    jacobian: NDArray[np.float64],
    twist: NDArray[np.float64],
    lean: NDArray[np.float64] | None,
    low: NDArray[np.float64],
    high: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Joint speeds (7,) for a twist (6,), within [low, high]: a joint that would pass its bound is held there and the
    others are solved for again.
    """
    free, speeds = np.ones(JOINTS, bool), np.zeros(JOINTS)
    for _ in range(JOINTS):
        own = jacobian * free
        square = own @ own.T + _DAMPING * np.eye(6)
        found = own.T @ np.linalg.solve(square, twist - jacobian @ (speeds * ~free))
        if lean is not None:
            leaning = np.where(free, lean, 0.0)
            found += leaning - own.T @ np.linalg.solve(square, own @ leaning)
        speeds = np.where(free, found, speeds)
        beyond = free & ((speeds < low - 1e-9) | (speeds > high + 1e-9))
        if not beyond.any():
            break
        speeds = np.where(beyond, np.clip(speeds, low, high), speeds)
        free &= ~beyond
    return speeds


def _limited(vector: NDArray[np.float64], longest: float) -> NDArray[np.float64]:
    return vector * min(1.0, longest / max(float(np.linalg.norm(vector)), 1e-9))
