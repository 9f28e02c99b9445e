"""What a goal environment pays for having achieved one thing when another was desired, for many pairs at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from lamo.envs.pool import make
from lamo.errors import LamoError

_COMPARED = 4


class GoalRewards:
    """`compute_reward` and `compute_terminated` of a goal environment, as Gymnasium-Robotics has them.

    Raises `LamoError` for an environment without them, or whose goals are not vectors.
    """

    def __init__(self, env_id: str) -> None:
        self.env_id, self._env = env_id, make(env_id)
        space, self._goal = self._env.observation_space, self._env.unwrapped
        parts: Mapping[str, Any] = space.spaces if isinstance(space, spaces.Dict) else {}
        goals = [parts.get(key) for key in ("achieved_goal", "desired_goal")]
        if not (
            all(isinstance(goal, spaces.Box) and len(goal.shape) == 1 for goal in goals)
            and callable(getattr(self._goal, "compute_reward", None))
        ):
            self.close()
            raise LamoError(
                f"{env_id} has no achieved_goal and desired_goal that are vectors, with a compute_reward of both; "
                "leave --env out and give --threshold"
            )
        self.sizes: Mapping[str, int] = {key: spaces.flatdim(inner) for key, inner in parts.items()}
        """Numbers in each part of the observation."""

    def __enter__(self) -> GoalRewards:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def reward(self, achieved: NDArray[Any], desired: NDArray[Any]) -> NDArray[np.float64]:
        """(n, G), (n, G) -> (n,), in one call.

        Raises `LamoError` where the environment does not take many at once: what it gives for all is compared with what
        it gives for the first and the last alone.
        """
        try:
            many = np.asarray(self._goal.compute_reward(achieved, desired, {}), np.float64)  # type: ignore[attr-defined]
            if many.shape == (len(achieved),):
                rows = sorted({*range(min(len(achieved), _COMPARED)), len(achieved) - 1})
                alone = [float(self._goal.compute_reward(achieved[i], desired[i], {})) for i in rows]  # type: ignore[attr-defined]
                if np.allclose(many[rows], alone, rtol=1e-5, atol=1e-7):
                    return many
        except Exception as error:  # whatever the environment's code does with what it does not expect
            raise LamoError(f"{self.env_id}: its compute_reward failed on {len(achieved)} goals ({error!r})") from error
        raise LamoError(
            f"{self.env_id}: its compute_reward does not take many goals at once; leave --env out and give --threshold"
        )

    def reached(self, achieved: NDArray[Any], desired: NDArray[Any]) -> NDArray[np.bool_]:
        """(n, G), (n, G) -> (n,): whether the environment ends an episode there; nowhere, where it does not say."""
        ends = getattr(self._goal, "compute_terminated", None)
        if ends is None:
            return np.zeros(len(achieved), bool)
        return np.array([bool(ends(a, d, {})) for a, d in zip(achieved, desired, strict=True)], bool)
