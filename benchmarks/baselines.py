"""Time of one gradient step of each imitation and value-based method, as a ratio to a minimal hand-written PyTorch loop
of the same mathematics and to the floor of its matrix products. One thread, batch 256, two hidden layers of 256.

    python benchmarks/baselines.py
    python benchmarks/baselines.py --methods iql td3bc --torchrl --torchrl    also TorchRL's losses, and compiled

Both draw their batches, of HalfCheetah's shapes (17 numbers, 6 actions; 6 choices where actions are discrete). Times
are of the processor, medians over interleaved rounds: others on the machine slow all alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import common
import numpy as np
import torch
from common import ACTIONS, OBSERVATIONS, Row, at_most, in_turn, options, some_episodes, tell
from handwritten import REFERENCES, torchrl_step

from lamo.algorithms import get_algorithm, settings_type
from lamo.config import Spec
from lamo.data.episodes import Episodes

BATCH, LIMIT = 256, 1.3


def some_transitions(kind: str) -> Episodes:
    """A log of which half of the episodes terminated."""
    episodes = some_episodes(100)
    half = np.arange(100) % 2 == 0
    actions = episodes.actions if kind == "continuous" else np.argmax(episodes.actions, axis=1)
    return replace(episodes, actions=actions, terminated=half, truncated=~half)


def ours(name: str, kind: str, episodes: Episodes) -> Callable[[], object]:
    """A gradient step of lamo, batch and all."""
    low, high = ((-1.0,) * ACTIONS, (1.0,) * ACTIONS) if kind == "continuous" else (None, None)
    spec = Spec(OBSERVATIONS, ACTIONS, kind, low, high, 1000, 1.0, ())
    learner = get_algorithm(name)(settings_type(name)(), spec, episodes, batch_size=BATCH)
    batches = learner.batches(np.random.default_rng(0))
    return lambda: learner.update(next(batches))


def forward_flops(inputs: int, outputs: int, width: int = 256) -> float:
    """Of one row through two hidden layers."""
    return 2.0 * (inputs * width + width * width + width * outputs)


def floor_flops(name: str, kind: str) -> float:
    """Matrix-product FLOPs of a step; a trained pass is three forward passes, a gradient of inputs alone one more."""
    both = OBSERVATIONS + ACTIONS
    policy, value = forward_flops(OBSERVATIONS, ACTIONS), forward_flops(OBSERVATIONS, 1)
    q = forward_flops(both, 1) if kind == "continuous" else policy
    decode = forward_flops(OBSERVATIONS + 2 * ACTIONS, ACTIONS, 750)
    encode = forward_flops(both, 4 * ACTIONS, 750)
    rows = {
        ("bc", kind): 3 * policy,
        ("iql", kind): 2 * q + 3 * 2 * q + value + 3 * value + 3 * policy,
        ("td3bc", "continuous"): policy + 2 * q + 3 * 2 * q + (3 * policy + 2 * q) / 2,
        ("cql", "continuous"): (policy + 2 * q) + 3 * 2 * 31 * q + 3 * policy + 2 * 2 * q,
        ("cql", "discrete"): 3 * q + q + q,
        ("nfq", "discrete"): 3 * q + q,
        ("bcq", "continuous"): 3 * (encode + decode) + 10 * (decode + 3 * q) + 3 * 2 * q + decode + 3 * q + 2 * q,
        ("bcq", "discrete"): 3 * 2 * q + 2 * q + q,
    }
    return BATCH * rows[name, kind]


def rate() -> float:
    """FLOP/s of a product of (256, 256) and (256, 256), the best of fifty, by the chosen clock."""
    a, b = torch.randn(BATCH, 256), torch.randn(256, 256)
    return 2.0 * BATCH * 256 * 256 / min(common.timed(lambda: a @ b) for _ in range(50))


def main() -> None:
    known = sorted({name for name, _ in REFERENCES})
    chosen = options(
        __doc__,
        lambda parser: (
            parser.add_argument("--methods", nargs="+", choices=known, default=known),
            parser.add_argument("--repeats", type=int, default=20, help="rounds; each times every way"),
            parser.add_argument(
                "--torchrl", action="count", default=0, help="time TorchRL's losses as well; twice: and compiled"
            ),
        ),
    )
    if chosen.quick:
        chosen.repeats = 2
    torch.set_num_threads(1)
    common._clock[0] = time.process_time
    rows = []
    for (name, kind), reference in REFERENCES.items():
        if name not in chosen.methods:
            continue
        episodes = some_transitions(kind)
        contenders = {"lamo": ours(name, kind, episodes), "hand": reference(episodes, BATCH)}
        for way, compiled in (("on TorchRL", False), ("on TorchRL, compiled", True))[: chosen.torchrl]:
            if (step := torchrl_step(name, kind, episodes, BATCH, compiled=compiled)) is not None:
                contenders[way] = step
        times = in_turn(contenders, chosen.repeats, warm=4)
        what, floor = f"step of {name}, {kind} actions", floor_flops(name, kind) / rate()
        rows.append(at_most(what, LIMIT, "a loop by hand", times["lamo"], times["hand"]))
        rows.append(Row(what, "–", f"{times['lamo'] / floor:.2f} × floor", f"{1e3 * floor:.2f} ms", None))
        for way in list(contenders)[2:]:
            told = f"{1e3 * times[way]:.3g} ms"
            rows.append(Row(f"{what}, {way}", "–", f"{times[way] / times['hand']:.2f} × a loop by hand", told, None))
    tell(rows, chosen)


if __name__ == "__main__":
    main()
