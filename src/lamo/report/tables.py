"""The tables of a report: for a terminal (rich) and in Markdown. Both show the same cells."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lamo.report.measure import headline
from lamo.report.scores import target_text
from lamo.report.stats import COVERAGE

DASH = "–"
HEADINGS = ("method", "seeds", "return target", "last window", "best checkpoint", "final")
BREAKS = (r" (?=\[|evaluated|yet)", r"(?<=,) ")
"""Where cells are broken into lines: an interval goes under its estimate, then its ends under each other."""
LEAST_LABEL = 10  # columns below which no method's name is wrapped, where the others can be broken


def number(value: float | None, digits: int = 1) -> str:
    """A number for a table: `digits` decimals below 1000, none above. A missing one is a dash."""
    if value is None:
        return DASH
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}f}"


def interval(found: Mapping[str, Any] | None) -> str:
    """ "33.0 [28.1, 37.9]", or the estimate alone where no interval can be had."""
    if not found or found["estimate"] is None:
        return DASH
    if found["low"] is None or found["high"] is None:
        return number(found["estimate"])
    return f"{number(found['estimate'])} [{number(found['low'])}, {number(found['high'])}]"


def duration(seconds: float | None) -> str:
    """Seconds as 45 s, 12.5 min or 3.1 h."""
    if seconds is None:
        return DASH
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def count(value: float | None) -> str:
    """A number of parameters or steps: 812, 45.3 k, 1.2 M."""
    if value is None:
        return DASH
    for size, suffix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.0f}"


def method_rows(section: Mapping[str, Any]) -> list[tuple[tuple[str, ...], bool]]:
    """Rows under HEADINGS, every return target of every method; True marks the method's best target."""
    rows: list[tuple[tuple[str, ...], bool]] = []
    for method in section["methods"]:
        seeds = str(len(method["evaluated_seeds"]))
        if not method["targets"]:
            rows.append(((method["label"], seeds, "not evaluated yet", DASH, DASH, DASH), False))
        for i, target in enumerate(method["targets"]):
            cells = (
                method["label"],
                seeds,
                target_text(target["target"]),
                *(interval(target[key]) for key in ("last_window", "best_checkpoint", "final")),
            )
            rows.append((cells, i == method["best_target"]))
    return rows


def held_out_error(method: Mapping[str, Any]) -> str:
    """The last error on held-out episodes, mean over runs; a dash for a method without."""
    found = method.get("holdout")
    return f"{found['last']:.3g}" if found else DASH


def data_line(section: Mapping[str, Any]) -> str | None:
    """What the data itself achieves, in a sentence."""
    data, metric = section["data"], section["metric"]
    if not data or data.get(f"{metric}_mean") is None:
        return None
    best = f", best {number(data[f'{metric}_max'])}" if data.get(f"{metric}_max") is not None else ""
    size = f" in {data['episodes']:,.0f} episodes" if data.get("episodes") is not None else ""
    varies = " (means over the runs: each seed draws its own subset)" if data["varies_by_seed"] else ""
    return f"The data itself: mean {metric} {number(data[f'{metric}_mean'])}{best}{size}{varies}."


def improvement(pair: Mapping[str, Any]) -> str:
    """ "0.83 [0.50, 1.00]"; without the interval where the two are apart entirely, for it has no width then and would
    mislead.
    """
    if pair["separated_by_luck"] is not None:
        return f"{pair['probability']:.2f}"
    return f"{pair['probability']:.2f} [{pair['low']:.2f}, {pair['high']:.2f}]"


def auto_target_lines(section: Mapping[str, Any]) -> list[str]:
    """For each method that chose a return target from its data: which, run by run, and what it got with it."""
    lines = []
    for method in section["methods"]:
        runs = [
            f"seed {found['seed']} asks for {found['target']:g}, {section['metric']} {number(found['mean'])}"
            for found in method["auto_targets"]
        ]
        if runs:
            lines.append(f"{method['label']}, return target chosen from the data alone: {'; '.join(runs)}.")
    return lines


def luck_line(pairs: Sequence[Mapping[str, Any]], tasks: int = 1) -> str | None:
    """What a probability of 1.00 is worth with so few seeds of so many tasks; None where there is none."""
    luck = [pair["separated_by_luck"] for pair in pairs if pair["separated_by_luck"] is not None]
    if not luck:
        return None
    where = ", on each task" if tasks > 1 else ""
    return (
        f"1.00 means that every run of the first lies above every run of the second{where}. "
        "Two equal methods with this many seeds come apart so, one way or the other, "
        f"in {100 * max(luck):.2g} % of cases."
    )


def interval_lines(section: Mapping[str, Any]) -> list[str]:
    """What the intervals of this section are over, method by method where they differ, and how far to trust them."""
    lines = []
    by_kind: dict[tuple[str | None, int, int], list[str]] = {}
    for method in section["methods"]:
        window = headline(method)
        if window:
            by_kind.setdefault((window["over"], window["runs"], window["episodes"]), []).append(method["label"])
    for (over, runs, episodes), labels in by_kind.items():
        seeds = f"{runs} seed{'s' if runs > 1 else ''}, {episodes:,} evaluation episodes per target in the last window"
        if over == "seeds":
            covered = [value for n, value in COVERAGE.items() if n <= runs]
            trust = (
                f"; with so few seeds such an interval is too narrow (about {100 * covered[-1]:.0f} % real coverage)"
                if runs < 20
                else ""
            )
            what = f"95 % bootstrap intervals are over seeds{trust}"
        elif over == "episodes":
            what = (
                "95 % bootstrap intervals are over episodes, because there are fewer than 3 seeds: "
                "they say nothing about another training run"
            )
        else:
            what = "too few episodes for an interval"
        lines.append(f"{', '.join(labels)}: {seeds}; {what}.")
    return lines


PROTOCOL = (
    "Last window: mean over evaluations in the last 20 000 steps or the last 20 % of the run, whichever is shorter. "
    "Best checkpoint: the best single evaluation of each run, picked after the fact, so it flatters. "
    "The best return target (marked) is also picked after the fact, as in the paper, from the very episodes that it is "
    "scored on; every other target stands beside it."
)


def _fitted(rows: Sequence[Sequence[str]], width: int) -> list[tuple[str, ...]]:
    """HEADINGS and rows with as few line breaks as make them fit into `width` columns; labels wrap besides."""
    table, least = [tuple(HEADINGS), *map(tuple, rows)], max(len(row[0]) for row in (HEADINGS, *rows))
    for pattern in (None, *BREAKS):
        if pattern:
            heading = tuple(text.replace(" ", "\n") for text in HEADINGS)
            table = [heading, *((row[0], *(re.sub(pattern, "\n", cell) for cell in row[1:])) for row in table[1:])]
            least = min(least, LEAST_LABEL)
        lines = ([len(line) for cell in column for line in cell.split("\n")] for column in zip(*table, strict=True))
        others = sum([max(found) for found in lines][1:])
        if least + others + 3 * len(HEADINGS) + 1 <= width:  # a cell has a space on either side, and a rule after it
            break
    return table


def terminal(numbers: Mapping[str, Any], width: int | None = None) -> str:
    """All sections as text for a terminal. `width` in columns; None asks the terminal. No colour codes: it may be
    piped.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    buffer = io.StringIO()
    console = Console(file=buffer, width=width, highlight=False, no_color=True, markup=False)
    for section in numbers["sections"]:
        # Text, not str: rich would read [brackets] in a stranger's label as markup.
        table = Table(
            title=Text(f"{section['title']} ({section['metric']})"), title_justify="left", box=box.SIMPLE_HEAD
        )
        rows, previous = [], None
        for cells, best in method_rows(section):
            first = cells[0] if cells[0] != previous else ""
            previous = cells[0]
            rows.append((first, cells[1] if first else "", f"{cells[2]} ★" if best else f"{cells[2]}  ", *cells[3:]))
        headings, *rows = _fitted(rows, console.width)
        for i, heading in enumerate(headings):
            table.add_column(heading, justify="left" if i == 0 else "right", no_wrap=i != 0, overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
        lines = (data_line(section), *interval_lines(section), *auto_target_lines(section), *section["notes"])
        for line in lines:
            if line:
                console.print(Text(line))
        console.print()
    return buffer.getvalue().rstrip() + "\n"


def escape_markdown(text: object) -> str:
    """Text from a run folder, inert in Markdown: no table cell, link, emphasis, code or HTML can begin in it."""
    return re.sub(r"([\\`*_\[\]<>|#~$])", r"\\\1", str(text)).replace("\\<", "&lt;").replace("\\>", "&gt;")


def table_markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of cells that are escaped already; the first column to the left, the others to the right."""
    rule = ["---", *["---:"] * (len(headings) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, rule, *rows))


def _comparisons_markdown(pairs: Sequence[Mapping[str, Any]], heading: str, tasks: int = 1) -> list[str]:
    if not pairs:
        return []
    safe = escape_markdown
    rows = [
        [f"{safe(pair['a'])} over {safe(pair['b'])}", number(pair["difference"]), safe(improvement(pair))]
        for pair in pairs
    ]
    luck = luck_line(pairs, tasks)
    return [table_markdown((heading, "difference", "probability of improvement"), rows), *([luck] if luck else [])]


def markdown(numbers: Mapping[str, Any], picture: str | None = None) -> str:
    """The report in Markdown. `picture`: name of an image file beside it."""
    safe = escape_markdown
    parts = ["# Report", PROTOCOL]
    if picture:
        parts.append(f"![Learning curves at each method's best target]({picture})")
    for section in numbers["sections"]:
        parts += [f"## {safe(section['title'])}", f"Unit: {section['metric']}."]
        rows = [
            [f"**{safe(c)}**" if best and i in (2, 3) else safe(c) for i, c in enumerate(cells)]
            for cells, best in method_rows(section)
        ]
        parts.append(table_markdown(HEADINGS, rows))
        said = (data_line(section), *interval_lines(section), *auto_target_lines(section))
        parts += [safe(line) for line in said if line]
        parts += _comparisons_markdown(section["comparisons"], "comparison (last window, best targets)")
        rows, measured = [], any(method.get("holdout") for method in section["methods"])
        for method in section["methods"]:
            parameters, perplexity = method["parameters"] or {}, method["perplexity"] or {}
            before_after = (
                f"{number(perplexity.get('before'), 2)} → {number(perplexity.get('after'), 2)}" if perplexity else DASH
            )
            rows.append(
                [
                    safe(method["label"]),
                    count(parameters.get("trainable")),
                    count(parameters.get("total")),
                    before_after,
                    duration(method["seconds"]),
                    *([held_out_error(method)] if measured else []),
                ]
            )
        heads = ("method", "trained parameters", "of all", "perplexity before → after", "wall-clock time per run")
        parts.append(table_markdown((*heads, *(["held-out action error"] if measured else [])), rows))
        parts += [f"- {safe(note)}" for note in section["notes"]]
    if numbers["aggregate"]:
        total = numbers["aggregate"]
        parts.append(f"## Over {total['tasks']} tasks")
        rows = [[safe(m["label"]), str(m["runs"]), interval(m["mean"]), interval(m["iqm"])] for m in total["methods"]]
        parts += [table_markdown(("method", "runs", "mean score", "interquartile mean"), rows)] if rows else []
        parts += _comparisons_markdown(total["comparisons"], "comparison", total["tasks"])
        parts += [f"- {safe(note)}" for note in total["notes"]]
    lines, previous = [], ""
    for part in parts:
        lines.append(part if part.startswith("- ") and previous.startswith("- ") else f"\n{part}")
        previous = part
    return "\n".join(lines).strip() + "\n"
