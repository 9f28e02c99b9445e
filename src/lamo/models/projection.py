"""GPT-2's fused query/key/value projection as three, and the fused weights of either form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class SplitProjection(nn.Module):
    """GPT-2's fused (d -> 3d) projection as three, so that q, k and v can have adapters of their own (the paper's
    0.73 %)."""

    def __init__(self, fused: Any) -> None:
        super().__init__()
        d_in, d_out = fused.weight.shape  # Conv1D stores (in, out)
        for i, name in enumerate(("q", "k", "v")):
            part = nn.Linear(d_in, d_out // 3)
            columns = slice(i * d_out // 3, (i + 1) * d_out // 3)
            part.weight = nn.Parameter(fused.weight.detach()[:, columns].T.contiguous())
            part.bias = nn.Parameter(fused.bias.detach()[columns].clone())
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.children()], dim=-1)  # q, k, v in the order they were added


def base_layer(projection: Any) -> Any:
    """The layer beneath an adapter, or the layer itself."""
    return getattr(projection, "base_layer", projection)


def parts(projection: Any) -> list[Any]:
    """The layers that may have adapters: the fused one, or those of q, k and v."""
    return list(projection.children()) if isinstance(projection, SplitProjection) else [projection]


def fused(projection: Any) -> tuple[Tensor, Tensor]:
    """(weight (d, 3d), bias (3d,)) of either form.

    The three frozen weights of a split projection are laid end to end in one storage, of which they stay views: no
    second copy, and one product for all three.
    """
    layers = [base_layer(part) for part in parts(projection)]
    if len(layers) == 1:
        return layers[0].weight, layers[0].bias
    rows = len(layers[0].weight)
    weights = [layer.weight for layer in layers]
    stride = weights[0].numel() * weights[0].element_size()
    if any(weight.data_ptr() != weights[0].data_ptr() + i * stride for i, weight in enumerate(weights)):
        together = torch.cat([weight.detach() for weight in weights])
        for i, weight in enumerate(weights):
            weight.data = together[i * rows : (i + 1) * rows]
    # a view over the storage that the three share
    table = weights[0].detach().as_strided((3 * rows, weights[0].shape[1]), weights[0].stride())
    return table.t(), torch.cat([layer.bias for layer in layers])
