"""gymnasium-robotics: made known to Gymnasium when one of its environments is asked for, and mazes by D4RL's rule.

In D4RL's AntMaze an episode ends when the goal is reached, and pays 1 for it: a return is 1 or 0, and their mean is how
often it is reached. The mazes of gymnasium-robotics go on paying for as long as the ant stands there. Here they end.
Observations are theirs: `achieved_goal` (2,), `desired_goal` (2,), `observation` (27,) of the ant (version 4, D4RL's
numbers) or (4,) of the point.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from typing import Any

import gymnasium

from lamo.errors import LamoError

PACKAGE = "gymnasium_robotics"
EXTRA = 'pip install "lamo[robotics]"'
_FAMILIES = ("Adroit", "AntMaze", "PointMaze", "FrankaKitchen", "Fetch", "Hand")

R, G = "r", "g"  # where an episode starts, and its goal
_MAPS: dict[str, list[list[int | str]]] = {  # those of D4RL's evaluation (Minari's eval_env_spec)
    "umaze": [
        [1, 1, 1, 1, 1],
        [1, 0, 0, R, 1],
        [1, 0, 1, 1, 1],
        [1, 0, 0, G, 1],
        [1, 1, 1, 1, 1],
    ],
    "medium": [
        [1, 1, 1, 1, 1, 1, 1, 1],
        [1, R, 0, 1, 1, 0, 0, 1],
        [1, 0, 0, 1, 0, 0, 0, 1],
        [1, 1, 0, 0, 0, 1, 1, 1],
        [1, 0, 0, 1, 0, 0, 0, 1],
        [1, 0, 1, 0, 0, 1, 0, 1],
        [1, 0, 0, 0, 1, 0, G, 1],
        [1, 1, 1, 1, 1, 1, 1, 1],
    ],
    "large": [
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        [1, R, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1],
        [1, 0, 1, 1, 0, 1, 0, 1, 0, 1, 0, 1],
        [1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1],
        [1, 0, 1, 1, 1, 1, 0, 1, 1, 1, 0, 1],
        [1, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 1],
        [1, 1, 0, 1, 0, 1, 0, 1, 0, 1, 1, 1],
        [1, 0, 0, 1, 0, 0, 0, 1, 0, G, 0, 1],
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    ],
}


def is_robotics(env_id: str) -> bool:
    """Whether an id looks like one of gymnasium-robotics'; nothing is imported."""
    return env_id.startswith(_FAMILIES)


def import_robotics(module: str = PACKAGE) -> Any:
    """A module of the package, which registers its environments. On import it prints a notice: not shown.

    Raises `LamoError`, naming the extra, where the package is not installed.
    """
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            importlib.import_module(PACKAGE)
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise LamoError(f"this environment needs {error.name}, which is not installed: {EXTRA}") from error


def ant_maze(maze: str, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    """D4RL's AntMaze: `umaze`, `medium` or `large`, from its corner to its goal."""
    module = import_robotics(f"{PACKAGE}.envs.maze.ant_maze_v4")
    return module.AntMazeEnv(maze_map=_MAPS[maze], reward_type="sparse", continuing_task=False, **kwargs)


def point_maze(maze: str, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    """A point in the same maze, from anywhere to anywhere."""
    module = import_robotics(f"{PACKAGE}.envs.maze.point_maze")
    free = [[0 if cell in (R, G) else cell for cell in row] for row in _MAPS[maze]]
    return module.PointMazeEnv(maze_map=free, reward_type="sparse", continuing_task=False, **kwargs)


def adroit_pen(**kwargs: Any) -> gymnasium.Env[Any, Any]:
    """AdroitHandPen-v1; registered with D4RL's 100 steps, on which its scores rest, and not with 200."""
    module = import_robotics(f"{PACKAGE}.envs.adroit_hand.adroit_pen")
    return module.AdroitHandPenEnv(reward_type="dense", **kwargs)
