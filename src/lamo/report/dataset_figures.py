"""The drawings of a dataset's page: panels by matplotlib, and small ones, of which there may be hundreds, as paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lamo.report.figures import SERIES, blank, drawing, save, step_label, style_of
from lamo.report.markup import Html, el

_SMALL = (4.0, 2.2)
_SPARK = (120, 22)


def distribution(found: Mapping[str, Any], x: str, y: str, *, log: bool = False) -> str:
    """A histogram {low, high, counts} as an SVG file."""
    counts = found["counts"]
    width = (found["high"] - found["low"]) / len(counts)
    edges = [found["low"] + i * width for i in range(len(counts))] + [found["high"]]
    with drawing("none"):
        figure, axes = _panel(x, y)
        axes.stairs(counts, edges, fill=True, color=SERIES[0], alpha=0.85, baseline=0.5 if log else 0)
        if log:
            _logarithmic(axes)
        return save(figure)


def counts(found: Sequence[Sequence[float]], x: str, y: str, *, log: bool = True) -> str:
    """A bar for each [value, count], evenly spaced, as an SVG file."""
    with drawing("none"):
        figure, axes = _panel(x, y)
        for at, (_, many) in enumerate(found):
            axes.fill_between([at - 0.38, at + 0.38], [0.5 if log else 0] * 2, [many] * 2, color=SERIES[0], linewidth=0)
        if log:
            _logarithmic(axes)
        every = -(-len(found) // 12)
        axes.set_xticks(range(0, len(found), every), [f"{value:.4g}" for value, _ in found[::every]])
        return save(figure)


def line(points: Sequence[Sequence[float]], x: str, y: str) -> str:
    """A curve through [x, y] points as an SVG file; a lone point is a dot."""
    with drawing("none"):
        figure, axes = _panel(x, y)
        across, up = zip(*points, strict=True)
        axes.plot(across, up, color=SERIES[0], linewidth=1.1, marker="o" if len(points) == 1 else None, markersize=4)
        return save(figure)


def scatter(points: Sequence[Sequence[float]], x: str, y: str) -> str:
    """A dot for each [x, y] as an SVG file."""
    with drawing("none"):
        figure, axes = _panel(x, y)
        across, up = zip(*points, strict=True)
        axes.plot(
            across, up, linestyle="none", marker="o", markersize=2.6, color=SERIES[0], alpha=0.55, markeredgewidth=0
        )
        return save(figure)


def episode(found: Mapping[str, Any], discrete: bool) -> Iterator[tuple[str, str, str]]:
    """(key, title, SVG file) of one episode's observations, actions, rewards and return-to-go against its steps."""
    for key in ("observations", "actions", "rewards", "return_to_go"):
        lines = found[key] if key in ("observations", "actions") else [{"dim": None, "points": found[key]}]
        if not lines:
            continue
        with drawing("none"):
            figure, axes = _panel("step", "")
            for index, one in enumerate(lines):
                colour, _, dash = style_of(index)
                across, up = zip(*one["points"], strict=True)
                label = None if one["dim"] is None or (discrete and key == "actions") else f"{one['dim']}"
                axes.plot(across, up, color=colour, linestyle=dash, linewidth=1.1, label=label,
                          drawstyle="default" if key == "observations" else "steps-post",
                          marker="o" if len(across) == 1 else None, markersize=4)  # fmt: skip
            if len(lines) > 1:
                axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, handlelength=1.6)
            yield key.replace("_", "-"), key.replace("return_to_go", "return-to-go"), save(figure)


def _panel(x: str, y: str) -> tuple[Any, Any]:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure = blank(_SMALL)
    figure.set_layout_engine("none")  # finding a layout costs as much as drawing
    axes = figure.add_axes((0.16, 0.22, 0.72, 0.72))
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(step_label))
    return figure, axes


def _logarithmic(axes: Any) -> None:
    """Counts on a logarithmic scale: one is drawn, none is not."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axes.set_yscale("log")
    axes.set_ylim(bottom=0.5)
    axes.yaxis.set_major_formatter(FuncFormatter(step_label))
    axes.yaxis.set_minor_formatter(NullFormatter())


def spark(found: Mapping[str, Any], marks: Sequence[float] = ()) -> Html:
    """A histogram without axes, for a row of a table; `marks` are values at which an upright line is drawn."""
    width, height = _SPARK
    many = found["counts"]
    top, each = max(max(many), 1), width / len(many)
    heights = [round(height * (1 - count / top), 1) if count else height for count in many]
    # what is rare beside the commonest would vanish: anything at all is one unit high
    heights = [min(at, height - 1) if count else height for at, count in zip(heights, many, strict=True)]
    steps = "".join(f"V{at:g}H{round(each * (i + 1), 1):g}" for i, at in enumerate(heights))
    span = found["high"] - found["low"]
    lines = [
        Html(f'<path class="bound" d="M{round(width * (mark - found["low"]) / span, 1):g} 0V{height}"/>')
        for mark in marks
        if span > 0 and found["low"] <= mark <= found["high"]
    ]
    area = Html(f'<path d="M0 {height}{steps}V{height}z"/>')
    return el("svg", area, *lines, class_="spark", viewBox=f"0 0 {width} {height}", aria_hidden="true")


def density(pair: Mapping[str, Any], title: str) -> Html:
    """The cells of a grid, darker where the level is higher: one path per level."""
    size = pair["grid"]
    paths = []
    for level in range(1, 6):
        cells = "".join(f"M{x} {size - 1 - y}h1v1h-1z" for x, y, found in pair["cells"] if found == level)
        if cells:
            paths.append(Html(f'<path fill-opacity="{0.2 * level:.1f}" d="{cells}"/>'))
    view = f"0 0 {size} {size}"
    return el("svg", el("title", title), *paths, class_="density", viewBox=view, role="img", aria_label=title)
