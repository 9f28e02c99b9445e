"""What a dataset's picture is drawn from."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lamo.data import portrait as module
from lamo.data.inspect import inspect
from lamo.data.join import join
from lamo.data.portrait import CURVE, _curve, _sample, histogram, portrait
from lamo.data.store_writer import write_store


@settings(max_examples=150, deadline=None)
@given(hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_a_histogram_counts_everything_once(values):
    found = histogram(values)
    assert sum(found["counts"]) == len(values)
    assert found["low"] <= values.min() and values.max() <= found["high"] and found["low"] < found["high"]


def test_whole_numbers_have_a_bin_each():
    assert histogram(np.array([3, 3, 5])) == {"low": 2.5, "high": 5.5, "counts": [2, 0, 1]}
    assert histogram(np.array([4, 4])) == {"low": 2.5, "high": 5.5, "counts": [0, 2, 0]}
    assert sum(histogram(np.array([0.0, 1.0, 9.0]), 0.0, 1.0)["counts"]) == 2


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 600), st.integers(0, 9))
def test_a_sample_takes_one_step_of_each_stretch(steps, count, seed):
    rows = _sample(steps, count, np.random.default_rng(seed))
    assert len(rows) == min(steps, count)
    assert (np.diff(rows) > 0).all() and rows[0] >= 0 and rows[-1] < steps
    assert np.abs(rows - np.linspace(0, steps, len(rows), endpoint=False)).max() <= steps / len(rows) + 1


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 2000), st.integers(0, 9))
def test_a_curve_keeps_its_ends_in_height(length, seed):
    values = np.random.default_rng(seed).normal(size=length)
    points = np.array(_curve(np.arange(length), values))
    assert len(points) <= max(CURVE, 1)
    assert points[:, 1].min() == values.min() and points[:, 1].max() == values.max()
    np.testing.assert_array_equal(values[points[:, 0].astype(int)], points[:, 1])
    assert (np.diff(points[:, 0]) > 0).all()


def test_the_figures(make_episodes):
    episodes = make_episodes([4, 6, 5, 5, 20], final=True)
    found = portrait(episodes, (np.array([-1.0, -1.0]), np.array([1.0, np.inf])))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert sum(found["returns"]["counts"]) == 5 and sum(found["rewards"]["counts"]) == 40
    assert found["sampled"] == 40 and len(found["observations"]) == 3
    first = found["observations"][0]
    column = episodes.observations[:, 0]
    assert (first["low"], first["high"]) == (column.min(), column.max())
    assert first["mean"] == pytest.approx(column.mean(), abs=1e-6)
    assert first["quantiles"][2] == pytest.approx(np.median(column), abs=0.2)
    assert found["actions"][0]["bounds"] == [-1.0, 1.0] and found["actions"][1]["bounds"] == [-1.0, None]
    assert found["actions"][0]["histogram"]["low"] == -1.0
    (pair,) = found["pairs"]
    assert pair["dims"] == [0, 1] and {level for _, _, level in pair["cells"]} <= {1, 2, 3, 4, 5}
    best, median, worst = found["episodes"]
    assert best["return"] == episodes.returns.max() and worst["return"] == episodes.returns.min()
    assert median["return"] == np.median(episodes.returns)
    assert best["return_to_go"][0][1] == best["return"]


def test_what_is_flagged(make_episodes):
    episodes = make_episodes([500, 500], width=5)
    episodes.observations[:, 0] = 7
    episodes.observations[:, 1] = 1 + 1e-7 * (np.arange(1000) % 2)
    episodes.observations[:, 2] = np.arange(1000) % 3
    episodes.observations[17, 3] = 1e6
    flags = [found["flags"] for found in portrait(episodes)["observations"]]
    assert flags == [["constant"], ["nearly constant"], ["3 values"], ["stray values"], []]
    assert [line["dim"] for line in portrait(episodes)["episodes"][0]["observations"]] == [1, 2, 3, 4]


def test_choices(make_episodes):
    found = portrait(make_episodes([40] * 5, actions=0), (np.array([0]), np.array([5])))
    assert sum(count for _, count in found["choices"]) == 200
    assert (found["choices_seen"], found["choices_known"], found["choices_missing"]) == (4, 6, [4, 5])
    identifiers = replace(make_episodes([300], actions=0), actions=np.arange(300) * 10**15)
    found = portrait(identifiers, (np.array([0]), np.array([10**18])))
    assert len(found["choices"]) == 64 and found["choices_seen"] == 300 and found["choices_missing"] == []


def test_several_choices_at_once(make_episodes, monkeypatch):
    monkeypatch.setattr(module, "SAMPLE", 100)  # rare choices are not in the sample
    steps = np.arange(2_000)
    actions = np.stack([steps % 7, steps % 500, np.where(steps == 1_000, 3, 1)], 1)
    episodes = replace(make_episodes([400] * 5, actions=-3), actions=actions)
    found = portrait(episodes, (np.zeros(3), np.array([9, 999, 3])))
    assert (found["action_kind"], found["action_dim"]) == ("multidiscrete", 3)
    assert [each["flags"] for each in found["actions"]] == [[f"{n} choices not seen"] for n in (3, 500, 2)]
    assert found["actions"][0]["histogram"]["counts"][7:] == [0, 0, 0]
    assert all(each["flags"] == [] for each in portrait(episodes)["actions"])


def test_few_rewards_are_counted_one_by_one(make_episodes):
    episodes = make_episodes([40] * 5)
    episodes.rewards[:] = np.arange(200) % 2
    assert portrait(episodes)["rewards"] == {"values": [[0.0, 100], [1.0, 100]]}


def test_wide_data_stays_small(make_episodes, monkeypatch):
    monkeypatch.setattr(module, "SAMPLE_VALUES", 600 * 50)
    found = portrait(make_episodes([100, 100], width=600, actions=300))
    assert found["sampled"] == 50
    assert len(found["observations"]) == len(found["actions"]) == module.MAX_DIMS
    assert found["observation_dim"] == 600 and found["pairs"] == []


def test_one_episode_of_one_step(make_episodes):
    found = portrait(make_episodes([1], actions=1))
    assert [each["name"] for each in found["episodes"]] == ["best and median and worst"]
    assert found["scatter"] == [] and found["order"] == [[0.0, found["episodes"][0]["return"]]]


def test_names_where_the_source_tells_sizes(make_episodes):
    told = {"observation_keys": ["goal", "arm/x"], "observation_sizes": [2, 1]}
    assert portrait(make_episodes([9], metadata=told))["names"] == ["goal[0]", "goal[1]", "arm/x"]
    assert portrait(make_episodes([9], metadata={**told, "observation_sizes": [9, 1]}))["names"] is None


def test_large_and_equal_returns_have_a_histogram(make_episodes):
    episodes = make_episodes([3, 3])
    episodes.rewards[:] = 1e30
    assert sum(inspect(episodes)["return_histogram"]["counts"]) == 2
    assert sum(portrait(episodes)["returns"]["counts"]) == 2


def test_a_store_is_drawn_like_what_it_holds(make_episodes, tmp_path):
    episodes = make_episodes([40, 30, 50])
    stored = write_store(episodes, tmp_path / "a.lamo")
    assert stored.mapped and portrait(stored) == portrait(episodes)
    parts = join([write_store(episodes.select([e]), tmp_path / f"{e}.lamo") for e in range(3)])
    drawn = portrait(parts)  # statistics of several are put together: the last digits differ
    assert drawn["returns"] == portrait(episodes)["returns"] and drawn["pairs"] == portrait(episodes)["pairs"]
    choices = make_episodes([40, 30], actions=0)
    assert portrait(write_store(choices, tmp_path / "c.lamo")) == portrait(choices)
