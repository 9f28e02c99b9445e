"""The kitchen as line segments for the report's animation: its arm and fixtures are meshes and boxes, of which
`lamo.envs.geometry` has no honest segment.

Seen from the front, and a little from above and the left: what is deeper in the picture stands higher and further
right.
"""

# pyright: reportAttributeAccessIssue=false
# mujoco's own types live in compiled modules that say nothing to a type checker.

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Point = tuple[str, float, float, float]  # a body, and metres in its axes
Edge = tuple[Point, Point]
_DEEPER = np.array([0.35, 0.25])  # right and up, per metre of depth
_WALL, _FIXTURE, _HANDLE, _ARM, _FINGER = "#c9ccd1", "#8a8f98", "#d6453d", "#406b9e", "#f29c2b"


def _frame_of(body: str, low: tuple[float, float], high: tuple[float, float], depth: float) -> list[Edge]:
    """The four edges of an upright rectangle in a body's axes: x and z of two corners, and y."""
    corners = [(low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1])]
    points: list[Point] = [(body, x, depth, z) for x, z in corners]
    return list(zip(points, points[1:] + points[:1], strict=True))


def _bar(body: str, start: tuple[float, float, float], end: tuple[float, float, float]) -> list[Edge]:
    return [((body, *start), (body, *end))]


_LINKS = [f"panda0_link{i}" for i in (0, 1, 3, 4, 5, 6, 7)]
# (name, radius in metres, colour, edges), those underneath first
_PARTS: list[tuple[str, float, str, list[Edge]]] = [
    ("counter", 0.015, _WALL, _bar("counters1", (-1.2, -0.45, 1.6), (1.0, -0.45, 1.6))),
    ("slide cabinet", 0.01, _WALL, _frame_of("slide", (-0.45, -0.2), (0.45, 0.2), -0.3)),
    ("hinge cabinet", 0.01, _WALL, _frame_of("hingecab", (-0.4, -0.2), (0.4, 0.2), -0.3)),
    ("left door", 0.01, _WALL, _frame_of("hingeleftdoor", (0.0, -0.2), (0.377, 0.2), -0.015)),
    ("microwave", 0.01, _WALL, _frame_of("microroot", (-0.345, 0.0), (0.345, 0.374), -0.176)),
    *((f"knob {i}", 0.014, _FIXTURE, _bar(f"knob {i}", (0, -0.048, 0.038), (0, 0.048, 0.038))) for i in (1, 2, 3, 4)),
    ("light switch", 0.02, _HANDLE, _bar("lightswitchroot", (0, 0, 0), (0.0315, -0.075, 0))),
    ("sliding door", 0.012, _FIXTURE, _frame_of("slidelink", (-0.225, -0.195), (0.225, 0.195), -0.02)),
    ("its handle", 0.022, _HANDLE, _bar("slidelink", (-0.183, -0.123, -0.159), (-0.183, -0.123, 0.159))),
    ("right door", 0.012, _FIXTURE, _frame_of("hingerightdoor", (-0.378, -0.2), (0.0, 0.2), -0.015)),
    ("its handle", 0.022, _HANDLE, _bar("hingerightdoor", (-0.302, -0.128, -0.16), (-0.302, -0.128, 0.16))),
    ("microwave's door", 0.012, _FIXTURE, _frame_of("microdoorroot", (0.0, -0.185), (0.518, 0.185), -0.026)),
    ("its handle", 0.02, _HANDLE, _bar("microdoorroot", (0.475, -0.108, -0.13), (0.475, -0.108, 0.13))),
    ("kettle", 0.058, _FIXTURE, _bar("kettleroot", (-0.064, 0, 0.058), (0.064, 0, 0.058))),
    ("its left post", 0.02, _FIXTURE, _bar("kettleroot", (-0.092, 0, 0.1), (-0.092, 0, 0.25))),
    ("its right post", 0.02, _FIXTURE, _bar("kettleroot", (0.092, 0, 0.1), (0.092, 0, 0.25))),
    ("its handle", 0.03, _HANDLE, _bar("kettleroot", (-0.1, 0, 0.259), (0.1, 0, 0.259))),
    ("arm", 0.05, _ARM, [((a, 0, 0, 0), (b, 0, 0, 0)) for a, b in pairwise(_LINKS)]),
    ("hand", 0.035, _ARM, _bar("panda0_link7", (0, 0, 0), (0, 0, 0.15))),
    ("left finger", 0.012, _FINGER, _bar("panda0_leftfinger", (0, 0.012, 0), (0, 0.009, 0.088))),
    ("right finger", 0.012, _FINGER, _bar("panda0_rightfinger", (0, -0.012, 0), (0, -0.009, 0.088))),
]


class KitchenSketch:
    """What `lamo.envs.geometry.Outline` is to other environments, for a `KitchenEnv`."""

    view = "xz"

    def __init__(self, env: Any) -> None:
        import mujoco

        self._env, self._kinematics = env, mujoco.mj_kinematics
        self._data = mujoco.MjData(env.model)  # its own: looking does not touch the simulation
        edges = [(name, radius, colour, edge) for name, radius, colour, each in _PARTS for edge in each]
        self.parts: list[dict[str, Any]] = [
            {"name": name, "radius": radius, "colour": colour} for name, radius, colour, _ in edges
        ]
        ends = [end for *_, edge in edges for end in edge]
        self._bodies = np.array([env.model.body(body).id for body, *_ in ends])
        self._offsets = np.array([offset for _, *offset in ends], np.float64)

    def frame(self) -> NDArray[np.float64]:
        """(parts, 4) float64: x0, y0, x1, y1 of each segment now, in metres of the picture."""
        self._data.qpos[:] = self._env.data.qpos
        self._kinematics(self._env.model, self._data)
        turned = np.einsum("nij,nj->ni", self._data.xmat[self._bodies].reshape(-1, 3, 3), self._offsets)
        points = self._data.xpos[self._bodies] + turned
        return (points[:, [0, 2]] + points[:, 1:2] * _DEEPER).reshape(-1, 4)
