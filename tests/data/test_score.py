"""Returns as scores."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lamo.cli import main
from lamo.data.relabel import scaled
from lamo.data.rewrite import relabel
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


def test_another_environment_s_task(capsys):
    for env, task in (("Reacher2d-v0", "hopper-medium"), ("KitchenMicrowaveKettleLightSlider-v1", "kitchen-mixed")):
        with pytest.raises(LamoError, match=rf"mine: was recorded in {env}, but --task {task} scores returns in "):
            reference({"env": env, "source": "mine"}, task)
    for env in ("Hopper-v2", "hopper-medium-v2", "hopper-expert"):
        assert reference({"env": env, "source": "mine"}, "hopper-medium").tasks == ("hopper-medium",)
    assert capsys.readouterr().err == ""
    assert reference({"env": "MyHopper-v0", "source": "mine"}, "hopper-medium").high == 3234.3
    assert "mine: was recorded in MyHopper-v0; scored as if in Hopper-v" in capsys.readouterr().err


def test_a_log_without_rewards_has_no_scores(tmp_path, capsys):
    store = tmp_path / "x.lamo"
    assert main(["data", "score", "reacher2d-medium", "--reward", "none"]) == 2
    assert "--reward none; without rewards, no scores" in capsys.readouterr().err
    assert main(["data", "convert", "reacher2d-medium", str(store), "--reward", "none"]) == 0
    assert main(["data", "score", str(store)]) == 2
    assert main(["data", "score", str(store), "--out", str(tmp_path / "y.lamo")]) == 2
    assert not (tmp_path / "y.lamo").exists()
    paid = relabel(store, tmp_path / "paid.lamo", scaled(1.0, 1.0, None))
    assert paid.returns.min() > 0 and "unrewarded" not in paid.metadata


def test_relabelled_rewards_are_pointed_out(make_episodes):
    metadata = {"env": "Hopper-v5", "source": "x", "history": [{"rewards": "scaled: …"}]}
    found = score([make_episodes([4])], metadata)
    assert "scaled: …" in found["warning"] and "not comparable" in render(found)
