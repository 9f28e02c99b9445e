"""Asking a policy at every step of a log, whatever it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lamo.algorithms import get_algorithm, preset_settings
from lamo.config import Spec
from lamo.data.episodes import Episodes
from lamo.data.windows import Windows
from lamo.errors import LamoError
from lamo.replay import action_errors, final_known, holdout_errors, replay


def log(lengths: list[int], *, discrete: bool = False, final: bool = True, seed: int = 0) -> Episodes:
    rng, n, count = np.random.default_rng(seed), sum(lengths), len(lengths)
    after = rng.normal(size=(count, 3)).astype(np.float32)
    if final and count > 1:
        after[1] = np.nan  # this one was not recorded
    return Episodes(
        observations=rng.normal(size=(n, 3)).astype(np.float32),
        actions=rng.integers(2, size=n) if discrete else rng.uniform(-0.9, 0.9, (n, 2)).astype(np.float32),
        rewards=rng.random(n).astype(np.float32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        terminated=np.zeros(count, bool),
        truncated=np.ones(count, bool),
        ids=np.arange(count),
        final_observations=after if final else None,
    )


class Notebook:
    """A policy that remembers all and answers with what it knows: newest observation, return to go, last action."""

    default_target: float | None = 5.0

    def reset(self, n: int = 1, targets: np.ndarray | None = None) -> None:
        self.to_go = np.full(n, 5.0) if targets is None else targets.copy()
        self.last = np.zeros((n, 2), np.float32)

    def act(self, observations: Any, rewards: Any = None, rows: np.ndarray | None = None) -> np.ndarray:
        assert rows is not None and len(observations) == len(rows)
        if rewards is not None:
            self.to_go[rows] -= rewards
        answer = np.stack([observations[:, 0] + self.last[rows, 0], self.to_go[rows]], axis=1).astype(np.float32)
        self.last[rows] = answer
        return answer

    def executed(self, actions: np.ndarray, rows: np.ndarray | None = None) -> None:
        self.last[rows] = actions


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(1, 4), st.booleans())
def test_the_log_goes_on_as_it_went(lengths: list[int], parallel: int, final: bool) -> None:
    episodes = log(lengths, final=final)
    targets = np.arange(len(lengths)) + 0.5
    told: list[tuple[int, int]] = []
    found = replay(Notebook(), episodes, targets, max_parallel=parallel, progress=lambda *a: told.append(a))
    known = final_known(episodes)
    assert np.array_equal(found.final_known, known)
    for e, (a, b) in enumerate(zip(episodes.offsets[:-1], episodes.offsets[1:], strict=True)):
        before = np.concatenate([[0], episodes.actions[a:b, 0]])
        seen = episodes.observations[a:b, 0]
        np.testing.assert_allclose(found.actions[a:b, 0], seen + before[:-1], rtol=1e-6)
        to_go = targets[e] - np.concatenate([[0], np.cumsum(episodes.rewards[a:b], dtype=np.float64)])
        np.testing.assert_allclose(found.actions[a:b, 1], to_go[:-1], rtol=1e-5, atol=1e-6)
        if known[e]:
            assert episodes.final_observations is not None
            expected = [episodes.final_observations[e, 0] + before[-1], to_go[-1]]
            np.testing.assert_allclose(found.final[e], expected, rtol=1e-5, atol=1e-6)
        else:
            assert not found.final[e].any()
    assert told[-1] == (episodes.steps, episodes.steps)


def test_held_out_error_asks_for_the_return_that_was_earned() -> None:
    episodes = log([4, 2, 5])
    asked = replay(Notebook(), episodes, episodes.returns).actions
    expected = np.square(asked.astype(np.float64) - episodes.actions).mean(axis=1)
    np.testing.assert_allclose(holdout_errors(Notebook(), episodes), expected)


def test_errors_of_choices_are_a_share() -> None:
    assert action_errors(np.array([1, 0, 2]), np.array([1, 1, 2])).tolist() == [0.0, 1.0, 0.0]
    assert action_errors(np.array([[1.0, 2.0]]), np.array([[0.0, 0.0]], np.float32)).tolist() == [2.5]


def test_answers_of_another_shape_or_not_finite_are_refused() -> None:
    class Odd(Notebook):
        def act(self, observations: Any, rewards: Any = None, rows: np.ndarray | None = None) -> np.ndarray:
            return np.zeros((len(observations), 3))

    class Diverged(Notebook):
        def act(self, observations: Any, rewards: Any = None, rows: np.ndarray | None = None) -> np.ndarray:
            return np.full((len(observations), 2), np.nan)

    with pytest.raises(LamoError, match=r"shape \(2, 3\), the log has \(2, 2\)"):
        replay(Odd(), log([3, 3]))
    with pytest.raises(LamoError, match="not finite"):
        replay(Diverged(), log([3, 3]))


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_a_sequence_policy_sees_what_its_training_windows_show(kind: str, small_lm: Path) -> None:
    """At step t the model's input is the logged window that ends there: replay and training agree on what is past."""
    episodes = log([9, 3, 6], discrete=kind == "discrete", final=False)
    bounds = ((-1.0, -1.0), (1.0, 1.0)) if kind == "continuous" else (None, None)
    spec = Spec(3, 2, kind, *bounds, 12, 10.0, (8.0,))  # pyright: ignore[reportArgumentType]
    name, settings = preset_settings("dt", context=4, width=32, warmup_steps=1, learning_rate=3e-3)
    learner = get_algorithm(name)(settings, spec, episodes, batch_size=16, seed=0)
    batches = learner.batches(np.random.default_rng(0))
    for _ in range(5):
        learner.update(next(batches))
    asked = replay(learner.policy(), episodes, episodes.returns).actions
    windows = Windows(episodes, 4, 10.0)
    learner.model.eval()
    for start, end in zip(episodes.offsets[:-1], episodes.offsets[1:], strict=True):
        for t in range(start, end):
            first = max(start, t - 3)
            batch = windows.at(np.array([first]))
            with torch.inference_mode():
                seen = [torch.from_numpy(array) for array in batch]
                answers = learner.model(*seen)[0][batch.mask[0]]  # one per real step from `first` on
            answer = answers[t - first]
            if kind == "discrete":
                assert int(answer.argmax()) == asked[t]
            else:
                np.testing.assert_allclose(answer.clamp(-1, 1).numpy(), asked[t], atol=1e-5)
