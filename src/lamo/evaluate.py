"""Rollouts of a policy: every target and every episode at once, one record per episode, and the trace of one episode.

A policy is seen only through its protocol (`lamo.policy.Policy`); what method it is does not matter here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lamo.envs.geometry import Outline
from lamo.envs.pool import EVALUATION_SEED_BASE, EnvPool, collection_seed, evaluation_seed
from lamo.envs.spread import open_pool
from lamo.errors import LamoError

if TYPE_CHECKING:
    from lamo.policy import Policy

__all__ = ["EVALUATION_SEED_BASE", "EnvPool", "collection_seed", "evaluation_seed", "rollout", "summarise", "trace"]

MAX_PARALLEL = 512  # environments open at once; beyond it memory grows and speed does not
TRACED_OBSERVATIONS = 32


def rollout(
    policy: Policy,
    env_id: str,
    targets: Sequence[float | None],
    episodes: int,
    seed: int,
    score: Callable[[float], float | None] | None = None,
    *,
    horizon: int | None = None,
    default_horizon: int | None = None,
    max_parallel: int | None = None,
    progress: Callable[[int, int], object] | None = None,
    pool: EnvPool | None = None,
    obs_keys: Sequence[str] | None = None,
    workers: int | None = 1,
) -> list[dict[str, Any]]:
    """Play `episodes` episodes for each target -> one record per episode, in order of target, then episode.

    A record is {"target", "episode", "seed", "return" (sum of rewards), "score" (`score(return)`, None without),
    "length" (steps), "terminated"}. Episode e is reset with `evaluation_seed(seed, e)` whatever the target, so targets
    and methods are compared in pairs. All run together, up to `max_parallel` (default 512) of them; a row that has
    finished drops out and the policy is not asked about it again. `targets`: None is the policy's own default and
    cannot stand beside numbers. `horizon` cuts episodes after so many steps (default: the environment's own limit, or
    `default_horizon` where it has none).
    `progress(episodes done, episodes in all)` is called after every step; what it raises ends the rollout. `pool` lets
    calls share open environments; it is left open. `obs_keys`: the keys of dict observations that the policy sees.
    `workers`: processes that hold the environments (None: as many as pay); the records do not depend on it.
    Raises `LamoError` for a request without sense, an unknown environment, actions of a wrong shape or not finite.
    """
    if episodes < 1 or not targets:
        raise LamoError(f"nothing to evaluate: {episodes} episodes for {len(targets)} targets; both must be 1 or more")
    evaluation_seed(seed, episodes - 1)  # there are only so many: say so before any is played
    wanted = _targets(targets)
    jobs = [(target, e) for target in targets for e in range(episodes)]
    records: list[dict[str, Any]] = []
    owned = pool is None
    size = max_parallel or MAX_PARALLEL
    pool = pool or open_pool(env_id, min(size, len(jobs)), horizon, workers=workers, obs_keys=obs_keys)
    try:
        limit = _limit(env_id, pool, horizon, default_horizon)
        for first in range(0, len(jobs), size):
            chunk = jobs[first : first + size]
            seeds = [evaluation_seed(seed, e) for _, e in chunk]
            asked = None if wanted is None else np.repeat(wanted, episodes)[first : first + size]
            returns, lengths, terminated = _play(policy, pool, seeds, asked, limit, first, len(jobs), progress)
            for i, (target, e) in enumerate(chunk):
                value = float(returns[i])
                records.append(
                    {
                        "target": None if target is None else float(target),
                        "episode": e,
                        "seed": seeds[i],
                        "return": value,
                        "score": score(value) if score else None,
                        "length": int(lengths[i]),
                        "terminated": bool(terminated[i]),
                    }
                )
    finally:
        if owned:
            pool.close()
    return records


def _limit(env_id: str, pool: EnvPool, horizon: int | None, default: int | None) -> int:
    """Steps after which an episode is cut."""
    limit = horizon or pool.max_episode_steps or default
    if limit is None:
        raise LamoError(f"{env_id} has no limit of steps of its own; give a horizon")
    return limit


def _targets(targets: Sequence[float | None]) -> np.ndarray | None:
    """(n,) float64, or None for the policy's default."""
    numbers = [target for target in targets if target is not None]
    if not numbers:
        return None
    if len(numbers) != len(targets) or not np.isfinite(numbers).all():
        raise LamoError(f"targets must be finite numbers, or none of them; got {', '.join(map(str, targets))}")
    return np.asarray(numbers, np.float64)


def _play(
    policy: Policy,
    pool: EnvPool,
    seeds: Sequence[int],
    targets: np.ndarray | None,
    limit: int,
    done: int,
    total: int,
    progress: Callable[[int, int], object] | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One batch of n episodes to their ends -> returns (n,) float64, lengths (n,) int64, terminated (n,) bool."""
    n = len(seeds)
    returns, lengths, ended = np.zeros(n), np.zeros(n, np.int64), np.zeros(n, bool)
    policy.reset(n, targets)
    observations, rewards, rows = pool.reset(seeds), None, np.arange(n)
    for _ in range(limit):
        actions = policy.act(observations, rewards, rows=rows)
        observations, rewards, terminated, truncated = pool.step(rows, actions)
        returns[rows] += rewards
        lengths[rows] += 1
        ended[rows] = terminated
        going = ~(terminated | truncated)
        if not going.all():
            rows, observations, rewards = rows[going], observations[going], rewards[going]
        if progress:
            progress(done + n - len(rows), total)
        if len(rows) == 0:
            break
    return returns, lengths, ended


def summarise(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Records of `rollout` -> {"targets": [one row per target, in their order], "best_target"}.

    A row is {"target", "episodes", "return_mean", "return_std", "return_min", "return_max", "score_mean", "score_std",
    "length_mean"}; deviations are those of the episodes themselves (divided by n), scores None where there are none.
    "best_target" is the target with the highest mean return, the first of equals. Picking it afterwards flatters a
    method, which is why every target stays in the summary.
    """
    if not records:
        raise LamoError("no evaluation episodes to summarise")
    rows = []
    for target in dict.fromkeys(record["target"] for record in records):
        mine = [record for record in records if record["target"] == target]
        returns = np.array([record["return"] for record in mine], np.float64)
        scores = None if any(r["score"] is None for r in mine) else np.array([r["score"] for r in mine], np.float64)
        rows.append(
            {
                "target": target,
                "episodes": len(mine),
                "return_mean": float(returns.mean()),
                "return_std": float(returns.std()),
                "return_min": float(returns.min()),
                "return_max": float(returns.max()),
                "score_mean": None if scores is None else float(scores.mean()),
                "score_std": None if scores is None else float(scores.std()),
                "length_mean": float(np.mean([record["length"] for record in mine])),
            }
        )
    return {"targets": rows, "best_target": max(rows, key=lambda row: row["return_mean"])["target"]}


def trace(
    policy: Policy,
    env_id: str,
    target: float | None,
    seed: int,
    *,
    episode: int = 0,
    horizon: int | None = None,
    default_horizon: int | None = None,
    obs_keys: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Play one evaluation episode and write down what is needed to draw it -> a JSON-able dict.

    Always: {"env", "target", "seed" (of the reset), "return", "fps" (steps per second of simulated time, None where
    unknown), "terminated", "rewards": one per step (T)}, and, for a MuJoCo environment (no GL is used; metres),

        "kind": "segments", "view": "xy" (from above) or "xz" (from the side, y is height),
        "segments": one {"name", "radius", "colour": "#rrggbb"} per body part, those underneath first,
        "frames": (T + 1) frames of one [x0, y0, x1, y1] per part; frame t is the state after t steps. A part
        without length is a disc.

    or, for any other,

        "kind": "curves", "observations": (T + 1) rows of the first 32 numbers, "actions": T rows of them.
    """
    with EnvPool(env_id, obs_keys=obs_keys) as pool:
        limit = _limit(env_id, pool, horizon, default_horizon)
        reset_seed = evaluation_seed(seed, episode)
        policy.reset(1, _targets([target]))
        observations, rewards = pool.reset([reset_seed]), None
        outline = Outline.of(pool.envs[0])
        row, earned, terminated = np.arange(1), [], np.zeros(1, bool)
        frames, seen, acted = [], [observations[0]], []
        if outline:
            frames.append(outline.frame())
        for _ in range(limit):
            actions = pool.clip(policy.act(observations, rewards, rows=row))
            observations, rewards, terminated, truncated = pool.step(row, actions)
            earned.append(float(rewards[0]))
            seen.append(observations[0])
            acted.append(np.atleast_1d(actions[0]))
            if outline:
                frames.append(outline.frame())
            if terminated[0] or truncated[0]:
                break
        seconds = getattr(pool.envs[0].unwrapped, "dt", None)
    told: dict[str, Any] = {
        "env": env_id,
        "target": None if target is None else float(target),
        "seed": reset_seed,
        "return": float(sum(earned)),
        "fps": 1.0 / float(seconds) if isinstance(seconds, int | float) and seconds > 0 else None,
        "terminated": bool(terminated[0]),
        "rewards": earned,
    }
    if outline:
        shapes = {"kind": "segments", "view": outline.view, "segments": outline.parts}
        return {**told, **shapes, "frames": np.round(frames, 4).tolist()}
    first = np.stack(seen)[:, :TRACED_OBSERVATIONS]
    return {**told, "kind": "curves", "observations": first.astype(float).tolist(), "actions": np.stack(acted).tolist()}
