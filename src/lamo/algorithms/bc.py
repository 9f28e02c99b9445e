"""Behaviour cloning, of all episodes or of the best (%BC)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lamo.algorithms.baseline_settings import BCSettings
from lamo.algorithms.method import Batch, Method
from lamo.config import Spec
from lamo.models.mlp import ChoiceActor, DeterministicActor


class BC(Method):
    """Squared error for vectors (as CORL's %BC), cross-entropy for choices."""

    following = False

    def __init__(self, settings: BCSettings, spec: Spec, steps: int) -> None:
        super().__init__(settings, spec, steps)
        self.actor = self.make_actor(settings, spec)
        self.trained = list(self.actor.parameters())
        self.optimise((self.trained, settings.learning_rate), weight_decay=settings.weight_decay)

    @staticmethod
    def make_actor(settings: BCSettings, spec: Spec) -> nn.Module:
        kind = ChoiceActor if spec.action_kind == "discrete" else DeterministicActor
        return kind(spec.observation_dim, spec.action_dim, settings.width, settings.layers, settings.dropout)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """{"action_loss"}, and for choices how often the likeliest is the data's."""
        predicted = self.actor(batch.observations)
        if self.spec.action_kind == "continuous":
            return {"action_loss": F.mse_loss(predicted, batch.actions)}
        right = (predicted.argmax(-1) == batch.actions).float().mean()
        return {"action_loss": F.cross_entropy(predicted, batch.actions), "action_accuracy": right}

    def update(self, batch: Batch, step: int) -> dict[str, Tensor]:
        losses = self.losses(batch)
        self.descend((losses["action_loss"], self.trained))
        return {"loss": losses["action_loss"], **losses}
