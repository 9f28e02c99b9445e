"""A held-out share of a log: whole episodes that training never sees.

Which episodes are held out depends on their numbers in the source alone, not on a run's seed: each number has a fixed
pseudo-random key, and the smallest keys are held out. So runs with different seeds hold out the same episodes, and runs
on different shares of one log hold out as many common ones as can be, which is what lets them be compared on data that
none of them has seen.
"""

from __future__ import annotations

import math

import numpy as np

from lamo.data.episodes import Episodes
from lamo.data.relabel import HINDSIGHT, relabellings
from lamo.errors import LamoError, warn


def hold_out(episodes: Episodes, share: float) -> tuple[Episodes, Episodes]:
    """(episodes to train on, episodes held out), both in their old order; `share` of the count is held out, rounded
    down.

    Copies of one episode (hindsight) may fall on both sides: of data with such a history a warning is printed. Errors
    as `held_out_rows`.
    """
    chosen = held_out_rows(episodes, share)
    if any(done.startswith(HINDSIGHT) for done in relabellings(episodes.metadata)):
        warn(
            f"{episodes.source} has hindsight copies of its episodes: what is held out may be a copy of what is "
            "trained on; `lamo data split` the recorded episodes first, then relabel each part"
        )
    return episodes.select(np.flatnonzero(~chosen)), episodes.select(np.flatnonzero(chosen))


def held_out_rows(episodes: Episodes, share: float) -> np.ndarray:
    """(E,) bool: which episodes `hold_out` holds out. Raises `LamoError` for a share outside (0, 1), and where all or
    none would be.
    """
    if not 0 < share < 1:  # also refuses NaN
        raise LamoError(f"--holdout {share} lies outside (0, 1); 0.1 holds out a tenth of the episodes")
    count = math.floor(share * len(episodes) + 1e-9)  # 0.29 * 100 is 28.999…96 in floating point
    if count == 0:
        number = f"{len(episodes)} episode{'s' if len(episodes) > 1 else ''}"
        if len(episodes) == 1:
            raise LamoError(
                f"--holdout {share} of the {number} of {episodes.source}: nothing would be left to train on"
            )
        smallest = np.format_float_positional(math.ceil(1e6 / len(episodes)) / 1e6)  # works when it is typed
        raise LamoError(
            f"--holdout {share} of the {number} of {episodes.source} is less than one episode; "
            f"the smallest that can be used is {smallest}"
        )
    chosen = np.zeros(len(episodes), bool)
    chosen[np.argsort(_keys(episodes.ids), kind="stable")[:count]] = True
    return chosen


def _keys(numbers: np.ndarray) -> np.ndarray:
    """(E,) int64 -> (E,) uint64, evenly scattered: the finaliser of SplitMix64 (Steele, Lea and Flood 2014), which
    takes different numbers to different keys.
    """
    x = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)  # arrays wrap around, by definition
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
