"""How each subtask of the kitchen is done: which handle, from where, and how the hand takes it. Data; the operator acts
on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Vector = tuple[float, float, float]
# Joint angles to lean to: bent for what stands on the counter, higher for the oven's panel and the cabinets.
_LOW = (-1.2, -1.5, 2.1, -1.5, -0.2, 1.5, 1.65)
_MIDDLE = (-1.2, -1.0, 1.35, -2.1, -0.6, 1.8, 1.4)
_HIGH = (-1.0, -0.6, 1.2, -2.0, -0.6, 1.6, 1.6)


@dataclass(frozen=True)
class Skill:
    """How one subtask is done. Offsets are of the hand from the handle, in metres: forward, right, up of the hand."""

    site: str
    """The handle, a site of the model."""
    joint: str
    """What it moves."""
    posture: tuple[float, ...]
    """Joint angles (7,) to lean to, in rad."""
    before: Vector
    """Where `approach` goes."""
    at: Vector
    """Where `reach` goes."""
    way: float = 0.0
    """Which way the joint goes: 1 or -1; 0 for the kettle, which goes to its goal freely."""
    yaw: float = 0.0
    pitch: float = 0.0
    level: float = 0.1
    """How much the pitch matters."""
    hand: Literal["fist", "fork", "grip"] = "grip"
    """Closed; open, with the handle between the fingers; or open until they close around the handle."""
    twists: bool = False
    """Whether the hand turns the handle about its own forward axis and stays where it is."""
    lead: float = 0.12
    """How far ahead of the handle the hand is aimed while it drives, in metres."""
    turning: float = 0.3
    """What a radian of turning is worth while it drives, in metres."""
    grasp: Vector = (0.0, 0.0, 0.0)
    """From the site, in its own axes: what to take hold of."""
    until: float = 0.2
    """The distance from the joint's goal at which it is let go; under 0.3 the subtask counts as finished."""
    after: Vector = (-0.15, 0.0, 0.0)
    """Where `leave` goes, from where the handle was let go."""


_KNOB = {"posture": _MIDDLE, "before": (-0.13, 0, 0), "at": (-0.03, 0, 0), "level": 1.0, "twists": True}
SKILLS: dict[str, Skill] = {
    "microwave": Skill(
        "microhandle_site", "microwave", _LOW, (-0.13, 0, 0), (0.005, 0, 0), way=-1, yaw=0.3, pitch=0.5,
        lead=0.08, turning=0.05,
    ),
    "kettle": Skill(
        "kettle_site", "kettle", _LOW, (-0.12, 0, 0), (-0.015, 0, 0), pitch=0.5,
        grasp=(-0.092, 0, -0.069),  # the left one of the two posts that carry the handle
    ),
    "bottom burner": Skill("knob2_site", "knob_Joint_2", **_KNOB),
    "top burner": Skill("knob4_site", "knob_Joint_4", **_KNOB),
    "light switch": Skill(
        "light_site", "light_switch", _MIDDLE, (-0.10, 0.07, 0), (0, 0.07, 0), way=-1, level=1.0,
        hand="fist",
    ),
    "slide cabinet": Skill(
        "slide_site", "slide_cabinet", _HIGH, (-0.13, 0, 0), (-0.005, 0, 0), way=1, level=1.0, hand="fork",
    ),
    "hinge cabinet": Skill(
        "hinge_site2", "right_hinge_cabinet", _HIGH, (-0.13, 0, 0), (0.005, 0, 0), way=1, lead=0.08, turning=0.05,
        after=(-0.12, 0, -0.35),  # below the open door
    ),
}  # fmt: skip
