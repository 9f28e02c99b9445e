"""Batches of transitions (s, a, r, s', terminated), drawn from Episodes without a Python loop over samples.

    episode            s0 s1 s2 s3 | f          4 steps; f: the observation after the last action, where the log has it
    transitions        s0 -> s1, s1 -> s2, s2 -> s3, and
        s3 -> f        if f is known: terminated exactly if the environment ended the episode
        s3 ->          if f is unknown and the environment ended the episode: nothing is worth anything after it
        left out       if f is unknown and a time limit or the log's end cut the episode: what follows is unknown

Only a termination ends the return; a time limit or the log's end does not, so the value of what was seen after them
still counts (Pardo et al. 2018, "Time Limits in Reinforcement Learning", arXiv 1712.00378).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lamo.data.actions import future_actions
from lamo.data.episodes import Episodes, Statistics
from lamo.data.spans import take_rows
from lamo.errors import LamoError


class TransitionBatch(NamedTuple):
    """B transitions; the arrays are fresh and belong to the caller."""

    observations: np.ndarray
    """(B, S) float32: (observation - mean) / std, or raw."""
    actions: np.ndarray
    """(B, A) float32, (B,) int64 for discrete actions or (B, A) int64 for several choices at once."""
    rewards: np.ndarray
    """(B,) float32, times the reward scale, plus the reward shift."""
    next_observations: np.ndarray
    """(B, S) float32, standardised as observations are; 0 where the episode terminated and they are unknown."""
    terminated: np.ndarray
    """(B,) float32: 1 where the environment ended the episode with this step, else 0."""


class ChunkBatch(NamedTuple):
    """The same with n actions from each step on."""

    observations: np.ndarray
    actions: np.ndarray
    """(B, n, A) float32, (B, n) or (B, n, A) int64."""
    rewards: np.ndarray
    next_observations: np.ndarray
    terminated: np.ndarray
    real: np.ndarray
    """(B, n) bool: the actions that the episode has."""


class Transitions:
    """Samples transitions; every random choice comes from the generator given to `sample`."""

    def __init__(
        self,
        episodes: Episodes,
        statistics: Statistics | None = None,
        *,
        reward_scale: float = 1.0,
        reward_shift: float = 0.0,
        normalise: bool = True,
        following: bool = True,
    ) -> None:
        """`statistics` defaults to those of `episodes`. With `following=False` (imitation) every step is a transition,
        and what comes after it is not looked at: next observations are then 0.

        Raises `LamoError` for data in which no step is followed by anything known, a reward scale that is not a
        positive number, and statistics of another width.
        """
        if not 0 < reward_scale < float("inf"):
            raise LamoError(f"reward scale {reward_scale} must be a positive number")
        width = episodes.observations.shape[1]
        statistics = episodes.statistics() if statistics is None else statistics
        if statistics.mean.shape != (width,) or statistics.std.shape != (width,):
            raise LamoError(
                f"{episodes.source}: statistics are for {len(statistics.mean)} numbers per observation, "
                f"the data has {width}"
            )
        self.episodes, self.following = episodes, following
        self._shift = statistics.mean if normalise else None
        self._scale = np.float32(1) / statistics.std
        self._reward_scale, self._reward_shift = np.float32(reward_scale), np.float32(reward_shift)
        self._arrays = (episodes.observations, episodes.actions, episodes.rewards)
        if not episodes.mapped:  # `take` copies all of an array that is not contiguous, at every batch
            self._arrays = tuple(map(np.ascontiguousarray, self._arrays))
        last = episodes.offsets[1:] - 1  # (E,): the last row of each episode
        self._known: np.ndarray = np.zeros(len(episodes), bool)  # (E,): whether its final observation is in the log
        if episodes.final_observations is not None:
            self._known = np.logical_not(np.isnan(episodes.final_observations).any(axis=1))
        left_out = last[~(self._known | episodes.terminated)] if following else last[:0]
        self.count = episodes.steps - len(left_out)
        """Transitions that can be drawn."""
        if self.count == 0:
            raise LamoError(
                f"{episodes.source}: no step is followed by another one, a termination or a final observation; "
                "values cannot be learned from it (behaviour can: --preset bc)"
            )
        # (L,): how many transitions can be drawn from the rows before each that is left out
        self._before = left_out - np.arange(len(left_out))

    def sample(self, rng: np.random.Generator, batch: int) -> TransitionBatch:
        """`batch` transitions, drawn uniformly and with replacement."""
        return self.at(self._draw(rng, batch))

    def sample_chunks(self, rng: np.random.Generator, batch: int, chunk: int) -> ChunkBatch:
        """The same transitions, with the actions of `chunk` steps."""
        rows = self._draw(rng, batch)
        actions, real = future_actions(self._arrays[1], self.episodes.offsets, rows, chunk)
        return ChunkBatch(*self.at(rows)._replace(actions=actions), real)

    def _draw(self, rng: np.random.Generator, batch: int) -> np.ndarray:
        drawn = rng.integers(self.count, size=batch)
        return drawn + self._before.searchsorted(drawn, side="right")

    def at(self, rows: np.ndarray) -> TransitionBatch:
        """The transitions that begin at these rows: (B,) int64, none of which may be one that is left out."""
        episodes = self.episodes
        observations, actions, rewards = take_rows(self._arrays, rows)
        if self._reward_scale != 1:
            rewards *= self._reward_scale
        if self._reward_shift != 0:
            rewards += self._reward_shift
        observations = self._standardised(observations)
        following, terminated = np.zeros_like(observations), np.zeros(len(rows), np.float32)
        if self.following:
            within = episodes.offsets.searchsorted(rows, side="right") - 1  # (B,): the episode of each row
            at_end = np.flatnonzero(rows + 1 == episodes.offsets[within + 1])  # positions in the batch
            after = rows + 1
            after[at_end] -= 1  # the row after an episode is of another one, or none; replaced below
            (following,) = take_rows(self._arrays[:1], after)
            if len(at_end):
                ended = within[at_end]
                terminated[at_end] = episodes.terminated[ended]
                if episodes.final_observations is not None:
                    following[at_end] = episodes.final_observations[ended]
            following = self._standardised(following)
            if len(at_end):
                following[at_end[~self._known[within[at_end]]]] = 0
        return TransitionBatch(observations, actions, rewards, following, terminated)

    def _standardised(self, observations: np.ndarray) -> np.ndarray:
        """In place."""
        if self._shift is not None:
            observations -= self._shift
            observations *= self._scale
        return observations


def return_range_scale(episodes: Episodes, horizon: int) -> float:
    """horizon / (highest - lowest return of an episode), by which rewards are multiplied so that their size does not
    depend on the task (IQL, arXiv 2110.06169, appendix; there the horizon is 1000). 1 where all returns are equal, or
    differ by rounding alone.
    """
    returns = episodes.returns
    spread = float(returns.max() - returns.min())
    return horizon / spread if spread > 1e-6 * float(np.abs(returns).max()) else 1.0


def best_episodes(episodes: Episodes, share: float) -> Episodes:
    """The `share` of the episodes with the highest returns, at least one, in their old order (%BC, Chen et al. 2021,
    arXiv 2106.01345, section 5.1, where the share is of steps). Of equal returns the earlier episode is kept.

    Raises `LamoError` for a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise LamoError(f"--top-fraction {share} lies outside (0, 1]; 0.1 keeps the best tenth of the episodes")
    count = max(1, int(share * len(episodes) + 1e-9))
    best = np.argsort(-episodes.returns, kind="stable")[:count]
    return episodes.select(np.sort(best))
