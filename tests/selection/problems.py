"""Decision problems whose values are known by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lamo.data.episodes import Episodes

DISCOUNT = 0.8

# Two states, two choices; state 0: choice 1 earns 1 and goes to state 1, choice 0 earns 0 and stays;
#                        state 1: choice 0 earns 2 and goes to state 0, choice 1 earns 0 and ends the episode.
# "go round" chooses 1 in state 0 and 0 in state 1:  V(0) = 1 + γ V(1), V(1) = 2 + γ V(0), so V(0) = (1 + 2γ) / (1 - γ²)
# "end" chooses 1 in both:                           V(0) = 1 + γ · 0
# "stay" chooses 0 in state 0:                       V(0) = 0
GO_ROUND, END, STAY = np.array([1, 0]), np.array([1, 1]), np.array([0, 0])
KNOWN = {"go round": (1 + 2 * DISCOUNT) / (1 - DISCOUNT**2), "end": 1.0, "stay": 0.0}
CHOICES = {"go round": GO_ROUND, "end": END, "stay": STAY}


def two_states(
    episodes: int, horizon: int, rng: np.random.Generator, *, discrete: bool = True, final: bool = True
) -> Episodes:
    """Uniformly random behaviour, begun in either state and cut off after `horizon` steps. Vectors: -1 and 1."""
    states, actions, rewards, offsets, terminated, after = [], [], [], [0], [], []
    for _ in range(episodes):
        state, ended = int(rng.integers(2)), False
        for _ in range(horizon):
            action = int(rng.integers(2))
            reward = [[0.0, 1.0], [2.0, 0.0]][state][action]
            states.append(state)
            actions.append(action)
            rewards.append(reward)
            ended = state == 1 and action == 1
            state = int(action == 1) if state == 0 else 0
            if ended:
                break
        offsets.append(len(states))
        terminated.append(ended)
        after.append(state)
    ends = np.array(terminated)
    chosen = np.array(actions)
    return Episodes(
        observations=_seen(np.array(states)),
        actions=chosen if discrete else (2 * chosen - 1)[:, None].astype(np.float32),
        rewards=np.array(rewards, np.float32),
        offsets=np.array(offsets),
        terminated=ends,
        truncated=~ends,
        ids=np.arange(episodes),
        final_observations=_seen(np.array(after)) if final else None,
        log_probs=np.full(len(states), np.log(0.5), np.float32),
    )


def _seen(states: np.ndarray) -> np.ndarray:
    return np.eye(2, dtype=np.float32)[states]


class TablePolicy:
    """Acts by a table, one entry per state."""

    default_target: float | None = None

    def __init__(self, table: np.ndarray, discrete: bool = True) -> None:
        self.table = table if discrete else (2 * table - 1)[:, None].astype(np.float32)

    def reset(self, n: int = 1, targets: np.ndarray | None = None) -> None:
        pass

    def act(self, observations: np.ndarray, rewards: object = None, rows: object = None) -> np.ndarray:
        return self.table[observations.argmax(axis=1)]


def bandit(
    episodes: int, behaviour: np.ndarray, reward: Callable[[np.ndarray], np.ndarray], rng: np.random.Generator
) -> Episodes:
    """One step per episode: arms drawn with the probabilities `behaviour`, rewards by `reward(arms)`."""
    arms = rng.choice(len(behaviour), size=episodes, p=behaviour)
    return Episodes(
        observations=np.zeros((episodes, 1), np.float32),
        actions=arms,
        rewards=reward(arms).astype(np.float32),
        offsets=np.arange(episodes + 1),
        terminated=np.ones(episodes, bool),
        truncated=np.zeros(episodes, bool),
        ids=np.arange(episodes),
        log_probs=np.log(behaviour)[arms].astype(np.float32),
    )
