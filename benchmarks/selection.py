"""How well rankings from data alone agree with true returns, on a task that has a simulator.

    python benchmarks/selection.py --out study                                        # Reacher2d, the embedded data
    python benchmarks/selection.py --out hopper --dataset hopper-medium.hdf5 --env Hopper-v5 --grid hopper
    python benchmarks/selection.py --out choices --dataset cartpole-random.hdf5 --env CartPole-v1 --grid cartpole

Trains a grid of small policies (different methods, lengths of training and shares of the data), plays each of them in
the environment, lets every estimator of `lamo select` rank them by the logged data, and compares: Spearman's rank
correlation with the true mean returns, and the regret of the policy that is ranked first. The same for `--targets auto`
against the fixed return targets. Prints Markdown. Whatever is done is kept in --out: given again, the command goes on
where it was stopped; with --report it only prints what is there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

import lamo
from lamo.algorithms import PRESETS
from lamo.config import Experiment
from lamo.runs import Run, write_json
from lamo.selection.rank import SelectSettings, select
from lamo.train import resume, train

RESAMPLES = 2_000
METHODS = {"fqe": "fitted Q evaluation", "importance": "importance-weighted return", "holdout": "held-out action error"}


@dataclass(frozen=True)
class Block:
    """Presets, each with every length of training and every share of the data."""

    presets: tuple[str, ...]
    steps: tuple[int, ...]
    ratios: tuple[float, ...]
    settings: dict[str, Any]


# Small, so that a grid of them takes an hour on one core; what matters here is how they differ.
SEQUENCE = {"learning_rate": 1e-3, "warmup_steps": 50, "layers": 2, "width": 64, "batch_size": 32}
BASELINES = ("bc", "bc10", "iql", "td3bc", "cql")
GRIDS: dict[str, tuple[Block, ...]] = {
    "reacher2d": (
        Block(("dt",), (100, 300, 1000, 3000), (0.02, 0.1, 1.0), SEQUENCE),
        Block(BASELINES, (300, 3000), (0.05, 1.0), {}),
    ),
    "hopper": (
        Block(("dt",), (100, 300, 1000), (0.05, 1.0), SEQUENCE),
        Block(BASELINES, (1000, 10_000), (0.05, 1.0), {}),
    ),
    "cartpole": (
        Block(("dt",), (100, 1000), (0.05, 1.0), {**SEQUENCE, "targets": (50.0, 200.0)}),
        Block(("bc", "bc10", "iql", "cql", "bcq", "nfq"), (100, 300, 2000), (0.05, 1.0), {}),
    ),
}
HOLDOUT = 0.1


def plan(arguments: argparse.Namespace) -> dict[str, Experiment]:
    """Name -> experiment; presets that this version does not have are left out, and said."""
    common: dict[str, Any] = {"holdout": HOLDOUT, "eval_episodes": 0, "checkpoint_every": 1000, "device": "cpu"}
    common |= {"env": arguments.env} if arguments.env else {}
    common |= {"dataset": arguments.dataset} if arguments.dataset else {}
    found = {}
    for block in GRIDS[arguments.grid]:
        for preset in block.presets:
            if preset not in PRESETS:
                print(f"no preset {preset} here: left out", file=sys.stderr)
                continue
            for steps in block.steps:
                for ratio in block.ratios:
                    name = f"{preset}-{steps}-{ratio:g}"
                    settings = {**common, **block.settings, "steps": steps, "ratio": ratio, "seed": len(found)}
                    found[name] = Experiment.of(preset, arguments.task, **settings)
    return found


def done(out: Path, experiments: dict[str, Experiment], arguments: argparse.Namespace) -> None:
    """Train, play and rank whatever has not been yet."""
    settings = replace(
        SelectSettings(), fqe_steps=arguments.fqe_steps, width=arguments.width, max_steps=arguments.max_steps
    )
    folders = {name: out / "runs" / name for name in experiments}
    for number, (name, experiment) in enumerate(experiments.items(), 1):
        print(f"train {number} of {len(experiments)}: {name}", file=sys.stderr, flush=True)
        if not (folders[name] / "config.json").exists():
            train(experiment, folders[name], quiet=True)
        elif Run.open(folders[name]).summary() is None:
            resume(folders[name], quiet=True)
    for name, folder in folders.items():
        if not (out / f"{name}.true.json").exists():
            print(f"play {name}", file=sys.stderr, flush=True)
            targeted = lamo.load_policy(folder).default_target is not None
            asked = ["auto"] if targeted else None
            played = lamo.evaluate(folder, targets=asked, episodes=arguments.episodes, seed=99)
            write_json(out / f"{name}.true.json", played)
    for name, folder in folders.items():
        if not (out / f"{name}.ranked.json").exists():
            print(f"rank {name}", file=sys.stderr, flush=True)
            others = [other for other in folders.values() if other != folder]
            write_json(out / f"{name}.ranked.json", select([folder], beside=others, settings=settings))


# ------------------------------------------------------------------------------------------------------------- figures


def rows(out: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """One row per policy: its run, its true mean return, and what each estimator says (higher is better)."""
    found = []
    for name in names:
        files = [out / f"{name}.{kind}.json" for kind in ("true", "ranked")]
        if not all(file.exists() for file in files):
            continue
        played, ranked = (json.loads(file.read_text()) for file in files)
        true = {row["target"]: row["return_mean"] for row in played["targets"]}
        for row in ranked["policies"]:
            key = row["target"] if row["target"] is not None else next(iter(true))
            signs = {"fqe": 1, "importance": 1, "holdout": -1}
            said = {m: signs[m] * row[m]["estimate"] for m in ranked["methods"] if row[m]["estimate"] is not None}
            found.append({"run": name, "target": row["target"], "true": true[key], **said})
    return found


def agreement(policies: list[dict[str, Any]], method: str, rng: np.random.Generator) -> dict[str, Any]:
    """Rank correlation and regret at one of one estimator, with 95 % intervals over runs (all targets of a run
    together).
    """
    runs = sorted({row["run"] for row in policies})
    groups = [[row for row in policies if row["run"] == run] for run in runs]

    def measured(chosen: Sequence[int]) -> tuple[float, float]:
        sample = [row for i in chosen for row in groups[i]]
        true, said = (np.array([row[key] for row in sample]) for key in ("true", method))
        best = np.flatnonzero(said == said.max())
        correlation = spearmanr(true, said).statistic if np.ptp(said) > 0 and np.ptp(true) > 0 else np.nan
        return float(correlation), float(true.max() - true[best].mean())  # equals are picked by chance

    drawn = np.array([measured(rng.integers(len(runs), size=len(runs))) for _ in range(RESAMPLES)])
    low, high = np.nanquantile(drawn, [0.025, 0.975], axis=0)
    found = measured(range(len(runs)))
    return {"correlation": (found[0], low[0], high[0]), "regret": (found[1], low[1], high[1])}


def report(out: Path, names: Sequence[str]) -> str:
    """What there is, as Markdown."""
    policies = rows(out, names)
    if len(policies) < 3:
        return f"{len(policies)} policies so far: too few to compare"
    rng, true = np.random.default_rng(0), np.array([row["true"] for row in policies])
    runs = len({row["run"] for row in policies})
    lines = [
        f"{len(policies)} policies of {runs} runs. True mean returns: {true.min():.1f} to {true.max():.1f}, "
        f"mean {true.mean():.1f}. A policy picked by chance has a regret of {true.max() - true.mean():.1f}.",
        "",
        "| ranked by | Spearman's ρ | regret at 1 |",
        "| --- | ---: | ---: |",
    ]
    for method, name in METHODS.items():
        if all(method in row for row in policies):
            found = agreement(policies, method, rng)
            cells = [f"{a:.2f} [{b:.2f}, {c:.2f}]" for a, b, c in found.values()]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *targets(out, names, rng), "", *listing(policies)])


def targets(out: Path, names: Sequence[str], rng: np.random.Generator) -> list[str]:
    """The return target chosen from data against the fixed ones, over the return-conditioned runs."""
    found: list[tuple[str, float, list[float], dict[float, float]]] = []
    for name in names:
        file = out / f"{name}.true.json"
        played = json.loads(file.read_text()) if file.exists() else {}
        if "auto_target" in played:
            fixed = Run.open(out / "runs" / name).provenance["spec"]["targets"]
            means = {row["target"]: row["return_mean"] for row in played["targets"]}
            found.append((name, played["auto_target"]["target"], fixed, means))
    if len(found) < 3:
        return []
    fixed = found[0][2]
    got = {f"target {target:g}": np.array([means[target] for *_, means in found]) for target in fixed}
    got["auto"] = np.array([means[auto] for _, auto, _, means in found])
    got["the better fixed one, known afterwards"] = np.max([got[f"target {t:g}"] for t in fixed], axis=0)
    picks = rng.integers(len(found), size=(RESAMPLES, len(found)))
    lines = [
        f"Return targets, {len(found)} return-conditioned runs:",
        "",
        "| asked for | mean true return | auto minus this |",
        "| --- | ---: | ---: |",
    ]
    for name, values in got.items():
        cells = []
        for figures in (values, got["auto"] - values):
            low, high = np.quantile(figures[picks].mean(axis=1), [0.025, 0.975])
            cells.append(f"{figures.mean():.1f} [{low:.1f}, {high:.1f}]")
        lines.append(f"| {name} | {cells[0]} | {cells[1] if name != 'auto' else '–'} |")
    chosen = ", ".join(f"{name}: {auto:g}" for name, auto, *_ in found)
    return [*lines, "", f"Chosen: {chosen}."]


def listing(policies: list[dict[str, Any]]) -> list[str]:
    """Every policy, the best in truth first."""
    methods = [method for method in METHODS if all(method in row for row in policies)]
    lines = [
        f"| run | target | true return | {' | '.join(methods)} |",
        f"| --- | ---: | ---: |{' ---: |' * len(methods)}",
    ]
    for row in sorted(policies, key=lambda row: -row["true"]):
        target = "–" if row["target"] is None else f"{row['target']:g}"
        said = " | ".join(f"{row[method] if method != 'holdout' else -row[method]:.3g}" for method in methods)
        lines.append(f"| {row['run']} | {target} | {row['true']:.1f} | {said} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder that keeps what is done")
    parser.add_argument("--grid", default="reacher2d", choices=GRIDS, help="which policies to train")
    parser.add_argument("--task", default=None, help="task of `lamo tasks`; by default reacher2d-medium for its grid")
    parser.add_argument("--dataset", default=None, help="by default the task's own")
    parser.add_argument("--env", default=None, help="Gymnasium id, by default the task's own")
    parser.add_argument("--episodes", type=int, default=100, help="episodes played per policy")
    parser.add_argument("--fqe-steps", type=int, default=SelectSettings().fqe_steps)
    parser.add_argument("--width", type=int, default=SelectSettings().width)
    parser.add_argument("--max-steps", type=int, default=30_000, help="logged steps that are read for the ranking")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report", action="store_true", help="only print what is there")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.task is None and arguments.grid == "reacher2d":
        arguments.task = "reacher2d-medium"
    experiments = plan(arguments)
    made_with = {name: getattr(arguments, name) for name in ("episodes", "fqe_steps", "width", "max_steps")}
    kept = arguments.out / "arguments.json"
    if kept.exists() and json.loads(kept.read_text()) != made_with and not arguments.report:
        parser.error(f"{kept} says that what is in --out was made otherwise ({kept.read_text()}); give another --out")
    if not arguments.report:
        arguments.out.mkdir(parents=True, exist_ok=True)
        write_json(kept, made_with)
        done(arguments.out, experiments, arguments)
    print(report(arguments.out, list(experiments)))


if __name__ == "__main__":
    main()
