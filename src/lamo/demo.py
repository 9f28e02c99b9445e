"""The demonstration: LaMo, its random control and DT on a tenth of the embedded Reacher2d data, and a report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lamo.config import Experiment
from lamo.errors import LamoError
from lamo.report import write_report
from lamo.runs import Run
from lamo.train import resume, train

PRESETS = ("dt", "lamo", "lamo-random")
TASK, RATIO = "reacher2d-medium", 0.1
EVALUATIONS = 5
# Published is 1e-4, for 100 000 steps. One rate for all three methods; tried with seed 100, which no result here uses.
LEARNING_RATE = 1e-3


def _settings(folder: Path) -> Experiment:
    return Experiment.of_run(Run.open(folder).config, str(folder / "config.json"))


def run_demo(out: str | Path, *, steps: int, seeds: Sequence[int], quiet: bool = False) -> dict[str, Any]:
    """Train every preset with every seed into `out/runs/PRESET-SEED` and write `out/report.html`; return its numbers.

    A run that is there and complete is kept and one that was stopped goes on, so the command may be given again. Raises
    `LamoError` for a folder of a run with other settings.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise LamoError("--seeds must be one or more different whole numbers")
    plan = []
    for seed in seeds:
        for preset in PRESETS:
            settings = {
                "steps": steps,
                "eval_every": max(1, steps // EVALUATIONS),
                "checkpoint_every": 500,
                "learning_rate": LEARNING_RATE,
            }
            experiment = Experiment.of(preset, TASK, ratio=RATIO, seed=seed, **settings)
            folder = Path(out) / "runs" / f"{preset}-{seed}"
            if folder.exists() and any(folder.iterdir()) and _settings(folder) != experiment:
                raise LamoError(f"{folder} is a run with other settings; choose another --out or remove it")
            plan.append((experiment, folder))
    for number, (experiment, folder) in enumerate(plan, 1):
        begun = (folder / "config.json").exists()
        if begun and Run.open(folder).summary() is not None:
            continue
        if not quiet:
            print(f"lamo demo: run {number} of {len(plan)}, {folder}", file=sys.stderr, flush=True)
        if begun:
            resume(folder, quiet=quiet)
        else:
            train(experiment, folder, quiet=quiet, command="lamo demo")
    return write_report([folder for _, folder in plan], out)
