"""The ant of D4RL's files: 27 numbers of the ant, then 84 contact forces that are all zero.

D4RL recorded Ant-v2 with a MuJoCo in which the contact forces that end its observation were always 0 (Gymnasium,
documentation of Ant). No later version observes that: Ant-v4 has the 27 numbers alone or forces that are not 0, Ant-v5
has 78 of them. So this is Ant-v4, whose reward is then D4RL's as well, with the zeros put back.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.mujoco.ant_v4 import AntEnv
from numpy.typing import NDArray

ZEROS = 84


class D4RLAntEnv(AntEnv):
    """Observations (111,); everything else as Ant-v4."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        size = int(np.prod(self.observation_space.shape or ())) + ZEROS
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float64)

    def _get_obs(self) -> NDArray[np.float64]:
        return np.concatenate([super()._get_obs(), np.zeros(ZEROS)])
