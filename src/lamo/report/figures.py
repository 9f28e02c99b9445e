"""The figures of a report: matplotlib without a display, as SVG.

A panel for the page is drawn in colours of middling lightness, which read on white and on black, and then each of those
colours is replaced by a CSS variable of the page, which has one value for light and one for dark. A standalone picture
keeps the literal colours. The series' hues are Okabe and Ito's, which colour-blind readers tell apart; a marker and a
dash pattern say the same once more.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lamo.errors import LamoError
from lamo.report.markup import Html, el
from lamo.report.scores import Target, target_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SERIES = ("#2f83c5", "#d8641c", "#149a74", "#bb669f", "#9c8208", "#7a70d0", "#3fa0b8", "#8b6f5c")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
DASHES = (
    (0, ()),
    (0, (5, 1.6)),
    (0, (1.2, 1.4)),
    (0, (6, 1.6, 1.2, 1.6)),
    (0, (3, 1.2)),
    (0, (8, 2)),
    (0, (2, 2)),
    (0, (6, 1.2, 1.2, 1.2, 1.2, 1.2)),
)
INK, MUTED, GRID = "#7b838c", "#7b838d", "#8c9299"
"""Text, reference lines, grid: three nearly equal greys, so that each can become its own variable."""
PANEL = (4.7, 3.0)


def style_of(index: int) -> tuple[str, str, Any]:
    """Colour, marker and dash pattern of a series. From the ninth on, hues return with another dash."""
    return SERIES[index % 8], MARKERS[index % 8], DASHES[(index + index // 8) % 8]


def variables() -> dict[str, str]:
    """Literal colour -> CSS variable of the page."""
    return {INK: "--fig-ink", MUTED: "--fig-muted", GRID: "--fig-grid"} | {
        colour: f"--s{i}" for i, colour in enumerate(SERIES)
    }


@contextmanager
def drawing(text: str) -> Iterator[None]:
    """The style of every figure, while it holds; `text` is matplotlib's svg.fonttype: `none` (letters) or `path`."""
    import matplotlib

    inks = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.labelcolor", "ytick.labelcolor")
    grids = ("axes.edgecolor", "xtick.color", "ytick.color", "grid.color")
    settings: Any = {
        "svg.fonttype": text,
        "svg.hashsalt": "lamo",
        "text.parse_math": False,  # a label from a run folder may hold a dollar sign
        **dict.fromkeys(inks, INK),
        **dict.fromkeys(grids, GRID),
        **dict.fromkeys(("axes.spines.top", "axes.spines.right", "axes.spines.left"), False),
        **dict.fromkeys(("font.size", "axes.labelsize", "legend.fontsize"), 9),
        **{"axes.grid": True, "axes.grid.axis": "y", "grid.alpha": 0.35, "grid.linewidth": 0.6, "axes.linewidth": 0.8},
        **{"ytick.major.size": 0, "xtick.major.size": 3, "legend.frameon": False, "font.family": ["DejaVu Sans"]},
        **{"axes.titlesize": 9.5, "axes.titlelocation": "left", "axes.titlepad": 9},
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def blank(size: tuple[float, float]) -> Figure:
    """An empty figure of so many inches."""
    # Figure without pyplot: no global state, no backend to choose; savefig takes the canvas that the format asks for.
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained")


def save(figure: Figure) -> str:
    """The figure as an SVG file, the same bytes for the same figure."""
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    return buffer.getvalue()


def inline(svg: str, name: str, title: str) -> Html:
    """An SVG file as an element of an HTML page: own ids, page variables for colours, no declaration of namespaces,
    scalable.

    `name` (a–z, 0–9, -) makes ids unique in the page; `title` is read to those who cannot see it, and must be
    HTML-escaped already.
    """
    head, body = svg[svg.index("<svg") :].split(">", 1)
    body = body.rstrip().removesuffix("</svg>")
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(xlink:)?href="#', f'href="#{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    for colour, variable in variables().items():
        body = body.replace(colour, f"var({variable})")
    box = re.search(r'viewBox="([-0-9. ]+)"', head)
    view = box.group(1) if box else None
    return el("svg", el("title", title), Html(body), class_="figure", role="img", viewBox=view, aria_label=title)


def step_label(value: float, _: object = None) -> str:
    """200k, 1.5M."""
    for size, suffix in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}"


def _time_unit(seconds: float) -> tuple[float, str]:
    if seconds < 600:
        return 1.0, "seconds"
    return (60.0, "minutes") if seconds < 3 * 3600 else (3600.0, "hours")


def target_name(target: Target) -> str:
    """ "target 76", or "default target" for None."""
    return "default target" if target is None else f"target {target_text(target)}"


def _reference(axes: Axes, value: float | None, text: str) -> None:
    if value is None:
        return
    axes.axhline(value, color=MUTED, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    axes.annotate(
        text,
        (0.01, value),
        xycoords=("axes fraction", "data"),
        xytext=(0, 2.5),
        textcoords="offset points",
        ha="left",
        va="bottom",
        fontsize=8,
        color=MUTED,
    )


def _draw_curve(
    axes: Axes, points: Sequence[Mapping[str, Any]], x: str, scale: float, index: int, label: str | None = None
) -> None:
    points = [point for point in points if point[x] is not None and point["estimate"] is not None]
    if not points:
        return
    colour, marker, dash = style_of(index)
    at = [point[x] / scale for point in points]
    axes.plot(at, [p["estimate"] for p in points], color=colour, linestyle=dash, linewidth=1.7, label=label, zorder=3,
              marker=marker, markersize=3.6, markeredgewidth=0, markevery=max(1, len(points) // 10))  # fmt: skip
    band = [
        (a, p["low"], p["high"])
        for a, p in zip(at, points, strict=True)
        if p["low"] is not None and p["high"] is not None
    ]
    if len(band) > 1:
        at, low, high = zip(*band, strict=True)
        axes.fill_between(at, low, high, color=colour, alpha=0.16, linewidth=0, zorder=2)
    elif band:
        axes.plot([band[0][0]] * 2, band[0][1:], color=colour, alpha=0.5, linewidth=1.2, zorder=2)


def best_curve(method: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The method's curve at its best target; empty where it has none."""
    return [] if method["best_target"] is None else method["curves"][method["best_target"]]


def _curves(axes: Axes, section: Mapping[str, Any], styles: Mapping[str, int], x: str, target: Target = "best") -> bool:
    """Draw each method's curve at its best target, or at one target. Says whether there was anything to draw."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    chosen = []
    for method in section["methods"]:
        if target == "best":
            points = best_curve(method)
        else:
            points = next(
                (c for t, c in zip(method["targets"], method["curves"], strict=True) if t["target"] == target), []
            )
        chosen.append((method["label"], [p for p in points if p[x] is not None and p["estimate"] is not None]))
    ends = [points[-1][x] for _, points in chosen if points]
    if not ends:
        return False
    scale, unit = (1.0, "gradient steps") if x == "step" else _time_unit(max(ends))
    for label, points in chosen:
        _draw_curve(axes, points, x, scale, styles[label], label)
    data = section["data"] or {}
    _reference(axes, data.get(f"{section['metric']}_mean"), "mean of the data")
    axes.set_xlabel(unit if x == "step" else f"wall-clock time, evaluations included ({unit})")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(FuncFormatter(step_label))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.margins(y=0.08)
    return True


def learning_curves(
    section: Mapping[str, Any], styles: Mapping[str, int], x: str = "step", target: Target = "best"
) -> str | None:
    """One panel: score (or return) against "step" or "seconds", with intervals, as an SVG file. None where there is
    nothing to draw.
    """
    with drawing("none"):
        figure = blank(PANEL)
        axes = figure.add_subplot()
        axes.set_ylabel(section["metric"])
        return save(figure) if _curves(axes, section, styles, x, target) else None


def loss_curves(section: Mapping[str, Any], styles: Mapping[str, int], which: str = "loss") -> str | None:
    """The training loss ("loss") or the error on held-out episodes ("holdout") against steps, logarithmic when it is
    positive and spans more than a factor of five. None without one.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    drawn = [
        (method["label"], method[which])
        for method in section["methods"]
        if method.get(which) and method[which]["points"]
    ]
    if not drawn:
        return None
    with drawing("none"):
        figure = blank(PANEL)
        axes = figure.add_subplot()
        for label, loss in drawn:
            colour, _, dash = style_of(styles[label])
            axes.plot(
                [p["step"] for p in loss["points"]],
                [p["loss"] for p in loss["points"]],
                color=colour,
                linestyle=dash,
                linewidth=1.4,
            )
        values = [p["loss"] for _, loss in drawn for p in loss["points"]]
        if min(values) > 0 and max(values) > 5 * min(values):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
        axes.set_xlabel("gradient steps")
        axes.set_ylabel(drawn[0][1]["key"].replace("_", " "))
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(FuncFormatter(step_label))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        return save(figure)


def strip(section: Mapping[str, Any], styles: Mapping[str, int], width: float = 10.4) -> str | None:
    """Each method's last window at its best target: estimate, interval, a small dot per run; data's mean and best as
    lines.

    `width` in inches: the page shows a wide one and, on a phone, a narrow one, so that the letters keep their size.
    """
    rows = [(m["label"], m["targets"][m["best_target"]]) for m in section["methods"] if m["best_target"] is not None]
    if not rows:
        return None
    with drawing("none"):
        figure = blank((width, 0.85 + 0.4 * len(rows)))
        axes = figure.add_subplot()
        axes.grid(True, axis="x")
        axes.grid(False, axis="y")
        for y, (label, target) in enumerate(rows):
            colour, marker, _ = style_of(styles[label])
            window = target["last_window"]
            values = [value for value in window["values"] if value is not None]
            axes.plot(
                values,
                [y + 0.27] * len(values),
                linestyle="none",
                marker="o",
                markersize=3.2,
                color=colour,
                alpha=0.65,
                markeredgewidth=0,
            )
            if window["low"] is not None and window["high"] is not None:
                axes.plot(
                    [window["low"], window["high"]],
                    [y, y],
                    color=colour,
                    linewidth=5,
                    alpha=0.35,
                    solid_capstyle="butt",
                )
            axes.plot(
                [window["estimate"]],
                [y],
                linestyle="none",
                marker=marker,
                markersize=6.5,
                color=colour,
                markeredgewidth=0,
            )
        axes.margins(x=0.06)
        _data_lines(axes, section)
        axes.set_yticks(range(len(rows)), [f"{label}" for label, _ in rows])
        axes.set_ylim(len(rows) - 0.45, -0.6)
        axes.set_xlabel(section["metric"])
        return save(figure)


def _data_lines(axes: Axes, section: Mapping[str, Any]) -> None:
    """The data's mean and best as upright lines with their names above, turned away from each other if close."""
    data = section["data"] or {}
    known = [(data.get(f"{section['metric']}_{key}"), text) for key, text in (("mean", "mean"), ("max", "best"))]
    lines = [(value, f"data's {text}") for value, text in known if value is not None]
    for value, _ in lines:
        axes.axvline(value, color=MUTED, linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    low, high = axes.get_xlim()
    close = len(lines) == 2 and abs(lines[1][0] - lines[0][0]) < 0.25 * (high - low)
    for i, (value, text) in enumerate(lines):
        side = ("right", "left")[i] if close else "center"
        axes.annotate(
            text,
            (value, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha=side,
            fontsize=8,
            color=MUTED,
        )


def color_index(numbers: Mapping[str, Any]) -> dict[str, int]:
    """label -> series index, one numbering for the whole report: a method keeps its colour from task to task.
    Equal labels are one method (see `make_sections`).
    """
    labels = dict.fromkeys(method["label"] for section in numbers["sections"] for method in section["methods"])
    return {label: index for index, label in enumerate(labels)}


def overview(numbers: Mapping[str, Any], form: str = "svg") -> bytes | None:
    """One picture of all learning curves, a panel per task, for a README: an SVG whose text is drawn as paths, or a
    PNG.

    Its background is transparent and its colours read on white and on black. None where no run has been evaluated.
    """
    if form not in ("svg", "png"):
        raise LamoError(f"a picture is svg or png, not {form!r}")
    styles = color_index(numbers)
    sections = [s for s in numbers["sections"] if any(best_curve(m) for m in s["methods"])]
    if not sections:
        return None
    columns = min(len(sections), 3)
    rows = -(-len(sections) // columns)
    with drawing("path"):
        figure = blank((max(3.5 * columns, 6.4), 2.9 * rows + 0.35))
        for i, section in enumerate(sections):
            axes = figure.add_subplot(rows, columns, i + 1)
            _curves(axes, section, styles, "step")
            axes.set_title(section["title"])
            if i % columns == 0:
                axes.set_ylabel(section["metric"])
        handles = {
            label: handle
            for axes in figure.axes
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(len(handles), 4))
        if form == "svg":
            return save(figure).encode()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=200, transparent=True, metadata={"Software": None})
        return buffer.getvalue()
