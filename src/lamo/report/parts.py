"""The tables and figures of the page, as HTML made from measured numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lamo.report import figures
from lamo.report.collect import RunRecord, clean_text
from lamo.report.groups import Section, flatten
from lamo.report.markup import Html, el, row, table
from lamo.report.scores import target_text
from lamo.report.tables import DASH, count, duration, number

MAX_LISTED = 40
"""Per-run values listed for one key of settings or provenance before the rest is left out."""

Measured = Mapping[str, Any]
Styles = Mapping[str, int]
Fact = tuple[str, str, Any]
"""Method, run, value."""

_MARKS = {
    "o": '<circle cx="16" cy="6" r="3.2"/>',
    "s": '<path d="M13 3h6v6h-6z"/>',
    "^": '<path d="M16 2.4l3.6 6.6h-7.2z"/>',
    "D": '<path d="M16 2l4 4-4 4-4-4z"/>',
    "v": '<path d="M16 9.6l3.6-6.6h-7.2z"/>',
    "P": '<path d="M14.8 2.4h2.4v2.4h2.4v2.4h-2.4v2.4h-2.4v-2.4h-2.4v-2.4h2.4z"/>',
    "X": '<path d="M12.800 4l1.200-1.200 2 2 2-2 1.200 1.200-2 2 2 2-1.200 1.200-2-2-2 2-1.200-1.200 2-2z"/>',
    "<": '<path d="M12.400 6l6.600-3.600v7.200z"/>',
}


def chip(index: int) -> Html:
    """The legend's key of a series: its colour, its dash and its marker."""
    _, marker, (_, dashes) = figures.style_of(index)
    pattern = f' stroke-dasharray="{" ".join(f"{1.8 * d:g}" for d in dashes)}"' if dashes else ""
    colour = f"var(--s{index % len(figures.SERIES)})"
    line = f'<path d="M0 6h32" fill="none" stroke="{colour}" stroke-width="2"{pattern}/>'
    drawn = Html(f'<g fill="{colour}">{line}{_MARKS[marker]}</g>')
    return el("svg", drawn, class_="chip", viewBox="0 0 32 12", aria_hidden="true")


def legend(measured: Measured, styles: Styles) -> Html:
    """The methods of a section with their keys."""
    labels = [method["label"] for method in measured["methods"]]
    return el("ul", *(el("li", chip(styles[label]), label) for label in labels), class_="legend")


def figure(svg: str | None, name: str, title: str, *caption: object) -> Html | None:
    """An SVG file with its caption; None where there is no figure. `name` makes its ids unique, `title` is for screen
    readers.
    """
    if svg is None:
        return None
    return el("figure", el("figcaption", *caption), figures.inline(svg, name, title))


def value_cell(found: Measured | None) -> Html:
    """An estimate, with its interval on a second line."""
    if not found or found["estimate"] is None:
        return el("td", DASH)
    has = found["low"] is not None and found["high"] is not None
    span = el("span", f"{number(found['low'])} to {number(found['high'])}", class_="range") if has else None
    return el("td", number(found["estimate"]), span)


def name_cell(label: str, styles: Styles) -> Html:
    """A method's name with its key of colour, dash and marker."""
    return el("td", chip(styles[label]), label, class_="name")


def summary_table(measured: Measured, styles: Styles) -> Html:
    """One row per method: last window at its best target, best checkpoint, size and time."""
    rows = []
    for method in measured["methods"]:
        best, picked = method["best_target"], method["best_checkpoint_target"]
        window = method["targets"][best] if best is not None else {}
        checkpoint = method["targets"][picked] if picked is not None else {}
        rows.append(
            row(
                name_cell(method["label"], styles),
                len(method["evaluated_seeds"]),
                value_cell(window.get("last_window")),
                target_text(window["target"]) if window else DASH,
                value_cell(checkpoint.get("best_checkpoint")),
                target_text(checkpoint["target"]) if checkpoint else DASH,
                count((method["parameters"] or {}).get("trainable")),
                duration(method["seconds"]),
            )
        )
    score = f"{measured['metric']}, last window"
    return table(
        ("method", "seeds", score, "at target", "best checkpoint", "at target", "trained parameters", "time per run"),
        rows,
    )


def targets_table(measured: Measured, styles: Styles) -> Html:
    """One row per method and return target; the method's best target is marked."""
    rows = []
    for method in measured["methods"]:
        for i, target in enumerate(method["targets"]):
            rows.append(
                row(
                    name_cell(method["label"], styles) if i == 0 else "",
                    target_text(target["target"]),
                    *(value_cell(target[key]) for key in ("last_window", "best_checkpoint", "final")),
                    f"{target['last_window']['episodes']:,}",
                    class_="best" if i == method["best_target"] else None,
                )
            )
    return table(("method", "return target", "last window", "best checkpoint", "final", "episodes in window"), rows)


def comparisons_table(pairs: Sequence[Measured]) -> Html:
    """Who is ahead of whom, by how much, and how often a run of the one beats a run of the other."""
    rows = []
    for pair in pairs:
        # Entirely separate runs leave the bootstrap no width; luck_line says what such a 1.00 is worth.
        bare = pair["separated_by_luck"] is not None
        span = None if bare else el("span", f"{pair['low']:.2f} to {pair['high']:.2f}", class_="range")
        won = el("td", f"{pair['probability']:.2f}", span)
        rows.append(row(f"{pair['a']} over {pair['b']}", number(pair["difference"]), won))
    return table(("comparison", "difference of means", "probability of improvement"), rows)


def aggregate_table(total: Measured, styles: Styles) -> Html:
    """One row per method: mean and interquartile mean over tasks."""
    rows = [
        row(name_cell(m["label"], styles), m["runs"], value_cell(m["mean"]), value_cell(m["iqm"]))
        for m in total["methods"]
    ]
    return table(("method", "runs", "mean score", "interquartile mean"), rows)


def runs_table(measured: Measured) -> Html:
    """One row per run: how far it is, and how fast it went."""
    rows = []
    for method in measured["methods"]:
        for run in method["runs"]:
            planned = run["planned_steps"]
            of = f" of {planned:,}" if planned is not None and planned != run["last_step"] else ""
            rows.append(
                row(
                    method["label"],
                    run["name"],
                    run["seed"],
                    f"{run['last_step']:,}{of}",
                    "finished" if run["finished"] else "not finished",
                    duration(run["seconds"]),
                    number(run["steps_per_second"]),
                )
            )
    return table(("method", "run", "seed", "steps", "state", "wall-clock time", "training steps per second"), rows)


def models_table(measured: Measured) -> Html:
    """One row per method: sizes, and perplexity before and after."""
    rows = []
    for method in measured["methods"]:
        size, perplexity = method["parameters"] or {}, method["perplexity"] or {}
        share = size.get("lora_share")
        rows.append(
            row(
                method["label"],
                *(count(size.get(key)) for key in ("total", "frozen", "trainable")),
                DASH if share is None else f"{100 * share:.2f} %",  # stored as a fraction
                *(number(perplexity.get(key), 2) for key in ("before", "after")),
            )
        )
    headings = ("method", "parameters", "frozen", "trained", "LoRA's share of the LM", "perplexity before", "after")
    return table(headings, rows)


def gather(section: Section, part: Callable[[RunRecord], Mapping[str, Any]]) -> dict[str, list[Fact]]:
    """Flattened key -> its value in each run that has it."""
    keys: dict[str, list[Fact]] = {}
    for group in section.groups:
        for run in group.runs:
            for key, value in flatten(part(run)).items():
                keys.setdefault(key, []).append((group.label, f"{group.label}, seed {run.seed}", value))
    return keys


def _agreed(found: Sequence[Fact]) -> list[tuple[str, str]]:
    """(whose, value): one line where all runs agree, else one per method, else one per run."""
    by_method: dict[str, dict[str, str]] = {}
    for method, run, value in found:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        by_method.setdefault(method, {})[run] = clean_text(text, 300)
    everything = {value for runs in by_method.values() for value in runs.values()}
    if len(everything) == 1:
        return [("", everything.pop())]
    if all(len(set(runs.values())) == 1 for runs in by_method.values()):
        return [(f"{method}: ", next(iter(runs.values()))) for method, runs in by_method.items()]
    return [(f"{run}: ", value) for runs in by_method.values() for run, value in runs.items()]


def facts(title: str, found: Mapping[str, list[Fact]]) -> Html | None:
    """Settings or provenance behind a fold; None where there are none."""
    if not found:
        return None
    rows = []
    for key, values in found.items():
        lines = _agreed(values)
        shown = [el("div", el("span", who) if who else None, value) for who, value in lines[:MAX_LISTED]]
        rest = el("div", f"and {len(lines) - MAX_LISTED} more") if len(lines) > MAX_LISTED else None
        rows.append(row(key, el("td", *shown, rest)))
    return el("details", el("summary", f"{title} ({len(found)})"), table((), rows, "facts"))


def paragraph(*children: object) -> Html:
    """A small grey paragraph."""
    return el("p", *children, class_="soft")


def bullets(lines: Sequence[str], kind: str) -> Html | None:
    """Lines as a list of class `kind`; None without lines."""
    return el("ul", *(el("li", line) for line in lines), class_=kind) if lines else None
