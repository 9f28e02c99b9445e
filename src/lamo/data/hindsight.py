"""Hindsight goals: episodes again, as if what they came to had been asked of them (Andrychowicz et al. 2017, arXiv
1707.01495, "Hindsight Experience Replay").

    observation       achieved | desired | the rest               one episode of T = 5 steps, s5 seen after the last
    recorded          s0 s1 s2 s3 s4 (s5)    goal g: never reached
    final             s0 s1 s2 s3 s4 (s5)    goal achieved(s5)
    future, at 3      s0 s1 s2 (s3)          goal achieved(s3): the copy ends where it is reached

A copy has one goal from its first step to its last, so that it is an episode, and what follows a step has the goal of
that step. With `future` the time j is uniform over the episode's steps and the copy ends at j: so each of its steps has
a goal that is uniform over what was achieved after it, which is HER's `future`.

The reward of a step is that of what is achieved after it, r_t = r(achieved(s_t+1), goal), as in Gymnasium's goal
environments. numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lamo.data.episodes import Episodes
from lamo.data.relabel import HINDSIGHT, noted, true_of
from lamo.errors import LamoError

Strategy = Literal["final", "future"]
Reward = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]
"""(achieved (n, G), desired (n, G)) -> (n,) rewards."""
Reached = Callable[[NDArray[Any], NDArray[Any]], NDArray[np.bool_]]
"""(achieved (n, G), desired (n, G)) -> (n,): whether an episode ends there."""


class GoalColumns(NamedTuple):
    """Which columns of an observation hold what was achieved, and which what is asked for: equally many of both."""

    achieved: slice
    desired: slice


@dataclass
class Counts:
    """What came of it, over all blocks."""

    copies: int = 0
    at_goal: int = 0
    """Copies that begin at their goal: they teach to stay."""
    without: int = 0
    """Episodes without a step after which it is known what was achieved; left out."""
    cut: int = 0
    """Episodes whose last step was left out, because what was achieved after it is not recorded."""


@dataclass(frozen=True)
class Hindsight:
    """Recorded episodes and copies of them with goals that they did reach; a function of blocks of whole episodes."""

    goals: GoalColumns
    reward: Reward
    strategy: Strategy = "future"
    copies: int = 4
    """Copies of an episode, at most: `final` has one, and `future` no more than the episode has steps."""
    seed: int = 0
    originals: bool = True
    """Whether recorded episodes stay, with their own goals and the same reward function."""
    reached: Reached | None = None
    """Where given a copy ends, terminated, at the first step after which its goal is reached so."""
    words: str = "by a reward of your own"
    """What the reward is, for the history: `1 within 0.05 of the goal, else 0`."""

    def __post_init__(self) -> None:
        if self.copies < 1:
            raise LamoError(f"--copies {self.copies} must be at least 1")
        if self.strategy == "final" and self.copies != 1:
            raise LamoError(f"--copies {self.copies}: the final strategy has one goal per episode; give --copies 1")
        if self.seed < 0:
            raise LamoError(f"seed {self.seed} is negative; seeds are whole numbers from 0")

    @property
    def multiple(self) -> int:
        """How many times as large the result may be."""
        return self.copies + self.originals

    def describe(self, counts: Counts) -> str:
        """A sentence for the history."""
        goals = "after their last step" if self.strategy == "final" else "at later steps of theirs"
        what = f"{HINDSIGHT}: {counts.copies} copies of episodes with goals achieved {goals}"
        told = [] if self.originals else ["without the recorded ones"]
        if counts.at_goal:
            told.append(f"{counts.at_goal} begin at their goal")
        if counts.cut + counts.without:
            told.append(f"{counts.cut + counts.without} last steps left out, after which nothing is recorded")
        return f"{', '.join([what, *told])}; {self.words}"

    def __call__(self, block: Episodes, first: int = 0, counts: Counts | None = None) -> Episodes | None:
        """The episodes and their copies, in that order each, numbered anew, and a history that says so; None where no
        step is left.

        `first` is the position of the block's first episode in the whole: with one seed the goals are the same, however
        the whole is divided. `counts` is added to. `log_probs` are left out: how likely an action was given another
        goal is not known.
        """
        counts = Counts() if counts is None else counts
        made: list[_Copy] = []
        for index in range(len(block)):
            steps = _Steps(block, index, self.goals)
            if steps.count == 0:
                counts.without += 1
                continue
            counts.cut += steps.cut
            number = (first + index) * self.multiple
            if self.originals:
                made.append(steps.recorded(number))
            for copy, end in enumerate(self._ends(first + index, steps.count)):
                found = self._ended(steps, steps.copy(number + self.originals + copy, end))
                counts.copies += 1
                made.append(found)
        if not made:
            return None
        rewards = self._rewards(block, np.concatenate([copy.achieved for copy in made]), made)
        counts.at_goal += self._at_goal([copy for copy in made if copy.again])
        metadata = noted(true_of(block.metadata, episodes_stay=False), self.describe(counts))
        return replace(_episodes(block, made, rewards, self.goals), metadata=metadata)

    def _at_goal(self, copies: Sequence[_Copy]) -> int:
        """How many begin where the goal pays what it pays at the goal itself."""
        goals, before = (np.stack([getattr(copy, key) for copy in copies]) for key in ("goal", "before"))
        return int(np.count_nonzero(self.reward(before, goals) == self.reward(goals, goals)))

    def _ends(self, position: int, count: int) -> list[int]:
        """At which steps the copies of an episode end: T, or some of 1 … T."""
        if self.strategy == "final":
            return [count]
        rng = np.random.default_rng([self.seed, position])
        return sorted((1 + rng.choice(count, size=min(self.copies, count), replace=False)).tolist())

    def _ended(self, steps: _Steps, copy: _Copy) -> _Copy:
        if self.reached is None:
            return copy
        there = np.flatnonzero(self.reached(copy.achieved, np.broadcast_to(copy.goal, copy.achieved.shape)))
        return steps.copy(copy.number, int(there[0]) + 1, goal=copy.goal, reached=True) if len(there) else copy

    def _rewards(self, block: Episodes, achieved: NDArray[Any], made: Sequence[_Copy]) -> NDArray[np.float32]:
        desired = np.concatenate([np.broadcast_to(copy.goal, copy.achieved.shape) for copy in made])
        paid = np.asarray(self.reward(achieved, desired))
        if paid.shape != (len(achieved),):
            raise LamoError(
                f"{block.source}: the reward of {len(achieved)} goals has shape {paid.shape}; it must be one each"
            )
        paid = paid.astype(np.float32) + np.float32(0)  # no -0
        if not np.isfinite(paid).all():
            raise LamoError(f"{block.source}: the reward of a goal is not a finite number")
        return paid


def within(threshold: float, success: float = 1.0, failure: float = 0.0) -> Reward:
    """`success` where |achieved - desired| is at most `threshold`, else `failure`: the sparse reward of goal
    environments. Raises `LamoError` for a threshold that is negative or not finite, and for equal rewards.
    """
    if not 0 <= threshold < float("inf"):
        raise LamoError(f"--threshold {threshold} must be a distance, from 0 on")
    if success == failure:
        raise LamoError(f"success and failure both pay {success:g}; give different rewards")

    def reward(achieved: NDArray[Any], desired: NDArray[Any]) -> NDArray[Any]:
        return np.where(distance(achieved, desired) <= threshold, success, failure)

    return reward


def distance(achieved: NDArray[Any], desired: NDArray[Any]) -> NDArray[np.float64]:
    """Euclidean, of the last axis."""
    return np.linalg.norm(np.asarray(achieved, np.float64) - np.asarray(desired, np.float64), axis=-1)


def goal_columns(
    metadata: Mapping[str, Any],
    width: int,
    *,
    achieved: str | None = None,
    desired: str | None = None,
    sizes: Mapping[str, int] | None = None,
) -> GoalColumns:
    """Where an observation of `width` numbers holds its goals.

    From `achieved` and `desired` (`0:3`), else from the parts that the source tells (`observation_keys` and
    `observation_sizes` in the metadata), else from the `sizes` that an environment has for them, or for
    all of its parts. Raises `LamoError` where that cannot be known.
    """
    source = metadata.get("source", "episodes")
    if (achieved is None) != (desired is None):
        raise LamoError(
            "give both --achieved and --desired, as columns of the observation: --achieved 0:3 --desired 3:6"
        )
    if achieved is not None and desired is not None:
        columns = GoalColumns(_columns("--achieved", achieved, width), _columns("--desired", desired, width))
    else:
        keys = [str(key) for key in metadata.get("observation_keys") or []]
        told = [int(size) for size in metadata.get("observation_sizes") or []]
        keys = keys or list(sizes or ())
        if len(told) != len(keys):
            told = [] if sizes is None or any(key not in sizes for key in keys) else [sizes[key] for key in keys]
        if "achieved_goal" not in keys or "desired_goal" not in keys or sum(told) != width:
            raise LamoError(
                f"{source}: which of its {width} numbers are the achieved and the desired goal is not told; "
                "give them: --achieved 0:3 --desired 3:6 (or --obs-keys, where the source has goals apart)"
            )
        ends = dict(zip(keys, np.cumsum(told).tolist(), strict=True))
        size = dict(zip(keys, told, strict=True))
        columns = GoalColumns(*(slice(ends[key] - size[key], ends[key]) for key in ("achieved_goal", "desired_goal")))
    (a, b), (c, d) = ((each.start, each.stop) for each in columns)
    if b - a != d - c:
        raise LamoError(
            f"{source}: what is achieved has {b - a} numbers, what is desired {d - c}; they must be as many"
        )
    if a < d and c < b:
        raise LamoError(f"{source}: the achieved goal ({a}:{b}) and the desired one ({c}:{d}) share columns")
    return columns


def _columns(option: str, text: str, width: int) -> slice:
    first, colon, last = text.partition(":")
    if not (colon and first.strip().isdecimal() and last.strip().isdecimal()):
        raise LamoError(f"{option} {text}: give columns as FIRST:END, counted from 0, such as 0:3 for the first three")
    start, stop = int(first), int(last)
    if not start < stop <= width:
        raise LamoError(f"{option} {text}: there are columns 0:{width}; give some of them")
    return slice(start, stop)


class _Copy(NamedTuple):
    """Steps `rows` of the block with one goal."""

    number: int
    rows: slice
    after: NDArray[np.float32]  # (S,): what was seen after the last of them
    achieved: NDArray[np.float32]  # (n, G): what was achieved after each
    before: NDArray[np.float32]  # (G,): what was achieved before the first
    goal: NDArray[np.float32]  # (G,) or, for a recorded episode, (n, G): its own
    terminated: bool
    truncated: bool
    again: bool


class _Steps:
    """One recorded episode: the steps after which it is known what was achieved."""

    def __init__(self, block: Episodes, index: int, goals: GoalColumns) -> None:
        start, stop = int(block.offsets[index]), int(block.offsets[index + 1])
        final = None if block.final_observations is None else block.final_observations[index]
        seen = np.asarray(block.observations[start:stop])
        self.cut = final is None or bool(np.isnan(final).any())
        self.seen = seen if final is None or self.cut else np.concatenate([seen, final[None]])  # (T + 1, S)
        self.start, self.count, self.goals = start, len(self.seen) - 1, goals
        self.achieved = self.seen[1:, goals.achieved]
        self.terminated = bool(block.terminated[index]) and not self.cut
        self.truncated = bool(block.truncated[index]) or self.cut

    def recorded(self, number: int) -> _Copy:
        goal = self.seen[1:, self.goals.desired]
        return self._copy(number, self.count, goal, self.terminated, self.truncated, False)

    def copy(self, number: int, end: int, goal: NDArray[Any] | None = None, reached: bool = False) -> _Copy:
        """The first `end` steps, asked for `goal`, by default what they came to."""
        ended = (self.terminated, self.truncated) if end == self.count else (False, True)
        goal = self.achieved[end - 1] if goal is None else goal
        return self._copy(number, end, goal, *((True, False) if reached else ended), True)

    def _copy(self, number: int, end: int, goal: Any, terminated: bool, truncated: bool, again: bool) -> _Copy:
        rows = slice(self.start, self.start + end)
        before = self.seen[0, self.goals.achieved]
        return _Copy(number, rows, self.seen[end], self.achieved[:end], before, goal, terminated, truncated, again)


def _episodes(block: Episodes, made: Sequence[_Copy], rewards: NDArray[np.float32], goals: GoalColumns) -> Episodes:
    lengths = [copy.rows.stop - copy.rows.start for copy in made]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rows = np.concatenate([np.arange(copy.rows.start, copy.rows.stop) for copy in made])
    observations = block.observations.take(rows, axis=0)
    final = np.empty((len(made), observations.shape[1]), np.float32)
    for i, copy in enumerate(made):
        span = slice(int(offsets[i]), int(offsets[i + 1]))
        final[i] = copy.after
        if copy.again:
            observations[span, goals.desired] = copy.goal
            final[i, goals.desired] = copy.goal
    return Episodes(
        observations=observations,
        actions=block.actions.take(rows, axis=0),
        rewards=rewards,
        offsets=offsets,
        terminated=np.array([copy.terminated for copy in made]),
        truncated=np.array([copy.truncated for copy in made]),
        ids=np.array([copy.number for copy in made], np.int64),
        final_observations=final,
    )
