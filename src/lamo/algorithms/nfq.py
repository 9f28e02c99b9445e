"""Neural fitted Q iteration (Riedmiller 2005), for choices: the baseline that does not mind its data's limits."""

from __future__ import annotations

import torch
from torch import Tensor

from lamo.algorithms.baseline_settings import NFQSettings
from lamo.algorithms.cql import ChoiceActorOfValues
from lamo.algorithms.losses import bootstrap
from lamo.algorithms.method import Batch, Method
from lamo.config import Spec
from lamo.models.mlp import chosen


class NFQ(Method):
    """Squared error against r + γ max Q of the network as it was when the iteration began (DQN's loss)."""

    actor: ChoiceActorOfValues

    def __init__(self, settings: NFQSettings, spec: Spec, steps: int) -> None:
        super().__init__(settings, spec, steps)
        self.actor = self.make_actor(settings, spec)
        self.target_actor = self.target_of(self.actor)
        self.trained = list(self.actor.parameters())
        self.optimise((self.trained, settings.learning_rate))

    @staticmethod
    def make_actor(settings: NFQSettings, spec: Spec) -> ChoiceActorOfValues:
        return ChoiceActorOfValues(spec.observation_dim, spec.action_dim, settings.width, settings.layers)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """{"critic_loss"}."""
        with torch.no_grad():
            following = self.target_actor(batch.next_observations).amax(-1)
            targets = bootstrap(batch.rewards, batch.terminated, following, self.settings.discount)
        values = chosen(self.actor(batch.observations), batch.actions)
        return {"critic_loss": (values - targets).square().mean()}

    def update(self, batch: Batch, step: int) -> dict[str, Tensor]:
        losses = self.losses(batch)
        self.descend((losses["critic_loss"], self.trained))
        if (step + 1) % self.settings.iteration_steps == 0:
            self.follow(1.0)
        return {"loss": losses["critic_loss"], **losses}
