"""A store larger than the memory that a process may have of its own is drawn from, and trained on.

That it works is tested, not how fast: the limit (RLIMIT_DATA) leaves the kernel's cache of files alone, so a store that
the machine's memory holds is read from there. `benchmarks/loading.py` compares the rate from that cache with that of
the same windows in memory.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lamo.data import Episodes
from lamo.data.store_writer import write_store

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_DATA is Linux's")

# RLIMIT_DATA bounds what a process has of its own: heap and private memory. Pages of a mapped file, which the kernel
# may drop at any time, are not counted, as they are by RLIMIT_AS.
LIMITED = """
import resource, sys
import numpy as np
from lamo.data import Transitions, Windows, load_episodes
from lamo.data import episodes as module

own = next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmData"))
limit = own + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
module.COPIED = 1 << 20
rng = np.random.default_rng(0)
whole = load_episodes(sys.argv[1])
assert whole.steps * whole.step_bytes > int(sys.argv[2])
try:
    np.array(whole.observations)
    raise SystemExit("the limit does not hold")
except MemoryError:
    pass
for episodes in (whole, whole.subsample(0.9, 1), load_episodes([sys.argv[1], sys.argv[1]])):
    windows, transitions = Windows(episodes, 20), Transitions(episodes)
    for _ in range(50):
        windows.sample(rng, 64), transitions.sample(rng, 256)
    episodes.digest(), episodes.returns.max(), episodes.extremes("actions")
"""


def blocks(count: int, steps: int = 1000, at_once: int = 20) -> Iterator[Episodes]:
    """Episodes of HalfCheetah's sizes, few numbers in many places."""
    rng = np.random.default_rng(0)
    rows = steps * at_once
    arrays = {
        "observations": rng.standard_normal((rows, 17), dtype=np.float32),
        "actions": np.tanh(rng.standard_normal((rows, 6), dtype=np.float32)),
        "rewards": rng.random(rows, dtype=np.float32),
        "offsets": np.arange(at_once + 1, dtype=np.int64) * steps,
        "terminated": np.zeros(at_once, bool),
        "truncated": np.ones(at_once, bool),
    }
    for first in range(0, count, at_once):
        yield Episodes(**arrays, ids=np.arange(first, first + at_once), metadata={"source": "made"})


def test_windows_and_transitions_of_more_than_memory(tmp_path: Path) -> None:
    write_store(blocks(300), tmp_path / "x.lamo")  # 29 MB, of which a copy of the observations alone would be 20
    found = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "x.lamo"), str(14 << 20)], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr[-2000:]


@pytest.mark.slow
def test_a_run_on_more_than_its_limit(tmp_path: Path) -> None:
    store = write_store(blocks(12_000), tmp_path / "x.lamo")
    limit = 900 << 20  # torch and all of it; the steps alone are 1.15 GB
    assert store.steps * store.step_bytes > limit
    start = f"import resource; resource.setrlimit(resource.RLIMIT_DATA, ({limit}, {limit}))"
    run = "import sys; from lamo.cli import main; sys.exit(main(sys.argv[1:]))"
    small = "--preset dt --layers 1 --width 16 --heads 1 --steps 20 --log-every 5 --eval-episodes 0 --device cpu"
    found = subprocess.run(
        [
            *(sys.executable, "-c", f"{start}; {run}", "train", "--dataset", str(tmp_path / "x.lamo")),
            *(*small.split(), "--ratio", "0.9", "--holdout", "0", "--out", str(tmp_path / "run")),
        ],
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 4
