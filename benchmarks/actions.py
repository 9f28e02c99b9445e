"""Time of one action at batch 1, windows full and sliding: against the reference, the floor, and banded attention.

    python benchmarks/actions.py                 6 layers × 256
    python benchmarks/actions.py --size gpt2     GPT-2 (124 M)

The reference puts the whole window through transformers' modules (benchmarks/reference.py). Exact windows of ours
compute the same; banded attention (`--span 20`) computes the three new tokens of a step.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import (
    GPT2,
    QUICK,
    SMALL,
    Row,
    Shape,
    action_flops,
    at_least,
    in_turn,
    learner,
    options,
    rate,
    some_episodes,
    tell,
    within,
    write_shape,
)  # fmt: skip
from reference import ReferenceLearner

# LaMo-2023 took about 10 and 125 ms where the aims of 3 and 25 ms were set: those are the ratios.
AIMS = {"small": 10 / 3, "gpt2": 125 / 25}
BANDED = 8.0
MILLISECONDS = 1.5  # of one action on a GPU


def stepper(policy, shape: Shape, rng: np.random.Generator, n: int = 1) -> Callable[[], object]:
    """One action of `n` episodes, each with a window that is full and slides."""
    observations, rewards = rng.standard_normal((n, shape.observations), dtype=np.float32), np.zeros(n)
    policy.reset(n, np.full(n, 100.0))
    for _ in range(shape.context + 2):
        policy.act(observations, rewards)
    return lambda: policy.act(observations, rewards)


def times(work: Callable[[], object], count: int) -> Callable[[], object]:
    """`work` that many times."""

    def run() -> None:
        for _ in range(count):
            work()

    return run


def main() -> None:
    chosen = options(
        __doc__,
        lambda parser: (
            parser.add_argument("--size", choices=AIMS, default="small"),
            parser.add_argument("--rounds", type=int, default=7, help="rounds; each times every way"),
        ),
    )
    shape = QUICK if chosen.quick else GPT2 if chosen.size == "gpt2" else SMALL
    each = 2 if chosen.size == "gpt2" else 10  # actions timed together
    rng, episodes, device = np.random.default_rng(0), some_episodes(2, 100, shape), chosen.device
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shape(shape, folder)
        exact = learner(shape, episodes, folder, device)
        banded = learner(shape, episodes, folder, device, span=shape.context)
    reference = ReferenceLearner(
        episodes, shape.layers, shape.width, shape.heads, shape.context, vocabulary=100, device=device
    )
    history = [rng.standard_normal(shape.observations) for _ in range(shape.context + 2)]
    acted = [np.zeros(shape.actions)] * (shape.context + 1)
    many = 40
    contenders = {
        "reference": lambda: reference.act([1.0] * len(history), history, acted),
        "exact": stepper(exact.policy(), shape, rng),
        "banded": stepper(banded.policy(), shape, rng),
        "exact, many": stepper(exact.policy(), shape, rng, many),
        "banded, many": stepper(banded.policy(), shape, rng, many),
    }
    if chosen.size == "gpt2" and device == "cpu":
        del contenders["exact, many"], contenders["banded, many"]
    together = {name: times(work, 1 if "many" in name else each) for name, work in contenders.items()}
    seconds = in_turn(together, 2 if chosen.quick else chosen.rounds, device)
    seconds = {name: value / (1 if "many" in name else each) for name, value in seconds.items()}
    floor = action_flops(shape) / rate(shape.width, device)
    what = f"one action, batch 1, {shape.name}, K {shape.context}"
    rows = [
        at_least(f"{what}, exact windows", round(AIMS[chosen.size], 2), "the reference", seconds["exact"],
                 seconds["reference"]),
        Row(f"{what}, exact windows", "–", f"{seconds['exact'] / floor:.2f} × floor", f"{1e3 * floor:.2f} ms", None),
        at_least(f"{what}, banded", BANDED, "exact windows", seconds["banded"], seconds["exact"]),
    ]  # fmt: skip
    if device != "cpu":
        rows.append(within(f"{what}, exact windows", MILLISECONDS, seconds["exact"]))
    if "banded, many" in seconds:
        what = f"actions of {many} episodes, {shape.name}, K {shape.context}, banded"
        rows.append(at_least(what, BANDED, "exact windows", seconds["banded, many"], seconds["exact, many"]))
    tell(rows, chosen)


if __name__ == "__main__":
    main()
