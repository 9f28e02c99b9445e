"""Activations that give their derivative along with their value, so that their backward is one product."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _gelu(x: Tensor, slope: bool) -> tuple[Tensor, Tensor | None]:
    """(gelu(x), its derivative or None) of GPT-2's GELU, x (1 + tanh u) / 2 with u = √(2/π) (x + 0.044715 x³).

    As x σ(2u), which is the same function: σ costs a quarter of tanh here. The derivative is σ + x σ (1 - σ) 2u'.
    """
    if x.device.type != "cpu":
        return fused_gelu(x, slope)
    c = 1.5957691216057308  # 2 √(2/π)
    square = x * x
    sigma = torch.addcmul(x.mul(c), square, x, value=0.044715 * c).sigmoid_()
    g = x * sigma
    if not slope:
        return g, None
    inner = square.mul_(3 * 0.044715 * c).add_(c)  # 2u'
    return g, sigma.addcmul_(inner.mul_(g), 1 - sigma)


def fused_gelu(x: Tensor, slope: bool) -> tuple[Tensor, Tensor | None]:
    """The same by PyTorch's own kernels. On a GPU each is one pass over memory, where ten small ones would take as long
    as the products around them."""
    g = F.gelu(x, approximate="tanh")
    if not slope:
        return g, None
    return g, torch.ops.aten.gelu_backward(x.new_ones(()).expand_as(x), x, approximate="tanh")


def _relu(x: Tensor, slope: bool) -> tuple[Tensor, Tensor | None]:
    return F.relu(x), (x > 0).to(x.dtype) if slope else None


ACTIVATIONS = {"gelu_new": _gelu, "gelu_pytorch_tanh": _gelu, "relu": _relu}
