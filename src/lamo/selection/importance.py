"""Importance sampling: logged returns, weighted by how much likelier the policy was to act so than the behaviour was.

Needs the log-probabilities of the logged actions (`Episodes.log_probs`). Per decision and weighted (Precup, Sutton and
Singh 2000; step by step as in Voloshin et al. 2021, appendix on weighted per-decision importance sampling):

    V = Σ_t γ^t Σ_i w_it r_it,    w_it = ρ_it / Σ_j ρ_jt,    ρ_it = Π_{t' <= t} π(a_it' | …) / μ(a_it' | …)

An episode that has ended keeps its last ρ, and earns nothing. The policies of this package act without chance, and a
vector has no density under such a policy. What is weighed is the policy with some chance added, and that is what the
estimate is of: Gaussian noise of `sigma` for vectors, a share `epsilon` of uniformly random choices for discrete
actions, in each component by itself where they have several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lamo.data.episodes import Episodes
from lamo.errors import LamoError
from lamo.selection.bootstrap import Bootstrap

LARGEST = 2 << 30  # bytes that the estimate may take
SMALLEST = 1e-290  # sums of weights below it have lost digits, or are 0


@dataclass(frozen=True)
class Weighted:
    """An estimate by importance sampling."""

    value: float | None
    """Discounted return of the policy, None where no logged episode acts as it does."""
    effective_size: float
    """(Σ ρ)² / Σ ρ² over episodes at their ends: how many of them the estimate rests on."""
    resampled: np.ndarray
    """(B,) float64: the same for each bootstrap draw of episodes, NaN where no drawn one acts as the policy does."""


def log_likelihood(
    asked: np.ndarray, logged: np.ndarray, *, epsilon: float, sigma: float, choices: Sequence[int] = ()
) -> np.ndarray:
    """(N,) float64: log-probability of the logged actions under the policy with its chance added.

    `asked` and `logged` (N, A) float32, or (N,) or (N, A) of so many choices per component. `epsilon` in [0, 1];
    `sigma`, above 0, in standard deviations of the logged actions, number by number. -inf where it would never act so.
    """
    if choices:
        with np.errstate(divide="ignore"):
            same = (asked == logged).reshape(len(logged), -1)
            return np.log(same * (1.0 - epsilon) + epsilon / np.asarray(choices)).sum(axis=1)
    scale = sigma * np.maximum(logged.std(axis=0, dtype=np.float64), 1e-6)
    z = (logged.astype(np.float64) - asked) / scale
    return (-0.5 * np.square(z) - np.log(scale) - 0.5 * np.log(2 * np.pi)).sum(axis=1)


def weighted_return(
    episodes: Episodes, likelihood: np.ndarray, discount: float, bootstrap: Bootstrap | None = None
) -> Weighted:
    """The estimate from the policy's log-likelihood (N,) of each logged action. Raises `LamoError` where the
    behaviour's log-probabilities were not logged.
    """
    if episodes.log_probs is None:
        raise LamoError(f"{episodes.source} does not hold the log-probabilities of its actions")
    ratios, rewards = _padded(episodes, likelihood - episodes.log_probs), _padded(episodes, episodes.rewards)
    log_weights = np.cumsum(ratios, axis=1)  # (E, T); ended episodes go on with ratio 1 and reward 0
    paid = rewards * discount ** np.arange(rewards.shape[1])
    weights = _relative(log_weights)
    last = weights[:, -1]
    size = float(last.sum() ** 2 / np.square(last).sum()) if last.any() else 0.0
    value = _normalised((weights * paid).sum(axis=0), weights.sum(axis=0))
    drawn = np.empty(0) if bootstrap is None else _resampled(log_weights, paid, bootstrap)
    return Weighted(float(value) if np.isfinite(value) else None, size, drawn)


def _relative(log_weights: np.ndarray) -> np.ndarray:
    """(E, T) -> (E, T): the weights relative to the largest of each step; what is the same for all episodes cancels."""
    top = log_weights.max(axis=0)
    return np.exp(log_weights - np.where(np.isfinite(top), top, 0))


def _resampled(log_weights: np.ndarray, paid: np.ndarray, bootstrap: Bootstrap) -> np.ndarray:
    """(E, T) and discounted rewards (E, T) -> (B,): the estimate from the episodes of each draw."""
    weights, found = _relative(log_weights), []
    earned = weights * paid
    for counts in bootstrap.counts():
        totals = counts @ weights
        values = _normalised(counts @ earned, totals)
        # Without the top episode of a step its weights may be too small to say: they are taken anew, relative to the
        # largest that was drawn.
        for draw in np.flatnonzero((totals < SMALLEST).any(axis=1)):
            mine = counts[draw] > 0
            own = _relative(log_weights[mine]) * counts[draw, mine, None]
            values[draw] = _normalised((own * paid[mine]).sum(axis=0), own.sum(axis=0))
        found.append(values)
    return np.concatenate(found)


def _normalised(earned: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(…, T), (…, T) -> (…): sum over t of the weighted means; NaN where all weights of a step are zero."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return (earned / weights).sum(axis=-1)


def memory(episodes: Episodes) -> int:
    """Bytes that `weighted_return` takes: seven arrays (E, T) of float64."""
    return 7 * 8 * len(episodes) * int(episodes.lengths.max())


def _padded(episodes: Episodes, values: np.ndarray) -> np.ndarray:
    """(N,) -> (E, T) float64, T the longest episode, zeros behind the ends."""
    out = np.zeros((len(episodes), int(episodes.lengths.max())))
    step = np.arange(episodes.steps) - np.repeat(episodes.offsets[:-1], episodes.lengths)
    out[np.repeat(np.arange(len(episodes)), episodes.lengths), step] = values
    return out
