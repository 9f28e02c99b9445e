"""What the policies of all algorithms have in common: their description as JSON, and what they ask of observations."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from lamo.algorithms import settings_type
from lamo.config import Spec
from lamo.data.actions import Scaling
from lamo.data.episodes import Statistics
from lamo.errors import LamoError


class Deployed(NamedTuple):
    """Of policy.json what does not depend on the algorithm."""

    settings: Any
    spec: Spec
    statistics: Statistics
    """Of the observations."""
    scaling: Scaling | None
    """Of continuous actions, to [-1, 1]."""

    def to_json(self, algorithm: str) -> dict[str, Any]:
        """As policy.json says it."""
        return {
            "algorithm": algorithm,
            "settings": asdict(self.settings),
            "spec": asdict(self.spec),
            "statistics": {"mean": self.statistics.mean.tolist(), "std": self.statistics.std.tolist()},
            "action_bounds": None if self.scaling is None else [bound.tolist() for bound in self.scaling],
        }

    @staticmethod
    def of_json(metadata: dict[str, Any]) -> Deployed:
        """The inverse of `to_json`. Raises KeyError, TypeError or ValueError for what is none."""
        bounds = metadata.get("action_bounds")  # policies of before had none, and actions in their own units
        return Deployed(
            _dataclass(settings_type(metadata["algorithm"]), metadata["settings"]),
            _dataclass(Spec, metadata["spec"]),
            Statistics(*(np.asarray(metadata["statistics"][k], np.float32) for k in ("mean", "std"))),
            None if bounds is None else Scaling(*(np.asarray(bound, np.float32) for bound in bounds)),
        )


def _dataclass(cls: Any, values: dict[str, Any]) -> Any:
    """A frozen dataclass from JSON, whose lists were tuples. TypeError for a name that it does not have."""
    return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def observed(observations: Any, rows: Any, n: int, width: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """What `act` is given in `n` episodes -> observations (m, width) float32, rows (m,), and whether they were (width,)
    alone. Raises `LamoError` for `act` before `reset`, another shape, and what is not finite.
    """
    if n == 0:
        raise LamoError("policy.act before policy.reset: call reset(n) at the start of each episode")
    rows = np.arange(n) if rows is None else np.asarray(rows)
    observations = np.asarray(observations, np.float32)
    single = observations.ndim == 1
    observations = observations[None] if single else observations
    if observations.shape != (len(rows), width):
        raise LamoError(f"policy.act got observations of shape {observations.shape}, expected ({len(rows)}, {width})")
    if not np.isfinite(observations).all():
        raise LamoError("policy.act got an observation that holds NaN or infinity; reset the environment")
    return observations, rows, single
