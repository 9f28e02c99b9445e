"""Evaluate the policy of a run that has finished: what `lamo evaluate` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lamo.config import Experiment, Spec, check_targets, read_dataclass
from lamo.data.actions import KIND_WORDS
from lamo.envs.pool import EnvPool
from lamo.errors import LamoError
from lamo.evaluate import rollout, summarise
from lamo.policy import Policy, load_policy
from lamo.runs import Run
from lamo.tasks import Task


def evaluate(
    run: str | Path,
    *,
    targets: Sequence[float | Literal["auto"]] | None = None,
    episodes: int = 20,
    seed: int | None = None,
    env: str | None = None,
    device: str = "cpu",
    progress: Callable[[int, int], object] | None = None,
    workers: int | None = 1,
) -> dict[str, Any]:
    """Play `episodes` episodes per return target with the policy in run folder `run`; nothing is written.

    `targets` are by default those of the run; "auto" adds, beside them or beside the numbers given, the one that the
    run's training data believe in (`lamo.selection.targets`), which then stands under "auto_target". `seed` is by
    default the run's own, which meets the same episodes as its evaluations while it trained; `workers` are those of
    `lamo.evaluate.rollout`. Returns {"run", "env", "seed", "targets": [one row per target], "best_target", "records":
    [one per episode]}, see `lamo.evaluate.summarise` and `rollout`. Raises `LamoError` for a folder without a finished
    run, for a run without an environment, for targets that `check_targets` refuses, and with "auto" for data that is
    not the run's any more.
    """
    if targets is not None:
        check_targets(targets)
    folder = Run.open(run)
    folder.finished()
    spec = read_dataclass(Spec, folder.provenance.get("spec"), f"{run}/provenance.json: spec")
    env = env or spec.env
    if env is None:
        raise LamoError(f"{run}: the run has no environment; give --env ID")
    if seed is None:
        seed = Experiment.of_run(folder.config, f"{run}/config.json").seed
    task = Task(env, env, spec.horizon, spec.targets, spec.return_scale, spec.score_range, None)
    if env != spec.env:
        with EnvPool(env, obs_keys=spec.obs_keys) as pool:
            own = pool.observation_dim, pool.action_dim, pool.action_kind, pool.choices
            if own != (spec.observation_dim, spec.action_dim, spec.action_kind, spec.choices):
                raise LamoError(
                    f"--env {env} has observations of {pool.observation_dim} and actions of {pool.action_dim} numbers "
                    f"({KIND_WORDS[pool.action_kind]}), the policy of {run} {spec.observation_dim} and "
                    f"{spec.action_dim} ({KIND_WORDS[spec.action_kind]}); give one that fits"
                )
    policy = load_policy(run, device)
    wanted = tuple(target for target in targets or () if target != "auto") or spec.targets or (None,)
    choice: dict[str, Any] = {}
    if "auto" in (targets or ()):
        choice = {"auto_target": _choose(run, policy, spec)}
        wanted = tuple(dict.fromkeys([*wanted, choice["auto_target"]["target"]]))
    records = rollout(
        policy, env, wanted, episodes, seed, task.score,
        default_horizon=spec.horizon, progress=progress, obs_keys=spec.obs_keys, workers=workers,
    )  # fmt: skip
    return {"run": str(run), "env": env, "seed": seed, **choice, **summarise(records), "records": records}


def _choose(run: str | Path, policy: Policy, spec: Spec) -> dict[str, Any]:
    """The choice that `lamo train --targets auto` would have made at the end of this run."""
    from lamo.selection.pool import gather
    from lamo.selection.targets import choose_target

    pool = gather([run])
    entrant = pool.entrants[0]
    trained_on = np.flatnonzero(np.isin(pool.episodes.ids, sorted(entrant.trained_on)))
    data = pool.episodes.select(trained_on)
    return choose_target(policy, data, choices=spec.choices, seed=entrant.experiment.seed)
