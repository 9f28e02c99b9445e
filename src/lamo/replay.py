"""What a policy would have done in logged episodes: the log goes on as it went, and the policy is asked at each step.

Its context holds what was logged (teacher forcing), the return-to-go falls by the rewards that were logged, and its own
answers go nowhere. No environment is needed, and any `lamo.policy.Policy` can be asked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lamo.data.episodes import Episodes
from lamo.errors import LamoError
from lamo.policy import RemembersActions

if TYPE_CHECKING:
    from lamo.policy import Policy

MAX_PARALLEL = 512  # episodes replayed at once; beyond it memory grows and speed does not


class Replay(NamedTuple):
    """The policy's answers, float32 vectors or int64 choices (one, or one per component) as in the log."""

    actions: np.ndarray
    """(N, A) or (N,): at each logged step."""
    final: np.ndarray
    """(E, A) or (E,): at the observation after each episode's last action; 0 where the log does not have it."""
    final_known: np.ndarray
    """(E,) bool: whether it has."""


def final_known(episodes: Episodes) -> np.ndarray:
    """(E,) bool: whether the observation after the episode's last action is in the log."""
    if episodes.final_observations is None:
        return np.zeros(len(episodes), bool)
    return np.asarray(np.isfinite(episodes.final_observations).all(axis=1))


def replay(
    policy: Policy,
    episodes: Episodes,
    targets: np.ndarray | None = None,
    *,
    max_parallel: int = MAX_PARALLEL,
    progress: Callable[[int, int], object] | None = None,
) -> Replay:
    """Ask `policy` at every step of `episodes`, all episodes side by side.

    `targets` (E,): the return that each episode is to reach; None is the policy's own default. `progress(steps done,
    steps in all)` is called after every step; what it raises ends the replay. Raises `LamoError` for answers of another
    shape than the log's actions, and for vectors that are not finite.
    """
    actions = np.zeros(episodes.actions.shape, episodes.actions.dtype)
    final = np.zeros((len(episodes), *episodes.actions.shape[1:]), episodes.actions.dtype)
    known, lengths, starts = final_known(episodes), episodes.lengths, episodes.offsets[:-1]
    longest_first = np.argsort(-lengths, kind="stable")
    done, total = 0, episodes.steps
    for first in range(0, len(episodes), max_parallel):
        chunk = longest_first[first : first + max_parallel]
        policy.reset(len(chunk), None if targets is None else np.asarray(targets, np.float64)[chunk])
        for t in range(int(lengths[chunk[0]]) + 1):
            rows = np.flatnonzero((lengths[chunk] > t) | ((lengths[chunk] == t) & known[chunk]))
            if len(rows) == 0:
                break
            here = chunk[rows]
            ended = lengths[here] == t
            step = starts[here] + np.where(ended, 0, t)
            observations = episodes.observations[step]
            if ended.any() and episodes.final_observations is not None:
                observations = np.where(ended[:, None], episodes.final_observations[here], observations)
            rewards = None if t == 0 else episodes.rewards[starts[here] + t - 1].astype(np.float64)
            asked = _checked(policy.act(observations, rewards, rows=rows), actions, len(rows))
            actions[step[~ended]] = asked[~ended]
            final[here[ended]] = asked[ended]
            if isinstance(policy, RemembersActions) and not ended.all():
                policy.executed(episodes.actions[step[~ended]], rows[~ended])
            done += int((~ended).sum())
            if progress:
                progress(done, total)
    return Replay(actions, final, known)


def _checked(answer: np.ndarray, logged: np.ndarray, count: int) -> np.ndarray:
    answer, wanted = np.asarray(answer), (count, *logged.shape[1:])
    if answer.shape != wanted:
        raise LamoError(f"the policy answers with actions of shape {answer.shape}, the log has {wanted}")
    if not np.isfinite(answer).all():
        raise LamoError("the policy answers with actions that are not finite; its training has diverged")
    return answer.astype(logged.dtype)


def action_errors(asked: np.ndarray, logged: np.ndarray) -> np.ndarray:
    """(N,) float64, how far the answers are from the log, step by step: the squared error, mean over the numbers of an
    action; for choices 1 where they differ and 0 where they do not, mean over the components.
    """
    if logged.dtype.kind != "f":
        return (asked != logged).reshape(len(logged), -1).mean(axis=1)
    return np.square(asked.astype(np.float64) - logged).mean(axis=1)


def holdout_errors(
    policy: Policy, episodes: Episodes, progress: Callable[[int, int], object] | None = None
) -> np.ndarray:
    """`action_errors` (N,) of a policy on episodes that it was not trained on.

    A return-conditioned policy is asked for the return that each episode in fact had: the action that it predicts is
    that of the behaviour which earns it, as in its training.
    """
    targets = None if policy.default_target is None else episodes.returns
    return action_errors(replay(policy, episodes, targets, progress=progress).actions, np.asarray(episodes.actions))
