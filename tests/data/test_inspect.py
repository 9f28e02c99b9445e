from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium import spaces

from lamo.data.inspect import inspect, outside_bounds, render


def world(observation: spaces.Space, action: spaces.Space) -> SimpleNamespace:
    return SimpleNamespace(observation_space=observation, action_space=action)


@pytest.fixture
def episodes(make_episodes):
    return make_episodes([4, 6, 5, 5, 20], ends=["terminated", "truncated", "terminated", "truncated", "truncated"])


FITTING = world(spaces.Box(-9, 9, (3,)), spaces.Box(-1.5, 1.5, (2,)))


def problems(episodes, env=None) -> str:
    return "\n".join(inspect(episodes, env)["problems"])


def test_the_figures(episodes):
    report = inspect(episodes, FITTING)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    returns = episodes.returns
    assert (report["episodes"], report["steps"]) == (5, 40)
    assert report["return_mean"] == pytest.approx(returns.mean())
    assert report["return_max"] == returns.max()
    assert report["return_min"] == returns.min()
    assert report["return_quantiles"]["0.5"] == pytest.approx(np.median(returns))
    assert sum(report["return_histogram"]["counts"]) == 5
    assert (report["length_min"], report["length_max"], report["length_mean"]) == (4, 20, 8.0)
    assert (report["observation_dim"], report["action_dim"], report["action_kind"]) == (3, 2, "continuous")
    assert report["observation_low"] == episodes.observations.min(axis=0).tolist()
    assert report["ended"] == {"terminated": 2, "truncated": 3, "unfinished": 0}
    assert report["digest"] == episodes.digest()
    assert report["problems"] == []


def test_discrete_actions(make_episodes):
    episodes = make_episodes([40] * 5, actions=0)
    report = inspect(episodes, world(spaces.Box(-9, 9, (3,)), spaces.Discrete(4)))
    assert report["action_kind"] == "discrete"
    assert sum(report["action_counts"].values()) == 200
    assert report["problems"] == []
    assert "outside the bounds" in problems(episodes, world(spaces.Box(-9, 9, (3,)), spaces.Discrete(3)))
    assert "4 choices seen" in render(report)


def test_observations_that_teach_nothing(episodes):
    episodes.observations[:, 1] = 7
    episodes.observations[:, 2] = 1 + 1e-7 * (np.arange(40) % 2)
    assert "observation dimensions 1 never change" in problems(episodes)
    assert "observation dimensions 2 change by no more than 1e-06" in problems(episodes)


def test_sizes_that_are_not_the_environment_s(episodes):
    other = world(spaces.Box(-9, 9, (4,)), spaces.Box(-1, 1, (3,)))
    assert "observations have 3 numbers, the environment's have 4" in problems(episodes, other)
    assert "actions have 2 numbers, the environment's have 3" in problems(episodes, other)
    nested = spaces.Dict(a=spaces.Discrete(2), b=spaces.Tuple((spaces.Box(0, 1, (2, 2)), spaces.MultiDiscrete([2, 3]))))
    assert "the environment's have 11" in problems(episodes, world(nested, FITTING.action_space))


def test_actions_outside_the_bounds_are_counted(episodes):
    episodes.actions[3:10] = 2
    assert "7 of 40 steps (17.5 %) have an action outside the bounds" in problems(episodes, FITTING)
    known = replace(episodes, metadata={**episodes.metadata, "action_low": [-1.5] * 2, "action_high": [1.5] * 2})
    assert "7 of 40 steps" in problems(known)  # as the source recorded them
    assert problems(episodes) == ""  # nothing is known
    assert outside_bounds(episodes, [-3, -3], [3, 3]) == 0
    exact = replace(episodes, actions=np.full((40, 2), np.float32(0.1)))
    assert outside_bounds(exact, [-0.1] * 2, [0.1] * 2) == 0  # float32's 0.1 is above 0.1


def test_saturated_actions(episodes):
    episodes.actions[:20, 1] = 1.5
    assert "action dimension 1 is at or beyond its bounds in 50 % of the steps" in problems(episodes, FITTING)
    assert "dimension 0" not in problems(episodes, FITTING)


def test_rewards_that_tell_nothing(episodes, make_episodes):
    paid = replace(episodes, rewards=np.ones(40, np.float32))
    assert "every reward" not in problems(paid), "it pays to live longer"
    assert "every reward is 1" in problems(replace(paid, terminated=np.zeros(5, bool), truncated=np.ones(5, bool)))
    assert "every reward is 0" in problems(replace(episodes, rewards=np.zeros(40, np.float32)))
    equal = make_episodes([2] * 5)
    equal.rewards[:] = np.tile([0, 1], 5)
    assert "every episode has the return 1" in problems(equal)


def test_episodes_that_repeat(make_episodes):
    episodes = make_episodes([3, 4, 3, 3, 5]).select([0, 1, 0, 2, 3, 4, 0])
    assert "2 episodes repeat another one exactly (0 = 0, 0 = 0)" in problems(episodes)
    changed = replace(episodes, ids=np.arange(7))
    changed.actions[7, 0] += 1  # episode 2 now differs in one action
    assert "1 episodes repeat another one exactly (6 = 0)" in problems(changed)


def test_how_episodes_end(make_episodes):
    kinds = ["terminated", "truncated", "unfinished", "unfinished", "terminated"]
    episodes = make_episodes([1, 4, 5, 6, 7], ends=kinds)
    assert "2 episodes end with neither a terminal nor a timeout (2, 3)" in problems(episodes)
    assert "1 episodes have one step only (0)" in problems(episodes)
    assert inspect(episodes)["ended"] == {"terminated": 2, "truncated": 1, "unfinished": 2}
    both = replace(episodes, truncated=~episodes.unfinished)
    assert "2 episodes end with a terminal and a timeout at once (0, 4)" in problems(both)
    assert inspect(both)["ended"] == {"terminated": 2, "truncated": 1, "unfinished": 2}  # they add up
    inside = replace(episodes, metadata={**episodes.metadata, "ends_inside": 3})
    assert "3 ends are marked inside episodes" in problems(inside)
    assert "there are 1 episodes in all" in problems(episodes.select([1]))


def test_rendering(episodes):
    text = render(inspect(episodes, FITTING))
    assert text.splitlines()[0] == "made  (in memory)"
    for word in (
        "episodes     5",
        "steps        40",
        "2 terminated, 3 truncated, 0 unfinished",
        "nothing looks wrong",
        "█",
    ):
        assert word in text
    assert max(map(len, text.splitlines())) < 100
    episodes.observations[:, 1] = 7
    assert "    - observation dimensions 1 never change" in render(inspect(episodes))


def test_rendering_of_one_episode(make_episodes):
    assert "█" in render(inspect(make_episodes([1])))
