"""`lamo train` for every row of `lamo tasks`: 200 gradient steps and one evaluation, on data made here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lamo.cli import main
from lamo.data.sources import embedded, load_episodes
from lamo.runs import Run
from lamo.tasks import TASKS

EPISODES = 3
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Environment -> episodes recorded in it; filled as rows ask for them."""
    return {"": tmp_path_factory.mktemp("recordings")}


def record(env: str, task: str, recordings: dict[str, Path]) -> str:
    """A file of a few episodes: of random actions, in the kitchen of its operator."""
    if env not in recordings:
        out = recordings[""] / f"{env}.hdf5"
        policy = ["operator"] if env.startswith("Kitchen") else ["random", "--horizon", "100"]
        asked = ["data", "collect", "--task", task, "--episodes", str(EPISODES), "--out", str(out)]
        assert main([*asked, "--quiet", "--policy", *policy]) == 0
        recordings[env] = out
    return str(recordings[env])


@pytest.mark.parametrize("name", TASKS)
def test_a_row_trains_and_is_evaluated(
    name: str, recordings: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = TASKS[name]
    data = task.dataset if task.dataset in embedded() else record(task.env, name, recordings)
    assert data is not None
    capsys.readouterr()
    shorter = [
        "--steps",
        "200",
        "--eval-episodes",
        "1",
        "--batch-size",
        "8",
        "--language-weight",
        "0",
        "--corpus",
        "none",
    ]
    asked = ["--task", name, "--dataset", data, "--out", str(tmp_path / "run"), "--device", "cpu", "--quiet", "--json"]
    assert main(["train", *asked, *shorter]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["finished"] and told["steps"] == 200
    assert [row["target"] for row in told["final"]["targets"]] == list(task.targets)
    assert (told["final"]["targets"][0]["score_mean"] is None) == (task.score_range is None)
    run = Run.open(tmp_path / "run")
    assert run.provenance["task"]["name"] == name and run.provenance["spec"]["env"] == task.env
    assert run.provenance["spec"]["observation_dim"] == load_episodes(data).observations.shape[1]
