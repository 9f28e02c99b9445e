"""Read run folders, which may come from a stranger, into checked plain values.

Nothing here trusts a file: each row has the keys and the types which the report needs, or there is one line that names
file, line and key. Text loses its control characters here, once, so that no page and no terminal downstream can be
steered by it.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lamo.errors import LamoError, warn
from lamo.report.trace import clean_trace

MAX_DEPTH = 20
"""Levels of nesting in a file before it is refused; ours have four."""


@dataclass(frozen=True)
class Episode:
    """One evaluation episode. `target` is the return that was asked for (None: the policy's default); `score` may be
    missing.
    """

    step: int
    target: float | None
    episode: int
    returned: float
    score: float | None
    length: float | None


@dataclass(frozen=True, eq=False)
class RunRecord:
    """What one run folder says. `summary` and `rollout` are None for a run that has not ended; rows are in the order of
    their steps.
    """

    path: Path
    name: str
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]
    summary: Mapping[str, Any] | None
    metrics: Sequence[Mapping[str, Any]]
    timing: Sequence[Mapping[str, Any]]
    episodes: Sequence[Episode]
    rollout: Mapping[str, Any] | None
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def planned_steps(self) -> int | None:
        steps = self.config.get("steps")
        return steps if isinstance(steps, int) else None

    @property
    def finished(self) -> bool:
        return self.summary is not None and self.summary.get("finished") is not False


def printable(text: str) -> str:
    """`text` with a space for each control, format, surrogate and line-separating character."""
    return "".join(" " if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in text)


def clean_text(value: object, limit: int = 2_000) -> str:
    """One printable line: control, format and surrogate characters become spaces, runs of space one, and it ends after
    `limit` characters.
    """
    text = str(value)[: 4 * limit]
    text = " ".join(printable(text).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _clean(value: Any, depth: int = 0) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError("it is nested too deeply")
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, list):
        return [_clean(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {clean_text(key, 200): _clean(item, depth + 1) for key, item in value.items()}
    return value


def _decode(text: str) -> Any:
    """Like json.loads, but with clean strings, and hostile text that fails in other ways is a ValueError too."""
    try:
        return _clean(json.loads(text))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise LamoError(
            f"{path}: not UTF-8 text (byte {error.start}); the file is damaged, take this run out"
        ) from None
    except OSError as error:
        raise LamoError(
            f"{path}: cannot be read ({error.strerror or error}); take this run out or mend the file"
        ) from None


def _read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in `path`, or None where there is no such file."""
    if not path.exists():
        return None
    try:
        value = _decode(_read_text(path))
    except ValueError as error:
        raise LamoError(
            f"{path}: torn or not JSON ({clean_text(error, 100)}); take this run out or run it again"
        ) from None
    if not isinstance(value, dict):
        raise LamoError(
            f"{path}: expected a JSON object, found {type(value).__name__}; take this run out or run it again"
        )
    return value


def _read_rows(path: Path, notes: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """("file, line n", row) for each line of a JSON Lines file; nothing where there is no such file.

    A last line without its newline is a row still being written, or the mark of a killed process. It is left out, with
    a warning and a note in the report. A bad line anywhere else means a damaged file, and is an error.
    """
    if not path.exists():
        return
    text = _read_text(path)
    lines = text.split("\n")
    if lines[-1]:
        notes.append(f"the last line of {path.name} is unfinished and left out")
        warn(f"{path}: the last line is unfinished and left out")
    for number, line in enumerate(lines[:-1], start=1):
        where = f"{path}, line {number}"
        try:
            row = _decode(line)
        except ValueError as error:
            raise LamoError(
                f"{where}: torn or not JSON ({clean_text(error, 100)}); take this run out or mend it"
            ) from None
        if not isinstance(row, dict):
            raise LamoError(
                f"{where}: expected a JSON object, found {type(row).__name__}; take this run out or mend it"
            )
        yield where, row


def as_number(value: Any) -> float | None:
    """`value` as a float; None for anything else (bool, text, NaN, infinity, a number so large that a mean of it would
    overflow).
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if abs(number) < 1e100 else None


def _count(row: Mapping[str, Any], key: str, where: str) -> int:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        raise LamoError(f"{where}: {key!r} must be a whole number from 0 on, found {clean_text(repr(value), 60)}")
    return value


def _episode(row: Mapping[str, Any], where: str) -> Episode:
    target = row.get("target")
    if target is not None and as_number(target) is None:
        raise LamoError(f"{where}: 'target' must be a finite number or null, found {clean_text(repr(target), 60)}")
    returned = row.get("return")
    # null and NaN are how a diverged policy's return is written down: kept, and shown as missing.
    if isinstance(returned, bool) or not isinstance(returned, (int, float, type(None))):
        raise LamoError(f"{where}: 'return' must be a number, found {clean_text(repr(returned), 60)}")
    number = as_number(returned)
    return Episode(
        step=_count(row, "step", where),
        target=as_number(target),
        episode=_count(row, "episode", where),
        returned=math.nan if number is None else number,
        score=as_number(row.get("score")),
        length=as_number(row.get("length")),
    )


def _read_episodes(path: Path, notes: list[str]) -> list[Episode]:
    episodes: list[Episode] = []
    seen: set[tuple[int, float | None, int]] = set()
    for where, row in _read_rows(path, notes):
        episode = _episode(row, where)
        key = (episode.step, episode.target, episode.episode)
        if key in seen:
            raise LamoError(
                f"{where}: step {key[0]}, target {key[1]}, episode {key[2]} stands there twice; the file is damaged"
            )
        seen.add(key)
        episodes.append(episode)
    return sorted(episodes, key=lambda episode: episode.step)


def read_run(path: str | Path) -> RunRecord:
    """Read one run folder.

    Raises LamoError for a folder that is missing or holds no run (no config.json), and for a file that is torn, is not
    JSON, or lacks what the report needs (file, line, key).
    """
    path = Path(path)
    if not path.is_dir():
        what = "not a folder" if path.exists() else "there is no such folder"
        raise LamoError(f"{path}: {what}; give the folder of a run that `lamo train` made")
    config = _read_object(path / "config.json")
    if config is None:
        raise LamoError(
            f"{path}: holds no run (config.json is missing); give the folder of a run that `lamo train` made"
        )
    seed = config.get("seed")
    if isinstance(seed, bool) or not isinstance(seed, int) or abs(seed) >= 2**63:
        raise LamoError(f"{path / 'config.json'}: 'seed' must be a whole number, found {clean_text(repr(seed), 60)}")

    notes: list[str] = []
    provenance = _read_object(path / "provenance.json")
    if provenance is None:
        notes.append("provenance.json is missing: data, versions and machine are unknown")
    rows: dict[str, list[dict[str, Any]]] = {"metrics.jsonl": [], "timing.jsonl": []}
    for name, found in rows.items():
        for where, row in _read_rows(path / name, notes):
            _count(row, "step", where)
            found.append(row)
        found.sort(key=lambda row: row["step"])
    rollout = _read_object(path / "rollout.json")
    summary = _read_object(path / "summary.json")
    return RunRecord(
        path=path,
        name=clean_text(path.resolve().name, 80) or "run",
        config=config,
        provenance=provenance or {},
        summary=summary,
        metrics=rows["metrics.jsonl"],
        timing=rows["timing.jsonl"],
        episodes=_read_episodes(path / "episodes.jsonl", notes),
        rollout=None if rollout is None else clean_trace(rollout, str(path / "rollout.json")),
        notes=tuple(notes),
    )


def read_runs(paths: Sequence[str | Path]) -> list[RunRecord]:
    """Read every folder once, in the order given; a folder named twice counts once. Raises LamoError when there is
    none.
    """
    if not paths:
        raise LamoError("no run to report on: give one run folder or more")
    unique = {Path(path).resolve(): Path(path) for path in reversed(list(paths))}
    return [read_run(path) for path in reversed(unique.values())]
