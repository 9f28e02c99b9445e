"""Returns of logged episodes as normalised scores: 100 · (return - low) / (high - low), as a task's row says.

D4RL's (Fu et al. 2020, arXiv 2004.07219), where low and high are the returns of a random and of an expert policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from lamo.data.episodes import Episodes
from lamo.data.inspect import QUANTILES
from lamo.data.relabel import UNREWARDED, warning
from lamo.errors import LamoError, warn
from lamo.tasks import TASKS, Task, base_name, get_task


class Reference(NamedTuple):
    """The returns whose scores are 0 and 100, and the tasks that have them."""

    low: float
    high: float
    tasks: tuple[str, ...]

    def score(self, returns: np.ndarray) -> np.ndarray:
        """(E,) float64 -> (E,) float64."""
        return 100.0 * (np.asarray(returns, np.float64) - self.low) / (self.high - self.low)


def reference(metadata: Mapping[str, Any], task: str | None = None) -> Reference:
    """That of `task`, else that of the tasks of the environment which the metadata name, any version of it.

    Raises `LamoError` where there is none, the environment's tasks do not agree, or `task` is of another environment.
    """
    source, env = metadata.get("source", "episodes"), metadata.get("env")
    if task is not None:
        row = get_task(task)
        if row.score_range is None:
            raise LamoError(f"task {task} has no agreed returns for the scores 0 and 100")
        if env:
            _check_env(str(env), row, source)
        return Reference(*row.score_range, (task,))
    if not env:
        raise LamoError(f"{source} does not name its environment; give --task NAME (`lamo tasks` lists them)")
    rows = [row for row in TASKS.values() if base_name(row.env) == base_name(str(env)) and row.score_range is not None]
    ranges = {row.score_range for row in rows}
    if not rows:
        raise LamoError(f"{source}: no task has scores for {env}; give --task NAME (`lamo tasks` lists them)")
    if len(ranges) > 1:
        names = ", ".join(row.name for row in rows)
        raise LamoError(f"{source}: the tasks of {env} have different scores; give --task, one of {names}")
    low, high = next(each for each in ranges if each is not None)
    return Reference(low, high, tuple(row.name for row in rows))


def _check_env(env: str, task: Task, source: str) -> None:
    """That `env`, as data name it (also as D4RL does, `hopper-medium-v2`), is the task's environment, in any version.

    Raises `LamoError` where it is another task's, warns where it is none's.
    """
    own = base_name(task.env)
    known = {base_name(row.env) for row in TASKS.values() if base_name(env) in (base_name(row.env), row.name)}
    if known and own not in known:
        raise LamoError(
            f"{source}: was recorded in {env}, but --task {task.name} scores returns in {task.env}; leave --task "
            "out, or give one of its own environment"
        )
    if not known:
        warn(f"{source}: was recorded in {env}; scored as if in {task.env}, as --task {task.name} says")


def score(blocks: Iterable[Episodes], metadata: Mapping[str, Any], task: str | None = None) -> dict[str, Any]:
    """Scores of all episodes -> a JSON-able dict: figures, quantiles, and a row for each episode.

    Looks at one block after the other. Raises `LamoError` where there is no reference (`reference`), and for a log that
    was read without rewards.
    """
    if metadata.get(UNREWARDED):
        raise LamoError(
            f"{metadata.get('source', 'episodes')}: was read with --reward none; without rewards, no scores"
        )
    found = reference(metadata, task)
    rows: list[tuple[int, int, float, str]] = []
    for block in blocks:
        ends = np.where(block.terminated, "terminated", np.where(block.truncated, "truncated", "unfinished"))
        columns = (block.ids, block.lengths, block.returns, ends)
        rows += zip(*(column.tolist() for column in columns), strict=True)
    scores = found.score(np.array([row[2] for row in rows]))
    said = warning(metadata)
    return {
        "source": metadata.get("source"),
        "env": metadata.get("env"),
        "tasks": list(found.tasks),
        "score_range": [found.low, found.high],
        **summary(scores),
        "warning": None if said is None else f"{said}: these scores are not comparable with a policy's",
        "episode_scores": [
            {"id": id, "length": length, "return": value, "score": float(s), "ended": ended}
            for (id, length, value, ended), s in zip(rows, scores, strict=True)
        ],
    }


def summary(scores: np.ndarray) -> dict[str, Any]:
    """Count, mean, deviation and quantiles of (E,) scores, JSON-able."""
    return {
        "episodes": len(scores),
        "score_mean": float(scores.mean()),
        "score_std": float(scores.std()),
        "score_min": float(scores.min()),
        "score_max": float(scores.max()),
        "score_quantiles": {f"{q:g}": float(v) for q, v in zip(QUANTILES, np.quantile(scores, QUANTILES), strict=True)},
    }


def in_metadata(report: Mapping[str, Any]) -> dict[str, Any]:
    """What of a score's report is kept in the metadata of the data: all but the rows."""
    return {key: value for key, value in report.items() if key not in ("source", "env", "episode_scores", "warning")}


def render(report: Mapping[str, Any], table: bool = False) -> str:
    """The report as text; with `table` a line for each episode as well."""
    low, high = report["score_range"]
    lines = [f"{report['source']}  (as {', '.join(report['tasks'])}: {low:g} and {high:g} are the scores 0 and 100)"]
    if table:
        lines.append(f"  {'episode':>8} {'steps':>7} {'return':>12} {'score':>9}  ended")
        lines += [
            f"  {row['id']:>8} {row['length']:>7} {row['return']:>12.5g} {row['score']:>9.2f}  {row['ended']}"
            for row in report["episode_scores"]
        ]
    lines.append(f"  episodes     {report['episodes']:,}")
    lines.append(
        f"  score        {report['score_mean']:.2f} ± {report['score_std']:.2f}, "
        f"{report['score_min']:.2f} … {report['score_max']:.2f}"
    )
    told = ", ".join(f"{100 * float(q):g} % {value:.2f}" for q, value in report["score_quantiles"].items())
    lines.append(f"  quantiles    {told}")
    if report["warning"]:
        lines.append(f"  note         {report['warning']}")
    return "\n".join(lines)
