"""What the benchmarks share: shapes, learners, timing in turn, floors, and rows with a verdict.

Every row is a ratio of two things measured in the same process and in turn: to a named reference, or to a floor, which
is matrix-product FLOPs over the rate of this machine for a large product. Times stand beside ratios, never alone.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lamo.algorithms import get_algorithm, preset_settings
from lamo.config import Spec
from lamo.data.episodes import Episodes
from lamo.models.cpu import has_fast_bfloat16

OBSERVATIONS, ACTIONS, K, BATCH, RANK = 17, 6, 20, 64, 16  # HalfCheetah's shapes, and the published settings
TEXT_BATCH, TEXT_BLOCK, VOCABULARY = 2, 1024, 50_257
PRODUCTS = 100  # that are timed together on a GPU


def processor_seconds() -> float:
    """Of this process, and of those that it started and waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


CLOCKS = {"wall": time.perf_counter, "cpu": processor_seconds}
_clock = [time.perf_counter]  # the one that `options` was asked for

# --------------------------------------------------------------------------------------------------------------- rows


@dataclass(frozen=True)
class Row:
    """One line of the table. `holds`: whether the aim is met; None where there is no aim."""

    what: str
    aim: str
    measured: str
    beside: str
    holds: bool | None


def at_least(what: str, times: float, reference: str, ours: float, theirs: float, unit: str = "s") -> Row:
    """A row for `theirs / ours` (two times), which should be `times` or more."""
    ratio = theirs / ours
    told = f"{_number(ours, unit)} against {_number(theirs, unit)}"
    return Row(what, f"≥ {times:g} × {reference}", f"{ratio:.2f} ×", told, ratio >= times)


def at_most(what: str, times: float, limit: str, ours: float, theirs: float, unit: str = "s") -> Row:
    """A row for `ours / theirs`, which should be `times` or less."""
    ratio = ours / theirs
    told = f"{_number(ours, unit)} against {_number(theirs, unit)}"
    return Row(what, f"≤ {times:g} × {limit}", f"{ratio:.2f} ×", told, ratio <= times)


def within(what: str, milliseconds: float, ours: float) -> Row:
    """A row for a time (s), which on the GPU that the aim is for should be so many milliseconds or less."""
    return Row(what, f"≤ {milliseconds:g} ms on an H200", f"{1e3 * ours:.2f} ms", "", 1e3 * ours <= milliseconds)


def _number(value: float, unit: str) -> str:
    return f"{1e3 * value:.3g} ms" if unit == "s" and value < 0.5 else f"{value:.3g} {unit}"


def table(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table that also reads well in a terminal."""
    verdicts = {True: "pass", False: "**falls short**", None: "–"}
    lines = [(row.what, row.aim, row.measured, row.beside, verdicts[row.holds]) for row in rows]
    lines = [("what", "aim", "measured", "beside", "verdict"), *lines]
    widths = [max(len(line[i]) for line in lines) for i in range(5)]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join("| " + " | ".join(f"{c:{w}}" for c, w in zip(line, widths, strict=True)) + " |" for line in lines)


def options(doc: str | None, more: Callable[[argparse.ArgumentParser], object] = lambda _: None) -> argparse.Namespace:
    """What every benchmark takes, and `more` of its own."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small shapes and few repeats: does it run at all?")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of PyTorch")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="cpu: processor seconds of one thread, whose ratios others on the machine disturb little",
    )
    parser.add_argument("--json", type=Path, help="also write the rows into this file")
    more(parser)
    chosen = parser.parse_args()
    if chosen.clock == "cpu":
        chosen.threads = 1
    _clock[0] = CLOCKS[chosen.clock]
    torch.set_num_threads(chosen.threads)
    return chosen


def tell(rows: Sequence[Row], chosen: argparse.Namespace) -> None:
    """Print the table; write the rows where `--json` says."""
    print(table(rows), flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(row) for row in rows]))


def machine(device: str = "cpu") -> str:
    """The machine in words."""
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    try:
        model = next(
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        )
    except (OSError, StopIteration):
        model = platform.processor()
    fast = "with" if has_fast_bfloat16() else "without"
    return f"{model}, {torch.get_num_threads()} threads, {fast} bfloat16 products, PyTorch {torch.__version__}"


# ------------------------------------------------------------------------------------------------------------- timing


def now() -> float:
    """Seconds by the chosen clock."""
    return _clock[0]()


def timed(work: Callable[[], object], device: str = "cpu") -> float:
    """Seconds of `work` by the chosen clock, to the end of what it has started on the device."""
    _settle(device)
    start = now()
    work()
    _settle(device)
    return now() - start


def _settle(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def in_turn(
    contenders: Mapping[str, Callable[[], object]], repeats: int, device: str = "cpu", *, warm: int = 1
) -> dict[str, float]:
    """Seconds of each contender, the median of `repeats` (of two the smaller). One after another in each round, so that
    a change of the machine's speed hits all."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for i in range(warm + repeats):
        for name, work in contenders.items():
            seconds = timed(work, device)
            if i >= warm:
                times[name].append(seconds)
    return {name: statistics.median(each) if repeats > 2 else min(each) for name, each in times.items()}


# ------------------------------------------------------------------------------------------------------------- floors


@dataclass(frozen=True)
class Shape:
    """A GPT-2 for decisions: as much as its matrix products depend on."""

    layers: int
    width: int
    heads: int
    context: int = K
    batch: int = BATCH
    rank: int = RANK
    observations: int = OBSERVATIONS
    actions: int = ACTIONS
    vocabulary: int = VOCABULARY

    @property
    def name(self) -> str:
        return "GPT-2" if (self.layers, self.width) == (12, 768) else f"{self.layers} × {self.width}"


SMALL, GPT2 = Shape(6, 256, 4), Shape(12, 768, 12)
QUICK = Shape(2, 64, 2, context=5, batch=8, vocabulary=1000)


def step_flops(shape: Shape, text: tuple[int, int] | None = None) -> int:
    """Matrix-product FLOPs of one gradient step, 2 for each multiplication: the frozen forward, gradients of inputs,
    and weight gradients of what trains alone; the last block for state tokens alone.

    `text`: (blocks, tokens of a block) of a language loss, whose attention is counted as causal (half), as fused
    kernels compute it. `tests/models/test_hot_paths.py` holds the step to this count.
    """
    d, r, length, b = shape.width, shape.rank, 3 * shape.context - 1, shape.batch
    steps = b * shape.context  # state tokens
    total = 0
    for block in range(shape.layers):
        rows = b * length
        asked = steps if block == shape.layers - 1 else rows
        seen = asked * length  # (query, key) pairs
        total += 2 * 2 * rows * 3 * d * d  # queries, keys, values: forward and input gradient
        total += 3 * 2 * rows * r * (d + 3 * d)  # the adapter: forward, gradients of inputs and of both weights
        total += 6 * 2 * seen * d  # scores and weighted sum; two gradients each
        total += 2 * 2 * asked * 9 * d * d  # projection and both of the MLP
    for inputs in (1, shape.observations, shape.actions):  # W1 x + W2 gelu(W1 x): no gradient of x
        total += 2 * steps * (2 * inputs * d + 3 * d * d)
    total += 3 * 2 * steps * (d * d + d * shape.actions)
    if text:
        blocks, tokens = text
        rows = blocks * tokens
        total += shape.layers * 2 * 2 * rows * 12 * d * d + shape.layers * 3 * 2 * rows * 4 * d * r
        total += shape.layers * 6 * 2 * rows * tokens // 2 * d
        total += 2 * 2 * rows * d * shape.vocabulary  # logits and the gradient of hidden states
        total -= 2 * rows * 3 * d * d + 2 * rows * d * r  # token embeddings are frozen: no gradient of block 0's input
    return total


def action_flops(shape: Shape, new: int | None = None, keys: int | None = None) -> int:
    """Matrix-product FLOPs of one action of one episode: a whole window of K steps, or `new` tokens that see it, or
    `keys` tokens."""
    d, length = shape.width, 3 * shape.context - 1 if keys is None else keys
    rows = 3 * shape.context - 1 if new is None else new
    total = 0
    for block in range(shape.layers):
        asked = 1 if block == shape.layers - 1 else rows
        total += 2 * rows * (3 * d * d + shape.rank * 4 * d) + 2 * 2 * asked * length * d + 2 * asked * 9 * d * d
    steps = -(-rows // 3)
    total += sum(2 * steps * (inputs * d + d * d) for inputs in (1, shape.observations, shape.actions))
    return total + 2 * (d * d + d * shape.actions)


def episode_flops(shape: Shape, steps: int, cached: bool = True) -> int:
    """Matrix-product FLOPs of the actions of one episode of so many steps, as exact windows compute them.

    In the first K steps the window has not begun to slide: with a cache only the new tokens of a step, beside all slots
    of the cache, without one a window as long as the episode. From then on every step computes a whole window.
    `tests/models/test_hot_paths.py` holds evaluations to this count.
    """
    before = min(steps, shape.context)
    total = (steps - before) * action_flops(shape)
    if not cached:
        return total + sum(action_flops(replace(shape, context=age)) for age in range(1, before + 1))
    slots = 3 * shape.context
    first = action_flops(shape, 2, slots) - 2 * shape.width * (shape.actions + shape.width)  # no action precedes it
    return total + first + (before - 1) * action_flops(shape, 3, slots)


def floor_dtype(device: str) -> torch.dtype:
    """The number format of the floor: bfloat16, or float32 on a processor without bfloat16 products."""
    return torch.bfloat16 if device != "cpu" or has_fast_bfloat16() else torch.float32


def rate(width: int, device: str = "cpu", rows: int = BATCH * 3 * K) -> float:
    """FLOP/s of a large product of a block's shape in the floor's number format, the best of ten.

    On a GPU, where such a product takes a few microseconds, as long as its launch, a hundred are replayed at a time.
    """
    dtype, count = floor_dtype(device), 1
    a, b = (torch.randn(shape, device=device).to(dtype) for shape in ((rows, width), (width, 4 * width)))
    out = a @ b

    def product() -> None:
        torch.mm(a, b, out=out)

    work: Callable[[], object] = product
    if device != "cpu":
        work, count = recorded(product, PRODUCTS), PRODUCTS
        timed(work, device)  # its first replay loads it onto the device
    best = min(timed(work, device) for _ in range(10))
    return 2 * rows * width * 4 * width * count / best


def recorded(work: Callable[[], object], times: int) -> Callable[[], object]:
    """`work`, already done once, so many times as one CUDA graph: a launch for all of them."""
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            work()
    return graph.replay


# ----------------------------------------------------------------------------------------------------- data and models


def some_episodes(count: int = 200, length: int = 1000, shape: Shape = SMALL) -> Episodes:
    """A log of equally long episodes, random numbers."""
    rng = np.random.default_rng(0)
    n = count * length
    return Episodes(
        observations=rng.standard_normal((n, shape.observations), dtype=np.float32),
        actions=np.tanh(rng.standard_normal((n, shape.actions), dtype=np.float32)),
        rewards=rng.random(n, dtype=np.float32),
        offsets=np.arange(count + 1, dtype=np.int64) * length,
        terminated=np.zeros(count, bool),
        truncated=np.ones(count, bool),
        ids=np.arange(count, dtype=np.int64),
    )


def write_shape(shape: Shape, folder: Path) -> str:
    """A GPT-2 of that shape as a Hugging Face folder: config and a small tokenizer; weights are drawn when it is
    loaded."""
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import GPT2Config, PreTrainedTokenizerFast

    tokenizer = Tokenizer(WordLevel({f"w{i}": i for i in range(100)}, "w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    GPT2Config(
        n_layer=shape.layers,
        n_embd=shape.width,
        n_head=shape.heads,
        vocab_size=shape.vocabulary,
        n_positions=TEXT_BLOCK,
        bos_token_id=0,
        eos_token_id=0,
    ).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    return str(folder)


def write_text(folder: Path, words: int = 10 * TEXT_BLOCK) -> str:
    """A text of that tokenizer's words, for the language loss."""
    rng = np.random.default_rng(0)
    path = folder / "text.txt"
    path.write_text(" ".join(f"w{i}" for i in rng.integers(0, 100, words)))
    return str(path)


def spec_of(shape: Shape, env: str | None = None) -> Spec:
    """Data and environment of that shape."""
    return Spec(shape.observations, shape.actions, "continuous", None, None, 1000, 1000.0, (1.0,), env)


def learner(
    shape: Shape, episodes: Episodes, folder: Path, device: str, text: str | None = None, seed: int = 0, **settings: Any
) -> Any:
    """Our learner on a GPT-2 with random weights in `folder`; with `text` (a file) its language loss has weight 0.1."""
    reads = {"language_weight": 0.1, "corpus": (text,)} if text else {"language_weight": 0.0, "corpus": ("none",)}
    model = {"lm": str(folder), "initialise": "random", "context": shape.context, "lora_rank": shape.rank}
    name, chosen = preset_settings("lamo", **{**model, **reads, **settings})
    return get_algorithm(name)(chosen, spec_of(shape), episodes, device=device, batch_size=shape.batch, seed=seed)
