"""Implicit Q-learning (Kostrikov, Nair and Levine 2021, arXiv 2110.06169), for vectors and for one choice or several.

Everything that a step reads is of the weights before it, as in CORL, so the three losses are one sum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lamo.algorithms.baseline_settings import IQLSettings
from lamo.algorithms.losses import advantage_weights, bootstrap, expectile_loss, squared_errors
from lamo.algorithms.method import Batch, Method, cosine
from lamo.config import Spec
from lamo.models.mlp import (
    ChoiceActor,
    ChoiceCritic,
    Critic,
    DeterministicActor,
    GaussianActor,
    SeveralCritic,
    mlp,
)


class IQL(Method):
    """Q by regression on r + γ V(s'), V by expectile regression on Q, the policy by weighted imitation."""

    actor: DeterministicActor | ChoiceActor

    def __init__(self, settings: IQLSettings, spec: Spec, steps: int) -> None:
        super().__init__(settings, spec, steps)
        self.actor = self.make_actor(settings, spec)
        sizes = settings.width, settings.layers
        self.critic: Critic | ChoiceCritic
        if spec.action_kind == "multidiscrete":
            self.critic = SeveralCritic(spec.observation_dim, spec.choices, *sizes)
        else:
            critic = ChoiceCritic if spec.action_kind == "discrete" else Critic
            self.critic = critic(spec.observation_dim, spec.action_dim, *sizes)
        self.value = mlp(spec.observation_dim, settings.width, settings.layers, 1)
        self.target_critic = self.target_of(self.critic)
        of_actor = list(self.actor.parameters())
        of_values = [*self.critic.parameters(), *self.value.parameters()]
        self.optimise((of_actor, settings.actor_learning_rate), (of_values, settings.critic_learning_rate))
        self.trained = [*of_actor, *of_values]

    @staticmethod
    def make_actor(settings: IQLSettings, spec: Spec) -> DeterministicActor | ChoiceActor:
        if spec.choices:
            sizes = spec.observation_dim, spec.outputs, settings.width, settings.layers
            return ChoiceActor(*sizes, settings.dropout, spec.choices)
        kind = GaussianActor if settings.policy == "gaussian" else DeterministicActor
        return kind(spec.observation_dim, spec.action_dim, settings.width, settings.layers, settings.dropout)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """{"critic_loss", "value_loss", "actor_loss"}, and the mean advantage."""
        settings = self.settings
        observations, actions = batch.observations, batch.actions
        with torch.no_grad():
            lower = self.target_critic(observations, actions).amin(0)
            following = self.value(batch.next_observations).squeeze(-1)
            targets = bootstrap(batch.rewards, batch.terminated, following, settings.discount)
        advantages = lower - self.value(observations).squeeze(-1)
        weights = advantage_weights(advantages, settings.temperature, settings.weight_clip)
        imitation = self.actor.imitation_loss(observations, actions)
        return {
            "critic_loss": squared_errors(self.critic(observations, actions), targets),
            "value_loss": expectile_loss(advantages, settings.expectile),
            "actor_loss": (weights * imitation).mean(),
            "advantage": advantages.detach().mean(),
        }

    def update(self, batch: Batch, step: int) -> dict[str, Tensor]:
        if self.settings.actor_schedule == "cosine":
            group = self.optimizer.param_groups[0]
            group["lr"] = group["peak"] * cosine(step, self.total_steps)
        losses = self.losses(batch)
        loss = losses["critic_loss"] + losses["value_loss"] + losses["actor_loss"]
        self.descend((loss, self.trained))
        self.follow(self.settings.polyak)
        return {"loss": loss, **losses}
