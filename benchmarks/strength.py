"""Train methods on datasets over seeds with `lamo train`, and print how they compare with the data as a Markdown table.

    python benchmarks/strength.py --data hopper-medium.hdf5 walker2d-medium.hdf5 --methods iql td3bc --out runs/strength
    python benchmarks/strength.py --data … --out runs/strength --table          the table of what is there, nothing run

Runs go to OUT/<data>/<method>/seed-<n>. One that has finished is left alone, one that was stopped goes on, so the same
command can be given again and again; --jobs of them run at a time, one thread each. A method's own flags:
--flags "cql: --sampled-actions 4".

A cell is the mean return over the evaluations in the last fifth of the steps, mean ± standard deviation over seeds; the
best checkpoint of each seed is beside it, because picking it afterwards flatters a method. A method that is asked for a
return (`wiki-rl`) counts by the highest target that it was evaluated with: --flags "wiki-rl: --targets 3000".
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

LAST = 0.2  # share of the steps whose evaluations make a cell
DEFAULTS = ("bc", "bc10", "iql", "td3bc", "cql", "bcq")


class Job(NamedTuple):
    """One run."""

    data: Path
    method: str
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.data.stem} {self.method} seed {self.seed}"


def read_json(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def finished(job: Job, steps: int) -> bool:
    """Whether the run has done `steps` steps and been wound up."""
    summary = read_json(job.folder / "summary.json")
    return summary is not None and summary["steps"] >= steps


def command(job: Job, arguments: argparse.Namespace, flags: dict[str, list[str]]) -> list[str]:
    """What `lamo` is told: a new run, or the rest of one."""
    lamo = [sys.executable, "-m", "lamo", "train"]
    if (job.folder / "config.json").exists():
        return [*lamo, "--resume", str(job.folder), "--steps", str(arguments.steps), "--quiet"]
    every = str(max(1, arguments.steps // arguments.evaluations))
    run = {
        "--preset": job.method,
        "--dataset": str(job.data),
        "--seed": str(job.seed),
        "--steps": str(arguments.steps),
        "--eval-every": every,
        "--eval-episodes": str(arguments.episodes),
        "--checkpoint-every": every,
        "--log-every": "500",
        "--out": str(job.folder),
    }
    return [*lamo, *(word for pair in run.items() for word in pair), *flags.get(job.method, []), "--quiet"]


def run_all(jobs: list[Job], arguments: argparse.Namespace, flags: dict[str, list[str]]) -> int:
    """Run what is not finished, some at a time. The number of runs that failed."""
    waiting = [job for job in jobs if not finished(job, arguments.steps)]
    print(f"{len(jobs) - len(waiting)} of {len(jobs)} runs are finished", file=sys.stderr)
    running: dict[subprocess.Popen[str], tuple[Job, float]] = {}
    failed = 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def stop(number: int, _: object) -> None:  # Ctrl-C reaches the runs by itself
        for process in running:
            process.send_signal(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        while waiting or running:
            while waiting and len(running) < arguments.jobs:
                job = waiting.pop(0)
                words = command(job, arguments, flags)
                process = subprocess.Popen(
                    words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
                )
                running[process] = (job, time.time())
                print(f"begins: {shlex.join(words[1:])}", file=sys.stderr, flush=True)
            time.sleep(1)
            for process in [process for process in running if process.poll() is not None]:
                job, began = running.pop(process)
                said = process.stderr.read().strip() if process.stderr else ""
                if process.returncode:
                    failed += 1
                outcome = f"failed ({process.returncode}): {said}" if process.returncode else "is finished"
                print(f"{job.name} {outcome} after {(time.time() - began) / 60:.1f} min", file=sys.stderr, flush=True)
    except KeyboardInterrupt:  # the runs were interrupted with us, and save their state before they end
        for process in running:
            process.wait()
        raise
    return failed


def returns(folder: Path) -> tuple[float, float] | None:
    """(mean over the last fifth of the steps, mean of the best evaluation); None where there are no evaluations.

    Of a method that is asked for a return, of the episodes that were asked for the most.
    """
    path = folder / "episodes.jsonl"
    if not path.exists():
        return None
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    most = max((row["target"] for row in rows if row["target"] is not None), default=None)
    steps: dict[int, list[float]] = {}
    for row in rows:
        if row["target"] == most:
            steps.setdefault(row["step"], []).append(row["return"])
    if not steps:
        return None
    last = max(steps)
    window = [np.mean(values) for step, values in steps.items() if step > (1 - LAST) * last]
    return float(np.mean(window)), float(max(np.mean(values) for values in steps.values()))


def table(jobs: list[Job], steps: int) -> str:
    """Markdown, one row per method and dataset; what has not finished is marked."""
    lines = [
        "| data | its mean | its best | method | seeds | last fifth | against the mean | best checkpoint | steps |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[Path, str], list[Job]] = {}
    for job in jobs:
        groups.setdefault((job.data, job.method), []).append(job)
    for (data, method), group in groups.items():
        found = [(job, value) for job in group if (value := returns(job.folder)) is not None]
        if not found:
            continue
        dataset = read_json(found[0][0].folder / "provenance.json")["dataset"]
        mean, best = dataset["return_mean"], dataset["return_max"]
        last, top = (np.array([value[i] for _, value in found]) for i in (0, 1))
        done = [job for job, _ in found if finished(job, steps)]
        note = f"{steps}" if len(done) == len(group) else f"{steps}, {len(done)} of {len(group)} finished"
        spread = f" ± {last.std(ddof=1):.0f}" if len(last) > 1 else ""
        cells = [data.stem, f"{mean:.0f}", f"{best:.0f}", method, f"{len(found)}", f"{last.mean():.0f}{spread}"]
        cells += [f"{last.mean() - mean:+.0f}", f"{top.mean():.0f}", note]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=list(DEFAULTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--evaluations", type=int, default=20)
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--flags", action="append", default=[], metavar='"METHOD: FLAGS"')
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    flags = {name.strip(): shlex.split(rest) for name, _, rest in (text.partition(":") for text in arguments.flags)}
    jobs = [
        Job(data, method, seed, arguments.out / data.stem / method / f"seed-{seed}")
        for seed in arguments.seeds
        for data in arguments.data
        for method in arguments.methods
    ]
    try:
        failed = 0 if arguments.table else run_all(jobs, arguments, flags)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    print(table(jobs, arguments.steps))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
