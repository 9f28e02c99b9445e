"""A MuJoCo environment as segments in a plane: enough to draw it anywhere, without GL.

Capsules and cylinders are segments with a radius, spheres segments of no length, boxes and ellipsoids their longest
axis. Planes, meshes and height fields are left out: the report draws the ground, and a mesh has no honest segment.
"""

# pyright: reportAttributeAccessIssue=false
# mujoco's own types live in compiled modules that say nothing to a type checker.

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_MARKED_SITES = ("target", "goal", "fingertip")


class Outline:
    """The geoms of an environment as segments, seen from above ("xy": flat arms) or from the side ("xz": walkers).

    `of(env)` is None for an environment without a MuJoCo model. `parts`: {"name", "radius" (metres), "colour"
    ("#rrggbb")} per segment, in the order of `frame()`, those underneath first.
    """

    def __init__(self, env: Any) -> None:
        import mujoco

        self._env, self._mujoco = env, mujoco
        self._model = env.model
        self._data = mujoco.MjData(self._model)  # its own: looking does not touch the simulation
        self.view = "xy" if self._flat() else "xz"
        kinds = mujoco.mjtGeom
        round_ones = (
            kinds.mjGEOM_CAPSULE,
            kinds.mjGEOM_CYLINDER,
            kinds.mjGEOM_SPHERE,
            kinds.mjGEOM_ELLIPSOID,
            kinds.mjGEOM_BOX,
        )
        # (is a site, index, axis of the segment or -1, half its length)
        self._shapes: list[tuple[bool, int, int, float]] = []
        self.parts: list[dict[str, Any]] = []
        model = self._model
        sites = [i for i in range(model.nsite) if model.site(i).name in _MARKED_SITES]
        for i in (i for i in sites if model.site(i).name != "fingertip"):
            self._add(True, i, -1, 0.0, float(model.site_size[i][0]), model.site(i).name, model.site_rgba[i])
        for i in range(model.ngeom):
            kind, size = model.geom_type[i], model.geom_size[i]
            material = int(model.geom_matid[i])
            rgba = model.geom_rgba[i] if material < 0 else model.mat_rgba[material]
            if kind not in round_ones or rgba[3] == 0:
                continue
            axis, half, radius = -1, 0.0, float(size[0])
            if kind in (kinds.mjGEOM_CAPSULE, kinds.mjGEOM_CYLINDER):
                axis, half = 2, float(size[1])
            elif kind in (kinds.mjGEOM_BOX, kinds.mjGEOM_ELLIPSOID):
                axis = int(np.argmax(size))
                radius = float(np.median(size))
                half = float(size[axis]) - radius
            self._add(False, i, axis, half, radius, model.geom(i).name, rgba)
        for i in (i for i in sites if model.site(i).name == "fingertip"):
            self._add(True, i, -1, 0.0, float(model.site_size[i][0]), model.site(i).name, model.site_rgba[i])

    @classmethod
    def of(cls, env: Any) -> Any:
        """Of a Gymnasium environment, however wrapped; None where it is not MuJoCo's.

        An environment that knows better has an `outline()`: something with `view`, `parts` and `frame()`.
        """
        inner = env.unwrapped
        if callable(own := getattr(inner, "outline", None)):
            return own()
        return cls(inner) if type(getattr(inner, "model", None)).__name__ == "MjModel" else None

    def frame(self) -> NDArray[np.float64]:
        """(parts, 4) float64: x0, y0, x1, y1 of each segment now, in metres; y is the height in the side view."""
        data, source = self._data, self._env.data
        data.qpos[:], data.mocap_pos[:], data.mocap_quat[:] = source.qpos, source.mocap_pos, source.mocap_quat
        # The simulation's own positions are a stage behind its joints after a step; these are of the joints now.
        self._mujoco.mj_kinematics(self._model, data)
        plane = [0, 1] if self.view == "xy" else [0, 2]
        rows = np.empty((len(self._shapes), 4))
        for row, (site, index, axis, half) in zip(rows, self._shapes, strict=True):
            middle = (data.site_xpos if site else data.geom_xpos)[index][plane]
            reach = half * data.geom_xmat[index].reshape(3, 3)[plane, axis] if axis >= 0 else 0.0
            row[:2], row[2:] = middle - reach, middle + reach
        return rows

    def _add(self, site: bool, index: int, axis: int, half: float, radius: float, name: str, rgba: Any) -> None:
        self._shapes.append((site, index, axis, half))
        colour = "#" + "".join(f"{round(255 * min(max(float(c), 0.0), 1.0)):02x}" for c in rgba[:3])
        self.parts.append({"name": name, "radius": round(radius, 4), "colour": colour})

    def _flat(self) -> bool:
        """Whether every joint keeps to the ground plane: hinges upright, slides level."""
        model = self._model
        self._mujoco.mj_kinematics(model, self._data)
        upright = np.abs(self._data.xaxis[:, 2])
        kinds = self._mujoco.mjtJoint
        hinge, slide = (model.jnt_type == int(kind) for kind in (kinds.mjJNT_HINGE, kinds.mjJNT_SLIDE))
        return bool(np.all((hinge & (upright > 0.99)) | (slide & (upright < 0.01))))
