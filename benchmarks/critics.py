"""What the critics of runs say of the data's first steps, beside what the data earn from there: has it come back yet?

    python benchmarks/critics.py runs/strength/hopper-medium/td3bc/seed-0 … --lasting 2000

For IQL, TD3+BC and CQL of vectors. Both are in the rewards' own units (but for `--reward-scaling minus-one`),
discounted as the run does, means over the first 20 steps of each episode and then over episodes: those that return
`--lasting` or more, and the others. Of a critic the mean of its two; it also looks ahead beyond a time limit, where the
log's sum ends.

    python benchmarks/critics.py runs/strength/hopper-medium/cql/seed-0 --bounds

What they say of logged actions of which a number lies at a bound, as they are and with those numbers pulled in, and of
the policy's action there: do critics prefer the bounds for being in the log?
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lamo.algorithms import PRESETS, get_algorithm
from lamo.config import Experiment, Spec, read_dataclass
from lamo.data import Episodes
from lamo.data.actions import AT_BOUND
from lamo.prepare import prepare
from lamo.runs import Run

FIRST = 20
PULLED = (0.98, 0.95, 0.9)


def loaded(path: Path) -> tuple[int, Any, Episodes]:
    """(step, learner, episodes) of a run at its newest checkpoint; its model is in eval mode."""
    run = Run.open(path)
    experiment = Experiment.of_run(run.config, str(path / "config.json"))
    setup = prepare(experiment, known=read_dataclass(Spec, run.provenance.get("spec"), f"{path}/provenance.json: spec"))
    learner = get_algorithm(PRESETS[experiment.preset][0])(
        experiment.algorithm, setup.spec, setup.episodes, batch_size=experiment.batch_size, steps=experiment.steps
    )
    if learner.scaling is None:
        raise SystemExit(f"{path}: a critic of choices; this is for vectors")
    found = run.load_checkpoint()
    if found is None:
        raise SystemExit(f"{path}: no checkpoint yet")
    step, tensors, _ = found
    own = "learner."
    learner.load_state_dict({name[len(own) :]: each for name, each in tensors.items() if name.startswith(own)})
    learner.model.eval()
    return step, learner, setup.episodes


def discounted(episodes: Episodes, discount: float) -> np.ndarray:
    """(N,) sums of rewards to the end of the episode, discounted."""
    sums = episodes.rewards.astype(np.float64)
    for start, end in zip(episodes.offsets[:-1], episodes.offsets[1:], strict=True):
        for i in range(end - 2, start - 1, -1):
            sums[i] += discount * sums[i + 1]
    return sums


def come_back(path: Path, lasting: float) -> str:
    """The row of one run: critics and log over the first steps, of good episodes and of others."""
    step, learner, episodes = loaded(path)
    mean, std = learner.statistics
    rows = np.minimum(episodes.offsets[:-1, None] + np.arange(FIRST), episodes.offsets[1:, None] - 1)  # (E, 20)
    observations = torch.from_numpy((episodes.observations[rows] - mean) / std)
    actions = torch.from_numpy(learner.scaling.to_unit(episodes.actions[rows]))
    values = learner.model.critic(observations.flatten(0, 1), actions.flatten(0, 1)).mean(0) / learner.reward_scale
    believed = values.view(rows.shape).mean(1).numpy()  # (E,)
    earned = discounted(episodes, learner.settings.discount)[rows].mean(1)
    good = episodes.returns >= lasting
    groups = [each[which] for each in (believed, earned) for which in (good, ~good)]
    return f"| {path} | {step} | {' | '.join(f'{group.mean():.0f}' if len(group) else '–' for group in groups)} |"


def at_bounds(path: Path) -> str:
    """The row of one run: Q of logged actions at a bound, of the same pulled in, and of the policy's."""
    step, learner, episodes = loaded(path)
    mean, std = learner.statistics
    unit = learner.scaling.to_unit(episodes.actions)
    held = np.flatnonzero((np.abs(unit) >= AT_BOUND).any(axis=1))
    if not len(held):
        return f"| {path} | {step} |{' – |' * (len(PULLED) + 2)}"
    held = np.sort(np.random.default_rng(0).choice(held, min(len(held), 10_000), replace=False))
    observations = torch.from_numpy((episodes.observations[held] - mean) / std)
    logged = torch.from_numpy(unit[held])
    asked = [logged, *(logged.clamp(-size, size) for size in PULLED), learner.model.actor(observations)]
    values = [learner.model.critic(observations, actions).mean() / learner.reward_scale for actions in asked]
    return f"| {path} | {step} | {' | '.join(f'{value:.1f}' for value in values)} |"


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--lasting", type=float, help="the return from which an episode is a good one")
    wanted.add_argument("--bounds", action="store_true", help="Q of actions at a bound, and of the same pulled in")
    chosen = parser.parse_args()
    columns = ["critics, good", "critics, others", "log, good", "log, others"]
    if chosen.bounds:
        columns = ["at a bound", *(f"pulled in to {size:g}" for size in PULLED), "the policy's"]
    print(f"| run | steps | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 2)}")
    for path in chosen.runs:
        print(at_bounds(path) if chosen.bounds else come_back(path, chosen.lasting), flush=True)


if __name__ == "__main__":
    main()
