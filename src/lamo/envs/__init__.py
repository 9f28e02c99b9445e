"""lamo's own environments. Importing this package registers them with Gymnasium; MuJoCo itself is imported only by
`gymnasium.make`.
"""

from __future__ import annotations

import gymnasium

# id -> (where its class is, steps after which an episode is truncated)
ENVIRONMENTS: dict[str, tuple[str, int]] = {
    "Reacher2d-v0": ("lamo.envs.reacher2d:Reacher2dEnv", 100),
}


def register() -> None:
    """Make every id of `ENVIRONMENTS` known to `gymnasium.make`. Calling it again changes nothing."""
    for name, (entry_point, horizon) in ENVIRONMENTS.items():
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point=entry_point, max_episode_steps=horizon)


register()
