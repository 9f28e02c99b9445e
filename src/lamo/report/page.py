"""One self-contained HTML page: no external address, no fonts to fetch, no script but its own.

Everything that comes from a run folder is escaped (`lamo.report.markup`), or, for traces, checked (`lamo.report.trace`)
and put into a JSON block in which no tag can end. Should an escape ever be missed, the page's content security policy
still runs no script but the one whose hash it names, and loads nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from lamo.report import figures, parts
from lamo.report.collect import RunRecord
from lamo.report.groups import Section
from lamo.report.markup import Html, el, join, json_block, void
from lamo.report.scores import target_text
from lamo.report.tables import PROTOCOL, auto_target_lines, data_line, interval_lines, luck_line, number
from lamo.report.trace import MAX_CURVES

SPEEDS = (0.25, 0.5, 1, 2, 4)


def _resource(name: str) -> Html:
    return Html(resources.files("lamo.report").joinpath(name).read_text(encoding="utf-8"))


def pick_rollouts(section: Section) -> list[tuple[str, RunRecord]]:
    """One (label, run) per method that has a rollout: of the lowest seed that all of them have, else of each one's
    lowest.

    A run's seed also seeds the start of its evaluation episodes, so with one seed all methods face the same start; and
    a seed taken by its number is not taken by its result.
    """
    able = {group.label: {run.seed: run for run in group.runs if run.rollout is not None} for group in section.groups}
    able = {label: runs for label, runs in able.items() if runs}
    shared = set.intersection(*(set(runs) for runs in able.values())) if able else set()
    return [(label, runs[min(shared or runs)]) for label, runs in able.items()]


class _Page:
    """What the sections of one page share: the methods' colours, and the rollouts that its script plays."""

    def __init__(self, numbers: Mapping[str, Any]) -> None:
        self.styles = figures.color_index(numbers)
        self.rollouts: list[dict[str, Any]] = []

    def theatre(self, section: Section) -> Html | None:
        """The animation, one canvas per method side by side under one clock; None where no run has a rollout."""
        picked = pick_rollouts(section)
        if not picked:
            return None
        stages = []
        for label, run in picked:
            trace = dict(run.rollout or {})
            asked = "" if trace["target"] is None else f"asked for {target_text(trace['target'])}, "
            got = trace["rewards"][-1] if trace["return"] is None else trace["return"]
            caption = el(
                "figcaption",
                parts.chip(self.styles[label]),
                el("b", label),
                Html("<br>"),
                f"seed {run.seed}: {asked}got {number(got)}",
            )
            alternative = f"Animation of {label} acting for one episode"
            canvas = el("canvas", data_rollout=len(self.rollouts), role="img", aria_label=alternative)
            stages.append(el("figure", caption, canvas, el("output")))
            self.rollouts.append({**trace, "series": f"--s{self.styles[label] % len(figures.SERIES)}"})
        speeds = [el("option", f"{v:g}×", value=v, selected="" if v == 1 else None) for v in SPEEDS]
        controls = el(
            "div",
            el("button", "Play", type="button"),
            void("input", type="range", min=0, max=1000, value=0, aria_label="Time in the episode"),
            el("select", *speeds, aria_label="Speed"),
            class_="controls",
        )
        curves = any(run.rollout and run.rollout["kind"] == "curves" for _, run in picked)
        return join(
            el("h3", "One episode of each policy"),
            parts.paragraph(
                "The final policy at its run's best target, in the run of the lowest seed. ",
                "One episode is an illustration, not a measurement.",
                f" Each line is one observation, the first {MAX_CURVES} at most." if curves else None,
            ),
            el("div", el("div", *stages, class_="players"), controls, class_="theatre"),
            el("noscript", parts.paragraph("The animation needs JavaScript; everything else does not.")),
        )

    def headline(self, index: int, measured: Mapping[str, Any]) -> Html:
        strips = []
        for kind, width in (("wide", 10.4), ("narrow", 4.3)):
            svg = figures.strip(measured, self.styles, width)
            if svg:
                title = f"{measured['metric']} of each method at its best target, with interval and single runs"
                strips.append(el("div", figures.inline(svg, f"f{index}-{kind}", title), class_=kind))
        how = "Mark: mean of the last window at the method's best target. Bar: 95 % interval. Small dots: single runs."
        return join(
            *strips,
            parts.paragraph(how) if strips else None,
            parts.summary_table(measured, self.styles),
            parts.bullets(interval_lines(measured), "notes"),
        )

    def curves(self, index: int, measured: Mapping[str, Any]) -> Html | None:
        metric, panels = measured["metric"], []
        for x, short, long in (
            ("step", "Against steps", "gradient steps"),
            ("seconds", "Against time", "wall-clock time"),
        ):
            svg = figures.learning_curves(measured, self.styles, x)
            panels.append(
                parts.figure(svg, f"f{index}-{x}", f"{metric} against {long}", el("b", short), ", best target")
            )
        if not any(panels):
            return None
        return join(
            el("h3", "Learning curves"),
            parts.legend(measured, self.styles),
            el("div", *panels, class_="panels"),
            parts.paragraph("Line: mean over runs of one evaluation. Band: its pointwise 95 % interval."),
        )

    def targets(self, index: int, measured: Mapping[str, Any]) -> Html:
        """Every return target in a table and, when there are several, in a panel each; and the training loss."""
        metric, panels = measured["metric"], []
        names = list(dict.fromkeys(t["target"] for method in measured["methods"] for t in method["targets"]))
        for i, name in enumerate(names if len(names) > 1 else []):
            svg, text = figures.learning_curves(measured, self.styles, "step", name), figures.target_name(name)
            title = f"{metric} against gradient steps at {text}"
            panels.append(parts.figure(svg, f"f{index}-t{i}", title, el("b", text.capitalize())))
        title = "training loss against gradient steps"
        loss = figures.loss_curves(measured, self.styles)
        panels.append(parts.figure(loss, f"f{index}-loss", title, el("b", "Training loss"), ", mean over runs"))
        title = "error on held-out episodes against gradient steps"
        errors = figures.loss_curves(measured, self.styles, "holdout")
        name = el("b", "Held-out action error")
        panels.append(parts.figure(errors, f"f{index}-holdout", title, name, ", mean over runs"))
        table = (
            el("h3", "Every return target"),
            parts.targets_table(measured, self.styles),
            parts.paragraph("Marked: the method's best target by its last window."),
            parts.bullets(auto_target_lines(measured), "notes"),
        )
        legend = parts.legend(measured, self.styles) if any(panels) else None
        return join(*(table if names else ()), legend, el("div", *panels, class_="panels"))

    def section(self, index: int, section: Section, measured: Mapping[str, Any], alone: bool) -> Html:
        pairs = measured["comparisons"]
        won = (
            "Probability of improvement: how often a run of the first beats a run of the second, ties counting half; "
            "0.5 is no difference. Over seeds, last window, each method at its best target. "
        )
        settings = parts.gather(section, lambda run: run.config)
        values = {key: {json.dumps(value, sort_keys=True) for _, _, value in found} for key, found in settings.items()}
        differing = {key: settings[key] for key, found in values.items() if len(found) > 1 and key != "seed"}
        data = data_line(measured)
        return el(
            "section",
            None if alone else el("h2", measured["title"]),
            el("p", data) if data else None,
            parts.bullets(measured["notes"], "notes warn"),
            self.headline(index, measured),
            self.curves(index, measured),
            self.theatre(section),
            self.targets(index, measured),
            *(
                (el("h3", "Who beats whom"), parts.comparisons_table(pairs), parts.paragraph(won, luck_line(pairs)))
                if pairs
                else ()
            ),
            el("h3", "Models"),
            parts.models_table(measured),
            el("h3", "Runs"),
            parts.runs_table(measured),
            parts.facts("Settings that differ", differing),
            parts.facts("All settings", settings),
            parts.facts(
                "Provenance: data, versions, machine, command", parts.gather(section, lambda run: run.provenance)
            ),
            id=f"s{index}",
        )

    def aggregate(self, total: Mapping[str, Any] | None) -> Html | None:
        if not total:
            return None
        how = (
            "Last window at each method's best target, task by task; 95 % intervals by stratified bootstrap over the "
            "runs of each task, as in rliable. The interquartile mean is the mean of the middle half of all runs. "
        )
        return el(
            "section",
            el("h2", f"Over {total['tasks']} tasks"),
            parts.aggregate_table(total, self.styles) if total["methods"] else None,
            parts.comparisons_table(total["comparisons"]) if total["comparisons"] else None,
            parts.paragraph(how, luck_line(total["comparisons"], total["tasks"])) if total["methods"] else None,
            parts.bullets(total["notes"], "notes warn"),
            id="all",
        )


def head(title: str, script: str, kind: str = "lamo report") -> Html:
    """The head of a page: its policy of what may run and load, its title, its style."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"'sha256-{digest}'" if script else "'none'"
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}; base-uri 'none'; form-action 'none'"
    return el(
        "head",
        void("meta", charset="utf-8"),
        # Quotes inside the attribute are escaped, and read back by the browser.
        void("meta", http_equiv="Content-Security-Policy", content=policy),
        void("meta", name="viewport", content="width=device-width, initial-scale=1"),
        void("meta", name="color-scheme", content="light dark"),
        el("title", f"{title} – {kind}"),
        el("style", _resource("page.css")),
    )


def _how_to_read(protocol: Mapping[str, Any]) -> Html:
    how = (
        f"Intervals are percentile bootstraps with {protocol['resamples']:,} resamples, seed {protocol['seed']}: "
        f"over seeds from {protocol['min_seeds']} seeds on, otherwise over evaluation episodes. "
        "They do not account for the choice of the best target or checkpoint."
    )
    return el("section", el("h3", "How to read these numbers"), parts.paragraph(PROTOCOL), parts.paragraph(how))


def _counted(many: int, noun: str) -> str:
    return f"{many} {noun}{'' if many == 1 else 's'}"


def render(numbers: Mapping[str, Any], sections: Sequence[Section]) -> str:
    """The page, from `jsonable(measure(sections))` and the sections (for settings, provenance and rollouts)."""
    page, measured = _Page(numbers), numbers["sections"]
    alone = len(sections) == 1
    bodies = [page.section(i, *both, alone) for i, both in enumerate(zip(sections, measured, strict=True))]
    title = measured[0]["title"] if alone else f"{len(sections)} tasks"
    runs = sum(len(group.runs) for section in sections for group in section.groups)
    links = [el("li", el("a", found["title"], href=f"#s{i}")) for i, found in enumerate(measured)]
    if numbers["aggregate"]:
        links.append(el("li", el("a", "over all tasks", href="#all")))
    script = _resource("player.js") if page.rollouts else Html()
    scripts = (el("script", json_block(page.rollouts), type="application/json", id="rollouts"), el("script", script))
    body = el(
        "body",
        el(
            "header",
            el("p", "lamo report", class_="kicker"),
            el("h1", title),
            parts.paragraph(f"{_counted(len(page.styles), 'method')}, {_counted(runs, 'run')}"),
            None if alone else el("nav", el("ul", *links), aria_label="Tasks"),
        ),
        el("main", *bodies, page.aggregate(numbers["aggregate"]), _how_to_read(numbers["protocol"])),
        el("footer", "The same numbers as data: report.json.", class_="soft"),
        *(scripts if script else ()),
    )
    return f"<!DOCTYPE html>\n{el('html', head(title, script), body, lang='en')}\n"
