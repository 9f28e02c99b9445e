"""`lamo data relabel` and `lamo data score`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from lamo.commands import answer, parse, stdout_kept_clean
from lamo.commands.recutting import steps_done, without_places
from lamo.data.sources.options import ReadOptions, WriteOptions
from lamo.errors import LamoError, NoRewards

if TYPE_CHECKING:
    from lamo.data.episodes import Episodes
    from lamo.data.hindsight import Hindsight


@dataclass(kw_only=True)
class _Read:
    """How the source is read, and what is written."""

    columns: tuple[str, ...] | None = None
    """Columns of a table: obs=x,y,vx action=ux reward=r episode=run time=t; regular expressions do."""
    obs_keys: tuple[str, ...] | None = None
    """Keys of dict observations to use; by default all of them."""
    actions: Literal["discrete", "continuous"] | None = None
    """What integers among the actions mean."""
    target: WriteOptions = field(default_factory=WriteOptions)


@dataclass(kw_only=True)
class Relabel(_Read):
    """Write a dataset with other rewards. The environment of an evaluation still pays its own."""

    source: Positional[str]
    """What to read: a file, a folder, a Minari id or an embedded name."""
    out: Positional[Path]
    """What to write, which must not exist: .lamo (a packed store), .hdf5, .npz or .parquet; or what --format says."""
    reward: Literal["sparse", "delayed", "scaled", "hindsight"]
    """`sparse`: 1 at the end of episodes whose return is --threshold or more. `delayed`: the sum of --every steps, at
    the last of them; by default the whole return at an episode's end. `scaled`: reward · --scale + --shift within
    --clip. `hindsight`: copies of episodes with goals that they reached.
    """
    threshold: float | None = None
    """sparse: the least return that is paid. hindsight: the largest distance at which a goal is reached."""
    every: int | None = None
    """delayed: steps from one payment to the next."""
    scale: float | None = None
    """scaled: factor, applied first."""
    shift: float | None = None
    """scaled: added to the scaled reward."""
    clip: tuple[float, float] | None = None
    """scaled: lowest and highest reward."""
    strategy: Literal["future", "final"] | None = None
    """hindsight: goals achieved at some later step (default) or after the last."""
    copies: int | None = None
    """hindsight: copies of an episode at most; by default 4 with future, 1 with final."""
    env: str | None = None
    """hindsight: take the reward from this goal environment's compute_reward instead of a --threshold."""
    achieved: str | None = None
    """hindsight: columns of the observation that hold what was achieved, 0:3, where the source does not tell."""
    desired: str | None = None
    """hindsight: columns that hold the goal, 3:6."""
    success: float | None = None
    """hindsight: reward of a step that reaches its goal (default 1)."""
    failure: float | None = None
    """hindsight: reward of every other step (default 0)."""
    stop_at_goal: bool = False
    """hindsight: end a copy at the first step that reaches its goal."""
    copies_only: bool = False
    """hindsight: leave the recorded episodes out."""
    seed: int | None = None
    """hindsight: seed of the goals (default 0)."""
    without_rewards: bool = False
    """hindsight: read a log without rewards; goals are paid anew, so none are needed."""
    quiet: bool = False
    """No progress."""
    json: bool = False
    """Print what was written, as `lamo data inspect --json` does."""


_PAID = ("threshold", "success", "failure", "stop_at_goal")
_OPTIONS = {
    "sparse": ("threshold",),
    "delayed": ("every",),
    "scaled": ("scale", "shift", "clip"),
    "hindsight": (*_PAID, "strategy", "copies", "env", "achieved", "desired", "copies_only", "seed", "without_rewards"),
}


def relabel_verb(argv: list[str]) -> int:
    """`lamo data relabel`."""
    options = parse(Relabel, "data relabel", argv)
    kind = options.reward
    for name in dict.fromkeys(name for names in _OPTIONS.values() for name in names):
        if name not in _OPTIONS[kind] and getattr(options, name) not in (None, False):
            raise LamoError(f"--{name.replace('_', '-')} does not apply to --reward {kind}")
    with stdout_kept_clean(options.json), ExitStack() as held:
        from lamo.data.inspect import inspect, render
        from lamo.data.rewrite import check_result, relabel, relabel_goals

        check_result(options.out, options.target)
        none = "none" if options.without_rewards else None
        read = ReadOptions(options.columns, options.obs_keys, options.actions, none)
        how: dict[str, Any] = {
            "command": without_places("relabel", argv, (options.source, options.out)),
            "progress": steps_done(options.quiet),
        }
        came = {}
        try:
            if kind == "hindsight":
                make = _hindsight(options, held)
                episodes, counts = relabel_goals(options.source, options.out, make, read, options.target, **how)
                came = {"hindsight": vars(counts)}
            else:
                episodes = relabel(options.source, options.out, _relabelling(options), read, options.target, **how)
        except NoRewards as error:  # `--reward` says here what is made
            advice = "give --without-rewards" if kind == "hindsight" else f"--reward {kind} is made of rewards"
            raise LamoError(f"{error.found}; {advice}") from error
        result = {"out": str(options.out), **came, **inspect(episodes)}
    return answer(result, options.json, lambda: f"{render(result)}\n{result['out']}")


def _relabelling(options: Relabel) -> Any:
    from lamo.data.relabel import delayed, scaled, sparse

    if options.reward == "delayed":
        return delayed(options.every)
    if options.reward == "scaled":
        scale = 1.0 if options.scale is None else options.scale
        return scaled(scale, options.shift or 0.0, options.clip)
    if options.threshold is None:
        raise LamoError(
            "--reward sparse needs --threshold, the least return that is paid; for the whole return at the end of an "
            "episode give --reward delayed"
        )
    return sparse(options.threshold)


def _hindsight(options: Relabel, held: ExitStack) -> Callable[[Episodes], Hindsight]:
    """What `relabel_goals` calls with the episodes; what can be wrong without them is found out here."""
    from lamo.data.hindsight import GoalColumns, Hindsight, distance, goal_columns, within

    paid = {name: getattr(options, name) for name in ("success", "failure") if getattr(options, name) is not None}
    reached, sizes = None, None
    if options.env is not None:
        for name in _PAID:
            if getattr(options, name) not in (None, False):
                option = name.replace("_", "-")
                raise LamoError(f"--{option} does not apply with --env, which says what is paid and when")
        from lamo.envs.goals import GoalRewards

        goals = held.enter_context(GoalRewards(options.env))
        reward, reached, sizes = goals.reward, goals.reached, goals.sizes
        words = f"as {options.env} pays"
    else:
        threshold = options.threshold
        if threshold is None:
            raise LamoError(
                "--reward hindsight needs --threshold, the distance at which a goal is reached, or --env, whose "
                "compute_reward says it"
            )
        reward = within(threshold, **paid)
        if options.stop_at_goal:
            reached = lambda achieved, desired: distance(achieved, desired) <= threshold  # noqa: E731
        words = f"{paid.get('success', 1):g} within {threshold:g} of the goal, else {paid.get('failure', 0):g}"
    strategy = options.strategy or "future"
    copies = options.copies if options.copies is not None else 4 if strategy == "future" else 1
    seed = 0 if options.seed is None else options.seed

    def make(columns: GoalColumns) -> Hindsight:
        return Hindsight(columns, reward, strategy, copies, seed, not options.copies_only, reached, words)

    make(GoalColumns(slice(0), slice(0)))  # raises for options that make no sense, before anything is read

    def of(episodes: Episodes) -> Hindsight:
        width = episodes.observations.shape[1]
        where = {"achieved": options.achieved, "desired": options.desired, "sizes": sizes}
        return make(goal_columns(episodes.metadata, width, **where))

    return of


@dataclass(kw_only=True)
class Score(_Read):
    """Returns of a dataset's episodes as the task's normalised scores."""

    source: Positional[str]
    """What to read: a file, a folder, a Minari id or an embedded name."""
    task: str | None = None
    """Whose scores (`lamo tasks` lists them); by default those of the environment that the dataset names."""
    reward: Literal["none"] | None = None
    """`none` reads a log without rewards."""
    table: bool = False
    """A line for each episode."""
    out: Path | None = None
    """Also write a copy of the dataset, which must not exist, with the scores in its history."""
    quiet: bool = False
    """No progress."""
    json: bool = False
    """Print one JSON object: score_mean, score_quantiles, episode_scores, …"""


def score_verb(argv: list[str]) -> int:
    """`lamo data score`."""
    options = parse(Score, "data score", argv)
    if options.out is None and options.target.format is not None:
        raise LamoError("--format says what --out is; give --out, or leave it out")
    with stdout_kept_clean(options.json):
        from lamo.data.rewrite import write_scored
        from lamo.data.score import render, score
        from lamo.data.stream import stream

        read = ReadOptions(options.columns, options.obs_keys, options.actions, options.reward)
        if options.out is not None:
            how: dict[str, Any] = {
                "command": without_places("score", argv, (options.source, options.out)),
                "progress": steps_done(options.quiet),
            }
            result = {
                "out": str(options.out),
                **write_scored(options.source, options.out, options.task, read, options.target, **how),
            }
        else:
            found = stream(options.source, read)
            result = score(found, found.metadata, options.task)
    return answer(result, options.json, lambda: render(result, options.table))
