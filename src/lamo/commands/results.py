"""`lamo evaluate`, `lamo report`, `lamo tasks` and `lamo demo`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from lamo.commands import answer, auto_target_lines, counter, parse, score_lines, stdout_kept_clean
from lamo.tasks import TASKS


@dataclass
class Evaluate:
    """Play episodes with the policy of a finished run, in seeds that no behaviour data was collected with."""

    run: Positional[Path]
    """Run folder."""
    targets: tuple[float | Literal["auto"], ...] | None = None
    """Returns to ask for; by default the run's own targets. `auto` adds the one that the run's training data believe in
    (docs/selection.md)."""
    episodes: int = 20
    """Episodes per target."""
    seed: int | None = None
    """Seed of the episodes' starts; by default the run's own, so that they are those of its last evaluation."""
    env: str | None = None
    """Environment, a Gymnasium id; by default the run's own."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto."""
    workers: int | None = None
    """Processes that hold the environments; by default one, or where these are slow one for each core, at most 16. What
    is measured does not depend on it."""
    quiet: bool = False
    """No progress."""
    json: bool = False
    """Print one JSON object: per target return_mean, score_mean, episodes, …, and the record of each episode."""


def evaluate_verb(argv: list[str]) -> int:
    """`lamo evaluate`."""
    options = parse(Evaluate, "evaluate", argv)
    with stdout_kept_clean(options.json):
        from lamo.evaluate_run import evaluate
        from lamo.prepare import resolve_device

        result = evaluate(
            options.run,
            targets=options.targets,
            episodes=options.episodes,
            seed=options.seed,
            env=options.env,
            device=resolve_device(options.device),
            progress=counter("episodes", options.quiet),
            workers=options.workers,
        )
    lines = [f"{options.run} in {result['env']}", *score_lines(result)]
    return answer(result, options.json, lambda: "\n".join(lines + auto_target_lines(result)))


@dataclass
class Report:
    """Compare runs; those that differ only in their seed are one method."""

    runs: Positional[tuple[Path, ...]]
    """Run folders, one or more."""
    out: Path = Path("report")
    """Folder for report.html, report.md, report.json and curves.svg."""
    seed: int = 0
    """Seed of the bootstrap intervals."""
    json: bool = False
    """Print the numbers of report.json as one JSON object."""


def report_verb(argv: list[str]) -> int:
    """`lamo report`."""
    options = parse(Report, "report", argv)
    with stdout_kept_clean(options.json):
        from lamo.report import terminal_table, write_report

        numbers = write_report(options.runs, options.out, options.seed)
    return answer(numbers, options.json, lambda: f"{terminal_table(numbers)}\n{options.out / 'report.html'}")


@dataclass
class Tasks:
    """List the tasks that --task knows, with what each needs."""

    json: bool = False
    """Print one JSON object, task by name."""


def tasks_verb(argv: list[str]) -> int:
    """`lamo tasks`."""
    options = parse(Tasks, "tasks", argv)
    names = ("env", "horizon", "targets", "return_scale", "score_range", "dataset", "extra", "description")
    rows = {task.name: {name: getattr(task, name) for name in names} for task in TASKS.values()}
    width = max(map(len, rows))

    def line(name: str, row: dict[str, Any]) -> str:
        needs = [f"{row['env']}"]
        if row["dataset"] and "/" in row["dataset"]:
            needs.append(f"data by Minari: {row['dataset']}")
        if row["extra"]:
            needs.append(f'pip install "lamo[{row["extra"]}]"')
        return f"{name:<{width}}  {row['description']} [{', '.join(needs)}]"

    return answer(rows, options.json, lambda: "\n".join(line(name, row) for name, row in rows.items()))


@dataclass
class Demo:
    """Train LaMo, its random control and a Decision Transformer on a tenth of the embedded data, and report."""

    out: Path = Path("demo")
    """Folder for the runs and report.html. Runs that are there and complete are kept, unfinished ones go on."""
    steps: int = 1_500
    """Gradient steps of each run; the default ends within ten minutes on two cores."""
    seeds: tuple[int, ...] = (0,)
    """Seeds; each trains all three methods."""
    quiet: bool = False
    """No progress."""
    json: bool = False
    """Print the numbers of report.json as one JSON object."""


def demo_verb(argv: list[str]) -> int:
    """`lamo demo`."""
    options = parse(Demo, "demo", argv)
    with stdout_kept_clean(options.json):
        from lamo.demo import run_demo
        from lamo.report import terminal_table

        numbers = run_demo(options.out, steps=options.steps, seeds=options.seeds, quiet=options.quiet)
    page = (options.out / "report.html").resolve()
    return answer(numbers, options.json, lambda: f"{terminal_table(numbers)}\nOpen {page} in a browser.")
