"""Reacher2d: a two-link arm in the plane, torque control, and a reward only while its fingertip is at the target.

The task LaMo (arXiv 2310.20587) calls Reacher2d, written anew from its description; `reacher2d.xml` is the arm.

    observation (12,)   index  0  1 | 2  3 | 4  5       | 6  7      | 8  9   | 10 11
                               sin θ | cos θ | 0.15 · θ̇ | fingertip | target | fingertip - target     (x, y each;
                               metres)
    action (2,)         torques of shoulder and elbow in [-1, 1]; anything beyond is clipped
    reward              1 when |dx| + |dy| between fingertip and target is under 0.1 m after the step, else 0
    episode             100 steps of 0.15 s (15 frames of 0.01 s), never terminated
    reset               joint angles uniform in [-2, 2] rad at rest; target uniform in the ring of radius 0.5 m to 1 m

θ are the joints' angles: the second link's is relative to the first. θ̇ is scaled by the step's 0.15 s, as published.
Nothing here needs GL: the arm is flat, so "rgb_array" is drawn with numpy and looks the same on every machine.
"""

# pyright: reportAttributeAccessIssue=false
# mujoco's own types live in compiled modules that say nothing to a type checker.

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces, utils
from numpy.typing import NDArray

FRAME_SKIP = 15
REACHED = 0.1  # metres, in the 1-norm
PIXELS = 480
HALF_WIDTH = 1.25  # metres from the picture's middle to its edge
# Largest magnitudes of the observation. Full torque against the damping settles at 1 rad/s (0.15 here); 5 is out of
# reach.
_BOUND = np.repeat([1.0, 1.0, 5.0, 1.1, 1.5, 2.6], 2)


class Reacher2dEnv(gymnasium.Env[NDArray[np.float64], NDArray[np.float32]], utils.EzPickle):
    """The environment of the module's description, registered as `Reacher2d-v0`.

    `render_mode`: None or "rgb_array", (480, 480, 3) uint8. `reset(options={"target": (x, y)})` puts the target there
    (metres, each in ±1.5) instead of drawing it.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 7}

    def __init__(self, render_mode: str | None = None) -> None:
        utils.EzPickle.__init__(self, render_mode=render_mode)
        self.model = mujoco.MjModel.from_xml_path(str(Path(__file__).with_name("reacher2d.xml")))
        self.data = mujoco.MjData(self.model)
        self.render_mode = render_mode
        self.observation_space = spaces.Box(-_BOUND, _BOUND, dtype=np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._fingertip = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_SITE, "fingertip")

    @property
    def dt(self) -> float:
        """Seconds of one step."""
        return self.model.opt.timestep * FRAME_SKIP

    @property
    def fingertip(self) -> NDArray[np.float64]:
        """(2,) position in metres."""
        return self.data.site_xpos[self._fingertip, :2].copy()

    @property
    def target(self) -> NDArray[np.float64]:
        """(2,) position in metres."""
        return self.data.mocap_pos[0, :2].copy()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """A new episode; `options["target"]`, (2,) metres, fixes the target, which is otherwise drawn."""
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = self.np_random.uniform(-2.0, 2.0, size=2)
        # The square's corners and its middle are drawn again, which leaves the ring uniform by area, as published.
        while True:
            target = self.np_random.uniform(-1.5, 1.5, size=2)
            if 0.5 <= np.linalg.norm(target) <= 1.0:
                break
        self.data.mocap_pos[0, :2] = np.clip((options or {}).get("target", target), -1.5, 1.5)
        mujoco.mj_forward(self.model, self.data)
        return self._observation(), {}

    def step(self, action: NDArray[Any]) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        self.data.ctrl[:] = np.clip(action, -1.0, 1.0)
        mujoco.mj_step(self.model, self.data, FRAME_SKIP)
        # mj_step leaves positions in space a stage behind the joints; the reward and the observation are of the joints
        # as they are now.
        mujoco.mj_kinematics(self.model, self.data)
        distance = float(np.abs(self.fingertip - self.target).sum())
        reached = distance < REACHED
        return self._observation(), float(reached), False, False, {"distance": distance, "is_success": reached}

    def _observation(self) -> NDArray[np.float64]:
        angles, fingertip, target = self.data.qpos, self.fingertip, self.target
        return np.concatenate(
            [np.sin(angles), np.cos(angles), self.dt * self.data.qvel, fingertip, target, fingertip - target]
        )

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]
        """(480, 480, 3) uint8 seen from above, y up; None without a render mode."""
        if self.render_mode is None:
            return None
        half = (np.arange(PIXELS) + 0.5) / PIXELS * 2 * HALF_WIDTH - HALF_WIDTH
        pixels = np.stack(np.meshgrid(half, -half), axis=-1)  # (480, 480, 2): metres at each pixel's middle
        elbow = self.data.xpos[self.model.body("fore").id, :2]
        wrist = elbow + (self.fingertip - elbow) * (0.40 / 0.45)  # the second link ends 0.05 m before the fingertip
        image = np.full((PIXELS, PIXELS, 3), 247.0)
        for start, end, radius, colour in (
            (self.target, self.target, 0.05, (214, 69, 61)),
            (np.zeros(2), elbow, 0.05, (64, 107, 158)),
            (elbow, wrist, 0.05, (99, 148, 199)),
            (self.fingertip, self.fingertip, 0.025, (242, 156, 43)),
        ):
            along = end - start
            share = np.clip((pixels - start) @ along / max(float(along @ along), 1e-12), 0.0, 1.0)
            distance = np.linalg.norm(pixels - start - share[..., None] * along, axis=-1)
            # One pixel wide, so edges are smooth.
            cover = np.clip((radius - distance) * PIXELS / (2 * HALF_WIDTH) + 0.5, 0.0, 1.0)[..., None]
            image += cover * (np.array(colour) - image)
        return image.round().astype(np.uint8)
