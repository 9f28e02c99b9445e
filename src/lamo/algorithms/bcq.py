"""Batch-constrained Q-learning: for vectors (Fujimoto et al. 2018, arXiv 1812.02900) and for choices (Fujimoto et al.
2019, arXiv 1910.01708)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lamo.algorithms.baseline_settings import BCQSettings
from lamo.algorithms.losses import autoencoder_loss, bootstrap, likely_only, soft_minimum, squared_errors
from lamo.algorithms.method import Batch, Method
from lamo.config import Spec
from lamo.models.mlp import Critic, chosen, mlp

LATENT_CLIP = 0.5  # of latents that actions are proposed from
LOG_STD_CLIP = (-4.0, 15.0)  # of the autoencoder's deviation
LOGIT_WEIGHT = 0.01  # of the squared logits of the imitated policy in discrete BCQ


class Autoencoder(nn.Module):
    """A conditional variational autoencoder of actions given observations, with a latent of 2A numbers."""

    def __init__(self, observations: int, actions: int, width: int) -> None:
        super().__init__()
        self.latent = 2 * actions
        self.encoder = mlp(observations + actions, width, 2, 2 * self.latent)
        self.decoder = mlp(observations + self.latent, width, 2, actions)

    def encode(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the deviation of the latent, (B, 2A) each."""
        mean, log_std = self.encoder(torch.cat([observations, actions], -1)).chunk(2, -1)
        return mean, log_std.clamp(*LOG_STD_CLIP)

    def decode(self, observations: Tensor, latents: Tensor) -> Tensor:  # (B, S), (B, 2A) -> (B, A)
        return torch.tanh(self.decoder(torch.cat([observations, latents], -1)))


class Perturbation(nn.Module):
    """Moves an action by at most Φ."""

    def __init__(self, observations: int, actions: int, width: int, layers: int, reach: float) -> None:
        super().__init__()
        self.network = mlp(observations + actions, width, layers, actions)
        self.reach = reach

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:  # (B, S), (B, A) -> (B, A)
        moved = actions + self.reach * torch.tanh(self.network(torch.cat([observations, actions], -1)))
        return moved.clamp(-1, 1)


class ConstrainedActor(nn.Module):
    """Proposes actions by the autoencoder, perturbs them, and takes the one of the highest Q of the first critic.

    A departure: the published code draws new latents at every step, here the same ones, drawn with the weights and
    saved with them, serve every state. So the policy is a function, which acts the same wherever it is loaded.
    """

    latents: Tensor

    def __init__(self, settings: BCQSettings, spec: Spec) -> None:
        super().__init__()
        sizes = spec.observation_dim, spec.action_dim
        self.autoencoder = Autoencoder(*sizes, settings.autoencoder_width)
        self.perturbation = Perturbation(*sizes, settings.width, settings.layers, settings.perturbation)
        self.critic = Critic(*sizes, settings.width, settings.layers)
        drawn = torch.randn(settings.acting_candidates, self.autoencoder.latent)
        self.register_buffer("latents", drawn.clamp(-LATENT_CLIP, LATENT_CLIP))

    def forward(self, observations: Tensor) -> Tensor:  # (n, S) -> (n, A)
        n, count = len(observations), len(self.latents)
        repeated = observations.repeat_interleave(count, 0)
        actions = self.autoencoder.decode(repeated, self.latents.repeat(n, 1))
        actions = self.perturbation(repeated, actions)
        best = self.critic.first(repeated, actions).view(n, count).argmax(-1)
        return actions.view(n, count, -1)[torch.arange(n, device=best.device), best]


class BCQ(Method):
    """The autoencoder imitates, twin Q learns from proposed actions alone, the perturbation climbs the first Q."""

    actor: ConstrainedActor

    def __init__(self, settings: BCQSettings, spec: Spec, steps: int) -> None:
        super().__init__(settings, spec, steps)
        rate = 1e-3 if settings.learning_rate is None else settings.learning_rate
        self.actor = self.make_actor(settings, spec)
        self.target_perturbation = self.target_of(self.actor.perturbation)
        self.target_critic = self.target_of(self.actor.critic)
        self.of_autoencoder = list(self.actor.autoencoder.parameters())
        self.of_critic = list(self.actor.critic.parameters())
        self.of_perturbation = list(self.actor.perturbation.parameters())
        self.optimise((self.of_autoencoder, rate), (self.of_critic, rate), (self.of_perturbation, rate))

    @staticmethod
    def make_actor(settings: BCQSettings, spec: Spec) -> ConstrainedActor:
        return ConstrainedActor(settings, spec)

    def autoencoder_loss(self, batch: Batch, noise: Tensor) -> Tensor:
        """`noise` (B, 2A), standard normal."""
        mean, log_std = self.actor.autoencoder.encode(batch.observations, batch.actions)
        rebuilt = self.actor.autoencoder.decode(batch.observations, mean + log_std.exp() * noise)
        return autoencoder_loss(rebuilt, batch.actions, mean, log_std)

    def critic_loss(self, batch: Batch, latents: Tensor) -> Tensor:
        """`latents` (B · candidates, 2A), clipped; those of one state lie together."""
        with torch.no_grad():
            repeated = batch.next_observations.repeat_interleave(self.settings.candidates, 0)
            actions = self.target_perturbation(repeated, self.actor.autoencoder.decode(repeated, latents))
            values = soft_minimum(self.target_critic(repeated, actions), self.settings.minimum_weight)
            following = values.view(len(batch.rewards), -1).amax(-1)
            targets = bootstrap(batch.rewards, batch.terminated, following, self.settings.discount)
        return squared_errors(self.actor.critic(batch.observations, batch.actions), targets)

    def perturbation_loss(self, batch: Batch, latents: Tensor) -> Tensor:
        """`latents` (B, 2A), clipped."""
        with torch.no_grad():
            proposed = self.actor.autoencoder.decode(batch.observations, latents)
        moved = self.actor.perturbation(batch.observations, proposed)
        return -self.actor.critic.first(batch.observations, moved).mean()

    def _latents(self, rows: int, like: Tensor) -> Tensor:
        drawn = torch.randn(rows, self.actor.autoencoder.latent, device=like.device)
        return drawn.clamp_(-LATENT_CLIP, LATENT_CLIP)

    def update(self, batch: Batch, step: int) -> dict[str, Tensor]:
        rows = len(batch.actions)
        noise = torch.randn(rows, self.actor.autoencoder.latent, device=batch.actions.device)
        imitation = self.autoencoder_loss(batch, noise)
        self.descend((imitation, self.of_autoencoder))
        critic = self.critic_loss(batch, self._latents(rows * self.settings.candidates, batch.actions))
        self.descend((critic, self.of_critic))
        perturbation = self.perturbation_loss(batch, self._latents(rows, batch.actions))
        self.descend((perturbation, self.of_perturbation))
        self.follow(self.settings.polyak)
        losses = {"autoencoder_loss": imitation, "critic_loss": critic, "actor_loss": perturbation}
        return {"loss": imitation + critic, **losses}


class LikelyActor(nn.Module):
    """Values of the choices that the imitated policy finds likely enough, -inf for the others."""

    def __init__(self, settings: BCQSettings, spec: Spec) -> None:
        super().__init__()
        sizes = spec.observation_dim, settings.width, settings.layers, spec.action_dim
        self.values, self.logits = mlp(*sizes), mlp(*sizes)
        self.threshold = settings.threshold

    def forward(self, observations: Tensor) -> Tensor:  # (n, S) -> (n, A)
        return likely_only(self.values(observations), self.logits(observations), self.threshold)


class ChoiceBCQ(Method):
    """Double Q-learning over likely choices, with a Huber loss; imitation by cross-entropy with small logits."""

    actor: LikelyActor

    def __init__(self, settings: BCQSettings, spec: Spec, steps: int) -> None:
        super().__init__(settings, spec, steps)
        self.actor = self.make_actor(settings, spec)
        self.target_values = self.target_of(self.actor.values)
        self.trained = list(self.actor.parameters())
        self.optimise((self.trained, 3e-4 if settings.learning_rate is None else settings.learning_rate))

    @staticmethod
    def make_actor(settings: BCQSettings, spec: Spec) -> LikelyActor:
        return LikelyActor(settings, spec)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """{"critic_loss", "action_loss", "logit_loss"}, to be summed."""
        with torch.no_grad():
            best = self.actor(batch.next_observations).argmax(-1)
            following = chosen(self.target_values(batch.next_observations), best)
            targets = bootstrap(batch.rewards, batch.terminated, following, self.settings.discount)
        logits = self.actor.logits(batch.observations)
        return {
            "critic_loss": F.smooth_l1_loss(chosen(self.actor.values(batch.observations), batch.actions), targets),
            "action_loss": F.cross_entropy(logits, batch.actions),
            "logit_loss": LOGIT_WEIGHT * logits.square().mean(),
        }

    def update(self, batch: Batch, step: int) -> dict[str, Tensor]:
        losses = self.losses(batch)
        loss = losses["critic_loss"] + losses["action_loss"] + losses["logit_loss"]
        self.descend((loss, self.trained))
        self.follow(self.settings.polyak)
        return {"loss": loss, **losses}
