"""`train:SKILL`: a behaviour policy trained by Stable-Baselines3 until it is as good as was asked, and no better.

    train:medium, train:expert                      medium where nothing is said
    train:return=200                                in environments without score references
    train:medium,steps=300000,algorithm=ppo         another budget, another algorithm

SAC for continuous actions, PPO for choices and where a row of `FAMILIES` says so. Every few thousand steps the policy
plays episodes just as it would be recorded, with its noise; when their mean return lies in the skill's range it stops.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from lamo.collecting.record import play
from lamo.collecting.request import Request
from lamo.envs.pool import EnvPool, collection_seed, make
from lamo.errors import LamoError
from lamo.tasks import Family, nearest, reference_range

SKILL_SCORES = {"medium": (28.0, 45.0), "expert": (90.0, math.inf)}
"""Normalised scores: medium is about a third of the expert, as in D4RL (arXiv 2004.07219, section 5)."""


@dataclass(frozen=True)
class Trainer:
    """How a behaviour is trained."""

    algorithm: str
    """A class of Stable-Baselines3."""
    steps: int
    """The most steps of the environment that training may take."""
    every: int
    """Steps between evaluations."""
    episodes: int = 20
    """Episodes of an evaluation."""
    environments: int = 1
    normalise: bool = True
    """Whether observations (and PPO's rewards) are normalised by their running statistics (`VecNormalize`)."""
    settings: Mapping[str, Any] = field(default_factory=dict)


TRAINERS: dict[str, Trainer] = {
    # Stable-Baselines3's defaults, which are those of SAC's authors (arXiv 1812.05905), but for the later start.
    "sac": Trainer("SAC", 1_000_000, 2_500, settings={"learning_starts": 1_000}),
    "ppo": Trainer(
        "PPO", 3_000_000, 4_096, environments=8, settings={"n_steps": 256, "batch_size": 256, "n_epochs": 10}
    ),
    # Tuned only as far as the sparse reward of Reacher2d needs: many short parallel episodes and large batches, so that
    # the first rare rewards are seen together. About 0.3 M steps to "medium" there.
    "ppo-sparse": Trainer(
        "PPO", 3_000_000, 16_000, episodes=40, environments=32, normalise=False,
        settings={
            "n_steps": 100, "batch_size": 800, "n_epochs": 10, "gamma": 0.98, "gae_lambda": 0.95,
            "learning_rate": 1e-3, "ent_coef": 0.0, "policy_kwargs": {"net_arch": [64, 64]},
        },
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Skill:
    """What is to be reached: a mean return from `low` to `high`."""

    name: str
    low: float
    high: float
    score: Callable[[float], float] | None = None

    def __str__(self) -> str:
        return f"{self.low:.4g} or more" if math.isinf(self.high) else f"{self.low:.4g} to {self.high:.4g}"


def read_training(text: str, family: Family, discrete: bool) -> tuple[Skill, Trainer]:
    """What follows `train:` -> (skill, how it is trained). Raises `LamoError` for what cannot be."""
    skill, name, steps = None, family.trainer or ("ppo" if discrete else "sac"), None
    for part in filter(None, text.split(",")):
        key, _, value = part.partition("=")
        number = _number(value)
        if key == "steps" and number is not None and number >= 1:
            steps = int(number)
        elif key == "algorithm" and value in TRAINERS:
            name = value
        elif key == "return" and number is not None and skill is None:
            skill = Skill(part, number, math.inf)
        elif not value and skill is None:
            skill = _named(part, family)
        else:
            raise LamoError(
                f"train: {part!r} is not one skill (medium, expert or return=NUMBER), steps=NUMBER or "
                f"algorithm={'|'.join(TRAINERS)}"
            )
    trainer = TRAINERS[name]
    if discrete and trainer.algorithm == "SAC":
        raise LamoError(f"train: SAC cannot choose among the discrete actions of {family.env}; leave algorithm out")
    return skill or _named("medium", family), trainer if steps is None else replace(trainer, steps=steps)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _named(name: str, family: Family) -> Skill:
    if name in family.skills:
        low, high = family.skills[name]
        return Skill(name, low + (high - low) / 4, high - (high - low) / 4)  # within the band, also when recorded
    reference = reference_range(family.env)
    if reference is None or name not in SKILL_SCORES:
        known = {**family.skills, **(SKILL_SCORES if reference else {})}
        hint = nearest(name, known) if known else "it has no score references: give train:return=NUMBER"
        raise LamoError(f"{family.env} has no skill {name!r}; {hint}")
    (low, high), (worst, best) = SKILL_SCORES[name], reference
    return Skill(
        name,
        worst + (best - worst) * low / 100,
        worst + (best - worst) * high / 100,
        lambda value: 100 * (value - worst) / (best - worst),
    )


def train_behaviour(request: Request, say: Callable[[str], None], check: Callable[[], object]) -> bytes:
    """Train the behaviour that a request names -> its actor as a safetensors file.

    One thread and one seed: the same policy again on one machine with the same versions. `check` is called at every
    step; what it raises ends the training. Raises `LamoError` where Stable-Baselines3 is missing, the skill is not
    known for the environment, or the budget of steps does not reach it.
    """
    with EnvPool(request.family.env) as pool:
        if pool.action_kind == "multidiscrete":
            raise LamoError(
                f"train: the actions of {pool.env_id} are several choices at once, which it does not train; give "
                "--policy random or the folder of a run"
            )
        skill, trainer = read_training(request.argument, request.family, pool.discrete)
        limit = request.horizon or pool.max_episode_steps
        if limit is None:
            raise LamoError(f"{pool.env_id} has no limit of steps of its own; give --horizon")
        bounds = [bound for bound in (pool.action_low, pool.action_high) if bound is not None]
        if trainer.algorithm == "SAC" and not np.isfinite(bounds).all():
            raise LamoError(
                f"train: SAC needs bounds of actions, which {pool.env_id} does not have; give algorithm=ppo"
            )
        return _train(request, pool, limit, skill, trainer, say, check)


def _train(
    request: Request,
    pool: EnvPool,
    limit: int,
    skill: Skill,
    trainer: Trainer,
    say: Callable[[str], None],
    check: Callable[[], object],
) -> bytes:
    try:
        import stable_baselines3
        import torch
        from stable_baselines3.common.callbacks import BaseCallback
        from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
    except ModuleNotFoundError as error:
        raise LamoError(
            f"training a behaviour policy needs {error.name}, which is not installed: pip install stable-baselines3"
        ) from error
    from lamo.collecting.actors import Actor, ActorBehaviour, from_sb3, save_actor

    seeds = [collection_seed(request.seed, 999_999 - i) for i in range(trainer.episodes)]  # none is recorded
    began = time.perf_counter()

    def actor_of(model: Any) -> Actor:
        weights = {name: value.detach().numpy().copy() for name, value in model.policy.state_dict().items()}
        actor = from_sb3(weights, None, trainer.algorithm)
        if isinstance(environments, VecNormalize):
            about: Any = environments.obs_rms
            actor = actor.normalised(about.mean, about.var, environments.clip_obs, environments.epsilon)
        return actor

    class StopAtSkill(BaseCallback):
        reached: Actor | None = None
        returns: np.ndarray = np.zeros(0)
        best = -math.inf
        due = trainer.every

        def _on_step(self) -> bool:
            check()
            if self.num_timesteps < self.due:
                return True
            self.due = self.num_timesteps + trainer.every
            actor = actor_of(self.model)
            logs = play(pool, ActorBehaviour(actor, pool), seeds, limit, check)
            self.returns = np.array([sum(log.rewards) for log in logs])
            mean = float(self.returns.mean())
            self.best = max(self.best, mean)
            rate = self.num_timesteps / (time.perf_counter() - began)
            left = time.strftime("%H:%M:%S", time.gmtime(max(trainer.steps - self.num_timesteps, 0) / rate))
            score = f", score {skill.score(mean):.1f}" if skill.score else ""
            say(
                f"{trainer.algorithm} {self.num_timesteps:,} of at most {trainer.steps:,} steps: mean return {mean:.1f}"
                f"{score}, {skill.name} is {skill}; {rate:.0f} steps/s, at most {left} left"
            )
            if skill.low <= mean <= skill.high:
                self.reached = actor
            return self.reached is None

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the sums of several threads are not the same twice; at this size one is as fast
    environments: Any = DummyVecEnv([lambda: _environment(pool, limit)] * trainer.environments)
    if trainer.normalise:
        environments = VecNormalize(environments, norm_reward=trainer.algorithm == "PPO")
    extra = {"buffer_size": min(trainer.steps, 1_000_000)} if trainer.algorithm == "SAC" else {}
    try:
        learner = getattr(stable_baselines3, trainer.algorithm)(
            "MlpPolicy",
            environments,
            seed=collection_seed(request.seed, 0),  # SB3 seeds the process's global generators: it has no other way
            device="cpu",
            **extra,
            **trainer.settings,
        )
        stop = StopAtSkill()
        learner.learn(trainer.steps, callback=stop)
    finally:
        environments.close()
        torch.set_num_threads(threads)
    if stop.reached is None:
        over = ", which it passed over" if stop.best > skill.high else ""
        raise LamoError(
            f"{trainer.algorithm} on {pool.env_id} reached a mean return of {stop.best:.1f} at best in "
            f"{learner.num_timesteps:,} steps, not the {skill} of {skill.name!r}{over}; try another --seed, or more "
            f"steps: train:{skill.name},steps={2 * trainer.steps}"
        )
    notes = {
        "policy_description": f"{trainer.algorithm} (stable-baselines3) stopped at skill {skill.name!r}, a mean return "
        f"of {skill}, acting stochastically",
        "training_steps": int(learner.num_timesteps),
        "training_settings": json.dumps(asdict(trainer)),
        "training_return": float(stop.returns.mean()),
    }
    return save_actor(replace(stop.reached, notes=json.dumps(notes)))


def _environment(pool: EnvPool, limit: int) -> Any:
    """An environment whose observations are vectors, as the pool's are."""
    from gymnasium import spaces
    from gymnasium.wrappers import FlattenObservation, TimeLimit

    env = make(pool.env_id)
    if not (isinstance(env.observation_space, spaces.Box) and len(env.observation_space.shape) == 1):
        env = FlattenObservation(env)
    return env if limit == pool.max_episode_steps else TimeLimit(env, limit)
