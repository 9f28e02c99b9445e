"""Collection: steps recorded per second with 8 environments on two cores, against one.

    python benchmarks/collection.py                                  # Hopper under a SAC-sized network, and the kitchen
    python benchmarks/collection.py --tasks kitchen-complete:operator

Whole collections are timed, in turn, from the first worker's start to the last file: the start of the processes, some
seconds of imports each, is part of them. All ways record the same number of episodes.

With `--clock cpu`, for machines that others use too: the processor seconds of this process and those of the workers
divided by their number, which is what the clock of an idle machine would show if the workers had equal shares and did
not wait for each other or for memory. It is a prediction, and the table says so.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from common import Row, options, tell

from lamo.collecting.collect import collect_file
from lamo.collecting.request import Request
from lamo.workers import usable_cores

AIM, CORES = 1.5, 2
TASKS = ("Hopper-v5:sb3", "kitchen-complete:operator")


def policy_file(env: str, folder: Path) -> str:
    """An untrained SAC of that environment, as Stable-Baselines3 saves it."""
    from stable_baselines3 import SAC

    SAC("MlpPolicy", env, device="cpu", seed=0, buffer_size=1).save(folder / "sac.zip")
    return f"sb3:{folder / 'sac.zip'}"


def timed(work: Callable[[], int], workers: int, clock: str) -> tuple[float, float, int]:
    """Seconds by the chosen clock, processor seconds of this process and its children in all, steps."""
    before, start = os.times(), time.perf_counter()
    steps = work()
    seconds, after = time.perf_counter() - start, os.times()
    own, children = (sum(after[i : i + 2]) - sum(before[i : i + 2]) for i in (0, 2))
    return (own + children / workers if clock == "cpu" else seconds), own + children, steps


def main() -> None:
    chosen = options(
        __doc__,
        lambda parser: (
            parser.add_argument("--tasks", nargs="+", default=TASKS, help="TASK:POLICY"),
            parser.add_argument("--episodes", type=int, nargs="+", default=(4000, 96), help="of each task"),
            parser.add_argument("--rounds", type=int, default=3, help="times that each way is timed"),
        ),
    )
    if chosen.quick:
        chosen.episodes, chosen.rounds = (8, 2), 1
    rows = []
    for task, episodes in zip(chosen.tasks, chosen.episodes, strict=False):
        env, _, policy = task.partition(":")
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            how = policy_file(env, folder) if policy == "sb3" else policy
            ways = {"8 on two cores": (8 // CORES, CORES), "8 on one core": (8, 1), "one": (1, 1)}
            took: dict[str, list[tuple[float, float, int]]] = {way: [] for way in ways}
            for _ in range(chosen.rounds):
                for way, (envs, workers) in ways.items():
                    out = folder / "out" / "a.hdf5"
                    request = Request(env, episodes, how, envs=envs, horizon=60 if chosen.quick else None)
                    record = partial(collect_file, request, out, workers=workers)
                    took[way].append(timed(lambda record=record: record().steps, workers, chosen.clock))
                    shutil.rmtree(out.parent)
        what = f"collection of {episodes} episodes, {task}, 8 environments"
        rates = {way: statistics.median(steps / clock for clock, _, steps in each) for way, each in took.items()}
        cores = f" on {CORES} cores" + (", predicted from processor seconds" if chosen.clock == "cpu" else "")
        two, wide, one = took.values()
        ratio = statistics.median((a[2] / a[0]) / (b[2] / b[0]) for a, b in zip(two, one, strict=True))
        alone = statistics.median((a[2] / a[0]) / (b[2] / b[0]) for a, b in zip(wide, one, strict=True))
        cost = statistics.median((a[1] / a[2]) / (b[1] / b[2]) for a, b in zip(two, one, strict=True))
        rows += [
            Row(
                what, f"≥ {AIM:g} × one,{cores}", f"{ratio:.2f} ×",
                f"{rates['8 on two cores']:,.0f} against {rates['one']:,.0f} steps/s",
                ratio >= AIM if usable_cores() >= CORES else None,
            ),
            Row(what, "–", f"{alone:.2f} × one, on one core", f"{rates['8 on one core']:,.0f} steps/s", None),
            Row(what, "–", f"{cost:.2f} × one, in processor seconds a step", "workers' start included", None),
        ]  # fmt: skip
    tell(rows, chosen)


if __name__ == "__main__":
    main()
