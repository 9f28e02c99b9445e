"""Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174): memory for time, one block at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lamo.models.dropout import Masks


class _Checkpointed(torch.autograd.Function):
    """compute(x, masks), of which x alone is kept; its gradients come from computing it a second time.

    `torch.utils.checkpoint` would hold on to the dropout masks of the first time, which are not tensors saved for the
    backward pass but part of its plan; here they are drawn again.
    """

    @staticmethod
    def forward(
        ctx: Any, compute: Callable[..., Tensor], masks: Masks | None, x: Tensor, *parameters: Tensor
    ) -> Tensor:
        ctx.compute, ctx.again = compute, masks.copy() if masks else None
        ctx.save_for_backward(x, *parameters)
        return compute(x, masks)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        x, *parameters = ctx.saved_tensors
        with torch.enable_grad():
            x = x.detach().requires_grad_(ctx.needs_input_grad[2])
            y = ctx.compute(x, ctx.again.copy() if ctx.again else None)
        inputs = (x, *parameters)
        wanted = [tensor for tensor in inputs if tensor.requires_grad]
        found = iter(torch.autograd.grad(y, wanted, grad_outputs, allow_unused=True))
        return None, None, *(next(found) if tensor.requires_grad else None for tensor in inputs)


def checkpointed(
    compute: Callable[[Tensor, Masks | None], Tensor], x: Tensor, masks: Masks | None, parameters: Sequence[Tensor]
) -> Tensor:
    """compute(x, masks) -> Tensor, keeping x alone for the backward pass.

    `parameters`: whatever trainable `compute` reads besides x. It must draw its randomness from `masks`.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    return _Checkpointed.apply(compute, masks, x, *trained)  # pyright: ignore[reportReturnType]
