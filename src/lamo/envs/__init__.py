"""lamo's own environments. Importing this package registers them with Gymnasium; MuJoCo itself is imported only by
`gymnasium.make`.
"""

from __future__ import annotations

from typing import Any

import gymnasium

# id -> (where its class is, steps after which an episode is truncated, what the class is made with)
ENVIRONMENTS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "Reacher2d-v0": ("lamo.envs.reacher2d:Reacher2dEnv", 100, {}),
    # The two kitchens of D4RL: the first is that of its complete and partial sets, the second that of mixed.
    "KitchenMicrowaveKettleLightSlider-v1": (
        "lamo.envs.kitchen:KitchenEnv",
        280,
        {"subtasks": ("microwave", "kettle", "light switch", "slide cabinet")},
    ),
    "KitchenMicrowaveKettleBottomBurnerLight-v1": (
        "lamo.envs.kitchen:KitchenEnv",
        280,
        {"subtasks": ("microwave", "kettle", "bottom burner", "light switch")},
    ),
    "AntD4RL-v0": ("lamo.envs.ant:D4RLAntEnv", 1000, {}),
    "AdroitHandPen100-v1": ("lamo.envs.robotics:adroit_pen", 100, {}),
    # The mazes of D4RL: reaching the goal pays 1 and ends the episode. Limits are gymnasium-robotics' (and D4RL's).
    **{
        f"{robot}Maze{maze}-v0": (f"lamo.envs.robotics:{robot.lower()}_maze", limit, {"maze": maze.lower()})
        for robot, limits in (("Ant", (700, 1000, 1000)), ("Point", (300, 600, 800)))
        for maze, limit in zip(("UMaze", "Medium", "Large"), limits, strict=True)
    },
}


def register() -> None:
    """Make every id of `ENVIRONMENTS` known to `gymnasium.make`. Calling it again changes nothing."""
    for name, (entry_point, horizon, kwargs) in ENVIRONMENTS.items():
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point=entry_point, max_episode_steps=horizon, kwargs=kwargs)


register()
