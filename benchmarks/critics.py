"""What the critics of runs say of the data's first steps, beside what the data earn from there: has it come back yet?

    python benchmarks/critics.py runs/strength/hopper-medium/td3bc/seed-0 … --lasting 2000

For IQL, TD3+BC and CQL. Both are in the rewards' own units, discounted as the run does, means over the first 20 steps
of each episode and then over episodes: those that return `--lasting` or more, and the others. Of a critic the mean of
its two; it also looks ahead beyond a time limit, where the log's sum ends.
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
from lamo.prepare import prepare
from lamo.runs import Run

FIRST = 20


def loaded(path: Path) -> tuple[int, Any, Episodes]:
    """(step, learner, episodes) of a run at its newest checkpoint."""
    run = Run.open(path)
    experiment = Experiment.from_json(run.config, str(path / "config.json"))
    setup = prepare(experiment, known=read_dataclass(Spec, run.provenance.get("spec"), f"{path}/provenance.json: spec"))
    learner = get_algorithm(PRESETS[experiment.preset][0])(
        experiment.algorithm, setup.spec, setup.episodes, batch_size=experiment.batch_size, steps=experiment.steps
    )
    found = run.load_checkpoint()
    if found is None:
        raise SystemExit(f"{path}: no checkpoint yet")
    step, tensors, _ = found
    own = "learner."
    learner.load_state_dict({name[len(own) :]: each for name, each in tensors.items() if name.startswith(own)})
    return step, learner, setup.episodes


def discounted(episodes: Episodes, discount: float) -> np.ndarray:
    """(N,) sums of rewards to the end of the episode, discounted."""
    sums = episodes.rewards.astype(np.float64)
    for start, end in zip(episodes.offsets[:-1], episodes.offsets[1:], strict=True):
        for i in range(end - 2, start - 1, -1):
            sums[i] += discount * sums[i + 1]
    return sums


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--lasting", type=float, required=True, help="the return from which an episode is a good one")
    chosen = parser.parse_args()
    print("| run | steps | critics, good | critics, others | log, good | log, others |\n|---|---|---|---|---|---|")
    for path in chosen.runs:
        step, learner, episodes = loaded(path)
        mean, std = learner.statistics
        rows = np.minimum(episodes.offsets[:-1, None] + np.arange(FIRST), episodes.offsets[1:, None] - 1)  # (E, 20)
        observations = torch.from_numpy((episodes.observations[rows] - mean) / std)
        actions = torch.from_numpy(learner.scaling.to_unit(episodes.actions[rows]))
        with torch.inference_mode():
            values = (
                learner.model.critic(observations.flatten(0, 1), actions.flatten(0, 1)).mean(0) / learner.reward_scale
            )
        believed = values.view(rows.shape).mean(1).numpy()  # (E,)
        earned = discounted(episodes, learner.settings.discount)[rows].mean(1)
        good = episodes.returns >= chosen.lasting
        groups = [each[which] for each in (believed, earned) for which in (good, ~good)]
        told = " | ".join(f"{group.mean():.0f}" if len(group) else "–" for group in groups)
        print(f"| {path} | {step} | {told} |", flush=True)


if __name__ == "__main__":
    main()
