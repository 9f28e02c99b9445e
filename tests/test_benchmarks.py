"""The benchmarks run. What they find is theirs to tell, on a machine that is idle."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from lamo.config import Experiment
from lamo.train import train

ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """A benchmark by its name, imported as it imports its neighbours."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(ROOT / "benchmarks")):
            del sys.modules[name]


def test_all_passes_on_what_it_is_asked_for(script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    def line(name: str, **changes: str) -> str:
        asked = {"device": "cpu", "clock": "wall", "threads": 2, "quick": False, **changes}
        return " ".join(script("all").command(name, ("--rounds", "1"), argparse.Namespace(**asked), tmp_path))

    assert line("actions.py", clock="cpu", threads="1").endswith("--device cpu --clock cpu --threads 1")
    assert "--workers" not in line("evaluation.py")
    assert f"--workers {script('all').usable_cores()}" in line("evaluation.py", device="cuda")
    assert "--workers" not in line("evaluation.py", device="cuda", clock="cpu")
    assert "--workers" not in line("actions.py", device="cuda")


def test_an_evaluation_is_mostly_steps_whose_window_slides(script: Callable[[str], ModuleType]) -> None:
    found = script("evaluation").Pace(context=20, growing=0.001, sliding=0.01)
    assert found.speed(1000) == pytest.approx(1000 / (20 * 0.001 + 980 * 0.01))
    assert found.speed(10) == pytest.approx(1000)


def test_a_whole_run_is_its_steps_and_its_evaluations(script: Callable[[str], ModuleType]) -> None:
    step = script("step")
    assert step.whole_run(0.004, 4.9).holds  # 400 s and 40 × 4.9 s
    late = step.whole_run(0.004, 5.1)
    assert not late.holds
    assert "extrapolated" in late.what


def test_the_processors_clock_counts_the_processes_that_it_waited_for(script: Callable[[str], ModuleType]) -> None:
    clock = script("common").processor_seconds
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    before = clock()
    subprocess.run([sys.executable, "-c", busy], check=True)
    assert clock() - before > 0.29


@pytest.mark.parametrize(("question", "numbers"), [(["--lasting", "20"], 4), (["--bounds"], 5)])
def test_critics_are_asked(
    script: Callable[[str], ModuleType],
    question: list[str],
    numbers: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = {"steps": 2, "eval_episodes": 0, "width": 16, "batch_size": 16, "sampled_actions": 1, "device": "cpu"}
    train(Experiment.of("cql", "reacher2d-medium", **settings), tmp_path / "run", quiet=True)
    monkeypatch.setattr(sys, "argv", ["critics.py", str(tmp_path / "run"), *question])
    capsys.readouterr()
    script("critics").main()
    *_, row = capsys.readouterr().out.splitlines()
    assert row.startswith(f"| {tmp_path / 'run'} | 2 |")
    assert len([float(cell) for cell in row.split("|")[3:-1]]) == numbers


@pytest.mark.gpu
def test_the_rate_of_a_gpu_is_without_launches(script: Callable[[str], ModuleType]) -> None:
    """Of a product of 2 GFLOP, which takes about as long as its launch: one between two synchronizes is much slower."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    common = script("common")
    a, b = (torch.randn(shape, device="cuda").bfloat16() for shape in ((3840, 256), (256, 1024)))
    once = min(common.timed(lambda: a @ b, "cuda") for _ in range(20))
    assert common.rate(256, "cuda") > 1.5 * 2 * 3840 * 256 * 1024 / once


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
        "once it slides",
        "collection",
        "packed",
        "step of",
        "λ 0.1",
    ):
        assert what in table
