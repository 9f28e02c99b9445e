"""How long it takes until something happens: `lamo --help`, `import lamo`, the first step of a run.

    python benchmarks/startup.py

Each is a process of its own, timed from outside, in turn with its reference: an interpreter that does nothing, and one
that imports torch, transformers and peft.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import QUICK, SMALL, Row, in_turn, options, some_episodes, tell, write_shape

from lamo.data.sources.d4rl import write_d4rl


def main() -> None:
    chosen = options(__doc__, lambda parser: parser.add_argument("--repeats", type=int, default=3))
    with tempfile.TemporaryDirectory() as name:
        folder, runs = Path(name), iter(range(1000))
        write_shape(QUICK if chosen.quick else SMALL, folder / "lm")
        data = write_d4rl(some_episodes(1 if chosen.quick else 1000), folder / "data.hdf5", {})
        home = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": str(chosen.threads)}

        def python(*arguments: str) -> None:
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=home)

        def first_step(*arguments: str) -> None:
            out = str(folder / f"run-{next(runs)}")
            end = ("--steps", "1", "--eval-episodes", "0", "--quiet", "--device", chosen.device, "--out", out)
            python("-m", "lamo", "train", *arguments, *end)

        random = ("--preset", "lamo-random", "--lm", str(folder / "lm"), "--dataset", str(data))
        contenders = {
            "nothing": lambda: python("-c", "pass"),
            "help": lambda: python("-m", "lamo", "--help"),
            "import": lambda: python("-c", "import lamo"),
            "libraries": lambda: python("-c", "import torch, transformers, peft"),
            "step": lambda: first_step(*random),
        }
        seconds = in_turn(contenders, 1, warm=0) if chosen.quick else in_turn(contenders, chosen.repeats)
        words = ("--corpus", "none", "--language-weight", "0") if chosen.quick else ()  # to sample them takes a while
        self_text = {"step": lambda: first_step("--preset", "lamo", "--task", "reacher2d-medium", *words)}
        cold, cached = (in_turn(self_text, 1, warm=0)["step"] for _ in range(2))
    limits = {
        "help": ("lamo --help", 0.5, "nothing", "an interpreter that does nothing"),
        "import": ("import lamo", 0.3, "nothing", "an interpreter that does nothing"),
        "step": ("first step of a run, 6 × 256, 1 M steps of data", 8.0 if chosen.device == "cpu" else 30.0,
                 "libraries", "importing torch, transformers and peft"),
    }  # fmt: skip
    rows = []
    for key, (what, limit, reference, called) in limits.items():
        mine, theirs = seconds[key], seconds[reference]
        rows.append(
            Row(
                what,
                f"≤ {limit:g} s",
                f"{mine:.2f} s",
                f"{mine / theirs:.1f} × {called}, {theirs:.2f} s",
                mine <= limit,
            )
        )
    if not chosen.quick:
        what = "first step with `self` as text, tiny"
        rows.append(
            Row(what, "≤ 8 s", f"{cached:.2f} s", f"{cold:.2f} s the first time, when it is sampled", cached <= 8)
        )
    tell(rows, chosen)


if __name__ == "__main__":
    main()
