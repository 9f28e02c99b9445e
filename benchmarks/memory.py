"""Peak resident memory of a state-task run against: the dataset once + model + optimiser + 600 MiB.

    python benchmarks/memory.py [--steps 1000000]

Writes a dataset of HalfCheetah's shapes to a temporary folder, trains ten steps on it in a process of its own, and
reads that process' peak from the operating system.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from step import some_episodes

from lamo.data.sources.d4rl import write_d4rl

ALLOWANCE = 600 << 20  # interpreter, torch, transformers and their like


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000, help="steps in the dataset")
    parser.add_argument("--preset", default="lamo-random")
    arguments = parser.parse_args()
    episodes = some_episodes(arguments.steps // 1000, 1000)
    data = sum(a.nbytes for a in (episodes.observations, episodes.actions, episodes.rewards))
    with tempfile.TemporaryDirectory() as folder:
        path, run = Path(folder) / "data.hdf5", Path(folder) / "run"
        write_d4rl(episodes, path, {})
        del episodes
        command = [sys.executable, "-m", "lamo", "train", "--preset", arguments.preset, "--dataset", str(path)]
        command += ["--steps", "10", "--eval-episodes", "0", "--quiet", "--out", str(run)]
        subprocess.run(command, check=True)
        parameters = json.loads((run / "summary.json").read_text())["parameters"]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    model = 4 * parameters["total"] + 3 * 4 * parameters["trainable"]  # weights; gradients and two moments
    limit = data + model + ALLOWANCE
    mib = 1 << 20
    print(
        f"dataset {data / mib:.0f} MiB, model and optimiser {model / mib:.0f} MiB, allowance {ALLOWANCE / mib:.0f} MiB"
    )
    print(f"peak {peak / mib:.0f} MiB of {limit / mib:.0f} MiB: {'holds' if peak <= limit else 'falls short'}")


if __name__ == "__main__":
    main()
