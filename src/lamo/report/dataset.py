"""One page about a dataset: what `lamo data inspect --html` writes. It opens offline, runs no script, loads nothing.

Drawn from what `lamo.data.inspect.inspect` and `lamo.data.portrait.portrait` return; names and attributes in them come
from files and are escaped, shortened and shown as text.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lamo.errors import LamoError
from lamo.report import dataset_figures as drawn
from lamo.report import make_folder, parts, write_atomically
from lamo.report.collect import clean_text
from lamo.report.groups import flatten
from lamo.report.markup import Html, el, join, row, table
from lamo.report.page import head
from lamo.report.tables import DASH

MAX_FACTS = 80
"""Attributes shown, at most."""
MAX_LINES = 40
"""Notes or problems shown, at most."""
OPEN_DIMS = 40
"""A table of more dimensions than that is folded."""
_DIMENSION = ("", "distribution", "least", "1 %", "median", "99 %", "largest", "mean ± std", "")
_ACTION = ("", "distribution", "bounds", "least", "1 %", "median", "99 %", "largest", "at a bound", "")


def check_page(path: str | Path) -> Path:
    """The path of a page that can be written: known before the work. Raises `LamoError` where it cannot be."""
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise LamoError(f"--html {path}: one page of HTML is written; let the name end in .html")
    if path.is_dir():
        raise LamoError(f"--html {path}: is a folder; name a file in it")
    nearest = next((folder for folder in path.absolute().parents if folder.exists()), None)
    if nearest is None or not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise LamoError(f"--html {path}: cannot be written; {nearest} is no folder that can be written to")
    return path


def write_dataset_page(report: Mapping[str, Any], portrait: Mapping[str, Any], path: str | Path) -> Path:
    """Write the page beside `path`, rename it into place, return the path. Equal arguments give equal bytes.

    Raises `LamoError` where it cannot be written; then nothing is left.
    """
    path = check_page(path)
    content = render(report, portrait).encode()
    make_folder(path.parent)
    write_atomically({path: content})
    return path


def render(report: Mapping[str, Any], portrait: Mapping[str, Any]) -> str:
    """The page, from the dicts of `inspect` and `portrait`."""
    title = clean_text(report["source"], 120)
    kind = ", ".join(clean_text(part, 80) for part in (report["format"] or "in memory", report["env"]) if part)
    body = el(
        "body",
        el("header", el("p", "lamo data inspect", class_="kicker"), el("h1", title), parts.paragraph(kind)),
        el(
            "main",
            _summary(report),
            _sayings("What looks wrong", report["problems"], "notes warn") or parts.paragraph("Nothing looks wrong."),
            _sayings("What was done to it", report["notes"], "notes"),
            _returns(report, portrait),
            _actions(portrait),
            _observations(portrait),
            _examples(portrait),
            _provenance(report, portrait),
        ),
    )
    return f"<!DOCTYPE html>\n{el('html', head(title, Html(), 'lamo data'), body, lang='en')}\n"


def _sayings(title: str, lines: Sequence[Any], kind: str) -> Html | None:
    if not lines:
        return None
    shown = [clean_text(line, 600) for line in lines[:MAX_LINES]]
    if len(lines) > MAX_LINES:
        shown.append(f"and {len(lines) - MAX_LINES} more")
    return join(el("h3", title), parts.bullets(shown, kind))


def plain(value: float | None) -> str:
    """A number of any size in at most four digits."""
    return DASH if value is None else f"{value:.4g}"


def _summary(report: Mapping[str, Any]) -> Html:
    actions = (
        f"discrete, {len(report['action_counts'])} choices seen"
        if report["action_kind"] == "discrete"
        else f"{report['action_dim']} numbers"
    )
    rows = [
        ("episodes", f"{report['episodes']:,}"),
        ("steps", f"{report['steps']:,}"),
        ("length", f"{report['length_mean']:,.1f} mean, {report['length_min']:,} to {report['length_max']:,}"),
        (
            "return",
            f"{plain(report['return_mean'])} ± {plain(report['return_std'])}, "
            f"{plain(report['return_min'])} to {plain(report['return_max'])}",
        ),
        (
            "reward",
            f"{plain(report['reward_min'])} to {plain(report['reward_max'])}, "
            f"{100 * report['reward_nonzero']:.1f} % not 0",
        ),
        ("observation", f"{report['observation_dim']} numbers"),
        ("action", actions),
        ("ended", ", ".join(f"{count:,} {kind}" for kind, count in report["ended"].items())),
    ]
    return table((), [row(*cells) for cells in rows], "facts")


def _returns(report: Mapping[str, Any], portrait: Mapping[str, Any]) -> Html:
    rewards = portrait["rewards"]
    panels = [
        parts.figure(
            drawn.distribution(portrait["returns"], "return of an episode", "episodes"),
            "returns",
            "distribution of returns",
            el("b", "Returns"),
        ),
        parts.figure(
            drawn.distribution(portrait["lengths"], "steps of an episode", "episodes"),
            "lengths",
            "distribution of lengths",
            el("b", "Lengths"),
        ),
        parts.figure(
            drawn.distribution(rewards, "reward of a step", "steps (logarithmic)", log=True)
            if "counts" in rewards
            else drawn.counts(rewards["values"], "reward of a step", "steps (logarithmic)"),
            "rewards",
            "distribution of rewards",
            el("b", "Rewards"),
        ),
        parts.figure(
            drawn.line(portrait["order"], "episode, in the order of the log", "return"),
            "order",
            "return of each episode in the order of the log",
            el("b", "Returns in order"),
            ", whether the behaviour changed while it was recorded",
        ),
    ]
    if portrait["scatter"]:
        svg = drawn.scatter(portrait["scatter"], "steps of an episode", "return")
        panels.append(
            parts.figure(
                svg, "scatter", "return against length", el("b", "Return against length"), ", a dot an episode"
            )
        )
    quantiles = [row(f"{100 * float(q):g} %", plain(value)) for q, value in report["return_quantiles"].items()]
    return el(
        "section",
        el("h2", "Returns and lengths"),
        el("div", *panels, class_="panels"),
        el("details", el("summary", "Quantiles of the returns"), table(("share", "return"), quantiles)),
    )


def _dimension(found: Mapping[str, Any], name: str, *between: object, after: Sequence[object] = ()) -> Html:
    q01, _, median, _, q99 = found["quantiles"]
    marks = [bound for bound in found.get("bounds", ()) if bound is not None]
    flags = ", ".join(found["flags"])
    return row(
        el("td", name, class_="name"),
        el("td", drawn.spark(found["histogram"], marks)),
        *between,
        *(plain(value) for value in (found["low"], q01, median, q99, found["high"])),
        *after,
        el("td", el("b", flags) if flags else None),
    )


def _folded(title: str, many: int, content: Html) -> Html:
    """As it is, or behind a fold where it is long."""
    return content if many <= OPEN_DIMS else el("details", el("summary", f"{title} ({many})"), content)


def _rest(whole: int, shown: int) -> Html | None:
    return parts.paragraph(f"The first {shown} of {whole} are shown.") if whole > shown else None


def _actions(portrait: Mapping[str, Any]) -> Html:
    if portrait["action_kind"] == "discrete":
        return _choices(portrait)
    rows, pairs = [], []
    for d, found in enumerate(portrait["actions"]):
        bounds = " to ".join(plain(bound) for bound in found["bounds"]) if any_known(found["bounds"]) else DASH
        at = sum(share for share in found["at_bounds"] if share is not None)
        share = f"{100 * at:.1f} %" if any_known(found["at_bounds"]) else DASH
        rows.append(_dimension(found, f"action {d}", bounds, after=(share,)))
    for pair in portrait["pairs"]:
        a, b = pair["dims"]
        boxes = [portrait["actions"][d]["histogram"] for d in (a, b)]
        spans = [f"{plain(box['low'])} to {plain(box['high'])}" for box in boxes]
        caption = el("figcaption", el("b", f"{a} across, {b} up"), Html("<br>"), f"{spans[0]}; {spans[1]}")
        pairs.append(el("figure", caption, drawn.density(pair, f"how often actions {a} and {b} lie where")))
    how = (
        f"Counted from {portrait['sampled']:,} steps; least and largest are those of all. "
        "Upright lines are the bounds, where they are known."
    )
    return el(
        "section",
        el("h2", "Actions"),
        _folded("Dimensions of the action", len(rows), table(_ACTION, rows, "dims")),
        _rest(portrait["action_dim"], len(rows)),
        parts.paragraph(how),
        el("h3", "Two by two") if pairs else None,
        el("div", *pairs, class_="pairs") if pairs else None,
        parts.paragraph("The stronger the colour, the commoner, by the logarithm of the count. Empty: never tried.")
        if pairs
        else None,
    )


def any_known(values: Sequence[Any]) -> bool:
    """Whether any of these is not None."""
    return any(value is not None for value in values)


def _choices(portrait: Mapping[str, Any]) -> Html:
    known, seen = portrait["choices_known"], portrait["choices_seen"]
    said = f"{seen} choices seen" + (f" of {known}" if known is not None else "")
    if portrait["choices_missing"]:
        names = ", ".join(map(str, portrait["choices_missing"]))
        more = ", …" if portrait["choices_missing_count"] > len(portrait["choices_missing"]) else ""
        said += f"; never taken: {names}{more}"
    if seen > len(portrait["choices"]):
        said += f"; the {len(portrait['choices'])} commonest are drawn"
    figure = parts.figure(
        drawn.counts(portrait["choices"], "choice", "steps", log=False),
        "choices",
        "how often each action was chosen",
        el("b", "Choices"),
    )
    return el("section", el("h2", "Actions"), el("p", said), el("div", figure, class_="panels"))


def _observations(portrait: Mapping[str, Any]) -> Html:
    names = portrait["names"]
    rows = []
    for d, found in enumerate(portrait["observations"]):
        name = f"{d}" if names is None else f"{d} {clean_text(names[d], 40)}"
        after = (f"{plain(found['mean'])} ± {plain(found['std'])}",)
        rows.append(_dimension(found, name, after=after))
    how = (
        f"Counts and quantiles from {portrait['sampled']:,} steps; least, largest, mean and standard deviation are "
        "those of all. Stray values: one end lies more than 20 times as far from the median as 1 % and 99 % lie apart."
    )
    return el(
        "section",
        el("h2", "Observations"),
        _folded("Dimensions of the observation", len(rows), table(_DIMENSION, rows, "dims")),
        _rest(portrait["observation_dim"], len(rows)),
        parts.paragraph(how),
    )


def _examples(portrait: Mapping[str, Any]) -> Html:
    out = []
    for i, found in enumerate(portrait["episodes"]):
        name = el("b", f"{found['name'].capitalize()} episode")
        said = f", number {found['id']}: return {plain(found['return'])}, {found['length']:,} steps, {found['ended']}"
        panels = [
            parts.figure(svg, f"e{i}-{key}", title, title.capitalize())
            for key, title, svg in drawn.episode(found, portrait["action_kind"] == "discrete")
        ]
        out.append(join(el("p", name, said), el("div", *panels, class_="panels")))
    shown = [line["dim"] for line in portrait["episodes"][0]["observations"]]
    more = "the first of those that change: " if len(shown) < portrait["observation_dim"] else ""
    how = (
        f"Observations ({more}{', '.join(map(str, shown)) or 'none'}) in standard deviations from the mean of "
        "all steps. Curves of long episodes keep the lowest and highest of each stretch."
    )
    return el("section", el("h2", "Episodes by return"), *out, parts.paragraph(how))


def _provenance(report: Mapping[str, Any], portrait: Mapping[str, Any]) -> Html:
    def shown(value: Any) -> str:
        return clean_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), 300)

    facts = flatten(portrait["attributes"])
    rows = [row(clean_text(key, 80), el("td", shown(value))) for key, value in list(facts.items())[:MAX_FACTS]]
    if len(facts) > MAX_FACTS:
        rows.append(row(f"and {len(facts) - MAX_FACTS} more", el("td")))
    history = [row(i + 1, el("td", shown(entry))) for i, entry in enumerate(portrait["history"][-MAX_LINES:])]
    return el(
        "section",
        el("h2", "Where it comes from"),
        el("p", "Digest of the arrays: ", el("code", report["digest"])),
        el("details", el("summary", f"How it was made ({len(history)})"), table((), history, "facts"))
        if history
        else None,
        el("details", el("summary", f"Attributes ({len(facts)})"), table((), rows, "facts")) if rows else None,
    )
