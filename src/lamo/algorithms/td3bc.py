"""TD3+BC (Fujimoto and Gu 2021, arXiv 2106.06860), for vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lamo.algorithms.baseline_settings import TD3BCSettings
from lamo.algorithms.losses import bootstrap, squared_errors, td3bc_policy_loss
from lamo.algorithms.method import Batch, Method
from lamo.config import Spec
from lamo.models.mlp import Critic, DeterministicActor


class TD3BC(Method):
    """Twin Q with noise on the target policy; policy and targets move at every `policy_delay`-th step."""

    def __init__(self, settings: TD3BCSettings, spec: Spec, steps: int) -> None:
        super().__init__(settings, spec, steps)
        self.actor = self.make_actor(settings, spec)
        self.critic = Critic(spec.observation_dim, spec.action_dim, settings.width, settings.layers)
        self.target_actor, self.target_critic = self.target_of(self.actor), self.target_of(self.critic)
        self.of_actor, self.of_critic = list(self.actor.parameters()), list(self.critic.parameters())
        self.optimise((self.of_actor, settings.actor_learning_rate), (self.of_critic, settings.critic_learning_rate))

    @staticmethod
    def make_actor(settings: TD3BCSettings, spec: Spec) -> nn.Module:
        return DeterministicActor(spec.observation_dim, spec.action_dim, settings.width, settings.layers)

    def critic_loss(self, batch: Batch, noise: Tensor) -> Tensor:
        """`noise` (B, A), standard normal."""
        settings = self.settings
        with torch.no_grad():
            noise = (noise * settings.policy_noise).clamp(-settings.noise_clip, settings.noise_clip)
            actions = (self.target_actor(batch.next_observations) + noise).clamp(-1, 1)
            following = self.target_critic(batch.next_observations, actions).amin(0)
            targets = bootstrap(batch.rewards, batch.terminated, following, settings.discount)
        return squared_errors(self.critic(batch.observations, batch.actions), targets)

    def actor_loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(loss, its squared error)."""
        proposed = self.actor(batch.observations)
        values = self.critic.first(batch.observations, proposed)
        return td3bc_policy_loss(values, proposed, batch.actions, self.settings.alpha)

    def update(self, batch: Batch, step: int) -> dict[str, Tensor]:
        critic_loss = self.critic_loss(batch, torch.randn_like(batch.actions))
        self.descend((critic_loss, self.of_critic))
        info = {"loss": critic_loss, "critic_loss": critic_loss}
        if (step + 1) % self.settings.policy_delay == 0:
            actor_loss, imitation = self.actor_loss(batch)
            self.descend((actor_loss, self.of_actor))
            self.follow(self.settings.polyak)
            info |= {"actor_loss": actor_loss, "action_loss": imitation}
        return info
