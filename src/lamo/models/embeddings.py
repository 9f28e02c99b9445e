"""Numbers to tokens and tokens to numbers: the only parts of the decision model that know what a robot is."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MLPEmbedding(nn.Module):
    """h = W1 x + b1;  token = h + W2 gelu(h) + b2  (LaMo, section 4.3)."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.second = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:  # (..., inputs) -> (..., width)
        h = self.first(x)
        return h + self.second(F.gelu(h))


def embedding(kind: Literal["mlp", "linear"], inputs: int, width: int) -> nn.Module:
    """A map (..., inputs) -> (..., width)."""
    return MLPEmbedding(inputs, width) if kind == "mlp" else nn.Linear(inputs, width)


def action_head(kind: Literal["mlp", "linear"], width: int, outputs: int, tanh: bool) -> nn.Module:
    """A map (..., width) -> (..., outputs); Linear-GELU-Linear or linear, squashed into [-1, 1] if `tanh`."""
    layers: list[nn.Module] = (
        [nn.Linear(width, width), nn.GELU(), nn.Linear(width, outputs)]
        if kind == "mlp"
        else [nn.Linear(width, outputs)]
    )
    return nn.Sequential(*layers, nn.Tanh()) if tanh else nn.Sequential(*layers)


class ActionEmbedding(nn.Module):
    """Continuous actions by `embedding`, discrete ones by a table."""

    def __init__(self, kind: Literal["mlp", "linear"], action_kind: str, actions: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(actions, width) if action_kind == "discrete" else None
        self.map = None if action_kind == "discrete" else embedding(kind, actions, width)

    def forward(self, actions: Tensor) -> Tensor:  # (B, K, A) float or (B, K) int -> (B, K, width)
        if self.table is not None:
            return self.table(actions)
        assert self.map is not None
        return self.map(actions)


def interleave(*streams: Tensor) -> Tensor:
    """m streams (B, K, width) -> (B, mK, width): R_1, s_1, a_1, R_2, s_2, a_2, …"""
    b, k, width = streams[0].shape
    return torch.stack(streams, dim=2).reshape(b, len(streams) * k, width)
