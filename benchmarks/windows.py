"""How long a batch of windows takes, and how many times faster that is than building it window by window.

    OMP_NUM_THREADS=1 python benchmarks/windows.py

1 M steps in memory (17 numbers per observation, 6 per action), batches of 64 windows of 20 steps. The reference, in
the same run, works like the sample-by-sample builder of the Decision Transformer repository: slice, pad and stack each
window in Python, with the return-to-go looked up, not summed anew. Times are of the processor, medians over interleaved
rounds: others on the machine slow both alike.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np

from lamo.data import Episodes, Windows
from lamo.data.windows import WindowBatch


def make_log(steps: int, length: int, rng: np.random.Generator) -> Episodes:
    """A log of equally long episodes."""
    count = steps // length
    return Episodes(
        observations=rng.standard_normal((count * length, 17), dtype=np.float32),
        actions=rng.standard_normal((count * length, 6), dtype=np.float32),
        rewards=rng.standard_normal(count * length, dtype=np.float32),
        offsets=np.arange(count + 1, dtype=np.int64) * length,
        terminated=np.zeros(count, bool),
        truncated=np.ones(count, bool),
        ids=np.arange(count, dtype=np.int64),
    )


def one_by_one(episodes: Episodes, context: int, batch: int, rng: np.random.Generator) -> WindowBatch:
    """The reference: the same windows, built in a loop."""
    mean, std = episodes.statistics_of_run
    parts: list[list[np.ndarray]] = [[], [], [], [], []]
    for step in rng.integers(episodes.steps, size=batch):
        after = int(np.searchsorted(episodes.offsets, step, side="right"))
        start, end = int(episodes.offsets[after - 1]), min(int(step) + context, int(episodes.offsets[after]))
        pad = context - (end - int(step))
        window = slice(int(step), end)
        observations = (episodes.observations[window] - mean) / std
        for part, value in zip(
            parts,
            (
                (episodes.returns_to_go[window] / 1000).astype(np.float32),
                observations,
                episodes.actions[window],
                np.arange(step - start, end - start),
                np.ones(end - int(step), bool),
            ),
            strict=True,
        ):
            part.append(np.concatenate([np.zeros((pad, *value.shape[1:]), value.dtype), value]))
    return WindowBatch(*(np.stack(part) for part in parts))


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Mean processor seconds of a call over some repeats."""
    began = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - began) / repeats


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000, help="steps in the log")
    parser.add_argument("--rounds", type=int, default=30, help="rounds; each times both ways")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    rows = []
    for length in (1000, 100, 50):
        episodes = make_log(options.steps, length, rng)
        windows = Windows(episodes, 20, return_scale=1000.0)
        object.__setattr__(episodes, "statistics_of_run", windows.statistics)  # the reference must not recompute them
        ours = one_by_one(episodes, 20, 64, np.random.default_rng(1))
        for mine, theirs in zip(windows.sample(np.random.default_rng(1), 64), ours, strict=True):
            np.testing.assert_array_equal(mine, theirs)  # the same work, or the ratio means nothing
        times = [
            (
                seconds(lambda w=windows: w.sample(rng, 64), 100),
                seconds(lambda e=episodes: one_by_one(e, 20, 64, rng), 10),
            )
            for _ in range(options.rounds)
        ]
        fast, slow = np.median(times, axis=0)
        rows.append(
            {
                "episode_steps": length,
                "milliseconds": 1e3 * fast,
                "milliseconds_fastest": 1e3 * min(f for f, _ in times),
                "reference_milliseconds": 1e3 * slow,
                "ratio": float(np.median([s / f for f, s in times])),
            }
        )
    if options.json:
        print(json.dumps({"steps": options.steps, "batch": 64, "context": 20, "rows": rows}))
        return
    print(f"64 windows of 20 steps from {options.steps:,} steps, one core")
    print("episode   lamo, median (fastest)   one by one    ratio")
    for row in rows:
        print(
            f"{row['episode_steps']:>5}     {row['milliseconds']:.3f} ms ({row['milliseconds_fastest']:.3f})"
            f"         {row['reference_milliseconds']:.2f} ms      {row['ratio']:.0f} x"
        )


if __name__ == "__main__":
    main()
