"""Batches of windows, drawn from Episodes without a Python loop over samples.

    episode           s0 s1 s2 s3 s4 s5 s6           7 steps, context K = 5, drawn step i
    i = 1             [s1 s2 s3 s4 s5]               K steps from i on
    i = 4             [ 0  0 s4 s5 s6]               the episode ends first: zeros on the left, mask False there
    i = 6             [ 0  0  0  0 s6]

Every step of every episode is drawn with the same chance 1/N, so an episode is drawn in proportion to its length and
its start uniformly (paper, appendix on implementation; Decision Transformer, Chen et al. 2021). A window never holds
steps of two episodes. Padding is zero in every array, after normalisation, at training and at evaluation alike.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lamo.data.actions import future_actions
from lamo.data.episodes import Episodes, Statistics
from lamo.data.spans import take_rows
from lamo.errors import LamoError


class WindowBatch(NamedTuple):
    """B windows of K steps, left-padded; the arrays are fresh and belong to the caller."""

    returns_to_go: np.ndarray
    """(B, K) float32: return-to-go divided by the return scale."""
    observations: np.ndarray
    """(B, K, S) float32: (observation - mean) / std, or raw."""
    actions: np.ndarray
    """(B, K, A) float32, (B, K) int64 for discrete actions or (B, K, A) int64 for several choices at once."""
    timesteps: np.ndarray
    """(B, K) int64: steps since the episode began, from 0."""
    mask: np.ndarray
    """(B, K) bool: True where a step is real."""


class Windows:
    """Samples windows of `context` steps; every random choice comes from the generator given to `sample`."""

    def __init__(
        self,
        episodes: Episodes,
        context: int,
        return_scale: float = 1.0,
        statistics: Statistics | None = None,
        normalise: bool = True,
    ) -> None:
        """`statistics` defaults to those of `episodes`. The observations are not copied but normalised per batch.

        Raises `LamoError` for a context below 1 step, a return scale that is not positive, or statistics of another
        width.
        """
        if context < 1:
            raise LamoError(f"context {context} is too short; a window needs at least 1 step")
        if not 0 < return_scale < float("inf"):
            raise LamoError(f"return scale {return_scale} must be a positive number")
        self.episodes, self.context, self.return_scale = episodes, context, return_scale
        self.statistics = episodes.statistics() if statistics is None else statistics
        width = episodes.observations.shape[1]
        if self.statistics.mean.shape != (width,) or self.statistics.std.shape != (width,):
            raise LamoError(
                f"{episodes.source}: statistics are for {len(self.statistics.mean)} numbers per observation, "
                f"the data has {width}"
            )
        # `take` copies all of an array that is not contiguous, at every batch; these are no copies of one that is.
        # Of what lies in files nothing is copied: their returns-to-go are scaled when they are drawn.
        self._arrays = (episodes.observations, episodes.actions, episodes.returns_to_go)
        if not episodes.mapped:
            scaled = (episodes.returns_to_go / return_scale).astype(np.float32)  # (N,)
            self._arrays = (*map(np.ascontiguousarray, self._arrays[:2]), scaled)
        self._columns = np.arange(context)
        # One row per window, K * S wide: numpy's inner loop then runs over 340 numbers and not over 17.
        self._shift = np.tile(self.statistics.mean, context) if normalise else None
        self._scale = np.tile(self.statistics.std, context)

    def sample(self, rng: np.random.Generator, batch: int) -> WindowBatch:
        """`batch` windows, each begun at a step drawn uniformly from all N."""
        return self.at(self.draw(rng, batch))

    def draw(self, rng: np.random.Generator, batch: int) -> np.ndarray:
        """(B,) int64: the steps that `sample` begins its windows at."""
        return rng.integers(self.episodes.steps, size=batch)

    def prepared(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of all N steps in memory what batches are made of: observations (N, S) normalised, actions as they are, and
        returns-to-go (N,) scaled."""
        observations, actions, returns_to_go = self._arrays
        if self._shift is not None:
            observations = (observations - self.statistics.mean) / self.statistics.std
        return observations, actions, returns_to_go

    def futures(self, steps: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """For the windows `at` these steps: the `count` actions from each step of a window on, (B, K, count, A) or (B,
        K, count), and which are of steps that its episode has (B, K, count) bool; of padding none is.
        """
        offsets = self.episodes.offsets
        end = offsets[offsets.searchsorted(steps, side="right")]
        padding = np.maximum(steps + self.context - end, 0)
        rows = (steps - padding)[:, None] + self._columns
        mask = rows >= steps[:, None]
        actions, real = future_actions(self._arrays[1], offsets, np.maximum(rows, steps[:, None]), count)
        return actions, real & mask[..., None]

    def at(self, steps: np.ndarray) -> WindowBatch:
        """The windows that begin at these rows: (B,) int64, each within 0 … N - 1."""
        episodes, context = self.episodes, self.context
        after = episodes.offsets.searchsorted(steps, side="right")
        start, end = episodes.offsets[after - 1], episodes.offsets[after]  # (B,), of the episode each step lies in
        padding = np.maximum(steps + context - end, 0)
        rows = (steps - padding)[:, None] + self._columns  # (B, K); real columns are steps … end - 1
        mask = rows >= steps[:, None]
        np.maximum(rows, steps[:, None], out=rows)  # padding points at a row that exists and is zeroed below
        observations, actions, returns_to_go = take_rows(self._arrays, rows, within=steps)
        if self._shift is not None:
            flat = observations.reshape(len(steps), -1)
            flat -= self._shift
            flat /= self._scale
        if returns_to_go.dtype == np.float64:
            returns_to_go = (returns_to_go / self.return_scale).astype(np.float32)
        timesteps = rows - start[:, None]
        empty = np.flatnonzero(~mask)  # whole rows by number: four times faster than the mask itself as an index
        for array in (returns_to_go, observations, actions, timesteps):
            array.reshape(mask.size, *array.shape[2:])[empty] = 0
        return WindowBatch(returns_to_go, observations, actions, timesteps, mask)
