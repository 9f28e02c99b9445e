"""The Franka kitchen: a robot arm, and four things to do in it, each of which pays once.

`FrankaKitchen-v1` of gymnasium-robotics (Gupta et al. 2019, arXiv 1910.11956, by way of D4RL, arXiv 2004.07219) with
the goal dictionaries taken off:

    observation (59,)   index  0 … 8  | 9 … 17      | 18 … 31     | 32 … 38 | 39 … 52     | 53 … 58
                               joints | their speed | furniture   | kettle  | furniture's | kettle's
                               and fingers          | joints      | x y z, quaternion     | speeds
    action (9,)         speeds of the seven joints and the two fingers in [-1, 1]; 1 asks for 2 rad/s (2 m/s)
    reward              1 for each subtask at the step that first finishes it, never again for the same one
    episode             280 steps of 0.08 s; ends when all four are finished
    reset               always the same posture and kitchen; the seed draws the sensors' noise alone

Goals do not change within a task, so they are not part of the observation. A subtask is finished when its joints come
within 0.3 of their goal (Euclidean; gymnasium-robotics' and D4RL's own rule).
"""

# pyright: reportAttributeAccessIssue=false
# mujoco's own types live in compiled modules that say nothing to a type checker.

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces, utils
from numpy.typing import NDArray

from lamo.envs.kitchen_sketch import KitchenSketch
from lamo.errors import LamoError

SUBTASKS = ("microwave", "kettle", "bottom burner", "top burner", "light switch", "slide cabinet", "hinge cabinet")
OBSERVATION_DIM = 59
FINISHED = 0.3  # the distance of a subtask's joints from their goal under which it counts as finished


class KitchenEnv(gymnasium.Env[NDArray[np.float64], NDArray[np.float64]], utils.EzPickle):
    """The environment of the module's description; `subtasks` are names from `SUBTASKS`, those that pay.

    `model` and `data` are MuJoCo's. The model, 54 MiB, is shared by all kitchens of a process and must not be changed.
    Raises `LamoError` where gymnasium-robotics is not installed.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 12}

    def __init__(self, subtasks: Sequence[str], render_mode: str | None = None) -> None:
        utils.EzPickle.__init__(self, subtasks, render_mode)
        self.subtasks = tuple(subtasks)
        unknown = [name for name in self.subtasks if name not in SUBTASKS]
        if unknown or not self.subtasks:
            raise LamoError(
                f"the kitchen has no subtask {unknown[0] if unknown else ''!r}; known: {', '.join(SUBTASKS)}"
            )
        self._inner: Any = _robotics().KitchenEnv(tasks_to_complete=list(self.subtasks), render_mode=render_mode)
        self.render_mode = render_mode
        if render_mode is None:
            _share_model(self._inner)
        self.model, self.data = self._inner.model, self._inner.data
        self.observation_space = spaces.Box(-np.inf, np.inf, (OBSERVATION_DIM,), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (9,), np.float32)

    @property
    def dt(self) -> float:
        """Seconds of one step."""
        return self._inner.robot_env.dt

    @property
    def finished(self) -> tuple[str, ...]:
        """The subtasks finished since the reset, in that order."""
        return tuple(self._inner.episode_task_completions)

    def distance(self, subtask: str) -> float:
        """How far the joints of any subtask in `SUBTASKS` are from their goal; under 0.3 it counts as finished."""
        index, goal = goals()[subtask]
        return float(np.linalg.norm(self.data.qpos[index] - goal))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """A new episode; there are no options."""
        super().reset(seed=seed)
        observation, _ = self._inner.reset(seed=seed)
        return observation["observation"], {"finished": ()}

    def step(self, action: NDArray[Any]) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, _, _ = self._inner.step(np.asarray(action, np.float64))
        return observation["observation"], reward, bool(terminated), False, {"finished": self.finished}

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]
        """(480, 480, 3) uint8 by MuJoCo's renderer, which needs GL; None without a render mode."""
        return None if self.render_mode is None else self._inner.render()

    def outline(self) -> KitchenSketch:
        """The kitchen as segments, for pictures without GL."""
        return KitchenSketch(self)

    def close(self) -> None:
        self._inner.close()


@cache
def goals() -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Subtask -> (indices into qpos, where they should be), gymnasium-robotics' own numbers."""
    module = _robotics().kitchen_env
    return {name: (module.OBS_ELEMENT_INDICES[name], module.OBS_ELEMENT_GOALS[name]) for name in SUBTASKS}


def _robotics() -> Any:
    """gymnasium-robotics' kitchen. On import its package prints a notice about other environments: not shown."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            from gymnasium_robotics.envs import franka_kitchen
    except ModuleNotFoundError as error:
        raise LamoError(
            f'the kitchen needs {error.name}, which is not installed: pip install "lamo[kitchen]"'
        ) from error
    return franka_kitchen


_SHARED: list[Any] = []


def _share_model(inner: Any) -> None:
    """Give a fresh kitchen the model of the first one: without it 40 episodes at once would take 2.6 GB."""
    import mujoco

    if not _SHARED:
        _SHARED.append(inner.model)
        return
    model = _SHARED[0]
    data = mujoco.MjData(model)
    robot = inner.robot_env
    inner.model = robot.model = model
    inner.data = robot.data = data
    robot.init_qvel = np.zeros(model.nv)  # was a view into the old data, which would keep the old model alive
    robot.mujoco_renderer = None  # likewise; without a render mode nothing asks for it
