"""Four seeds as one batched computation (`lamo train --seeds 0 1 2 3`) against four processes of their own.

    python benchmarks/packed.py

The competitor is what one would do otherwise on two cores: processes of one thread each, two at a time. Both are the
command line as it is; throughput is read from `timing.jsonl` between the first logged step and the last, so that
neither pays for its start. Memory is the peak of resident memory, for separate processes the sum over those that run
at the same time. With `--clock cpu` the same steps in this process on one thread: what packing saves of the work
itself, without what threads cost.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import QUICK, SMALL, Row, in_turn, learner, options, some_episodes, tell, write_shape

from lamo.data.sources.d4rl import write_d4rl

AIM, ON_THE_DEVICE = 1.3, 2.0
SEEDS = ("0", "1", "2", "3")


def start(arguments: list[str], threads: int | None) -> subprocess.Popen[bytes]:
    """A `lamo train` of its own, with so many threads (None: as many as there are)."""
    environment = dict(os.environ) | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    if threads is None:
        environment.pop("OMP_NUM_THREADS", None)
    command = [sys.executable, "-m", "lamo", "train", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)


def end(process: subprocess.Popen[bytes]) -> float:
    """Wait for it -> peak resident memory in MiB."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    if status:
        raise SystemExit(f"lamo train ended with status {status}")
    return usage.ru_maxrss / 1024


def pace(run: Path) -> float:
    """Steps per second between the first logged step and the last."""
    rows = [json.loads(line) for line in (run / "timing.jsonl").read_text().splitlines()]
    return (rows[-1]["step"] - rows[0]["step"]) / (rows[-1]["seconds"] - rows[0]["seconds"])


def work(make: Callable[[int], Any], steps: int) -> tuple[float, float]:
    """Run-steps per processor second of four learners together, and of one alone."""
    learners = [make(seed) for seed in range(len(SEEDS))]
    alone, packed = make(0), type(learners[0])
    if why_not := packed.pack(learners):
        raise SystemExit(f"the learners cannot be packed: {why_not}")
    streams = [each.batches(np.random.default_rng(i)) for i, each in enumerate(learners)]
    single = alone.batches(np.random.default_rng(0))
    seconds = in_turn(
        {
            "together": lambda: packed.update_together(learners, [next(stream) for stream in streams]),
            "alone": lambda: alone.update(next(single)),
        },
        steps,
    )
    return len(SEEDS) / seconds["together"], 1 / seconds["alone"]


def main() -> None:
    chosen = options(
        __doc__,
        lambda parser: (
            parser.add_argument("--at-once", type=int, default=2, help="separate processes at the same time"),
            parser.add_argument("--rounds", type=int, default=1, help="times that each way is timed"),
        ),
    )
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        episodes = some_episodes(20)
        data = write_d4rl(episodes, folder / "data.hdf5", {})
        shape = QUICK if chosen.quick else SMALL
        write_shape(shape, folder / "lm")
        random = ["--preset", "lamo-random", "--lm", str(folder / "lm"), "--lm-seed", "0"]
        tiny = ["--preset", "lamo", "--lm", "tiny", "--language-weight", "0", "--corpus", "none"]
        cases = {
            "tiny, 64 × 5": (tiny, 5, 20 if chosen.quick else 80),
            f"{shape.name}, 64 × 20": (random, 20, 4 if chosen.quick else 8),
        }
        for what, (model, context, steps) in cases.items():
            common = [*model, "--dataset", str(data), "--context", str(context), "--steps", str(steps)]
            common += ["--log-every", str(steps // 4), "--eval-episodes", "0", "--checkpoint-every", "0", "--quiet"]
            common += ["--device", chosen.device]
            separate, together, apart_memory, together_memory = [], [], [], []
            if chosen.clock == "cpu":
                lm, number = (str(folder / "lm"), 0) if model is random else ("tiny", None)
                drawn = {"initialise": "random" if model is random else "pretrained", "lm": lm, "lm_seed": number}
                ours, theirs = work(
                    lambda seed, d=drawn, k=context: learner(
                        replace(SMALL, context=k), episodes, folder / "lm", "cpu", seed=seed, **d
                    ),
                    steps // 2,
                )
                told = f"{ours:.2f} against {theirs:.2f} run-steps per processor second"
                name = f"4 packed runs, {what}, one thread"
                rows.append(Row(name, f"≥ {AIM} × alone", f"{ours / theirs:.2f} ×", told, ours / theirs >= AIM))
                continue
            for i in range(chosen.rounds):
                out = folder / f"{context}-{i}"
                for first in range(0, len(SEEDS), chosen.at_once):
                    wave = SEEDS[first : first + chosen.at_once]
                    running = [start([*common, "--seed", s, "--out", f"{out}-{s}"], 1) for s in wave]
                    apart_memory.append(sum(end(process) for process in running))
                    separate.append(sum(pace(Path(f"{out}-{s}")) for s in wave))
                process = start([*common, "--seeds", *SEEDS, "--out", f"{out}-together"], None)
                together_memory.append(end(process))
                together.append(len(SEEDS) * pace(Path(f"{out}-together-s0")))
            ours, theirs = statistics.median(together), statistics.median(separate)
            aim = AIM if chosen.device == "cpu" else ON_THE_DEVICE
            rows.append(
                Row(
                    f"4 packed runs, {what}", f"≥ {aim} × processes, {chosen.at_once} at a time",
                    f"{ours / theirs:.2f} ×", f"{ours:.2f} against {theirs:.2f} run-steps/s", ours / theirs >= aim,
                )
            )  # fmt: skip
            memory = max(together_memory), max(apart_memory)
            told = f"{memory[0]:.0f} MiB against {memory[1]:.0f} MiB"
            ratio = f"{memory[0] / memory[1]:.2f} × the memory of {chosen.at_once} processes"
            rows.append(Row(f"4 packed runs, {what}, memory", "–", ratio, told, None))
    tell(rows, chosen)


if __name__ == "__main__":
    main()
