"""One table of tasks: environment, horizon, return targets and scale, score references, dataset, published settings.

Numbers are those of LaMo (arXiv 2310.20587): its hyper-parameter tables and, where they are silent, its released code;
of tasks that it has not, those of the sources named beside them. A new task is one row.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lamo.errors import LamoError


@dataclass(frozen=True)
class Task:
    """What is fixed about a task; what is learned about it is not here."""

    name: str
    env: str
    """Gymnasium id of the environment."""
    horizon: int
    """Steps after which an episode is cut, and so the rows of the timestep embedding."""
    targets: tuple[float, ...]
    """Returns a policy is asked for at evaluation."""
    return_scale: float
    """Returns-to-go are divided by this before the model sees them."""
    score_range: tuple[float, float] | None
    """The returns whose normalised scores are 0 and 100; None where there is no agreed reference."""
    dataset: str | None
    """Embedded name or Minari id; None where the user brings the file."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Published settings that differ by task: context, learning_rate, weight_decay, embedding ("mlp" | "linear"),
    tanh_head.
    """
    baselines: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Published settings of the methods to compare with, where they differ by task: algorithm -> {setting: value}."""
    extra: str | None = None
    """The pip extra the environment needs, as in `pip install "lamo[robotics]"`."""
    description: str = ""

    def score(self, value: float) -> float | None:
        """The normalised score, 100 · (return - low) / (high - low), of one return; None without a `score_range`."""
        if self.score_range is None:
            return None
        low, high = self.score_range
        return 100.0 * (value - low) / (high - low)


@dataclass(frozen=True)
class Family:
    """An environment that behaviour can be collected from, with what its skill levels mean."""

    env: str
    skills: Mapping[str, tuple[float, float]]
    """Skill -> the band of mean returns its behaviour policy must fall into."""
    trainer: str = ""
    """How `lamo data collect` trains it, a name of `lamo.collecting.training.TRAINERS`; empty: by its actions."""


FAMILIES: dict[str, Family] = {
    # "medium" is the band of the published dataset, "expert" where PPO levels off here.
    "reacher2d": Family("Reacher2d-v0", {"medium": (30.0, 50.0), "expert": (55.0, 75.0)}, "ppo-sparse"),
    "hopper": Family("Hopper-v5", {}),
    "halfcheetah": Family("HalfCheetah-v5", {}),
    "walker2d": Family("Walker2d-v5", {}),
    "ant": Family("Ant-v5", {}),
    "reacher": Family("Reacher-v5", {}),
}

_MLP = {"context": 20, "learning_rate": 1e-4, "weight_decay": 1e-5, "embedding": "mlp", "tanh_head": False}
# Hopper alone has linear embeddings and a Tanh after its action head (paper, appendix on hyper-parameters; the released
# code agrees).
_HOPPER = {**_MLP, "embedding": "linear", "tanh_head": True}

# family: (environment, targets, score range, settings). The targets are the paper's two; its code evaluates more of
# them: hopper 3600 2600 2200 1800, halfcheetah 12000 8000 6000 4500, walker2d 5000 4000 3000 2500. Score ranges are
# D4RL's (random, expert).
_LOCOMOTION: dict[str, tuple[str, tuple[float, ...], tuple[float, float], dict[str, Any]]] = {
    "hopper": ("Hopper-v5", (1800.0, 3600.0), (-20.272305, 3234.3), _HOPPER),
    "halfcheetah": ("HalfCheetah-v5", (8000.0, 12000.0), (-280.178953, 12135.0), _MLP),
    "walker2d": ("Walker2d-v5", (2500.0, 5000.0), (1.629008, 4592.3), _MLP),
    # The paper has no ant: a target above D4RL's expert, as in its other rows, and half of it.
    "ant": ("Ant-v5", (2500.0, 5000.0), (-325.6, 3879.7), _MLP),
}
# D4RL's files of the ant have 111 numbers in an observation, which no Ant of Gymnasium has: `lamo.envs.ant`.
_D4RL_ENVS = {"ant": "AntD4RL-v0"}
# Minari's own recordings (its "medium" is not D4RL's "medium"); the two mixtures exist only as D4RL's files, which the
# user brings.
_MINARI = {
    "medium": "mujoco/{}/medium-v0",
    "expert": "mujoco/{}/expert-v0",
    "medium-replay": None,
    "medium-expert": None,
}


def _locomotion(family: str, data: str) -> Task:
    env, targets, score_range, settings = _LOCOMOTION[family]
    dataset = _MINARI[data]
    brought = "" if dataset else f" (give --dataset: D4RL's {family}_{data.replace('-', '_')}-v2.hdf5)"
    return Task(
        name=f"{family}-{data}",
        env=env if dataset else _D4RL_ENVS.get(family, env),
        horizon=1000,
        targets=targets,
        return_scale=1000.0,
        score_range=score_range,
        dataset=dataset.format(family) if dataset else None,
        settings=settings,
        description=f"{family}, dense reward, {data} behaviour{brought}",
    )


# Implicit Q-learning off locomotion, as its code has it (github.com/ikostrikov/implicit_q_learning, configs/): rewards
# as they are and a weaker pull towards advantages for Kitchen and Adroit; a reward less by 1 for AntMaze (0 at the
# goal, -1 before it). CORL's TD3+BC does the latter too.
_IQL_DEMONSTRATIONS = {"iql": {"temperature": 0.5, "dropout": 0.1, "reward_scaling": "none"}}
_ANTMAZE_BASELINES = {
    "iql": {"expectile": 0.9, "temperature": 10.0, "reward_scaling": "minus-one"},
    "td3bc": {"reward_scaling": "minus-one"},
}
_POINTMAZE_BASELINES = {"iql": {"reward_scaling": "none"}}  # CORL's maze2d

# data: (environment, dataset, what it holds). The four subtasks that pay are those of D4RL's sets: complete and partial
# share one kitchen, mixed has another. 280 steps are the environment's limit (the paper's code has room for 1000); its
# code evaluates targets 5 4 3 2 1.
_KITCHEN = {
    "complete": (
        "KitchenMicrowaveKettleLightSlider-v1",
        "kitchen-complete",
        "the four subtasks in order, in every episode",
    ),
    "partial": (
        "KitchenMicrowaveKettleLightSlider-v1",
        None,
        "subtasks in any order, in some episodes the four in order",
    ),
    "mixed": (
        "KitchenMicrowaveKettleBottomBurnerLight-v1",
        None,
        "subtasks in any order, never all four in an episode",
    ),
}


def _kitchen(data: str) -> Task:
    env, dataset, description = _KITCHEN[data]
    made = f"give --dataset: lamo data collect --task kitchen-{data} --policy operator"
    return Task(
        name=f"kitchen-{data}",
        env=env,
        horizon=280,
        targets=(4.0, 5.0),
        return_scale=1.0,
        score_range=(0.0, 4.0),
        dataset=dataset,
        settings=_MLP,
        baselines=_IQL_DEMONSTRATIONS,
        extra="kitchen",
        description=f"robot arm in a kitchen, sparse reward, {description} "
        f"({'comes with the package' if dataset else made})",
    )


# The paper trained on none of the tasks below; their settings are those of its MuJoCo rows. Targets of Adroit and
# AntMaze are those of CORL's Decision Transformer (arXiv 2210.07105: D4RL's expert, rounded up, and half of it; 1 and
# 0.5), score ranges those of D4RL's infos.py, data Minari's copies of D4RL's.
# family: (environment, horizon, targets, score range, what the hand does)
_ADROIT: dict[str, tuple[str, int, tuple[float, float], tuple[float, float], str]] = {
    "pen": ("AdroitHandPen100-v1", 100, (1550.0, 3100.0), (96.262799, 3076.8331017826877), "turns a pen"),
    "door": ("AdroitHandDoor-v1", 200, (1450.0, 2900.0), (-56.512833, 2880.5693087298737), "opens a door"),
    "hammer": ("AdroitHandHammer-v1", 200, (6400.0, 12800.0), (-274.856578, 12794.134825156867), "drives a nail"),
    "relocate": ("AdroitHandRelocate-v1", 200, (2150.0, 4300.0), (-6.425911, 4233.877797728884), "carries a ball"),
}
_ADROIT_DATA = {
    "human": "25 human demonstrations",
    "cloned": "imitators and demonstrations",
    "expert": "a trained expert",
}


def _adroit(family: str, data: str) -> Task:
    env, horizon, targets, score_range, what = _ADROIT[family]
    return Task(
        name=f"{family}-{data}",
        env=env,
        horizon=horizon,
        targets=targets,
        return_scale=1000.0,
        score_range=score_range,
        dataset=f"D4RL/{family}/{data}-v2",
        settings=_MLP,
        baselines=_IQL_DEMONSTRATIONS,
        extra="robotics",
        description=f"a hand of 24 joints {what}, {_ADROIT_DATA[data]}",
    )


# name: (environment, horizon, dataset, what it holds). An episode ends at the goal and pays 1 for it, in evaluation
# and, by cutting them there, in the data (`lamo.data.mazes`): a score is the percentage of goals that are reached. For
# the point that is not the score of D4RL's maze2d, which counts the steps spent at the goal.
_MAZES = {
    "antmaze-umaze": ("AntMazeUMaze-v0", 700, "D4RL/antmaze/umaze-v1", "one start and goal"),
    "antmaze-umaze-diverse": ("AntMazeUMaze-v0", 700, "D4RL/antmaze/umaze-diverse-v1", "random starts and goals"),
    "antmaze-medium-play": ("AntMazeMedium-v0", 1000, "D4RL/antmaze/medium-play-v1", "chosen starts and goals"),
    "antmaze-medium-diverse": ("AntMazeMedium-v0", 1000, "D4RL/antmaze/medium-diverse-v1", "random starts and goals"),
    "antmaze-large-play": ("AntMazeLarge-v0", 1000, "D4RL/antmaze/large-play-v1", "chosen starts and goals"),
    "antmaze-large-diverse": ("AntMazeLarge-v0", 1000, "D4RL/antmaze/large-diverse-v1", "random starts and goals"),
    "pointmaze-umaze": ("PointMazeUMaze-v0", 300, "D4RL/pointmaze/umaze-v2", "a planner with noise"),
    "pointmaze-medium": ("PointMazeMedium-v0", 600, "D4RL/pointmaze/medium-v2", "a planner with noise"),
    "pointmaze-large": ("PointMazeLarge-v0", 800, "D4RL/pointmaze/large-v2", "a planner with noise"),
}


def _maze(name: str) -> Task:
    env, horizon, dataset, data = _MAZES[name]
    return Task(
        name=name,
        env=env,
        horizon=horizon,
        targets=(0.5, 1.0),
        return_scale=1.0,
        score_range=(0.0, 1.0),
        dataset=dataset,
        settings=_MLP,
        baselines=_ANTMAZE_BASELINES if env.startswith("Ant") else _POINTMAZE_BASELINES,
        extra="robotics",
        description=f"{'an ant' if env.startswith('Ant') else 'a point'} in a maze, sparse reward: {data}",
    )


TASKS: dict[str, Task] = {
    "reacher2d-medium": Task(
        name="reacher2d-medium",
        env="Reacher2d-v0",
        horizon=100,
        targets=(40.0, 76.0),
        return_scale=10.0,
        score_range=(0.0, 100.0),
        dataset="reacher2d-medium",
        settings={**_MLP, "context": 5},
        description="two-link arm, sparse reward, behaviour of a half-trained PPO (comes with the package)",
    ),
    **{f"{family}-{data}": _locomotion(family, data) for family in _LOCOMOTION for data in _MINARI},
    **{f"kitchen-{data}": _kitchen(data) for data in _KITCHEN},
    **{f"{family}-{data}": _adroit(family, data) for family in _ADROIT for data in _ADROIT_DATA},
    **{name: _maze(name) for name in _MAZES},
}


def nearest(name: str, names: Mapping[str, Any] | list[str], count: int = 3) -> str:
    """The likeliest meant of `names`, or all of them when none is near, for an error's last words."""
    known = list(names)
    close = difflib.get_close_matches(name, known, n=count, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"


def get_task(name: str) -> Task:
    """The row of that name. Raises `LamoError` naming the nearest ones."""
    if name not in TASKS:
        raise LamoError(f"unknown task {name!r}; {nearest(name, TASKS)} (`lamo tasks` lists them)")
    return TASKS[name]


def base_name(env_id: str) -> str:
    """An environment id without its version: `Hopper-v5` -> `Hopper`."""
    head, _, version = env_id.rpartition("-v")
    return head if head and version.isdigit() else env_id


def env_family(name: str) -> Family:
    """What to collect from: a family (`reacher2d`), a task (`reacher2d-medium`) or an environment's id (`Hopper-v5`).

    Raises `LamoError` for a name that is none of them; whether Gymnasium knows an id is seen when it is made.
    """
    if name in FAMILIES:
        return FAMILIES[name]
    env = TASKS[name].env if name in TASKS else name
    for family in FAMILIES.values():
        if base_name(family.env) == base_name(env):
            return replace(family, env=env)
    head, _, version = env.rpartition("-v")
    if head and version.isdigit():
        return Family(env, {})
    hint = nearest(name, [*FAMILIES, *TASKS])
    raise LamoError(f"unknown task or environment {name!r}; {hint} (an environment's id ends in -vN)")


def reference_range(env_id: str) -> tuple[float, float] | None:
    """The returns whose normalised scores are 0 and 100 in an environment (any version); None where no row has them."""
    rows = (task for task in TASKS.values() if base_name(task.env) == base_name(env_id))
    return next((task.score_range for task in rows if task.score_range), None)


def task_for_env(env_id: str, returns: np.ndarray, horizon: int) -> Task:
    """A Task for data that has no row: from the row of the same environment (any version), else from the data's returns
    (E,).

    `horizon` is what environment and data need: the environment's own limit, or the longest episode where that is
    longer. Of the returns the targets are the 0.9 quantile and the largest, the scale is the power of ten below the
    largest |return| (what the paper's own rows follow), and there is no normalised score.
    """
    for row in TASKS.values():
        if base_name(row.env) == base_name(env_id):
            return Task(
                name=env_id,
                env=env_id,
                horizon=max(row.horizon, horizon),
                targets=row.targets,
                return_scale=row.return_scale,
                score_range=row.score_range,
                dataset=None,
                settings=row.settings,
                description=f"{env_id} with data of your own; targets, scale and score as in {row.name}",
            )
    returns = np.asarray(returns, np.float64)
    targets = sorted({_three_digits(float(np.quantile(returns, 0.9))), _three_digits(float(returns.max()))})
    largest = float(np.abs(returns).max())
    return Task(
        name=env_id,
        env=env_id,
        horizon=horizon,
        targets=tuple(targets),
        return_scale=10.0 ** math.floor(math.log10(largest)) if largest > 0 else 1.0,
        score_range=None,
        dataset=None,
        description=f"{env_id} with data of your own; targets are the 0.9 quantile and the largest of its returns",
    )


def _three_digits(value: float) -> float:
    return float(f"{value:.3g}")
