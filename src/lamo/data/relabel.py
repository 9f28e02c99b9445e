"""Other rewards for the same behaviour: paid late, paid for success alone, scaled. Pure functions on whole episodes.

    recorded        1  2  0  3 | 1  1           returns 6, 2
    delayed, 2      0  3  0  3 | 0  2           every two steps' sum at the second of them: returns 6, 2
    delayed         0  0  0  6 | 0  2           the whole return at the last step: returns 6, 2
    sparse, 5       0  0  0  1 | 0  0           one, at the last step, where the return is 5 or more
    scaled, 2 and -1    1  3 -1  5 | 1  1       r · 2 - 1

The environment of an evaluation pays as before: who relabels trains for other rewards than those that are scored, and
their history says so wherever they go (`warning`). numpy only; sums are float64, rewards float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lamo.data.episodes import Episodes
from lamo.errors import LamoError

KEY = "rewards"
"""Where an entry of the history says what it did to rewards."""
UNREWARDED = "unrewarded"
"""In the metadata of a log that was read without rewards: that all of them are 0 says nothing of it."""
HINDSIGHT = "hindsight"
"""What an entry begins with after which there are copies of episodes (`lamo.data.hindsight`)."""
_DEPTH = 16
# What is said of returns or of numbers of episodes in the attributes of a source is no longer true of other rewards.
_OF_RETURNS = ("return_mean", "return_std", "return_min", "return_max", "score_mean", "score")
_OF_EPISODES = ("episodes", "total_episodes", "total_steps", "reset_seeds", "refused_episodes")


@dataclass(frozen=True)
class Relabelling:
    """One way to relabel: what it does to a block of whole episodes, and a sentence about it."""

    rewards: Callable[[Episodes], np.ndarray]
    """Episodes of N steps -> (N,) rewards."""
    description: str
    """`delayed: every 20 steps' sum …`, for metadata, notes and warnings."""

    def __call__(self, block: Episodes) -> Episodes:
        """The same episodes with other rewards, and a history that says so. Raises `LamoError` for rewards that float32
        cannot hold.
        """
        with np.errstate(over="ignore"):
            rewards = np.asarray(self.rewards(block), np.float32)
        if not np.isfinite(rewards).all():
            raise LamoError(f"{block.source}: rewards {self.description} are too large for float32; scale them down")
        return replace(block, rewards=rewards, metadata=noted(true_of(block.metadata), self.description))


def delayed(every: int | None = None) -> Relabelling:
    """The sum of every `every` steps, paid at the last of them, and what is left at the episode's last step; None: the
    whole return there, as in delayed MuJoCo (Chen et al. 2021, arXiv 2106.01345, section 5.3). Returns stay, but for
    the rounding of the sums to float32. Raises `LamoError` for less than one step.
    """
    if every is not None and every < 1:
        raise LamoError(f"--every {every} must be at least 1; leave it out to pay the whole return at the last step")

    def rewards(block: Episodes) -> np.ndarray:
        since = np.arange(block.steps) - np.repeat(block.offsets[:-1], block.lengths)
        begins = np.flatnonzero(since % every == 0 if every else since == 0)
        paid = np.zeros(block.steps)
        paid[np.append(begins[1:], block.steps) - 1] = np.add.reduceat(np.asarray(block.rewards, np.float64), begins)
        return paid

    when = "an episode's whole return is paid at its last step" if every is None else f"paid every {every} steps"
    return Relabelling(rewards, f"delayed: {when}, returns stay")


def sparse(threshold: float) -> Relabelling:
    """1 at the last step of an episode whose return is at least `threshold`, 0 everywhere else. Raises `LamoError` for
    a threshold that is not finite.
    """
    if not math.isfinite(threshold):
        raise LamoError(f"--threshold {threshold} is not finite; give a return (`lamo data inspect` lists quantiles)")

    def rewards(block: Episodes) -> np.ndarray:
        paid = np.zeros(block.steps)
        paid[block.offsets[1:] - 1] = block.returns >= threshold
        return paid

    return Relabelling(
        rewards, f"sparse: 1 at the last step of an episode whose return was {threshold:g} or more, else 0"
    )


def scaled(scale: float = 1.0, shift: float = 0.0, clip: tuple[float, float] | None = None) -> Relabelling:
    """reward · `scale` + `shift`, then kept within `clip` (lowest, highest). Computed in float64, rounded once. Raises
    `LamoError` for numbers that are not finite, for a scale of 0 (`sparse` or `--reward none` say it better), for
    bounds the wrong way round, and where nothing would change.
    """
    if not all(math.isfinite(value) for value in (scale, shift, *(clip or ()))):
        raise LamoError("--scale, --shift and --clip must be finite numbers")
    if scale == 0:
        raise LamoError("--scale 0 would make all rewards equal; training without them is --reward none")
    if clip is not None and clip[0] >= clip[1]:
        raise LamoError(f"--clip {clip[0]:g} {clip[1]:g}: the lowest comes first, then the highest")
    if scale == 1 and shift == 0 and clip is None:
        raise LamoError("--reward scaled changes nothing by itself; give --scale, --shift or --clip")

    def rewards(block: Episodes) -> np.ndarray:
        paid = np.asarray(block.rewards, np.float64) * scale + shift
        return paid if clip is None else np.clip(paid, *clip)

    within = "" if clip is None else f", kept within {clip[0]:g} and {clip[1]:g}"
    return Relabelling(rewards, f"scaled: {scale:g} · reward + {shift:g}{within}")


def true_of(metadata: Mapping[str, Any], *, episodes_stay: bool = True) -> dict[str, Any]:
    """Metadata without what was true of the old rewards alone and, where episodes are others too, of these."""
    stale = _OF_RETURNS if episodes_stay else (*_OF_RETURNS, *_OF_EPISODES)
    attributes = {key: value for key, value in (metadata.get("attributes") or {}).items() if key not in stale}
    return {**{key: value for key, value in metadata.items() if key != UNREWARDED}, "attributes": attributes}


def noted(metadata: Mapping[str, Any], description: str) -> dict[str, Any]:
    """Metadata whose history says what was done to the rewards."""
    history = metadata.get("history")
    return {**metadata, "history": [*(history if isinstance(history, list) else []), {KEY: description}]}


def relabellings(metadata: Mapping[str, Any], depth: int = 0) -> list[str]:
    """What was done to the rewards since they were recorded, in order, as the history in the metadata tells it; mostly
    nothing. Of several datasets as one, whatever was done to any of them.
    """
    found: list[str] = []
    if depth > _DEPTH:
        return found
    for part in _list(metadata.get("parts")):
        found += relabellings(part, depth + 1)
    for entry in _list(metadata.get("history")):
        for source in _list(entry.get("sources")):
            found += relabellings(source, depth + 1)
        if isinstance(entry.get(KEY), str):
            found.append(entry[KEY])
    return list(dict.fromkeys(found))


def _list(value: Any) -> list[Mapping[str, Any]]:
    """The mappings in a list; what a file says may be anything."""
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def warning(metadata: Mapping[str, Any]) -> str | None:
    """What has to be known before training on relabelled rewards; None where they are the recorded ones."""
    done = relabellings(metadata)
    if not done:
        return None
    return f"rewards are relabelled ({'; then '.join(done)}); those of the environment, in evaluation, are not"
