"""What actions are, and how they are scaled for learning. numpy only.

continuous      (N, A) float32      vectors (Box)
discrete        (N,) int64          one of n choices (Discrete), counted from 0
multidiscrete   (N, A) int64        one of n_i choices for each of A components (MultiDiscrete; MultiBinary: of two)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

ActionKind = Literal["continuous", "discrete", "multidiscrete"]
AT_BOUND = np.float32(1 - 1e-4)  # where the box is [-1, 1]; scaling a narrow box that is far from 0 rounds
KIND_WORDS = {"continuous": "vectors", "discrete": "choices", "multidiscrete": "several choices at once"}


def action_kind(actions: np.ndarray) -> ActionKind:
    """The kind of an array of actions, from its shape and type."""
    if actions.ndim == 1:
        return "discrete"
    return "continuous" if actions.dtype.kind == "f" else "multidiscrete"


def choices_of(highest: np.ndarray, said: Any) -> tuple[int, ...]:
    """How many choices each component has, of which the data shows `highest` () or (A,) and the source `said` a number
    or a list of them; what it said in another form is not heard, and what the data shows is there in any case.
    """
    shown = np.atleast_1d(highest).astype(np.int64) + 1
    try:
        stated = np.atleast_1d(np.asarray(said, np.int64))
    except (TypeError, ValueError, OverflowError):
        stated = shown
    return tuple((np.maximum(shown, stated) if stated.shape == shown.shape else shown).tolist())


class Scaling(NamedTuple):
    """A box and [-1, 1]: low and high are (A,) float32, high above low."""

    low: np.ndarray
    high: np.ndarray

    def to_unit(self, actions: np.ndarray) -> np.ndarray:
        """(…, A) in the environment's units -> the box is [-1, 1]; what lies outside stays outside."""
        return (actions - (self.high + self.low) / 2) / ((self.high - self.low) / 2)

    def from_unit(self, actions: np.ndarray) -> np.ndarray:
        """(…, A) -> the environment's units, within the box."""
        scaled = (self.high + self.low) / 2 + (self.high - self.low) / 2 * actions
        return np.clip(scaled, self.low, self.high)

    @property
    def identity(self) -> bool:
        """Whether the box is [-1, 1] already."""
        return bool((self.low == -1).all() and (self.high == 1).all())


Bound = Sequence[float] | np.ndarray | None


def action_scaling(low: Bound, high: Bound, extremes: Sequence[np.ndarray]) -> Scaling:
    """The box between `low` and `high` (A,), and where one is None, infinite or as good as that the data's `extremes`,
    lowest and highest (A,). Where the two are equal the number is free to move by 1 each way.
    """
    ends = []
    for given, seen in zip((low, high), extremes, strict=True):
        end = seen if given is None else np.asarray(given, np.float64)
        ends.append(np.where(_is_bound(end), end, seen).astype(np.float32))
    flat = ends[1] <= ends[0]
    return Scaling(np.where(flat, ends[0] - 1, ends[0]), np.where(flat, ends[1] + 1, ends[1]))


def unbounded(low: Bound, high: Bound, width: int) -> np.ndarray:
    """(width,) bool: the numbers of an action that have no bound on one side or both."""
    ends = [np.full(width, np.nan) if end is None else np.asarray(end, np.float64) for end in (low, high)]
    return np.logical_not(_is_bound(np.asarray(ends)).all(axis=0))


def _is_bound(end: np.ndarray) -> np.ndarray:
    """Whether numbers are bounds at all: the largest of a number format means none, as infinity does."""
    return np.isfinite(end) & (np.abs(end) < 1e30)


def off_the_bounds(unit: np.ndarray, margin: float, rng: np.random.Generator) -> np.ndarray:
    """(…, A) in [-1, 1]: numbers at a bound, or beyond it, are drawn uniformly from the outermost `margin` beside it.

    Where a log's actions were clipped, a share of them lies at exactly -1 and 1. As samples of a density those are
    points of infinite weight; this gives them a density of which the same share falls into the margin.
    """
    size = 1 - margin * rng.random(unit.shape, dtype=np.float32)
    return np.where(np.abs(unit) >= AT_BOUND, np.copysign(size, unit), unit)


def one_hot(actions: np.ndarray, choices: Sequence[int]) -> np.ndarray:
    """(N,) or (N, A) int64 of (n,) or (n_1, …, n_A) choices -> (N, Σ n_i) float32."""
    columns = actions.reshape(len(actions), -1) + np.concatenate([[0], np.cumsum(choices)[:-1]]).astype(np.int64)
    out = np.zeros((len(actions), int(np.sum(choices))), np.float32)
    np.put_along_axis(out, columns, 1, axis=1)
    return out


def future_actions(
    actions: np.ndarray, offsets: np.ndarray, rows: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The `count` actions from each of `rows` (B, …) on: (B, …, count, A) or (B, …, count), and which are real (B, …,
    count) bool. Past the end of an episode its last action stands, and is not real.
    """
    end = offsets[np.searchsorted(offsets, rows, side="right")]  # (B, …): the row after the episode's last
    wanted = rows[..., None] + np.arange(count)
    real = wanted < end[..., None]
    return actions.take(np.minimum(wanted, end[..., None] - 1), axis=0), real
