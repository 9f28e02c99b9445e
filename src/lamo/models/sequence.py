"""The decision model: embeddings -> Transformer -> action head. DT, Wiki-RL and LaMo are settings of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lamo.algorithms.settings import SequenceSettings
from lamo.config import Spec
from lamo.errors import LamoError
from lamo.models.backbone import Backbone
from lamo.models.dropout import Masks
from lamo.models.embeddings import ActionEmbedding, action_head, embedding, interleave

STATES = slice(1, None, 3)  # of tokens R_1, s_1, a_1, …: state tokens predict actions


class DecisionModel(nn.Module):
    """Predicts a_t from R_1, s_1, a_1, …, R_t, s_t (Decision Transformer, arXiv 2106.01345; LaMo, arXiv 2310.20587).

    `lm` is a Hugging Face causal LM. Every token gets the embedding of its timestep added, and all pass a layer
    norm before the Transformer, as in DT.
    """

    def __init__(
        self,
        lm: Any,
        settings: SequenceSettings,
        spec: Spec,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,  # of the Transformer's products, see `Backbone`
    ) -> None:
        super().__init__()
        self.backbone = Backbone(lm, settings, device, dtype)
        if settings.span is not None and not self.backbone.fast:
            raise LamoError("--span needs the fast blocks: a GPT-2, without --blocks library and --attention")
        width = self.backbone.width
        self.horizon = spec.horizon
        self.embed_return = embedding(settings.embedding, 1, width)
        self.embed_observation = embedding(settings.embedding, spec.observation_dim, width)
        self.embed_action = ActionEmbedding(settings.embedding, spec, width)
        self.embed_timestep = nn.Embedding(spec.horizon, width)
        self.norm = nn.LayerNorm(width)
        outputs = settings.chunk * spec.outputs
        self.head = action_head(
            settings.action_head, width, outputs, tanh=settings.tanh_head and spec.action_kind == "continuous"
        )

    def forward(
        self,
        returns_to_go: Tensor,
        observations: Tensor,
        actions: Tensor,
        timesteps: Tensor,
        mask: Tensor | None = None,
        *,
        newest: bool = False,
        masks: Masks | None = None,
    ) -> Tensor:
        """Predicted actions for every step: (B, K, A) continuous, or logits (B, K, Σ n_i) of the choices; with chunks
        of n actions those of n steps one after the other, (B, K, n A).

        returns_to_go (B, K) scaled; observations (B, K, S) standardised; actions (B, K, A) scaled, (B, K) int or
        (B, K, A) int; timesteps (B, K) int, cut to the horizon; mask (B, K) bool, True where a step is real, None if
        all are. Action t is never seen by prediction t. With `newest` only the last step's action is computed, (B, 1,
        A). `masks`: see `Backbone.forward`.
        """
        tokens = self.tokens(returns_to_go, observations, actions, timesteps)
        queries = slice(-1, None) if newest else STATES
        return self.head(self.backbone(tokens[:, :-1], token_mask(mask), queries, masks=masks))

    def tokens(self, returns_to_go: Tensor, observations: Tensor, actions: Tensor, timesteps: Tensor) -> Tensor:
        """Input embeddings (B, 3K, width): R_1, s_1, a_1, …"""
        time = self.embed_timestep(timesteps.clamp(0, self.horizon - 1))  # (B, K, width)
        return self.norm(
            interleave(
                self.embed_return(returns_to_go[..., None]) + time,
                self.embed_observation(observations) + time,
                self.embed_action(actions) + time,
            )
        )

    def step_tokens(self, action: Tensor | None, return_to_go: Tensor, observation: Tensor, timestep: Tensor) -> Tensor:
        """Input embeddings (n, 3, width) of what is new at a step: a_{t-1}, R_t, s_t; (n, 2, width) at the first, which
        has no action before it. return_to_go (n,), observation (n, S), action (n, A) or (n,), timestep (n,)."""
        time = self.embed_timestep(timestep.clamp(0, self.horizon - 1))
        parts = [self.embed_return(return_to_go[:, None]) + time, self.embed_observation(observation) + time]
        if action is not None:
            before = self.embed_timestep((timestep - 1).clamp(0, self.horizon - 1))
            parts.insert(0, self.embed_action(action) + before)
        return self.norm(torch.stack(parts, dim=1))


def token_mask(mask: Tensor | None) -> Tensor | None:
    """Which tokens are real (B, 3K - 1), from which steps are (B, K). The newest action is read by nobody and left
    out."""
    return None if mask is None else mask.repeat_interleave(3, dim=1)[:, :-1]
