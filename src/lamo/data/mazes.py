"""Recordings of gymnasium-robotics' mazes, brought to what `lamo.envs.robotics` pays: 1 at the goal, where it ends.

    in Minari's AntMaze data    0 0 0 0 1 1 1 1 1 1     the ant stands at its goal until the time limit: sum 6
    here                        0 0 0 0 1               the goal is reached, and the episode ends there: sum 1

numpy only.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from lamo.data.episodes import Episodes

_MAZE = re.compile(r"(Ant|Point)Maze_(UMaze|Medium|Large)(_Diverse_GR?)?-v(\d+)")
_OWN_VERSIONS = {"Ant": ("3", "4"), "Point": ("3",)}  # those whose observations lamo's environment has


def is_maze(episodes: Episodes) -> bool:
    """Whether they were recorded in such a maze, by Minari."""
    named = _MAZE.fullmatch(str(episodes.metadata.get("env") or ""))
    return named is not None and episodes.metadata.get("format") == "minari"


def end_at_goal(episodes: Episodes) -> Episodes:
    """Minari's sparse mazes as lamo's environments would have recorded them; all other episodes untouched.

    Where the recording says that the goal stayed when it was reached (`reset_target` false), steps after the first that
    pays are left out. Episodes that end with their reward are terminated. The environment becomes lamo's own. What was
    done stands in `metadata["notes"]`. Mazes whose goal moves on pay several times, and are left as they are.
    """
    maze = _MAZE.fullmatch(str(episodes.metadata.get("env") or ""))
    if maze is None or not is_maze(episodes) or not np.isin(episodes.rewards, (0, 1)).all():
        return episodes
    lengths = episodes.lengths
    goal = _first_reward(episodes)  # (E,): its step, or the episode's length
    notes = list(episodes.metadata.get("notes", []))
    after = int((goal < lengths - 1).sum())
    if not (goal < lengths).any():
        return episodes
    if after and (episodes.metadata.get("env_kwargs") or {}).get("reset_target") is not False:
        return episodes
    if after:
        dropped = int(np.maximum(lengths - goal - 1, 0).sum())
        notes.append(
            f"{after} episodes went on after the goal, paid at every step; cut there, as in evaluation "
            f"({dropped} steps)"
        )
        episodes = _cut(episodes, np.minimum(goal + 1, lengths))
    reached = goal < lengths
    metadata = {**episodes.metadata, "notes": notes}
    if maze[4] in _OWN_VERSIONS[maze[1]]:
        metadata |= {"env": f"{maze[1]}Maze{maze[2]}-v0", "env_kwargs": {}, "env_limit": None}
        notes.append(f"recorded in {maze[0]}; scored in {metadata['env']}, which ends at the goal")
    return replace(
        episodes, terminated=episodes.terminated | reached, truncated=episodes.truncated & ~reached, metadata=metadata
    )


def _first_reward(episodes: Episodes) -> np.ndarray:
    """(E,) int64: the step of each episode that pays first, its length where none does."""
    paid = np.flatnonzero(episodes.rewards)
    place = np.searchsorted(paid, episodes.offsets[:-1])
    found = np.append(paid, episodes.steps)[place]
    return np.minimum(found - episodes.offsets[:-1], episodes.lengths)


def _cut(episodes: Episodes, lengths: np.ndarray) -> Episodes:
    """The first `lengths` (E,) steps of each episode; what is seen next is known where the log has it."""
    step = np.arange(episodes.steps) - np.repeat(episodes.offsets[:-1], episodes.lengths)
    kept = step < np.repeat(lengths, episodes.lengths)
    final = episodes.final_observations
    shorter = np.flatnonzero(lengths < episodes.lengths)
    if final is not None and len(shorter):
        final = final.copy()
        final[shorter] = episodes.observations[(episodes.offsets[:-1] + lengths)[shorter]]
    return replace(
        episodes,
        observations=episodes.observations[kept],
        actions=episodes.actions[kept],
        rewards=episodes.rewards[kept],
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        final_observations=final,
        log_probs=None if episodes.log_probs is None else episodes.log_probs[kept],
    )
