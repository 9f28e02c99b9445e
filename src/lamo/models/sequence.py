"""The decision model: embeddings -> Transformer -> action head. DT, Wiki-RL and LaMo are settings of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lamo.algorithms.settings import SequenceSettings
from lamo.config import Spec
from lamo.models.backbone import Backbone
from lamo.models.embeddings import ActionEmbedding, action_head, embedding, interleave


class DecisionModel(nn.Module):
    """Predicts a_t from R_1, s_1, a_1, …, R_t, s_t (Decision Transformer, arXiv 2106.01345; LaMo, arXiv 2310.20587).

    `lm` is a Hugging Face causal LM. Every token gets the embedding of its timestep added, and all pass a layer
    norm before the Transformer, as in DT.
    """

    def __init__(self, lm: Any, settings: SequenceSettings, spec: Spec, device: str | torch.device = "cpu") -> None:
        super().__init__()
        self.backbone = Backbone(lm, settings, device)
        width = self.backbone.width
        self.horizon = spec.horizon
        self.embed_return = embedding(settings.embedding, 1, width)
        self.embed_observation = embedding(settings.embedding, spec.observation_dim, width)
        self.embed_action = ActionEmbedding(settings.embedding, spec.action_kind, spec.action_dim, width)
        self.embed_timestep = nn.Embedding(spec.horizon, width)
        self.norm = nn.LayerNorm(width)
        self.head = action_head(
            settings.action_head, width, spec.action_dim, tanh=settings.tanh_head and spec.action_kind == "continuous"
        )

    def forward(
        self,
        returns_to_go: Tensor,
        observations: Tensor,
        actions: Tensor,
        timesteps: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Predicted actions for every step: (B, K, A) continuous, or logits over A discrete actions.

        returns_to_go (B, K) scaled; observations (B, K, S) standardised; actions (B, K, A) or (B, K) int; timesteps
        (B, K) int, cut to the horizon; mask (B, K) bool, True where a step is real, None if all are. Action t is
        never seen by prediction t.
        """
        time = self.embed_timestep(timesteps.clamp(0, self.horizon - 1))  # (B, K, width)
        tokens = interleave(
            self.embed_return(returns_to_go[..., None]) + time,
            self.embed_observation(observations) + time,
            self.embed_action(actions) + time,
        )  # (B, 3K, width): R_1, s_1, a_1, …
        token_mask = None if mask is None else mask.repeat_interleave(3, dim=1)
        # the newest action is read by nobody: leave its token out
        hidden = self.backbone(self.norm(tokens[:, :-1]), None if token_mask is None else token_mask[:, :-1])
        return self.head(hidden[:, 1::3])  # state tokens predict actions
