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
}


def register() -> None:
    """Make every id of `ENVIRONMENTS` known to `gymnasium.make`. Calling it again changes nothing."""
    for name, (entry_point, horizon, kwargs) in ENVIRONMENTS.items():
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point=entry_point, max_episode_steps=horizon, kwargs=kwargs)


register()
