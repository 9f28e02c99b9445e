"""`lamo select`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from tyro.conf import Positional

from lamo.commands import answer, parse, stdout_kept_clean
from lamo.errors import LamoError


@dataclass
class Select:
    """Rank the policies of finished runs from their logged data alone: no simulator is needed (docs/selection.md)."""

    runs: Positional[tuple[Path, ...]]
    """Run folders, one or more, all trained on one dataset."""
    settings: Any
    method: tuple[Literal["fqe", "importance", "holdout"], ...] | None = None
    """Fitted Q evaluation, importance-weighted returns, action error on held-out episodes. By default all that the data
    allows; the first of them that is used gives the order."""
    targets: tuple[float, ...] | None = None
    """Returns to ask return-conditioned policies for; by default each run's own."""
    dataset: str | None = None
    """Where the runs' dataset lies now, if it has moved."""
    out: Path | None = None
    """Folder for selection.json and selection.md."""
    device: str = "auto"
    """Where the policies are asked: cpu, cuda, cuda:N, or auto. Critics are fitted on the CPU."""
    quiet: bool = False
    """No progress."""
    json: bool = False
    """Print the numbers as one JSON object."""


def select_verb(argv: list[str]) -> int:
    """`lamo select`."""
    from lamo.selection.rank import SelectSettings, select

    # `settings` is of a type that only torch's import makes known: tyro takes it from the default.
    options = parse(Select, "select", argv, Select(runs=tyro.MISSING, settings=SelectSettings()))
    if options.out is not None and options.out.exists() and not options.out.is_dir():
        raise LamoError(f"--out {options.out}: is a file; choose a folder")

    def say(line: str) -> None:
        if not options.quiet:
            print(f"lamo select: {line}", file=sys.stderr, flush=True)

    with stdout_kept_clean(options.json):
        from lamo.prepare import resolve_device
        from lamo.report import make_folder, write_atomically
        from lamo.selection.tables import markdown, terminal

        result = select(
            options.runs,
            methods=options.method,
            targets=options.targets,
            dataset=options.dataset,
            settings=options.settings,
            device=resolve_device(options.device),
            progress=say,
        )
        if options.out is not None:
            make_folder(options.out)
            numbers = json.dumps(result, indent=1, allow_nan=False) + "\n"
            texts = {"selection.json": numbers, "selection.md": markdown(result)}
            write_atomically({options.out / name: text.encode() for name, text in texts.items()})
    return answer(result, options.json, lambda: terminal(result).rstrip())
