"""Muon: momentum, orthogonalised. For the matrices of a Transformer's blocks (Jordan et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def orthogonalise(matrix: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrix, roughly: five quintic Newton-Schulz iterations.

    `torch.optim.Muon` does the same in bfloat16 only, which is very slow on processors without bfloat16 products.
    """
    transposed = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if transposed else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if transposed else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum 0.95, orthogonalised, for matrices stored (in, out) as GPT-2's Conv1D does.

    GPT-2's fused query/key/value matrix (d, 3d) is treated as the three matrices that it is.
    """

    def __init__(self, params: Sequence[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                buffer = state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(buffer, group["momentum"])
                d_in, d_out = update.shape
                parts = update.split(d_in, dim=1) if d_out == 3 * d_in else (update,)
                update = torch.cat([orthogonalise(m) for m in parts], dim=1)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * math.sqrt(max(1.0, d_out / d_in)))
