"""Peak resident memory of runs, each a process of its own, read from the operating system.

    python benchmarks/memory.py

A run on 1 M steps of HalfCheetah's shapes, against the dataset once + model + optimiser + 600 MiB; and a run of GPT-2
(124 M) at batch 64 × 20, with and without gradient checkpointing, which should stay within 1.3 GiB. Beside each: what
weights, gradients and moments take. On a GPU (`--device cuda`) it is the memory that torch holds there, which should
stay within 4 GiB, and the run is also recorded as a CUDA graph, which keeps what the recorded step works with.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import GPT2, QUICK, Row, options, some_episodes, tell, write_shape

from lamo.data.sources.d4rl import write_d4rl

MIB = 1 << 20
ALLOWANCE = 600 * MIB  # interpreter, torch, transformers and their like
LARGEST = 1.3 * 1024 * MIB
ON_THE_DEVICE = 4 * 1024 * MIB

ON_CUDA = """
import json, sys, torch
from lamo.cli import main
code = main(json.loads(sys.argv[1]))
print(torch.cuda.max_memory_reserved())
sys.exit(code)
"""


def run(*arguments: str) -> int:
    """A `lamo` of its own -> its peak resident memory in bytes."""
    process = subprocess.Popen([sys.executable, "-m", "lamo", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    if status:
        raise SystemExit(f"lamo {arguments[0]} ended with status {status}")
    return usage.ru_maxrss * 1024


def run_on_device(*arguments: str) -> int:
    """The same on a GPU -> peak bytes that torch held there: for a CUDA graph they are more than what is allocated."""
    command = [sys.executable, "-c", ON_CUDA, json.dumps(arguments)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(told.split()[-1])


def weights(out: Path) -> int:
    """Bytes of weights (as the run held them), gradients and two moments."""
    summary = json.loads((out / "summary.json").read_text())
    parameters, item = summary["parameters"], 2 if summary["base_dtype"] == "bfloat16" else 4
    return item * parameters["frozen"] + 4 * 4 * parameters["trainable"]


def main() -> None:
    chosen = options(
        __doc__,
        lambda parser: parser.add_argument("--steps", type=int, default=1_000_000, help="steps in the dataset"),
    )
    if chosen.quick:
        chosen.steps = 20_000
    episodes = some_episodes(chosen.steps // 1000)
    size = sum(a.nbytes for a in (episodes.observations, episodes.actions, episodes.rewards))
    end = ("--eval-episodes", "0", "--quiet", "--device", chosen.device)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = str(write_d4rl(episodes, folder / "data.hdf5", {}))
        few = str(write_d4rl(some_episodes(20), folder / "few.hdf5", {}))
        del episodes
        train = ("train", "--preset", "lamo-random", *end)
        peak = run(*train, "--dataset", data, "--steps", "10", "--out", str(folder / "run"))
        model = weights(folder / "run")
        limit = size + model + ALLOWANCE
        told = f"dataset {size / MIB:.0f}, model and optimiser {model / MIB:.0f} MiB"
        what = f"memory of a run on {chosen.steps:,} steps, tiny"
        rows.append(Row(what, f"≤ {limit / MIB:.0f} MiB", f"{peak / MIB:.0f} MiB", told, peak <= limit))
        shape = QUICK if chosen.quick else GPT2
        write_shape(shape, folder / "lm")
        big = (*train, "--lm", str(folder / "lm"), "--dataset", few, "--context", "20")
        forms = [(), ("--gradient-checkpointing",)]
        if chosen.device != "cpu":
            forms.append(("--cuda-graph",))
        for i, flags in enumerate(forms):
            out = folder / f"big{i}"
            if chosen.device == "cpu":
                peak, limit = run(*big, *flags, "--steps", "2", "--out", str(out)), LARGEST
            else:
                peak, limit = run_on_device(*big, *flags, "--steps", "10", "--out", str(out)), ON_THE_DEVICE
            told = f"model and optimiser {weights(out) / MIB:.0f} MiB"
            what = " ".join((f"memory of a run, {shape.name}, batch 64 × 20", *flags))
            rows.append(Row(what, f"≤ {limit / MIB:.0f} MiB", f"{peak / MIB:.0f} MiB", told, peak <= limit))
    tell(rows, chosen)


if __name__ == "__main__":
    main()
