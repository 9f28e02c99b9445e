"""From an `Experiment` to what it trains on: data checked against the environment, the task's facts, the device."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lamo.config import DEVICES, Experiment, Spec, flag
from lamo.data.actions import KIND_WORDS, action_scaling, unbounded
from lamo.data.episodes import Episodes
from lamo.data.inspect import holds_whole_vectors, outside_bounds, pays_alike
from lamo.data.relabel import warning as relabelled
from lamo.data.sources import load_episodes
from lamo.data.sources.options import UnstatedActions, listed
from lamo.data.sources.parts import UnknownParts, parts_of
from lamo.data.split import held_out_rows, hold_out
from lamo.errors import LamoError, warn
from lamo.tasks import Task, base_name, get_task, task_for_env

if TYPE_CHECKING:
    from lamo.envs.pool import EnvPool

MAX_CHOICES = 1 << 16  # each has an embedding; more are amounts, or identifiers


READ_BY = ("columns", "obs_keys", "actions", "reward")  # settings that decide how a dataset is read
_warn_once = functools.cache(warn)  # of what runs of several seeds share
Parts = tuple[Sequence[str], Sequence[int]]
"""The keys of an environment's observations, and how many numbers each has."""


class Setup(NamedTuple):
    """What a learner is built from."""

    episodes: Episodes
    """What is trained on: the chosen share of the dataset, without what is held out."""
    task: Task
    """The task's row, or one made up from the environment and the data; its targets are those of the run."""
    spec: Spec
    device: str
    """cpu, cuda or cuda:N."""
    held_out: Episodes | None = None
    """Episodes of the chosen share that training never sees."""


def read(experiment: Experiment, known: Spec | None = None, parts: Parts | None = None) -> Episodes:
    """The experiment's whole dataset. What integers among its actions mean, and which numbers of its observations
    `--obs-keys` names, the environment says, where nothing else does. Of a run, `known` and its recorded `parts` say
    both, and no environment is made but for one that recorded none.
    """
    if experiment.dataset is None:
        raise LamoError(
            f"task {experiment.task} has no dataset of its own; give --dataset FILE"
            if experiment.task
            else "nothing to train on: give --task NAME (`lamo tasks` lists them) or --dataset FILE"
        )
    options: dict[str, Any] = {name: getattr(experiment, name) for name in ("columns", "obs_keys", "actions", "reward")}
    while True:
        try:
            episodes = load_episodes(experiment.dataset, **options)
        except UnknownParts:
            options["obs_keys"] = None
        except UnstatedActions as question:
            if known is not None:
                options["actions"] = "continuous" if known.action_kind == "continuous" else "discrete"
                continue
            env = experiment.env or question.env
            if env is None or not experiment.eval_episodes:
                raise
            options["actions"] = _actions_in(env)
        else:
            return (
                episodes if options["obs_keys"] == experiment.obs_keys else _keyed(episodes, experiment, known, parts)
            )


def _actions_in(env: str) -> str:
    from lamo.envs.pool import EnvPool

    with EnvPool(env) as pool:
        return "discrete" if pool.choices else "continuous"


def _keyed(episodes: Episodes, experiment: Experiment, known: Spec | None, parts: Parts | None) -> Episodes:
    """The parts of observations that `--obs-keys` names, by the environment's sizes: where they are all of its numbers.
    Others, and all where no environment is made, are taken to be those parts already, as `lamo data collect` records a
    policy that sees these alone.
    """
    if known is not None and known.observation_dim == episodes.observations.shape[1]:
        return episodes
    if parts is not None:
        width = episodes.observations.shape[1]
        if sum(parts[1]) != width:
            raise LamoError(
                f"{episodes.source}: observations of {width} numbers, and the run recorded parts of {sum(parts[1])}; "
                "this is not the data that it was trained on"
            )
        return parts_of(episodes, *parts, experiment.obs_keys or ())
    env = experiment.env or episodes.metadata.get("env")
    if env is None or not experiment.eval_episodes:
        warn(
            f"{episodes.source}: does not say which numbers --obs-keys means; all {episodes.observations.shape[1]} are "
            "taken to be those"
        )
        return episodes
    from lamo.envs.pool import EnvPool

    with EnvPool(env) as pool:
        if not pool.observation_keys or pool.observation_dim != episodes.observations.shape[1]:
            return episodes
        keys, sizes = list(pool.observation_keys), list(map(int, pool.observation_sizes))
    found = parts_of(episodes, keys, sizes, experiment.obs_keys or ())
    return replace(found, metadata={**found.metadata, "parts_of_env": [keys, sizes]})


def prepare(experiment: Experiment, loaded: Episodes | None = None, known: Spec | None = None) -> Setup:
    """Read the data, check it against the environment, choose the share, resolve what depends on them.

    `loaded` is what `read` gave, where several experiments share it. Horizon, targets and return scale are those of
    `known`, where a run goes on. Raises `LamoError` for whatever does not fit together; nothing is written. Without
    evaluation the environment is not made.
    """
    device = resolve_device(experiment.device)
    episodes = read(experiment) if loaded is None else loaded
    env = experiment.env or episodes.metadata.get("env")
    if env is None and experiment.eval_episodes:
        hint = "give --env ID, or --eval-episodes 0 to train without one"
        raise LamoError(f"{episodes.source} does not name its environment; {hint}")
    facts = _from_data(episodes)
    if env is not None and experiment.eval_episodes:
        episodes = _in_form(episodes, env)
        facts = _from_environment(env, episodes, experiment.obs_keys)
    elif experiment.actions is None and facts.low is None and holds_whole_vectors(episodes):
        warn(
            f"{episodes.source}: actions hold whole numbers alone, stored as fractions are, and are taken as amounts; "
            "give --actions discrete if they are choices"
        )
    task = _task(experiment, episodes, env, facts.limit)
    if known is not None:
        task = replace(task, horizon=known.horizon, targets=known.targets, return_scale=known.return_scale)
    episodes, held_out = episodes.subsample(experiment.ratio, experiment.seed), None
    if experiment.holdout > 0:
        episodes, held_out = hold_out(episodes, experiment.holdout)
    _check_worth(episodes, experiment.reward is None)
    low, high = _whole_bounds(facts, episodes)
    spec = Spec(
        observation_dim=episodes.observations.shape[1],
        action_dim=facts.action_dim,
        action_kind=episodes.action_kind,
        action_low=low,
        action_high=high,
        horizon=task.horizon,
        return_scale=task.return_scale,
        targets=task.targets,
        env=env,
        score_range=task.score_range,
        obs_keys=experiment.obs_keys,
        action_nvec=facts.choices if episodes.action_kind == "multidiscrete" else None,
    )
    for said in (*episodes.metadata.get("notes", ()), relabelled(episodes.metadata)):
        if said:
            warn(f"{episodes.source}: {said}")
    if known is None:
        _warn_of_idle(experiment)
    return Setup(episodes, task, spec, device, held_out)


def _task(experiment: Experiment, episodes: Episodes, env: str | None, limit: int | None) -> Task:
    """The experiment's row, or one from the environment and the whole dataset but what is held out of it: runs of other
    seeds and shares are asked for the same returns.
    """
    horizon = max(limit or 0, int(episodes.lengths.max()))
    if experiment.task is not None:
        row = get_task(experiment.task)
        task = replace(row, env=env or row.env, horizon=max(row.horizon, horizon))
    else:
        seen = ~held_out_rows(episodes, experiment.holdout) if experiment.holdout > 0 else slice(None)
        task = task_for_env(env or episodes.source, episodes.returns[seen], horizon)
    return replace(task, targets=(experiment.fixed_targets or task.targets) if experiment.conditioned else ())


def asked_for(experiment: Experiment, task: Task) -> str | None:
    """What the policy will be asked for, and who said so; None where the task's row says it, and of methods that are
    asked for nothing."""
    if experiment.task is not None or not experiment.conditioned:
        return None
    targets = f"targets {', '.join(f'{target:g}' for target in task.targets)}"
    scale = f"return scale {task.return_scale:g}, horizon {task.horizon}"
    if experiment.fixed_targets:
        return f"{task.env}: {targets} as given, {scale}"
    return f"{task.description}: {targets}, {scale}; --targets asks for others"


def _warn_of_idle(experiment: Experiment) -> None:
    """Say which settings were chosen that cannot act beside the others."""
    idle, chosen = getattr(experiment.algorithm, "idle", {}), experiment.departures()
    for cause in dict.fromkeys(idle.values()):
        # `--corpus none` asks for nothing
        names = [
            name for name in idle if idle[name] == cause and name in chosen and chosen[name] not in ((), ("none",))
        ]
        if names:
            _warn_once(f"{', '.join(map(flag, names))} {'has' if len(names) == 1 else 'have'} no effect with {cause}")


def _check_worth(episodes: Episodes, rewarded: bool) -> None:
    """Whether these episodes can teach anything."""
    if episodes.steps == 1:
        raise LamoError(f"{episodes.source}: one transition is all there is to train on; give more of the data")
    if rewarded and pays_alike(episodes):
        warn(
            f"{episodes.source}: every reward is {episodes.rewards[0]:g}: there is nothing to learn from them, "
            "and no method can do better than imitate"
        )


class _Facts(NamedTuple):
    action_dim: int
    low: Any  # (A,), infinite where there is no bound, or None
    high: Any
    limit: int | None  # steps after which the environment truncates
    choices: tuple[int, ...] = ()  # of each component
    where: str | None = None  # the environment that says so


def _whole_bounds(facts: _Facts, episodes: Episodes) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Bounds of continuous actions; where the environment has none, the extremes of the data that is trained on."""
    if episodes.action_kind != "continuous":
        return None, None
    low, high = (end if end is not None and len(end) == facts.action_dim else None for end in (facts.low, facts.high))
    free = np.flatnonzero(unbounded(low, high, facts.action_dim))
    scaling = action_scaling(low, high, episodes.extremes("actions"))
    if len(free) and facts.where is not None:
        warn(
            f"{facts.where} sets no bounds to numbers {listed(free.tolist())} of an action; taken are the data's "
            f"extremes, {float(scaling.low[free].min()):g} to {float(scaling.high[free].max()):g}"
        )
    return tuple(scaling.low.tolist()), tuple(scaling.high.tolist())


def _from_data(episodes: Episodes) -> _Facts:
    """What the data alone says; bounds only where the source recorded them."""
    if choices := episodes.choices:
        if (most := max(choices)) > MAX_CHOICES:
            raise LamoError(
                f"{episodes.source} has action {most - 1}, too many choices to learn each; if these are amounts, give "
                "--actions continuous"
            )
        return _Facts(choices[0] if episodes.discrete else len(choices), None, None, None, choices)
    low, high = (episodes.metadata.get(f"action_{end}") for end in ("low", "high"))
    return _Facts(episodes.actions.shape[1], low, high, None)


def _in_form(episodes: Episodes, env: str) -> Episodes:
    """The data, whose one column of choices is of one component where the environment's action is an array of one."""
    from lamo.envs.pool import EnvPool

    if not episodes.discrete:
        return episodes
    with EnvPool(env) as pool:
        alone = pool.action_kind == "multidiscrete" and len(pool.choices) == 1
    return as_components(episodes) if alone else episodes


def as_components(episodes: Episodes) -> Episodes:
    """The data with its choices (N,) as arrays of one component, (N, 1), the form of `MultiDiscrete([n])`."""
    return replace(episodes, actions=episodes.actions[:, None])


def _from_environment(env: str, episodes: Episodes, obs_keys: tuple[str, ...] | None) -> _Facts:
    """What the environment says, after a look whether the data can be of it."""
    from lamo.envs.pool import EnvPool
    from lamo.envs.recorded import differences

    name, size = episodes.source, episodes.observations.shape[1]
    with EnvPool(env, obs_keys=obs_keys) as pool:
        if pool.observation_dim != size:
            raise LamoError(
                f"{name} has observations of {size} numbers, but those of {env} have {pool.observation_dim}; "
                f"{_advice(env, episodes, pool, obs_keys)}"
            )
        if pool.action_kind != episodes.action_kind:
            kinds = KIND_WORDS[episodes.action_kind], KIND_WORDS[pool.action_kind]
            raise LamoError(
                f"{name} has actions that are {kinds[0]}, those of {env} are {kinds[1]}; "
                f"give {_other_reading(episodes, pool)}another --env"
            )
        if not episodes.discrete and pool.action_dim != (own := episodes.actions.shape[1]):
            raise LamoError(
                f"{name} has actions of {own} numbers, those of {env} have {pool.action_dim}; give another --env"
            )
        if env == episodes.metadata.get("env") and (other := differences(pool.envs[0], episodes.metadata)):
            warn(
                f"{name}: was recorded in another {env} than the one that evaluates: {listed(other)}; register that "
                "one under an id of its own (gymnasium.register) and give it as --env"
            )
        if pool.choices:
            return _Facts(pool.action_dim, None, None, pool.max_episode_steps, _choices(env, episodes, pool), env)
        low, high = pool.action_low, pool.action_high
        if count := outside_bounds(episodes, low, high):
            warn(f"{name}: {count} of {episodes.steps} actions lie outside the bounds of {env}; kept as they are")
        return _Facts(pool.action_dim, low, high, pool.max_episode_steps, (), env)


def _other_reading(episodes: Episodes, pool: EnvPool) -> str:
    """The start of an advice, `--actions discrete if …, or `, where the numbers can be read as what `pool` takes."""
    if not pool.choices:
        return "--actions continuous if these numbers are amounts, or "
    return "--actions discrete if its whole numbers are choices, or " if holds_whole_vectors(episodes) else ""


def _choices(env: str, episodes: Episodes, pool: EnvPool) -> tuple[int, ...]:
    """How many choices each component has. Raises `LamoError` for data that has others."""
    most = np.atleast_1d(episodes.extremes("actions").high)
    if (most < pool.choices).all():
        return pool.choices
    place = int(np.argmax(most >= pool.choices))
    what = "action" if pool.discrete else f"in component {place} action"
    start = int(pool.action_start[min(place, len(pool.action_start) - 1)])
    hint = (
        f"choices are counted from 0 here, by {env} from {start}: subtract {start}" if start else "give another --env"
    )
    raise LamoError(
        f"{episodes.source} has {what} {int(most[place])}, but {env} knows 0 to {pool.choices[place] - 1}; {hint}"
    )


def _advice(env: str, episodes: Episodes, pool: EnvPool, obs_keys: tuple[str, ...] | None) -> str:
    """What to do about observations of another size."""
    if better := _better_version(env, episodes.observations.shape[1]):
        return f"give the environment that the data was recorded in{better}"
    if obs_keys is None and "goal" in episodes.metadata.get("infos", ()):
        return "its goals lie apart: give --obs-keys achieved_goal desired_goal observation"
    if len(pool.observation_keys) > 1:
        return f"choose with --obs-keys among {listed(pool.observation_keys)}, or give another --env"
    return "give the environment that the data was recorded in"


def _better_version(env: str, size: int) -> str:
    """A hint, `, such as --env Reacher-v4`, where one has `size` numbers."""
    import gymnasium

    from lamo.envs.pool import EnvPool

    versions = [name for name in gymnasium.registry if base_name(name) == base_name(env) and name != env]
    for other in sorted(versions, reverse=True):
        # versions that need packages long gone fail in many ways, and are no advice
        with contextlib.suppress(Exception), EnvPool(other) as pool:
            if pool.observation_dim == size:
                return f", such as --env {other}"
    return ""


def resolve_device(name: str) -> str:
    """`auto` -> cuda where there is one, else cpu. Raises `LamoError` for a device that is not there."""
    import torch

    if not re.fullmatch(DEVICES, name):
        raise LamoError(f"--device {name} is not known; use cpu, cuda, cuda:N or auto")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        number = int(re.sub(r"\D", "", name) or 0)
        if number >= count:
            raise LamoError(f"--device {name}: PyTorch finds {count} CUDA devices here; use --device cpu or auto")
    return name
