"""The report of finished (or running) runs: a terminal table, Markdown, JSON, a picture, and one page which opens
offline.

Reads run folders only, trusts nothing in them, and never imports torch.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lamo.errors import LamoError

__all__ = ["figure_overview", "terminal_table", "write_report"]


def write_report(runs: Sequence[str | Path], out: str | Path, seed: int = 0) -> dict[str, Any]:
    """Report on run folders: writes report.html, report.md, report.json, and curves.svg where a run has been evaluated,
    into the folder `out`.

    Runs that differ only in their seed are one method. Returns the numbers of report.json (JSON-able: no NaN, missing
    values are None). Equal folders and an equal `seed` (of the bootstrap) give equal bytes. Either all files are
    replaced or none. Raises LamoError for a folder that holds no run, for a damaged file, for a seed that is there
    twice, for a negative `seed`, and for an `out` that cannot be written.
    """
    from lamo.report import figures, page, tables
    from lamo.report.collect import read_runs
    from lamo.report.groups import make_sections
    from lamo.report.measure import jsonable, measure

    out = Path(out)
    if out.exists() and not out.is_dir():
        raise LamoError(f"{out}: is a file; the report needs a folder, so choose another --out")
    sections = make_sections(read_runs(runs))
    numbers = jsonable(measure(sections, seed))
    picture = figures.overview(numbers)
    files = {
        "report.html": page.render(numbers, sections),
        "report.md": tables.markdown(numbers, "curves.svg" if picture else None),
        "report.json": json.dumps(numbers, indent=1, allow_nan=False) + "\n",
    }
    contents = {out / name: text.encode() for name, text in files.items()}
    if picture:
        contents[out / "curves.svg"] = picture
    make_folder(out)
    write_atomically(contents)
    return numbers


def terminal_table(numbers: Mapping[str, Any], width: int | None = None) -> str:
    """What `write_report` returned, as text for a terminal of `width` columns (None: ask the terminal)."""
    from lamo.report import tables

    return tables.terminal(numbers, width)


def figure_overview(runs: Sequence[str | Path], out: str | Path, seed: int = 0) -> Path:
    """Read run folders and write one picture of their learning curves to `out`, a .svg or a .png file.

    Raises LamoError for another ending, for folders that hold no run, and where no run has been evaluated yet.
    """
    from lamo.report import figures
    from lamo.report.collect import read_runs
    from lamo.report.groups import make_sections
    from lamo.report.measure import jsonable, measure

    out = Path(out)
    form = out.suffix.lower().removeprefix(".")
    if form not in ("svg", "png"):
        raise LamoError(f"{out}: a picture is a .svg or a .png file; name one")
    picture = figures.overview(jsonable(measure(make_sections(read_runs(runs)), seed)), form)
    if picture is None:
        raise LamoError("none of these runs has an evaluation yet, so there is no curve to draw; train them further")
    make_folder(out.parent)
    write_atomically({out: picture})
    return out


def make_folder(path: Path) -> None:
    """The folder of an --out, made where it is not there. Raises LamoError where it cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LamoError(f"{path}: cannot be made ({error.strerror}); choose another --out") from None


def write_atomically(files: Mapping[Path, bytes]) -> None:
    """Write all files beside their places first, then rename them: a failure on the way leaves the old ones, or
    nothing.
    """
    ready: list[tuple[str, Path]] = []
    try:
        for path, content in files.items():
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            ready.append((name, path))
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.chmod(name, 0o644)
        for name, path in ready:
            os.replace(name, path)
    except OSError as error:
        folder = next(iter(files)).parent
        raise LamoError(f"{folder}: cannot be written ({error.strerror}); choose another --out") from None
    finally:
        for name, _ in ready:
            with suppress(FileNotFoundError):
                os.unlink(name)
