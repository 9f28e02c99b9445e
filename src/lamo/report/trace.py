"""rollout.json, the trace of one episode, checked and made small enough to live inside a page.

Two kinds (see `lamo.evaluate.trace`):

* "segments": `segments` is one {"radius", "colour"} per body part, `frames` is (T, parts, 4) world positions x0, y0,
  x1, y1 in metres.
* "curves": `observations` is (T, S), and where it is there `actions` is (T, A).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from lamo.errors import LamoError

MAX_FRAMES = 1_500
"""Frames kept in the page. A longer trace is thinned evenly, so that a page stays a few megabytes."""
MAX_CURVES = 32

GREY = 0.08
"""Spread of a colour's red, green and blue (of 1) up to which it counts as grey."""

_HEX = re.compile(r"#[0-9a-fA-F]{6}")


def _array(value: Any, dims: int, where: str, key: str) -> np.ndarray:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        array = np.empty(0)
    if array.ndim != dims or array.size == 0:
        raise LamoError(f"{where}: {key!r} must be a full array of numbers with {dims} axes; evaluate the run again")
    if not np.isfinite(array).all():
        raise LamoError(f"{where}: {key!r} has NaN or infinite values; evaluate the run again")
    return array


def _colour(value: Any) -> str | None:
    """A colour as #rrggbb. None for none given, and for a grey: such a part is drawn in the colour of its method.

    Takes #rrggbb, and MuJoCo's rgb(a) in 0 … 1.
    """
    if isinstance(value, str) and _HEX.fullmatch(value):
        value = [int(value[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    if isinstance(value, list) and len(value) in (3, 4) and all(isinstance(v, (int, float)) for v in value):
        rgb = np.asarray(value[:3], dtype=np.float64)
        if np.isfinite(rgb).all() and np.ptp(np.clip(rgb, 0, 1)) > GREY:
            return "#" + "".join(f"{int(v):02x}" for v in np.clip(np.round(rgb * 255), 0, 255))
    return None


def _scalar(value: Any) -> float | None:
    ok = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
    return float(value) if ok else None


def clean_trace(trace: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check and shorten a trace.

    Returns {"kind", "target", "return", "length", "seconds_per_frame", "rewards" (running sum, one per frame)} and, for
    "segments", {"view", "parts", "frames", "follow", "bounds"}, for "curves" {"observations"}. `where` names the file
    in errors. Raises LamoError for a trace that has neither frames nor observations, or whose arrays do not fit
    together.
    """
    segments = "frames" in trace
    key, dims = ("frames", 3) if segments else ("observations", 2)
    if key not in trace:
        raise LamoError(f"{where}: has neither 'frames' nor 'observations'; evaluate the run again")
    frames = _array(trace[key], dims, where, key)
    rewards = _array(trace.get("rewards"), 1, where, "rewards")
    if not 0 <= len(frames) - len(rewards) <= 1:
        raise LamoError(f"{where}: {len(frames)} {key} do not fit {len(rewards)} rewards; evaluate the run again")
    # Frame t shows the state after t rewards when there is a first frame before any action, after t + 1 otherwise.
    earned = np.cumsum(rewards)
    if len(frames) == len(rewards) + 1:
        earned = np.concatenate([[0.0], earned])
    stride = max(1, -(-len(frames) // MAX_FRAMES))
    keep = np.unique(np.append(np.arange(0, len(frames), stride), len(frames) - 1))
    fps = _scalar(trace.get("fps")) or 0.0
    clean: dict[str, Any] = {
        "kind": "segments" if segments else "curves",
        "target": _scalar(trace.get("target")),
        "return": _scalar(trace.get("return")),
        "length": len(rewards),
        "seconds_per_frame": stride / min(max(fps, 1.0), 240.0) if fps else stride / 30.0,
        "rewards": [float(f"{v:.5g}") for v in earned[keep]],
    }
    if not segments:
        clean["observations"] = np.round(frames[keep][:, :MAX_CURVES], 4).tolist()
        return clean

    if frames.shape[2] != 4:
        raise LamoError(
            f"{where}: each part of a frame is x0, y0, x1, y1, found {frames.shape[2]} numbers; evaluate the run again"
        )
    parts = trace.get("segments")
    if (
        not isinstance(parts, list)
        or len(parts) != frames.shape[1]
        or not all(isinstance(part, dict) for part in parts)
    ):
        raise LamoError(
            f"{where}: 'segments' must name each of the {frames.shape[1]} parts of a frame; evaluate the run again"
        )
    if np.abs(frames).max() > 1e6:
        raise LamoError(f"{where}: 'frames' has positions beyond 1000 km; evaluate the run again")
    radii = [max(_scalar(part.get("radius")) or 0.0, 0.0) for part in parts]
    points = frames.reshape(len(frames), -1, 2)  # (T, 2 * parts, xy)
    per_frame = np.ptp(points, axis=1).max(axis=0)  # the body's own extent in x and y
    low, high = points.min(axis=(0, 1)), points.max(axis=(0, 1))
    # A body that leaves its own size far behind is a walker: the camera goes along, and the floor moves under it.
    follow = bool(high[0] - low[0] > 2.5 * per_frame[0] + 1e-9)
    if follow:
        centre = (points[..., 0].min(axis=1) + points[..., 0].max(axis=1)) / 2
        relative = points[..., 0] - centre[:, None]
        low[0], high[0] = relative.min(), relative.max()
    margin = max([*radii, 1e-3])
    clean |= {
        "view": "xz" if trace.get("view") == "xz" else "xy",
        "parts": [
            {"radius": float(f"{r:.4g}"), "colour": _colour(p.get("colour"))} for r, p in zip(radii, parts, strict=True)
        ],
        "frames": np.round(frames[keep].reshape(len(keep), -1), 3).tolist(),
        "follow": follow,
        "bounds": [float(f"{v:.4g}") for v in (low[0] - margin, low[1] - margin, high[0] + margin, high[1] + margin)],
    }
    return clean
