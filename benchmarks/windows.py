"""How long a batch of windows takes, and how many times faster that is than building it window by window.

    OMP_NUM_THREADS=1 python benchmarks/windows.py

1 M steps in memory (17 numbers per observation, 6 per action), batches of 64 windows of 20 steps. Two references, in
the same run: the released code's way (benchmarks/reference.py), which sums rewards anew for each window, and a loop
that slices, pads and stacks each window with the return-to-go looked up. Times are of the processor, medians over
interleaved rounds: others on the machine slow all alike. With `--device cuda` also from data that lie there.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from common import BATCH, K, Row, in_turn, options, some_episodes, tell
from reference import ReferenceLearner

from lamo.algorithms.resident import ResidentWindows
from lamo.data import Episodes, Statistics, Windows
from lamo.data.windows import WindowBatch

LIMIT = 0.15e-3  # seconds


def one_by_one(episodes: Episodes, statistics: Statistics, rng: np.random.Generator) -> WindowBatch:
    """The same windows, built in a loop."""
    parts: list[list[np.ndarray]] = [[], [], [], [], []]
    for step in rng.integers(episodes.steps, size=BATCH):
        after = int(np.searchsorted(episodes.offsets, step, side="right"))
        start, end = int(episodes.offsets[after - 1]), min(int(step) + K, int(episodes.offsets[after]))
        pad = K - (end - int(step))
        window = slice(int(step), end)
        values = (
            (episodes.returns_to_go[window] / 1000).astype(np.float32),
            (episodes.observations[window] - statistics.mean) / statistics.std,
            episodes.actions[window],
            np.arange(step - start, end - start),
            np.ones(end - int(step), bool),
        )
        for part, value in zip(parts, values, strict=True):
            part.append(np.concatenate([np.zeros((pad, *value.shape[1:]), value.dtype), value]))
    return WindowBatch(*(np.stack(part) for part in parts))


def on_the_device(windows: Windows, device: str, rng: np.random.Generator) -> Row:
    """The same from data that lie on a GPU."""
    resident = ResidentWindows(windows, None, 1, torch.device(device))
    work = {"ours": lambda: resident.at(windows.draw(rng, BATCH))}
    took = in_turn(work, 50, device)["ours"]
    what = f"{BATCH} windows of {K}, cut on the device"
    return Row(what, "–", f"{1e3 * took:.3f} ms", f"copied: {8 * BATCH} bytes, where they begin", None)


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Mean processor seconds of a call over some repeats."""
    began = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - began) / repeats


def main() -> None:
    chosen = options(
        __doc__,
        lambda parser: (
            parser.add_argument("--steps", type=int, default=1_000_000, help="steps in the log"),
            parser.add_argument("--rounds", type=int, default=15, help="rounds; each times every way"),
        ),
    )
    if chosen.quick:
        chosen.steps, chosen.rounds = 20_000, 2
    rng, rows = np.random.default_rng(0), []
    for length in (1000, 100):
        episodes = some_episodes(chosen.steps // length, length)
        windows = Windows(episodes, K, return_scale=1000.0)
        loop = one_by_one(episodes, windows.statistics, np.random.default_rng(1))
        for mine, theirs in zip(windows.sample(np.random.default_rng(1), BATCH), loop, strict=True):
            np.testing.assert_array_equal(mine, theirs)  # the same work, or the ratio means nothing
        published = ReferenceLearner(episodes, 1, 64, 1, text=False, vocabulary=100)
        ways = (
            (lambda w=windows: w.sample(rng, BATCH), 100),
            (published.windows, 3),
            (lambda e=episodes, w=windows: one_by_one(e, w.statistics, rng), 10),
        )
        times = [[seconds(way, count) for way, count in ways] for _ in range(chosen.rounds)]
        fast, slow, looped = (statistics.median(column) for column in zip(*times, strict=True))
        what = f"{BATCH} windows of {K} from {chosen.steps:,} steps in episodes of {length}, one core"
        if length == 1000:
            told = f"{slow / fast:.0f} × the reference, {1e3 * slow:.2f} ms"
            rows.append(Row(what, f"≤ {1e3 * LIMIT:g} ms", f"{1e3 * fast:.3f} ms", told, fast <= LIMIT))
            if chosen.device != "cpu":
                rows.append(on_the_device(windows, chosen.device, rng))
        rows.append(Row(what, "–", f"{looped / fast:.1f} × a loop", f"returns looked up; {1e3 * fast:.3f} ms", None))
    tell(rows, chosen)


if __name__ == "__main__":
    main()
