"""Every benchmark, each in a process of its own, and one table at the end: what `make bench` runs.

python benchmarks/all.py [--quick] [--device cuda] [--clock cpu] [--threads N] [--out FILE.md]

Each script is given the same; on a GPU evaluation also as many processes for its environments as there are cores.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from common import Row, floor_dtype, machine, options, table, tell

from lamo.workers import usable_cores

PARTS = (  # fewer rounds than each has by default, so that all take about ten minutes on two idle cores
    ("windows.py", "--rounds", "5"),
    ("loading.py", "--rounds", "2"),
    ("startup.py", "--repeats", "1"),
    ("actions.py",),
    ("actions.py", "--size", "gpt2", "--rounds", "2"),
    ("evaluation.py", "--rounds", "1"),
    ("collection.py", "--rounds", "1", "--tasks", "Hopper-v5:sb3", "--episodes", "1500"),
    ("packed.py",),
    ("reading.py",),
    ("baselines.py",),
    ("memory.py",),
    ("step.py", "--repeats", "3"),
    ("step.py", "--size", "gpt2", "--repeats", "1"),
)


def command(script: str, arguments: Sequence[str], chosen: argparse.Namespace, found: Path) -> list[str]:
    """The command line of one script, whose rows go to the file `found`."""
    line = [sys.executable, str(Path(__file__).with_name(script)), *arguments, "--json", str(found)]
    line += ["--device", chosen.device, "--clock", chosen.clock, "--threads", str(chosen.threads)]
    if chosen.quick:
        line.append("--quick")
    if script == "evaluation.py" and chosen.device != "cpu" and chosen.clock == "wall":
        line += ["--workers", str(usable_cores())]
    return line


def main() -> None:
    chosen = options(
        __doc__, lambda parser: parser.add_argument("--out", type=Path, help="also write the table into this file")
    )
    began, rows, failed = time.perf_counter(), [], []
    for script, *arguments in PARTS:
        with tempfile.TemporaryDirectory() as folder:
            found = Path(folder) / "rows.json"
            start = time.perf_counter()
            print(f"== {script} {' '.join(arguments)}", flush=True)
            if subprocess.run(command(script, arguments, chosen, found)).returncode:
                failed.append(" ".join((script, *arguments)))
                continue
            rows += [Row(**row) for row in json.loads(found.read_text())]
            print(f"   {time.perf_counter() - start:.0f} s", flush=True)
    dtype = str(floor_dtype(chosen.device)).removeprefix("torch.")
    note = (
        f"{machine(chosen.device)}; floors over {dtype} products; {(time.perf_counter() - began) / 60:.1f} min in all"
    )
    print(f"\n{note}\n")
    tell(rows, chosen)
    if chosen.out:
        chosen.out.write_text(f"{note}\n\n{table(rows)}\n")
    if failed:
        raise SystemExit(f"did not run: {', '.join(failed)}")


if __name__ == "__main__":
    main()
