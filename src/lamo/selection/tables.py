"""The result of `lamo select` as text for a terminal and as Markdown; both show the same cells."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

DASH = "–"
NAME_WIDTH = 20  # columns of a terminal that a policy's name is left at least
HEADINGS = {
    "fqe": ("FQE value", "best"),
    "importance": ("importance-weighted", "best", "episodes"),
    "holdout": ("held-out error", "best"),
}
SAID = {
    "fqe": "FQE value: discounted return by fitted Q evaluation; the interval is over episodes and critics.",
    "importance": (
        "Importance-weighted: discounted return of the logged episodes, weighted by how much likelier the policy acts "
        "so; episodes: how many the estimate rests on (effective sample size)."
    ),
    "holdout": "Held-out error: distance from the actions of episodes that no run was trained on; smaller is nearer.",
}


def _number(value: float | None) -> str:
    return DASH if value is None else f"{value:.4g}"


def _estimate(found: Mapping[str, Any]) -> str:
    span = "" if found["low"] is None else f" [{_number(found['low'])}, {_number(found['high'])}]"
    return f"{_number(found['estimate'])}{span}"


def _cells(row: Mapping[str, Any], method: str) -> list[str]:
    found = row[method]
    cells = [_estimate(found), f"{found['best']:.2f}"]
    return [*cells, f"{found['effective_size']:.1f}"] if method == "importance" else cells


def _rows(result: Mapping[str, Any], methods: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    heads = ["", "policy", *(heading for method in methods for heading in HEADINGS[method])]
    rows = [
        [
            str(row[result["ranked_by"]]["rank"]),
            row["policy"],
            *(cell for method in methods for cell in _cells(row, method)),
        ]
        for row in result["policies"]
    ]
    return heads, rows


def _of_the_data(result: Mapping[str, Any]) -> str:
    """What the policies' values are to be compared with: fqe looks beyond time limits, the others do not."""
    earned, discount = result["behaviour"], result["settings"]["discount"]
    text = f"its episodes earned {_estimate(earned)} to their ends, discounted (γ = {discount:g})"
    if earned["fqe"] is None:
        return f"The data itself: {text}."
    return f"The data itself: FQE value {_estimate(earned['fqe'])}, beyond time limits as for the policies; {text}."


def _lines(result: Mapping[str, Any]) -> list[str]:
    data = result["data"]
    lines = [
        f"{data['dataset']}: {data['episodes']:,} episodes, {data['steps']:,} steps; "
        f"{data['held_out_episodes']:,} that no run was trained on.",
        _of_the_data(result),
        *(SAID[method] for method in result["methods"]),
        "best: share of bootstrap draws of the episodes in which the policy comes first. Intervals are 95 %, "
        f"seed {result['settings']['seed']}.",
    ]
    return [*lines, *result["notes"]]


def terminal(result: Mapping[str, Any], width: int | None = None) -> str:
    """Text for a terminal of `width` columns; None asks the terminal. Where the methods do not fit side by side, each
    has a table of its own.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    buffer = io.StringIO()
    console = Console(file=buffer, width=width, highlight=False, no_color=True, markup=False)
    methods, room = result["methods"], console.width
    side_by_side = _width(*_broken(*_rows(result, methods))) <= room
    for shown in [methods] if side_by_side else [[method] for method in methods]:
        heads, rows = _rows(result, shown)
        longest = max(len(row[1]) for row in rows)
        if _width(heads, rows, longest) > room:
            heads, rows = _broken(heads, rows)
        table = Table(box=box.SIMPLE_HEAD)
        for i, head in enumerate(heads):
            if i == 1:
                table.add_column(head, overflow="fold", min_width=min(NAME_WIDTH, longest))
            else:
                table.add_column(head, justify="right", no_wrap=True)
        for row in rows:  # Text, not str: rich would read [brackets] as markup
            table.add_row(*map(Text, row))
        console.width = max(room, _width(heads, rows))  # a number is never cut
        console.print(table)
    console.width = room
    for line in _lines(result):
        console.print(Text(line))
    return buffer.getvalue().rstrip() + "\n"


def _broken(heads: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """The same with intervals under their estimates."""
    return heads, [[cell if i == 1 else cell.replace(" [", "\n[") for i, cell in enumerate(row)] for row in rows]


def _width(heads: list[str], rows: list[list[str]], name: int = NAME_WIDTH) -> int:
    """Columns of a terminal that the table takes with policies' names cut to `name`."""
    columns = zip(heads, *rows, strict=True)
    widths = [max(len(line) for cell in column for line in cell.split("\n")) for column in columns]
    widths[1] = min(widths[1], name)
    return sum(width + 3 for width in widths) + 1  # spaces: two around each cell, one beside it, one before the first


def markdown(result: Mapping[str, Any]) -> str:
    """The same as a Markdown document."""
    heads, rows = _rows(result, result["methods"])
    table = [heads, ["---:", "---", *["---:"] * (len(heads) - 2)], *([_escape(cell) for cell in row] for row in rows)]
    lines = ["# Policies, ranked from data alone", "", *(f"| {' | '.join(cells)} |" for cells in table), ""]
    return "\n".join([*lines, *(f"- {_escape(line)}" for line in _lines(result))]) + "\n"


def _escape(text: str) -> str:
    """Text from a run folder, inert in Markdown."""
    return re.sub(r"([\\`*_\[\]<>|#~$])", r"\\\1", text).replace("\\<", "&lt;").replace("\\>", "&gt;")
