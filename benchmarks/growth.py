"""How cost grows: time and memory of a step, evaluation, and loading, each against one size at a time.

    python benchmarks/growth.py --figure docs/assets/growth.svg

Step: processor seconds of one thread, the least of a few, from a base of 3 layers × 128, batch 32 × 10 steps, rank 16.
Memory: how much the resident memory of this process rises above what it was before the model was made (Linux only).
The exponent is the slope of log cost over log size between the two largest sizes, where fixed costs matter least.
Nothing may grow faster than linearly but attention in K, and width, whose weights grow as its square (against these it
is linear): the script ends with an error where something does.
"""

from __future__ import annotations

import ctypes
import gc
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from common import Shape, learner, options, some_episodes, write_shape, write_text

from lamo.data import Windows, load_episodes
from lamo.data.sources.d4rl import write_d4rl
from lamo.evaluate import EnvPool, rollout

BASE = Shape(3, 128, 2, context=10, batch=32, vocabulary=1000)
SIZES = {
    "batch": (16, 32, 64, 128),
    "context": (5, 10, 20, 40, 80),
    "width": (64, 128, 256, 512),
    "layers": (1, 2, 4, 8),
    "rank": (8, 16, 32, 64),
}
QUICKLY = {"batch": (16, 32), "context": (5, 10), "width": (64, 128), "layers": (1, 2), "rank": (8, 16)}
MOST = {"context": 2.0, "width": 2.0}  # exponents; 1 for all others
SLACK = 0.15  # for noise, and for what leaves a cache


@dataclass
class Growth:
    """Cost against a size. `unit`: s or MiB."""

    what: str
    size: str
    unit: str
    most: float = 1.0
    points: list[tuple[float, float]] = field(default_factory=list)

    @property
    def exponent(self) -> float:
        (x0, y0), (x1, y1) = self.points[-2:]
        return math.log(y1 / y0) / math.log(x1 / x0)


def status(name: str) -> int:
    """A line of this process' status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))


def settle() -> int:
    """Give free memory back and forget the peak -> resident bytes."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def step(shape: Shape, folder: Path, repeats: int, text: int = 0) -> tuple[float, float]:
    """(processor seconds of a step, MiB of model and step), with a language loss on blocks of `text` tokens if any."""
    write_shape(shape, folder)
    episodes = some_episodes(20, 100, shape)
    path = write_text(folder) if text else None
    before = settle()
    made = learner(shape, episodes, folder, "cpu", path, **({"text_block": text} if text else {}))
    batches = made.batches(np.random.default_rng(0))
    made.update(next(batches))
    times = []
    for _ in range(repeats):
        batch, start = next(batches), time.process_time()
        made.update(batch)
        times.append(time.process_time() - start)
    return min(times), (status("VmHWM") - before) / (1 << 20)


def steps(folder: Path, sizes: dict[str, tuple[int, ...]], repeats: int) -> list[Growth]:
    """Step and memory against each size of the model, and against tokens of text."""
    found = []
    step(BASE, folder, 1, 64)  # imports and first uses, once
    for name, values in sizes.items():
        growths = [Growth("step", name, "s", MOST.get(name, 1)), Growth("memory", name, "MiB", MOST.get(name, 1))]
        for value in values:
            heads = {"heads": value // 64} if name == "width" else {}
            costs = step(replace(BASE, **{name: value}, **heads), folder, repeats)
            for growth, cost in zip(growths, costs, strict=True):
                growth.points.append((value, cost))
        found += growths
    growths = [Growth("step, λ 0.1", "tokens of text", "s", 2.0), Growth("memory, λ 0.1", "tokens of text", "MiB")]
    for block in (256, 512, 1024) if repeats > 1 else (256, 512):
        for growth, cost in zip(growths, step(BASE, folder, repeats, block), strict=True):
            growth.points.append((2 * block, cost))
    return found + growths


def evaluation(folder: Path, counts: Sequence[int], horizon: int = 30) -> Growth:
    """Seconds of an evaluation in Reacher2d against its episodes."""
    growth = Growth("evaluation", "episodes", "s")
    with EnvPool("Reacher2d-v0") as pool:
        shape = replace(BASE, observations=pool.observation_dim, actions=pool.action_dim)
        write_shape(shape, folder)
        policy = learner(shape, some_episodes(2, 100, shape), folder, "cpu").policy()
        for count in counts:
            seconds = []
            for horizon_now in (2, horizon, horizon):  # the first opens the environments
                start = time.process_time()
                rollout(policy, pool.env_id, [40.0], count, 0, horizon=horizon_now, pool=pool)
                seconds.append(time.process_time() - start)
            growth.points.append((count, min(seconds[1:])))
    return growth


def loading(folder: Path, plan: Sequence[tuple[int, int]], size: str) -> list[Growth]:
    """Seconds and MiB from a file to windows ready to be drawn, for each (steps, episodes)."""
    shape = Shape(1, 64, 1, observations=3, actions=2)
    growths = [Growth("loading", size, "s"), Growth("memory of loading", size, "MiB")]
    for count, episodes in plan:
        made = some_episodes(episodes, count // episodes, shape)
        path = write_d4rl(made, folder / "data.hdf5", {})
        del made
        before, start = settle(), time.process_time()
        windows = Windows(load_episodes(path), 20)
        windows.sample(np.random.default_rng(0), 64)
        seconds = time.process_time() - start
        x = count if size == "steps" else episodes
        for growth, cost in zip(growths, (seconds, (status("VmHWM") - before) / (1 << 20)), strict=True):
            growth.points.append((x, cost))
        del windows
        path.unlink()
    return growths


def figure(found: Sequence[Growth], path: Path) -> None:
    """Cost over its smallest against size over its smallest, both logarithmic; grey is linear."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot as plt

    groups: list[tuple[str, Callable[[Growth], bool]]] = [
        ("time of a step", lambda g: g.what.startswith("step")),
        ("memory of a step", lambda g: g.what.startswith("memory") and "loading" not in g.what),
        ("evaluation and loading, time", lambda g: g.what in ("evaluation", "loading")),
    ]
    fig, axes = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
    for ax, (title, mine) in zip(axes, groups, strict=True):
        chosen = [growth for growth in found if mine(growth)]
        for growth in chosen:
            x, y = np.array(growth.points).T
            label = f"{growth.what}: {growth.size}" if growth.what in ("evaluation", "loading") else growth.size
            ax.plot(x / x[0], y / y[0], marker="o", markersize=3, label=label)
        widest = max(growth.points[-1][0] / growth.points[0][0] for growth in chosen)
        ax.plot([1, widest], [1, widest], color="0.75", zorder=0, label="linear")
        ax.set(xscale="log", yscale="log", title=title, xlabel="size / smallest", ylabel="cost / smallest")
        ax.legend(fontsize=7, frameon=False)
        ax.spines[["top", "right"]].set_visible(False)
    fig.savefig(path, metadata={"Date": None})


def main() -> None:
    chosen = options(__doc__, lambda parser: parser.add_argument("--figure", type=Path, help="write the figure here"))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = steps(folder, QUICKLY if chosen.quick else SIZES, 1 if chosen.quick else 5)
        found.append(evaluation(folder, (2, 4) if chosen.quick else (10, 20, 40, 80, 160)))
        k, m = 1_000, 1_000_000
        by_steps = (10 * k, 20 * k) if chosen.quick else (100 * k, 300 * k, m, 3 * m, 10 * m)
        found += loading(folder, [(count, count // k) for count in by_steps], "steps")
        total = 10 * k if chosen.quick else m
        by_episodes = (10, 100) if chosen.quick else (k, 10 * k, 100 * k, m)
        found += loading(folder, [(total, count) for count in by_episodes], "episodes")
    print("| cost | against | measured | exponent | at most |")
    print("| --- | --- | --- | --- | --- |")
    for growth in found:
        told = ", ".join(f"{x:,.0f}: {y:.3g}" for x, y in growth.points)
        print(f"| {growth.what}, {growth.unit} | {growth.size} | {told} | {growth.exponent:.2f} | {growth.most:g} |")
    if chosen.figure:
        figure(found, chosen.figure)
    if chosen.quick:
        return
    worse = [f"{g.what} against {g.size}: {g.exponent:.2f}" for g in found if g.exponent > g.most + SLACK]
    if worse:
        raise SystemExit(f"grows faster than it may: {'; '.join(worse)}")


if __name__ == "__main__":
    main()
