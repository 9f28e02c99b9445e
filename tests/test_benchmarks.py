"""The benchmarks run. What they find is theirs to tell, on a machine that is idle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_each_makes_its_rows(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "all.py"), "--quick", "--out", str(tmp_path / "table.md")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=1200)
    table = (tmp_path / "table.md").read_text()
    for what in (
        "windows",
        "Minari",
        "lamo --help",
        "one action",
        "evaluation",
        "collection",
        "packed",
        "step of",
        "λ 0.1",
    ):
        assert what in table
