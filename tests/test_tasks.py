"""The table of tasks, and the task of data that has no row."""

from __future__ import annotations

import numpy as np
import pytest

from lamo.envs.pool import EnvPool
from lamo.errors import LamoError
from lamo.tasks import FAMILIES, TASKS, base_name, env_family, get_task, task_for_env


@pytest.mark.parametrize("name", TASKS)
def test_rows_are_whole(name: str) -> None:
    task = get_task(name)
    assert task.name == name and task.description and task.targets == tuple(sorted(task.targets))
    assert set(task.settings) == {"context", "learning_rate", "weight_decay", "embedding", "tanh_head"}
    assert task.settings["embedding"] in ("mlp", "linear")
    with EnvPool(task.env) as pool:
        assert pool.max_episode_steps == task.horizon


def test_rows_of_the_published_tables() -> None:
    kitchens = {"kitchen-complete", "kitchen-partial", "kitchen-mixed"}
    locomotion = {
        f"{env}-{kind}"
        for env in ("hopper", "halfcheetah", "walker2d", "ant")
        for kind in ("medium", "medium-replay", "medium-expert", "expert")
    }
    adroit = {
        f"{env}-{kind}" for env in ("pen", "door", "hammer", "relocate") for kind in ("human", "cloned", "expert")
    }
    ants = {f"antmaze-{kind}" for kind in ("umaze", "umaze-diverse", "medium-play", "medium-diverse")}
    mazes = ants | {"antmaze-large-play", "antmaze-large-diverse"}
    mazes |= {f"pointmaze-{size}" for size in ("umaze", "medium", "large")}
    assert set(TASKS) == {"reacher2d-medium"} | kitchens | locomotion | adroit | mazes
    reacher = TASKS["reacher2d-medium"]
    assert (reacher.horizon, reacher.targets, reacher.return_scale) == (100, (40.0, 76.0), 10.0)
    assert reacher.settings["context"] == 5 and TASKS["walker2d-medium"].settings["context"] == 20
    linear = {name for name, task in TASKS.items() if task.settings["embedding"] == "linear"}
    assert linear == {name for name, task in TASKS.items() if task.settings["tanh_head"]}
    assert {TASKS[name].env for name in linear} == {"Hopper-v5"}
    assert TASKS["hopper-medium"].dataset == "mujoco/hopper/medium-v0"
    assert TASKS["hopper-medium-replay"].dataset is None


def test_kitchen_rows() -> None:
    rows = {name: TASKS[f"kitchen-{name}"] for name in ("complete", "partial", "mixed")}
    assert {(row.targets, row.return_scale, row.score_range, row.extra) for row in rows.values()} == {
        ((4.0, 5.0), 1.0, (0.0, 4.0), "kitchen")
    }
    assert rows["complete"].env == rows["partial"].env != rows["mixed"].env
    assert [rows["mixed"].score(done) for done in (0.0, 1.0, 4.0)] == [0.0, 25.0, 100.0]


def test_rows_of_other_sources() -> None:
    assert (TASKS["ant-medium"].env, TASKS["ant-medium-replay"].env) == ("Ant-v5", "AntD4RL-v0")
    assert TASKS["ant-expert"].score(3879.7) == pytest.approx(100.0)
    pen = TASKS["pen-human"]
    assert (pen.horizon, pen.dataset, pen.extra) == (100, "D4RL/pen/human-v2", "robotics")
    assert pen.score(96.262799) == pytest.approx(0.0) and pen.score(3076.8331017826877) == pytest.approx(100.0)
    for name, task in TASKS.items():
        if "maze" in name:
            assert task.score_range == (0.0, 1.0) and task.targets == (0.5, 1.0) and task.return_scale == 1.0
    assert TASKS["antmaze-large-play"].dataset == "D4RL/antmaze/large-play-v1"


def test_score() -> None:
    assert TASKS["reacher2d-medium"].score(40.0) == 40.0
    assert TASKS["hopper-medium"].score(3234.3) == pytest.approx(100.0)
    assert TASKS["hopper-medium"].score(-20.272305) == pytest.approx(0.0)


def test_unknown_task_names_the_nearest() -> None:
    with pytest.raises(LamoError, match="did you mean hopper-medium"):
        get_task("hoper-medium")
    with pytest.raises(LamoError, match="known: reacher2d-medium"):
        get_task("!")


def test_base_name() -> None:
    assert [base_name(n) for n in ("Hopper-v5", "ALE/Pong-v5", "Odd", "a-vb")] == ["Hopper", "ALE/Pong", "Odd", "a-vb"]


def test_task_of_an_environment_with_a_row() -> None:
    task = task_for_env("Hopper-v4", np.array([100.0]), 700)
    row = TASKS["hopper-medium"]
    assert task.env == "Hopper-v4" and task.dataset is None
    assert (task.horizon, task.targets, task.score_range) == (1000, row.targets, row.score_range)


@pytest.mark.parametrize(
    ("returns", "targets", "scale"),
    [
        ([-60.0, -8.0, -4.0], (-4.8, -4.0), 10.0),
        ([0.0, 0.0], (0.0,), 1.0),
        ([0.2, 0.5], (0.47, 0.5), 0.1),
        ([3600.0] * 5, (3600.0,), 1000.0),
    ],
)
def test_task_of_data_alone(returns: list[float], targets: tuple[float, ...], scale: float) -> None:
    task = task_for_env("Reacher-v4", np.array(returns), 50)
    assert task.targets == pytest.approx(targets) and task.return_scale == pytest.approx(scale)
    assert task.horizon == 50 and task.score(1.0) is None and task.settings == {}


def test_families() -> None:
    assert env_family("reacher2d") is FAMILIES["reacher2d"]
    assert env_family("reacher2d-medium").env == "Reacher2d-v0"
    assert env_family("reacher2d-medium").skills == FAMILIES["reacher2d"].skills
    assert env_family("Hopper-v4").env == "Hopper-v4"
    assert env_family("CartPole-v1").env == "CartPole-v1"
    with pytest.raises(LamoError, match="did you mean reacher2d"):
        env_family("reacher2")
