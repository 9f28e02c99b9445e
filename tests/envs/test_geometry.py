"""Segments that draw a MuJoCo environment."""

from __future__ import annotations

import numpy as np
import pytest

from lamo.envs.geometry import Outline
from lamo.envs.pool import make


@pytest.mark.parametrize(
    ("name", "view", "parts"),
    [
        ("Reacher2d-v0", "xy", ["target", "upper", "fore", "fingertip"]),
        ("Reacher-v5", "xy", ["sideS", "sideE", "sideN", "sideW", "root", "link0", "link1", "fingertip", "target"]),
        ("Hopper-v5", "xz", ["torso_geom", "thigh_geom", "leg_geom", "foot_geom"]),
        ("HalfCheetah-v5", "xz", ["torso", "head", "bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot"]),
        ("Walker2d-v5", "xz", None),
    ],
)
def test_views_and_parts(name: str, view: str, parts: list[str] | None) -> None:
    env = make(name)
    outline = Outline.of(env)
    assert outline is not None and outline.view == view
    assert parts is None or [part["name"] for part in outline.parts] == parts
    env.reset(seed=0)
    frame = outline.frame()
    assert frame.shape == (len(outline.parts), 4) and np.isfinite(frame).all() and np.abs(frame).max() < 3
    assert all(part["radius"] > 0 and len(part["colour"]) == 7 for part in outline.parts)
    if view == "xz":
        radii = np.array([part["radius"] for part in outline.parts])
        assert (frame[:, [1, 3]].min(axis=1) - radii).min() > -0.1  # it stands on the ground at height 0


def test_segments_of_the_arm_are_its_links() -> None:
    env = make("Reacher2d-v0")
    inner = env.unwrapped
    env.reset(seed=1)
    outline = Outline.of(env)
    assert outline is not None
    for _ in range(5):
        target, upper, fore, fingertip = outline.frame()
        np.testing.assert_allclose(target, [*inner.target, *inner.target])
        np.testing.assert_allclose(upper[2:], 0, atol=1e-9)  # MuJoCo's capsules point from their end to their start
        np.testing.assert_allclose(upper[:2], fore[2:], atol=1e-9)
        assert np.hypot(*(fore[2:] - fore[:2])) == pytest.approx(0.4)
        np.testing.assert_allclose(fingertip[:2], inner.fingertip)
        env.step(np.array([1.0, -0.5]))


def test_looking_leaves_the_simulation_alone() -> None:
    ends = []
    for look in (False, True):
        env = make("Hopper-v5")
        env.reset(seed=4)
        outline = Outline.of(env)
        for _ in range(10):
            observation, *_ = env.step(np.full(3, 0.3))
            if look and outline:
                outline.frame()
        ends.append(observation)
    np.testing.assert_array_equal(*ends)


def test_other_environments_have_no_outline() -> None:
    assert Outline.of(make("CartPole-v1")) is None
