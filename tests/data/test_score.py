"""Returns as scores."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lamo.data.score import in_metadata, reference, render, score
from lamo.errors import LamoError
from lamo.tasks import get_task


def test_scores_are_the_task_s(make_episodes):
    episodes = make_episodes([4, 6, 5], metadata={"env": "Hopper-v4", "source": "mine"})
    found = score(episodes.blocks(100) if hasattr(episodes, "blocks") else [episodes], episodes.metadata)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    task = get_task("hopper-medium")
    assert [row["score"] for row in found["episode_scores"]] == pytest.approx(
        [task.score(value) for value in episodes.returns]
    )
    assert found["score_range"] == [-20.272305, 3234.3] and "hopper-medium" in found["tasks"]
    assert found["score_mean"] == pytest.approx(np.mean([row["score"] for row in found["episode_scores"]]))
    assert found["score_quantiles"]["0.5"] == pytest.approx(np.median([r["score"] for r in found["episode_scores"]]))
    assert found["warning"] is None
    assert "terminated" in render(found, table=True) and "terminated" not in render(found)
    assert "episode_scores" not in in_metadata(found)


def test_a_task_given_by_name(make_episodes):
    episodes = make_episodes([4, 6])
    assert reference(episodes.metadata, "kitchen-mixed").low == 0
    with pytest.raises(LamoError, match="does not name its environment"):
        reference(episodes.metadata)
    with pytest.raises(LamoError, match="no task has scores for Foo-v1"):
        reference({"env": "Foo-v1"})
    with pytest.raises(LamoError, match="unknown task"):
        reference(episodes.metadata, "hoper")


def test_relabelled_rewards_are_pointed_out(make_episodes):
    metadata = {"env": "Hopper-v5", "source": "x", "history": [{"rewards": "scaled: …"}]}
    found = score([make_episodes([4])], metadata)
    assert "scaled: …" in found["warning"] and "not comparable" in render(found)
