"""Behaviour cloning, of all episodes or of the best (%BC)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lamo.algorithms.baseline_settings import BCSettings
from lamo.algorithms.method import Batch, Chunks, Method
from lamo.config import Spec
from lamo.models.choices import accuracy, choice_loss
from lamo.models.mlp import ChoiceActor, DeterministicActor


class BC(Method):
    """Squared error for vectors (as CORL's %BC), cross-entropy for choices; of one action or of a chunk."""

    following = False

    def __init__(self, settings: BCSettings, spec: Spec, steps: int) -> None:
        super().__init__(settings, spec, steps)
        self.actor = self.make_actor(settings, spec)
        self.trained = list(self.actor.parameters())
        self.optimise((self.trained, settings.learning_rate), weight_decay=settings.weight_decay)

    @staticmethod
    def make_actor(settings: BCSettings, spec: Spec) -> nn.Module:
        kind = ChoiceActor if spec.choices else DeterministicActor
        sizes = spec.observation_dim, settings.chunk * spec.outputs, settings.width, settings.layers
        return kind(*sizes, settings.dropout)

    def losses(self, batch: Batch | Chunks) -> dict[str, Tensor]:
        """{"action_loss"}, and for choices how often the likeliest is the data's."""
        predicted, actions, choices = self.actor(batch.observations), batch.actions, self.spec.choices
        if isinstance(batch, Chunks):
            predicted = predicted.view(*batch.real.shape, -1)[batch.real]
            actions = actions[batch.real]
        if not choices:
            return {"action_loss": F.mse_loss(predicted, actions)}
        loss, right = choice_loss(predicted, actions, choices), accuracy(predicted, actions, choices)
        return {"action_loss": loss, "action_accuracy": right}

    def update(self, batch: Batch | Chunks, step: int) -> dict[str, Tensor]:
        losses = self.losses(batch)
        self.descend((losses["action_loss"], self.trained))
        return {"loss": losses["action_loss"], **losses}
