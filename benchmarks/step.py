"""Time of one gradient step (LoRA 16, batch 64 × 20 steps, no language loss) as a ratio to the reference in the same
run.

    python benchmarks/step.py                      6 layers × 256
    python benchmarks/step.py --layers 12 --width 768 --heads 12      GPT-2 (124 M)

The two are timed in turn, so that a change of the machine's speed hits both; the ratio of medians is printed.
The floor is the step's matrix-product FLOPs over the machine's rate for a large product of the base's number format.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from reference import ReferenceLearner

from lamo.algorithms import get_algorithm, preset_settings
from lamo.config import Spec
from lamo.data.episodes import Episodes
from lamo.pretrain import PretrainSettings, build_model, train_tokenizer, write_folder

OBSERVATIONS, ACTIONS, K, BATCH = 17, 6, 20, 64


def some_episodes(count: int = 200, length: int = 1000) -> Episodes:
    """HalfCheetah's shapes, random numbers."""
    rng = np.random.default_rng(0)
    n = count * length
    return Episodes(
        observations=rng.normal(size=(n, OBSERVATIONS)).astype(np.float32),
        actions=np.tanh(rng.normal(size=(n, ACTIONS))).astype(np.float32),
        rewards=rng.random(n).astype(np.float32),
        offsets=np.arange(count + 1) * length,
        terminated=np.zeros(count, bool),
        truncated=np.ones(count, bool),
        ids=np.arange(count),
        final_observations=None,
        metadata={},
    )


def floor_flops(layers: int, width: int) -> float:
    """Matrix-product FLOPs of a step: frozen forward, gradients of inputs, and the small trainable parts left out."""
    tokens, length = BATCH * (3 * K - 1), 3 * K - 1
    blocks = 2 * 12 * width * width * layers * tokens
    attention = 2 * 2 * length * width * layers * tokens
    return 2 * blocks + 3 * attention  # forward and input gradients; attention's backward is twice its forward


def rate(dtype: torch.dtype, width: int) -> float:
    """FLOP/s of a product of a block's shape, the best of ten."""
    a, b = torch.randn(BATCH * 3 * K, width).to(dtype), torch.randn(width, 4 * width).to(dtype)
    out = a @ b
    best = min(timed(lambda: torch.mm(a, b, out=out)) for _ in range(10))
    return 2 * a.shape[0] * width * 4 * width / best


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    layers, width, heads = arguments.layers, arguments.width, arguments.heads
    episodes = some_episodes()
    with tempfile.TemporaryDirectory() as folder:
        shape = PretrainSettings(vocabulary=300, layers=layers, width=width, heads=heads, context=1024)
        tokenizer = train_tokenizer("a small text for a tokenizer of a few tokens " * 20, 300)
        write_folder(Path(folder) / "lm", build_model(shape, tokenizer.get_vocab_size()), tokenizer, shape, {})
        name, settings = preset_settings("lamo-random", lm=str(Path(folder) / "lm"), context=K)
        spec = Spec(OBSERVATIONS, ACTIONS, "continuous", None, None, 1000, 1000.0, (1.0,))
        ours = get_algorithm(name)(settings, spec, episodes, batch_size=BATCH)
    batches = ours.batches(np.random.default_rng(0))
    contenders: dict[str, Callable[[], object]] = {
        "lamo": lambda: ours.update(next(batches)),
        "reference A (text forward at every step)": ReferenceLearner(episodes, layers, width, heads).step,
        "reference B (no text)": ReferenceLearner(episodes, layers, width, heads, text=False).step,
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for step in contenders.values():
        step()  # warm-up
    for _ in range(arguments.repeats):
        for name, step in contenders.items():
            times[name].append(timed(step))
    medians = {name: statistics.median(values) for name, values in times.items()}
    mine = medians["lamo"]
    dtype = ours.model.backbone.base_dtype
    floor = floor_flops(layers, width) / rate(dtype, width)
    print(f"{layers} layers × {width}, batch {BATCH} × {K} steps, LoRA 16, base in {str(dtype).removeprefix('torch.')}")
    for name, value in medians.items():
        spread = f"{min(times[name]):.3f} – {max(times[name]):.3f} s"
        print(f"  {name:42s} {value:.3f} s ({spread})   {value / mine:5.2f} × ours")
    print(f"  {'floor (matrix products alone)':42s} {floor:.3f} s   ours is {mine / floor:.2f} × the floor")
    print(json.dumps({"layers": layers, "width": width, "medians": medians, "floor": floor, "dtype": str(dtype)}))


if __name__ == "__main__":
    main()
