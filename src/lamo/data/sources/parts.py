"""`--obs-keys` of data that are read as one vector per step: the numbers of some parts, where it is known which.

observation_keys   achieved_goal  desired_goal  observation        what the source says of its vectors
observation_sizes  2              2             4
--obs-keys observation                          ^^^^^^^^^^^ 4 of 8 numbers
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lamo.data.episodes import BLOCK, Episodes
from lamo.data.sources.flat import check_fits
from lamo.data.sources.options import chosen
from lamo.errors import LamoError


class UnknownParts(LamoError):
    """Keys of observations are asked for, and nothing says which numbers are whose."""

    def __init__(self, source: str) -> None:
        super().__init__(
            f"{source}: observations are one vector, and nothing says which of its numbers --obs-keys means; leave it "
            "out (a table's columns are chosen with --columns obs=…)"
        )


def take_parts(episodes: Episodes, keys: Sequence[str] | None) -> Episodes:
    """The numbers of the parts that `keys` name, in memory; None names all. Those of a reader that has chosen already
    stay as they are.

    Raises `UnknownParts` where the metadata do not say which these are, `LamoError` for a key that they do not have.
    """
    if keys is None:
        return episodes
    known, sizes = (episodes.metadata.get(f"observation_{name}") or [] for name in ("keys", "sizes"))
    if known and chosen(known, keys, episodes.source) == known:
        return episodes
    if not known or len(sizes) != len(known) or sum(sizes) != episodes.observations.shape[1]:
        raise UnknownParts(episodes.source)
    return parts_of(episodes, known, sizes, keys)


def parts_of(episodes: Episodes, known: Sequence[str], sizes: Sequence[int], keys: Sequence[str]) -> Episodes:
    """The same of observations whose parts have these names and sizes. Raises `LamoError` for a key that is none."""
    taken = chosen(known, keys, episodes.source)
    is_taken = np.repeat([key in taken for key in known], sizes)
    width = int(is_taken.sum())
    check_fits(4 * width * episodes.steps, episodes.source)
    observations = np.empty((episodes.steps, width), np.float32)
    for row in range(0, episodes.steps, BLOCK):  # of a store the rest is never in memory
        observations[row : row + BLOCK] = episodes.observations[row : row + BLOCK][:, is_taken]
    final = episodes.final_observations
    return replace(
        episodes,
        observations=observations,
        final_observations=None if final is None else np.ascontiguousarray(final[:, is_taken]),
        metadata={
            **episodes.metadata,
            "observation_keys": taken,
            "observation_sizes": [size for key, size in zip(known, sizes, strict=True) if key in taken],
        },
    )
