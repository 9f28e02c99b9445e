"""What the policies of all algorithms have in common: their description as JSON, and what they ask of observations."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from lamo.algorithms import settings_type
from lamo.config import Spec, checked_fields
from lamo.data.actions import Scaling
from lamo.data.episodes import Statistics
from lamo.errors import LamoError

MISFIT = "policy.json does not fit this lamo"


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
        """The inverse of `to_json`. Raises `LamoError`, KeyError, TypeError or ValueError for what is none."""
        bounds = metadata.get("action_bounds")  # policies of before had none, and actions in their own units
        of = Deployed(
            _dataclass(settings_type(metadata["algorithm"]), metadata, "settings"),
            _dataclass(Spec, metadata, "spec"),
            Statistics(*(np.asarray(metadata["statistics"][k], np.float32) for k in ("mean", "std"))),
            None if bounds is None else Scaling(*(np.asarray(bound, np.float32) for bound in bounds)),
        )
        of._check()
        return of

    def _check(self) -> None:
        """Raise ValueError where the parts do not fit each other."""
        spec, width = self.spec, self.spec.action_dim
        if min(spec.observation_dim, width, spec.horizon, *spec.choices) < 1:
            raise ValueError("spec has a size below 1")
        if len(spec.action_nvec or ()) != (width if spec.action_kind == "multidiscrete" else 0):
            raise ValueError(f"spec.action_nvec does not fit {spec.action_kind} actions of {width}")
        _need_numbers("statistics", self.statistics, spec.observation_dim)
        if not (self.statistics.std > 0).all():
            raise ValueError("statistics.std must be positive")
        if self.scaling is None:
            ends = (spec.action_low, spec.action_high) if spec.action_kind == "continuous" else ()
            if any(end is not None and len(end) != width for end in ends):
                raise ValueError(f"spec.action_low and spec.action_high must have {width} numbers each")
            return
        if spec.action_kind != "continuous":
            raise ValueError(f"action_bounds are for continuous actions, and these are {spec.action_kind}")
        _need_numbers("action_bounds", self.scaling, width)
        if not (self.scaling.high > self.scaling.low).all():
            raise ValueError("action_bounds: the second of them must lie above the first")


def _dataclass(cls: Any, metadata: dict[str, Any], key: str) -> Any:
    """A frozen dataclass from a JSON object. `LamoError` for a name that it does not have and a value of another type,
    TypeError where one is missing, ValueError for a value that cannot be.
    """
    values = checked_fields(cls, metadata[key], MISFIT, prefix=f"{key}.")
    try:
        return cls(**values)
    except LamoError as error:  # it names a flag of the command line, not the file
        raise ValueError(f"{key}: {error}") from None


def _need_numbers(name: str, pair: tuple[np.ndarray, np.ndarray], width: int) -> None:
    if not all(values.shape == (width,) and np.isfinite(values).all() for values in pair):
        raise ValueError(f"{name} must hold two lists of {width} finite numbers")


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
