"""The verbs of `lamo`: thin, each a dataclass of options and a function over what does the work.

Figures go to standard output, everything else to standard error; with --json standard output holds one JSON object.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json as json_module
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes

from lamo.errors import LamoError

T = TypeVar("T")


def parse(cls: type[T], verb: str, argv: list[str], default: T | None = None) -> T:
    """`cls` from the options in `argv`; `default` says what is not given. `LamoError` where that cannot be."""
    options: dict[str, Any] = {} if default is None else {"default": default}
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                cls, args=argv, prog=f"lamo {verb}", config=(OmitArgPrefixes, FlagCreatePairsOff), **options
            )
    except SystemExit as left:
        if left.code != 2:  # 0: --help, on standard output
            raise
    raise LamoError(f"{_one_line(said.getvalue())} (`lamo {verb} --help` lists the options)")


def _one_line(box: str) -> str:
    """What tyro says of a bad command line, without the frame that it draws and the help text that it repeats."""
    rows = [row.strip("│ ") for row in box.splitlines() if not row.startswith(("╭", "╰"))]
    if "╭" not in box:  # where standard error cannot show a frame, its title is a row of its own, above a rule
        rows = rows[2:]
    reason = " ".join(itertools.takewhile(lambda row: not row.startswith(("──", "----")), rows))
    meant = [row.split()[0] for row in rows[1:] if row.startswith("--") and row.strip("-")]
    return f"{reason}; did you mean {meant[0]}?" if meant and reason.startswith("Unrecognized") else reason


@contextlib.contextmanager
def stdout_kept_clean(json: bool) -> Iterator[None]:
    """With --json whatever libraries print goes to standard error."""
    with contextlib.redirect_stdout(sys.stderr) if json else contextlib.nullcontext():
        yield


def answer(value: Mapping[str, Any], json: bool, text: Callable[[], str]) -> int:
    """Print the result, as JSON or as text, and return the exit code of success."""
    print(json_module.dumps(value, allow_nan=False) if json else text())
    return 0


def counter(what: str, quiet: bool) -> Callable[[int, int], None]:
    """A progress callback (done, in all) that shows a count on a terminal."""

    def show(done: int, total: int) -> None:
        if not quiet and sys.stderr.isatty():
            print(f"\r{what}: {done} of {total}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show


def score_lines(summary: Mapping[str, Any]) -> list[str]:
    """One line per return target of `lamo.evaluate.summarise`."""
    lines = []
    for row in summary["targets"]:
        name = "default" if row["target"] is None else f"{row['target']:g}"
        score = "" if row["score_mean"] is None else f", score {row['score_mean']:.1f} ± {row['score_std']:.1f}"
        figures = f"return {row['return_mean']:.5g} ± {row['return_std']:.3g}{score}"
        lines.append(f"  target {name:<8}{figures} ({row['episodes']} episodes)")
    return lines


def auto_target_lines(found: Mapping[str, Any]) -> list[str]:
    """What `--targets auto` chose, and from what; nothing without."""
    choice = found.get("auto_target")
    if not choice:
        return []
    tried = ", ".join(
        f"{row['target']:g}{'' if row['believed'] else ' (not believed)'}" for row in choice["candidates"]
    )
    lines = [f"  auto target {choice['target']:g}, chosen from the training data alone, of {tried}"]
    if choice.get("evaluation"):
        lines += score_lines({"targets": [choice["evaluation"]]})
    return lines
