"""What a picture of a dataset is drawn from: distributions, ranges of every dimension, and three episodes as curves.

`inspect` says what is in a dataset and what looks wrong; this adds what one has to see. The result is small and
JSON-able whatever the size of the data: counts and quantiles of a dimension come from at most `SAMPLE` steps (fewer
where observations are wide), one drawn from each of as many equal stretches of the log; least, largest, mean and
standard deviation of observations are those of all steps.

numpy only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamo.data.episodes import BLOCK, STD_FLOOR, Episodes

SAMPLE = 100_000
"""Steps, at most, from which a dimension's distribution is counted."""
SAMPLE_VALUES = 1 << 23
"""Numbers in such a sample, at most: 32 MiB of float32, whatever the number of dimensions."""
MAX_DIMS = 256
"""Dimensions of observations, and of actions, that are described one by one."""
MAX_CHOICES = 64
"""Choices of discrete actions that are counted one by one: the commonest."""
MAX_POINTS = 400
"""Episodes in a scatter, at most."""
MAX_LINES = 8
"""Dimensions that an episode's curves show, at most."""
CURVE = 200
"""Points of a curve, at most: from longer ones each stretch keeps its lowest and its highest."""
BINS = 40
_LEVELS = (0.01, 0.25, 0.5, 0.75, 0.99)
_FEW = 12  # distinct values that are counted one by one
_PAIRED = (2, 4)  # dimensions of actions that are shown two by two
_GRID = 24
_FAR = 20.0  # an end that lies farther from the median than this many 1-to-99 % widths is one of a few stray values


def portrait(
    episodes: Episodes,
    bounds: tuple[NDArray[Any], NDArray[Any]] | None = None,
    rng: np.random.Generator | None = None,
) -> dict[str, Any]:
    """Describe a dataset for `lamo.report.dataset`; the result is JSON-able.

    `bounds`: lowest and highest action, as `lamo.data.inspect.action_bounds` gives them. `rng` draws the sampled steps
    (default: seed 0, so that equal data give equal pictures). Time is that of a few passes over the data, memory a
    sample's beside it.
    """
    rng = np.random.default_rng(0) if rng is None else rng
    returns, lengths = episodes.returns, episodes.lengths.astype(np.float64)
    width = episodes.observations.shape[1]
    rows = _sample(episodes.steps, max(1, min(SAMPLE, SAMPLE_VALUES // max(width, 1))), rng)
    statistics = episodes.statistics()
    low, high = _ends(episodes, "observations")
    shown = range(min(width, MAX_DIMS))
    observations = _columns(episodes.observations, rows, len(shown))
    return {
        "returns": histogram(returns),
        "lengths": histogram(lengths),
        "rewards": _values(episodes),
        "order": _curve(np.arange(len(returns)), returns),
        "scatter": _scatter(lengths, returns, rng),
        "sampled": len(rows),
        "observation_dim": width,
        "names": _names(episodes),
        "observations": [
            _dimension(
                observations[d], float(low[d]), float(high[d]), float(statistics.mean[d]), float(statistics.std[d])
            )
            for d in shown
        ],
        **_actions(episodes, rows, bounds),
        "episodes": _examples(episodes, statistics.mean, statistics.std, np.flatnonzero(low < high)[:MAX_LINES]),
        "attributes": dict(episodes.metadata.get("attributes") or {}),
        "history": list(episodes.metadata.get("history") or []),
    }


def histogram(values: NDArray[Any], low: float | None = None, high: float | None = None, bins: int = BINS) -> Any:
    """Counts in equal bins from `low` to `high` (default: the least and the largest value) -> {low, high, counts}.

    Whole numbers that span fewer than `bins` get a bin each, centred on it. Values outside are not counted. Unlike
    numpy's it takes values that are all equal, however large.
    """
    values = np.asarray(values, np.float64)
    least, most = float(values.min()), float(values.max())
    low, high = least if low is None else low, most if high is None else high
    ends_whole = low == np.round(low) and high == np.round(high) and max(abs(low), abs(high)) < 2**50
    if ends_whole and high - low < bins and bool((values == np.round(values)).all()):
        around = 0.5 if high > low else 1.5  # a lone value has an empty bin at either side
        low, high, bins = low - around, high + around, round(high - low + 2 * around)
    elif not (high - low) / bins > np.spacing(max(abs(low), abs(high))):
        low, high, bins = low - max(0.5, abs(low) * 1e-3), high + max(0.5, abs(high) * 1e-3), 3
    inside = values[(values >= low) & (values <= high)]
    index = np.minimum(((inside - low) / (high - low) * bins).astype(np.int64), bins - 1)
    return {"low": low, "high": high, "counts": np.bincount(index, minlength=bins).tolist()}


def _sample(steps: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(n,) int64, rising: a row from each of `count` equal stretches; all rows where they are no more than that.

    Drawn, not spaced evenly: even spacing may keep time with the episodes.
    """
    if steps <= count:
        return np.arange(steps)
    edges = np.linspace(0, steps, count + 1).astype(np.int64)
    return rng.integers(edges[:-1], edges[1:])


def _columns(values: NDArray[Any], rows: NDArray[np.int64], dims: int) -> NDArray[np.float32]:
    """(N, D) -> (dims, n) float32: the sampled steps of the first dimensions, each in rising order."""
    out = np.empty((dims, len(rows)), np.float32)
    for start in range(0, len(rows), BLOCK):
        taken = rows[start : start + BLOCK]
        out[:, start : start + BLOCK] = values[taken][:, :dims].T
    out.sort(axis=1)
    return out


def _blocks(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Rows in their order, some at a time: the values may lie in a file that is larger than memory."""
    return (np.asarray(values[start : start + BLOCK]) for start in range(0, len(values), BLOCK))


def _ends(episodes: Episodes, key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    low, high = episodes.extremes(key)
    return np.asarray(low, np.float64), np.asarray(high, np.float64)


def _counts(values: NDArray[Any], most: int | None = None) -> dict[Any, int] | None:
    """How often each value is there; None where there are more than `most`."""
    seen: dict[Any, int] = {}
    for block in _blocks(values):
        for value, count in zip(*(part.tolist() for part in np.unique(block, return_counts=True)), strict=True):
            seen[value] = seen.get(value, 0) + count
        if most is not None and len(seen) > most:
            return None
    return seen


def _dimension(ordered: NDArray[Any], low: float, high: float, mean: float, std: float) -> dict[str, Any]:
    """One dimension, from its sampled values in rising order and the ends and moments of all."""
    quantiles = [float(ordered[round(level * (len(ordered) - 1))]) for level in _LEVELS]
    distinct = 1 + int(np.count_nonzero(ordered[1:] != ordered[:-1]))
    spread = max(quantiles[-1] - quantiles[0], STD_FLOOR)
    flags = []
    if low == high:
        flags.append("constant")
    elif std <= STD_FLOOR:
        flags.append("nearly constant")
    elif distinct <= _FEW:
        flags.append(f"{distinct} values")
    elif max(high - quantiles[2], quantiles[2] - low) > _FAR * spread:
        flags.append("stray values")
    return {
        "low": low,
        "high": high,
        "mean": mean,
        "std": std,
        "quantiles": quantiles,
        "histogram": histogram(ordered, low, high, 24),
        "flags": flags,
    }


def _actions(
    episodes: Episodes, rows: NDArray[np.int64], bounds: tuple[NDArray[Any], NDArray[Any]] | None
) -> dict[str, Any]:
    if episodes.discrete:
        counts = _counts(episodes.actions) or {}
        commonest = sorted(sorted(counts), key=lambda value: -counts[value])[:MAX_CHOICES]
        known = None if bounds is None else int(bounds[1][0]) + 1
        missing = [] if known is None or known > 1 << 16 else [value for value in range(known) if value not in counts]
        return {
            "action_kind": "discrete",
            "action_dim": 1,
            "choices": [[value, counts[value]] for value in sorted(commonest)],
            "choices_seen": len(counts),
            "choices_known": known,
            "choices_missing": missing[:MAX_CHOICES],
            "choices_missing_count": len(missing),
        }
    width, choices = episodes.actions.shape[1], episodes.actions.dtype.kind in "iu"  # or several choices at once
    shown = min(width, MAX_DIMS)
    low, high = _ends(episodes, "actions")
    ordered = _columns(episodes.actions, rows, shown)
    fitting = bounds is not None and len(bounds[0]) == width
    described = []
    for d in range(shown):
        values = ordered[d]
        bottom, top = (float(bounds[0][d]), float(bounds[1][d])) if bounds is not None and fitting else (None, None)
        bottom, top = (x if x is not None and np.isfinite(x) else None for x in (bottom, top))
        left = float(low[d]) if bottom is None else min(bottom, float(low[d]))
        right = float(high[d]) if top is None else max(top, float(high[d]))
        margin = 1e-3 * (top - bottom) if top is not None and bottom is not None else 0.0
        mean = float(values.mean(dtype=np.float64))
        found = _dimension(values, float(low[d]), float(high[d]), mean, float(values.std(dtype=np.float64)))
        at = [
            None if bottom is None else float(np.mean(values <= bottom + margin)),
            None if top is None else float(np.mean(values >= top - margin)),
        ]
        drawn = histogram(values, left, right)
        if choices:
            seen = sum(bottom is not None and value >= bottom for value in _counts(episodes.actions[:, d]) or ())
            unseen = 0 if top is None or bottom is None else round(top - bottom) + 1 - seen
            at, found["flags"] = [None, None], [f"{unseen:,} choices not seen"] if unseen > 0 else []
        described.append({**found, "histogram": drawn, "bounds": [bottom, top], "at_bounds": at})
    return {
        "action_kind": "multidiscrete" if choices else "continuous",
        "action_dim": width,
        "actions": described,
        "pairs": _pairs(episodes.actions, rows, described) if _PAIRED[0] <= width <= _PAIRED[1] else [],
    }


def _pairs(actions: NDArray[Any], rows: NDArray[np.int64], described: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How often two dimensions of the action lie where, on a grid over what their histograms span: `cells` are
    [column, row, level], rows counted upwards, levels 1 to 5 by the logarithm of the count.
    """
    sample = actions[rows].astype(np.float64)
    out = []
    for a in range(sample.shape[1]):
        for b in range(a + 1, sample.shape[1]):
            index = []
            for d in (a, b):
                box = described[d]["histogram"]
                at = (sample[:, d] - box["low"]) / (box["high"] - box["low"]) * _GRID
                index.append(np.clip(at.astype(np.int64), 0, _GRID - 1))
            counts = np.bincount(index[0] * _GRID + index[1], minlength=_GRID * _GRID)
            level = np.ceil(5 * np.log1p(counts) / np.log1p(counts.max())).astype(int)
            cells = [[int(i) // _GRID, int(i) % _GRID, int(level[i])] for i in np.flatnonzero(counts)]
            out.append({"dims": [a, b], "grid": _GRID, "cells": cells})
    return out


def _values(episodes: Episodes) -> dict[str, Any]:
    """Rewards as a histogram or, where there are few of them, as counts: {"values": [[value, count], …]}."""
    rewards = episodes.rewards
    seen = _counts(rewards, _FEW)
    if seen is not None:
        return {"values": [[float(value), seen[value]] for value in sorted(seen)]}
    low, high = (float(end) for end in _ends(episodes, "rewards"))
    parts = [histogram(block, low, high) for block in _blocks(rewards)]
    # a block of whole numbers among others has other bins: then all are counted in one go
    if len({(part["low"], part["high"], len(part["counts"])) for part in parts}) > 1:
        return histogram(np.asarray(rewards[:]))
    return {**parts[0], "counts": [sum(counts) for counts in zip(*(part["counts"] for part in parts), strict=True)]}


def _scatter(lengths: NDArray[Any], returns: NDArray[Any], rng: np.random.Generator) -> list[list[float]]:
    """[length, return] of episodes, `MAX_POINTS` at most; none where all are equally long."""
    if lengths.min() == lengths.max():
        return []
    chosen = _sample(len(lengths), MAX_POINTS, rng)
    return [[float(lengths[i]), float(returns[i])] for i in chosen]


def _curve(at: NDArray[Any], values: NDArray[Any]) -> list[list[float]]:
    """[x, value] points of a curve, `CURVE` at most: of longer ones the least and the largest of each stretch."""
    values = np.asarray(values, np.float64)
    if len(values) > CURVE:
        edges = np.linspace(0, len(values), CURVE // 2 + 1).astype(int)
        kept = []
        for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            kept += sorted({start + int(values[start:end].argmin()), start + int(values[start:end].argmax())})
        at, values = at[kept], values[kept]
    return [[float(x), float(y)] for x, y in zip(at, values, strict=True)]


def _examples(episodes: Episodes, mean: NDArray[Any], std: NDArray[Any], dims: NDArray[Any]) -> list[dict[str, Any]]:
    """The best, the middle and the worst episode by return; fewer where there are fewer. Observations are in standard
    deviations from the mean of all steps.
    """
    order = np.argsort(-episodes.returns, kind="stable")
    picks = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    named: dict[int, list[str]] = {}
    for name, index in picks.items():
        named.setdefault(int(index), []).append(name)
    out = []
    for index, names in named.items():
        span = slice(int(episodes.offsets[index]), int(episodes.offsets[index + 1]))
        time = np.arange(span.stop - span.start)
        seen = (np.asarray(episodes.observations[span], np.float64)[:, dims] - mean[dims]) / std[dims]
        acted = np.asarray(episodes.actions[span], np.float64).reshape(len(time), -1)[:, :MAX_LINES]
        out.append(
            {
                "name": " and ".join(names),
                "id": int(episodes.ids[index]),
                "return": float(episodes.returns[index]),
                "length": len(time),
                "ended": "terminated"
                if episodes.terminated[index]
                else "truncated"
                if episodes.truncated[index]
                else "unfinished",
                "observations": [
                    {"dim": int(d), "points": _curve(time, seen[:, i])} for i, d in enumerate(dims.tolist())
                ],
                "actions": [{"dim": d, "points": _curve(time, acted[:, d])} for d in range(acted.shape[1])],
                "rewards": _curve(time, episodes.rewards[span]),
                "return_to_go": _curve(time, episodes.returns_to_go[span]),
            }
        )
    return out


def _names(episodes: Episodes) -> list[str] | None:
    """A name per dimension of the observation, where the source tells its parts and their sizes."""
    keys, sizes = (episodes.metadata.get(f"observation_{what}") or [] for what in ("keys", "sizes"))
    if not keys or len(keys) != len(sizes) or sum(sizes) != episodes.observations.shape[1]:
        return None
    names = [key if size == 1 else f"{key}[{i}]" for key, size in zip(keys, sizes, strict=True) for i in range(size)]
    return names[:MAX_DIMS]
