"""Episodes of every kind, made from a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from lamo.data import Episodes

Maker = Callable[..., Episodes]


def make(
    lengths: Sequence[int],
    *,
    width: int = 3,
    actions: int = 2,
    seed: int = 0,
    ends: Sequence[str] | None = None,
    final: bool = False,
    metadata: dict[str, Any] | None = None,
) -> Episodes:
    """Episodes of these lengths; `actions` 0: discrete, below: so many choices at once; `ends`: `terminated`,
    `truncated` or `unfinished`, for each."""
    rng = np.random.default_rng(seed)
    steps, count = int(sum(lengths)), len(lengths)
    kinds = list(ends) if ends is not None else ["terminated" if e % 2 else "truncated" for e in range(count)]
    observations = rng.normal(size=(steps, width)).astype(np.float32)
    if actions > 0:
        acted: np.ndarray = rng.uniform(-1, 1, (steps, actions)).astype(np.float32)
    else:
        acted = rng.integers(4, size=(steps, -actions) if actions else steps)
    return Episodes(
        observations=observations,
        actions=acted,
        rewards=rng.normal(size=steps).astype(np.float32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        terminated=np.array([kind == "terminated" for kind in kinds]),
        truncated=np.array([kind == "truncated" for kind in kinds]),
        ids=np.arange(count, dtype=np.int64),
        final_observations=rng.normal(size=(count, width)).astype(np.float32) if final else None,
        metadata={"source": "made", "format": None, "env": None, **(metadata or {})},
    )


@pytest.fixture(scope="session")
def make_episodes() -> Maker:
    return make


def flat(episodes: Episodes) -> dict[str, np.ndarray]:
    """The arrays of D4RL's layout; the last episode may be unfinished, others may not."""
    terminals, timeouts = np.zeros(episodes.steps, bool), np.zeros(episodes.steps, bool)
    terminals[episodes.offsets[1:] - 1] = episodes.terminated
    timeouts[episodes.offsets[1:] - 1] = episodes.truncated
    return {
        "observations": episodes.observations,
        "actions": episodes.actions,
        "rewards": episodes.rewards,
        "terminals": terminals,
        "timeouts": timeouts,
    }


@pytest.fixture(scope="session")
def flat_arrays() -> Callable[[Episodes], dict[str, np.ndarray]]:
    return flat


def check_same(one: Episodes, two: Episodes) -> None:
    """Equal data, bit for bit; metadata and ids aside."""
    for key in ("observations", "actions", "rewards", "offsets", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(one, key), getattr(two, key), err_msg=key, strict=True)
    assert (one.final_observations is None) == (two.final_observations is None)
    if one.final_observations is not None:
        np.testing.assert_array_equal(one.final_observations, two.final_observations)


@pytest.fixture(scope="session")
def assert_same() -> Callable[[Episodes, Episodes], None]:
    return check_same
