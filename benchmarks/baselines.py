"""Time of one gradient step of each imitation and value-based method as a ratio to a minimal hand-written PyTorch loop
of the same mathematics, in the same run, on one thread.

    python benchmarks/baselines.py                        batch 256, two hidden layers of 256
    python benchmarks/baselines.py --methods iql td3bc --torchrl      also TorchRL's losses, where it is installed

Both draw their batches from HalfCheetah's shapes (17 numbers, 6 actions; discrete methods: 6 choices). They are timed
in turn, so that a change of the machine's speed hits both, and by the processor's time of the process, so that what
else runs on it hits neither. The floor is the step's matrix-product FLOPs over the machine's rate for a product of
256 × 256.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from handwritten import REFERENCES, torchrl_step

from lamo.algorithms import get_algorithm, settings_type
from lamo.config import Spec
from lamo.data.episodes import Episodes

OBSERVATIONS, ACTIONS, BATCH = 17, 6, 256


def some_episodes(kind: str, count: int = 100, length: int = 1000) -> Episodes:
    """Random numbers."""
    rng = np.random.default_rng(0)
    n = count * length
    return Episodes(
        observations=rng.normal(size=(n, OBSERVATIONS)).astype(np.float32),
        actions=np.tanh(rng.normal(size=(n, ACTIONS))).astype(np.float32)
        if kind == "continuous"
        else rng.integers(ACTIONS, size=n),
        rewards=rng.random(n).astype(np.float32),
        offsets=np.arange(count + 1) * length,
        terminated=np.arange(count) % 2 == 0,
        truncated=np.arange(count) % 2 == 1,
        ids=np.arange(count),
        final_observations=None,
        metadata={},
    )


def ours(name: str, kind: str, episodes: Episodes) -> Callable[[], object]:
    """A gradient step of lamo, batch and all."""
    bounds = ((-1.0,) * ACTIONS, (1.0,) * ACTIONS) if kind == "continuous" else (None, None)
    spec = Spec(OBSERVATIONS, ACTIONS, kind, *bounds, 1000, 1.0, ())
    learner = get_algorithm(name)(settings_type(name)(), spec, episodes, batch_size=BATCH)
    batches = learner.batches(np.random.default_rng(0))
    return lambda: learner.update(next(batches))


def forward_flops(inputs: int, outputs: int, width: int = 256) -> float:
    """Of one row through two hidden layers."""
    return 2.0 * (inputs * width + width * width + width * outputs)


def floor_flops(name: str, kind: str) -> float:
    """Matrix-product FLOPs of a step; a trained pass is three forward passes, a gradient of inputs alone two."""
    both = OBSERVATIONS + ACTIONS
    policy, value = forward_flops(OBSERVATIONS, ACTIONS), forward_flops(OBSERVATIONS, 1)
    q = forward_flops(both, 1) if kind == "continuous" else policy
    wide = 2.0 * ((OBSERVATIONS + 2 * ACTIONS) * 750 + 750 * 750 + 750 * ACTIONS)  # the decoder
    encode = 2.0 * (both * 750 + 750 * 750 + 750 * 4 * ACTIONS)
    rows = {
        ("bc", kind): 3 * policy,
        ("iql", kind): 2 * q + 3 * 2 * q + value + 3 * value + 3 * policy,
        ("td3bc", "continuous"): policy + 2 * q + 3 * 2 * q + (3 * policy + 2 * q) / 2,
        ("cql", "continuous"): (policy + 2 * q) + 3 * 2 * 31 * q + 3 * policy + 2 * 2 * q,
        ("cql", "discrete"): 3 * q + q + q,
        ("nfq", "discrete"): 3 * q + q,
        ("bcq", "continuous"): 3 * (encode + wide) + 10 * (wide + q + 2 * q) + 3 * 2 * q + wide + 3 * q + 2 * q,
        ("bcq", "discrete"): 3 * 2 * q + 2 * q + q,
    }
    return BATCH * rows[name, kind]


def rate() -> float:
    """FLOP/s of a product of 256 × 256 by 256 × 256, the best of fifty."""
    a, b = torch.randn(BATCH, 256), torch.randn(256, 256)
    return 2.0 * BATCH * 256 * 256 / min(timed(lambda: a @ b) for _ in range(50))


def timed(work: Callable[[], object]) -> float:
    """Seconds of this process's processor time."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    known = sorted({name for name, _ in REFERENCES})
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=known, default=known)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--torchrl", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"batch {BATCH}, two hidden layers of 256; milliseconds of processor time, median of {arguments.repeats}")
    print(f"{'method':20s} {'lamo':>8s} {'by hand':>8s} {'ratio':>6s} {'TorchRL':>8s} {'ratio':>6s} {'floor':>8s}")
    out = []
    for (name, kind), reference in REFERENCES.items():
        if name not in arguments.methods:
            continue
        episodes = some_episodes(kind)
        contenders = {"lamo": ours(name, kind, episodes), "hand": reference(episodes, BATCH)}
        if arguments.torchrl and (step := torchrl_step(name, kind, episodes, BATCH)) is not None:
            contenders["torchrl"] = step
        times: dict[str, list[float]] = {contender: [] for contender in contenders}
        for step in contenders.values():
            for _ in range(4):
                step()
        for _ in range(arguments.repeats):
            for contender, step in contenders.items():
                times[contender].append(timed(step))
        median = {contender: 1e3 * statistics.median(values) for contender, values in times.items()}
        floor = 1e3 * floor_flops(name, kind) / rate()
        theirs = median.get("torchrl")
        cells = [f"{median['lamo']:8.2f}", f"{median['hand']:8.2f}", f"{median['lamo'] / median['hand']:6.2f}"]
        cells += [f"{theirs:8.2f}", f"{theirs / median['hand']:6.2f}"] if theirs else [" " * 8, " " * 6]
        print(f"{name + ', ' + kind:20s} {' '.join(cells)} {floor:8.2f}", flush=True)
        out.append({"method": name, "actions": kind, **median, "floor": floor})
    print(json.dumps(out))


if __name__ == "__main__":
    main()
