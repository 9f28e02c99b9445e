"""Conservative Q-learning (Kumar et al. 2020, arXiv 2006.04779), for vectors and for choices."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lamo.algorithms.baseline_settings import CQLSettings
from lamo.algorithms.losses import bootstrap, choice_gap, conservative_gap, squared_errors
from lamo.algorithms.method import Batch, Method
from lamo.config import Spec
from lamo.models.mlp import (
    ChoiceCritic,
    Critic,
    SquashedGaussianActor,
    chosen,
    initialise_orthogonally,
    squashed_sample,
)


class Noise(NamedTuple):
    """All that a step draws: standard normal but for `uniform`, which lies in [-1, 1]. n samples per state."""

    here: Tensor
    """(B, A): the policy's action, for its own loss."""
    following: Tensor
    """(B, A): its action at the next state, for the target."""
    many_here: Tensor
    """(B, n, A)."""
    many_following: Tensor
    """(B, n, A)."""
    uniform: Tensor
    """(B, n, A)."""

    @classmethod
    def draw(cls, actions: Tensor, n: int) -> Noise:
        """For a batch of actions (B, A), from torch's own random state."""
        many = (len(actions), n, actions.shape[1])
        uniform = torch.empty(many, device=actions.device).uniform_(-1, 1)
        here, following = torch.randn_like(actions), torch.randn_like(actions)
        many_here, many_following = (torch.randn(many, device=actions.device) for _ in range(2))
        return cls(here, following, many_here, many_following, uniform)


class CQL(Method):
    """CQL(H) of a soft actor-critic with importance-weighted samples, no entropy in the target and a fixed weight."""

    def __init__(self, settings: CQLSettings, spec: Spec, steps: int) -> None:
        super().__init__(settings, spec, steps)
        self.weight = 10.0 if settings.conservative_weight is None else settings.conservative_weight
        self.actor = self.make_actor(settings, spec)
        self.critic = Critic(spec.observation_dim, spec.action_dim, settings.width, settings.layers)
        for network in self.critic.networks:
            assert isinstance(network, nn.Sequential)
            initialise_orthogonally(network)
        self.target_critic = self.target_of(self.critic)
        self.log_alpha = nn.Parameter(torch.zeros(()))  # weight of the entropy, tuned to an entropy of -A
        self.of_actor, self.of_critic = list(self.actor.parameters()), list(self.critic.parameters())
        self.optimise(
            ([*self.of_actor, self.log_alpha], settings.actor_learning_rate),
            (self.of_critic, settings.critic_learning_rate),
        )

    @staticmethod
    def make_actor(settings: CQLSettings, spec: Spec) -> nn.Module:
        return SquashedGaussianActor(spec.observation_dim, spec.action_dim, settings.width, settings.layers)

    def losses(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """{"critic_loss" (with the conservative term), "actor_loss", "entropy_loss"}, and the gap by itself.

        All of them read the weights before the step, as in CORL.
        """
        settings, actor = self.settings, self.actor
        assert isinstance(actor, SquashedGaussianActor)
        observations, actions = batch.observations, batch.actions
        mean, log_std = actor.distribution(observations)
        proposed, log_density = squashed_sample(mean, log_std, noise.here)
        with torch.no_grad():
            here = squashed_sample(mean[:, None], log_std[:, None], noise.many_here)
            next_mean, next_log_std = actor.distribution(batch.next_observations)
            there = squashed_sample(next_mean[:, None], next_log_std[:, None], noise.many_following)
            next_actions, _ = squashed_sample(next_mean, next_log_std, noise.following)
            following = self.target_critic(batch.next_observations, next_actions).amin(0)
            targets = bootstrap(batch.rewards, batch.terminated, following, settings.discount)
            sampled = torch.cat([noise.uniform, there[0], here[0]], 1)  # (B, 3n, A)
            uniform = torch.full_like(here[1], -actions.shape[1] * math.log(2))  # the density of [-1, 1]^A
            log_densities = torch.cat([uniform, there[1], here[1]], 1)
        values = self.critic.many(observations, torch.cat([actions[:, None], sampled], 1))  # (2, B, 1 + 3n)
        gap = conservative_gap(values[..., 1:], log_densities, values[..., 0]).mean(-1).sum()
        entropy_error = (log_density.detach() - actions.shape[1]).mean()
        soft = self.log_alpha.detach().exp() * log_density
        return {
            "critic_loss": squared_errors(values[..., 0], targets) + self.weight * gap,
            "actor_loss": (soft - self.critic(observations, proposed).amin(0)).mean(),
            "entropy_loss": -self.log_alpha * entropy_error,
            "conservative_gap": gap.detach(),
        }

    def update(self, batch: Batch, step: int) -> dict[str, Tensor]:
        losses = self.losses(batch, Noise.draw(batch.actions, self.settings.sampled_actions))
        self.descend(
            (losses["actor_loss"], self.of_actor),
            (losses["entropy_loss"], [self.log_alpha]),
            (losses["critic_loss"], self.of_critic),
        )
        self.follow(self.settings.polyak)
        return {"loss": losses["critic_loss"], **losses, "entropy_weight": self.log_alpha.detach().exp()}


class ChoiceActorOfValues(nn.Module):
    """Acts by the highest value: (n, S) -> (n, A), of a critic with one network."""

    def __init__(self, observations: int, actions: int, width: int, layers: int) -> None:
        super().__init__()
        self.critic = ChoiceCritic(observations, actions, width, layers, count=1)

    def forward(self, observations: Tensor) -> Tensor:
        return self.critic.values(observations)[0]


class ChoiceCQL(Method):
    """Double Q-learning with the conservative term (CQL, equation 4), half the squared error as in the paper."""

    actor: ChoiceActorOfValues

    def __init__(self, settings: CQLSettings, spec: Spec, steps: int) -> None:
        super().__init__(settings, spec, steps)
        self.weight = 1.0 if settings.conservative_weight is None else settings.conservative_weight
        self.actor = self.make_actor(settings, spec)
        self.target_actor = self.target_of(self.actor)
        self.trained = list(self.actor.parameters())
        self.optimise((self.trained, settings.critic_learning_rate))

    @staticmethod
    def make_actor(settings: CQLSettings, spec: Spec) -> ChoiceActorOfValues:
        return ChoiceActorOfValues(spec.observation_dim, spec.action_dim, settings.width, settings.layers)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """{"critic_loss" (with the conservative term)}, and the gap by itself."""
        with torch.no_grad():
            best = self.actor(batch.next_observations).argmax(-1)
            following = chosen(self.target_actor(batch.next_observations), best)
            targets = bootstrap(batch.rewards, batch.terminated, following, self.settings.discount)
        values = self.actor(batch.observations)
        of_data = chosen(values, batch.actions)
        gap = choice_gap(values, of_data).mean()
        error = 0.5 * (of_data - targets).square().mean()
        return {"critic_loss": error + self.weight * gap, "conservative_gap": gap.detach()}

    def update(self, batch: Batch, step: int) -> dict[str, Tensor]:
        losses = self.losses(batch)
        self.descend((losses["critic_loss"], self.trained))
        self.follow(self.settings.polyak)
        return {"loss": losses["critic_loss"], **losses}
