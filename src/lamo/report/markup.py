"""HTML that is escaped unless it says that it is HTML.

`el` escapes every child that is not `Html`, and every attribute. Text from a run folder is a plain str, so it cannot
become markup by forgetting something; only `Html(...)`, which nothing but this package's own literals and figures
passes through, can.
"""

from __future__ import annotations

import html
import json

from lamo.report.collect import printable


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def esc(value: object) -> Html:
    """Text for HTML, in an element or in a quoted attribute, without control characters. `Html` stays as it is."""
    return value if isinstance(value, Html) else Html(html.escape(printable(str(value)), quote=True))


def el(tag: str, *children: object, **attributes: object) -> Html:
    """<tag attributes>children</tag>. None is left out, of both; `class_` is the attribute class."""
    return Html(f"{void(tag, **attributes)}{join(*children)}</{tag}>")


def void(tag: str, **attributes: object) -> Html:
    """A start tag alone. Underscores in names of attributes are hyphens, a last one is dropped."""
    named = (
        f' {key.rstrip("_").replace("_", "-")}="{esc(value)}"' for key, value in attributes.items() if value is not None
    )
    return Html(f"<{tag}{''.join(named)}>")


def join(*children: object) -> Html:
    """The children one after another, escaped where they are not HTML; None is left out."""
    return Html("".join(esc(child) for child in children if child is not None))


def json_block(value: object) -> Html:
    """JSON that can stand inside <script>: no "<", so no tag and no comment can begin or end in it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Html(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def table(headings: tuple[str, ...], rows: list[Html], kind: str | None = None) -> Html:
    """A table of ready rows, which scrolls sideways by itself where the screen is narrow."""
    head = el("thead", el("tr", *(el("th", heading, scope="col") for heading in headings))) if headings else None
    return el("div", el("table", head, el("tbody", *rows), class_=kind), class_="scroll")


def row(*cells: object, class_: str | None = None) -> Html:
    """A row; a cell that is not a <td> yet becomes one."""
    ready = (cell if isinstance(cell, Html) and cell.startswith("<td") else el("td", cell) for cell in cells)
    return el("tr", *ready, class_=class_)
