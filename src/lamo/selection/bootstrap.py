"""Bootstrap over episodes: the same draws for every policy, so that differences between policies are paired."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

RESAMPLES = 2_000
LEVEL = 0.95
KEPT = 1 << 25  # counts held in memory; more of them (many short episodes) are drawn anew at each use


class Bootstrap:
    """`resamples` draws of `episodes` episodes with replacement, which `seed` determines."""

    def __init__(self, episodes: int, seed: Sequence[int], resamples: int = RESAMPLES) -> None:
        self.episodes, self.seed, self.resamples = episodes, list(seed), resamples
        self._kept = list(self._draw()) if episodes * resamples <= KEPT else None

    def _draw(self) -> Iterator[np.ndarray]:
        rng, share = np.random.default_rng(self.seed), np.full(self.episodes, 1 / self.episodes)
        block = max(1, KEPT // self.episodes)
        for start in range(0, self.resamples, block):
            size = min(block, self.resamples - start)
            yield rng.multinomial(self.episodes, share, size=size).astype(np.float32)

    def counts(self) -> Iterable[np.ndarray]:
        """(b, E) float32, block by block, B rows in all: how often each draw holds each episode."""
        return self._kept if self._kept is not None else self._draw()

    def sums(self, values: np.ndarray) -> np.ndarray:
        """(E, k) -> (B, k) float64: the sum over the episodes of each draw."""
        return np.concatenate([counts @ values.astype(np.float64) for counts in self.counts()])

    def means(self, values: np.ndarray) -> np.ndarray:
        """(E, k) -> (B, k) float64."""
        return self.sums(values) / self.episodes


def finite(value: float | None) -> float | None:
    """`value`, or None for what strict JSON cannot say."""
    return value if value is not None and math.isfinite(value) else None


def interval(estimate: float | None, drawn: np.ndarray) -> dict[str, Any]:
    """{"estimate", "low", "high"}, the percentile interval; no interval where more than one draw in twenty is NaN. An
    estimate that is not finite (a critic that diverged) is none.
    """
    tail, known = (1 - LEVEL) / 2, drawn[np.isfinite(drawn)]
    estimate = finite(estimate)
    if estimate is None or len(known) < 0.95 * len(drawn):
        return {"estimate": estimate, "low": None, "high": None}
    low, high = np.quantile(known, [tail, 1 - tail])
    return {"estimate": estimate, "low": float(low), "high": float(high)}
