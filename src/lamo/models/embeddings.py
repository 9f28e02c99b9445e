"""Numbers to tokens and tokens to numbers: the only parts of the decision model that know what a robot is."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lamo.config import Spec


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
    """Continuous actions by `embedding`, discrete ones by a table; several choices by the sum of their tables' rows."""

    begins: Tensor

    def __init__(self, kind: Literal["mlp", "linear"], spec: Spec, width: int) -> None:
        super().__init__()
        choices = spec.choices
        self.table = nn.Embedding(sum(choices), width) if choices else None
        self.map = None if choices else embedding(kind, spec.action_dim, width)
        self.several = spec.action_kind == "multidiscrete"
        if self.several:  # where each component's rows begin; follows from the choices, so it is not saved
            self.register_buffer("begins", torch.tensor([0, *choices[:-1]]).cumsum(0), persistent=False)

    def forward(self, actions: Tensor) -> Tensor:  # (…, A) float, (…) int or (…, A) int -> (…, width)
        if self.table is None:
            assert self.map is not None
            return self.map(actions)
        return self.table(actions + self.begins).sum(-2) if self.several else self.table(actions)


def interleave(*streams: Tensor) -> Tensor:
    """m streams (B, K, width) -> (B, mK, width): R_1, s_1, a_1, R_2, s_2, a_2, …"""
    b, k, width = streams[0].shape
    return torch.stack(streams, dim=2).reshape(b, len(streams) * k, width)
