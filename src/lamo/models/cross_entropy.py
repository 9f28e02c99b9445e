"""Next-token cross-entropy of a language model without ever holding all its logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _LinearCrossEntropy(torch.autograd.Function):
    """loss = mean over tokens of  logsumexp(h W^T) - (h W^T)[target].

    The gradient is known as soon as the logits are, so it is formed in the forward pass, one chunk of tokens at a
    time, in a single buffer of (chunk, vocabulary). Memory falls from several times (tokens, vocabulary) to one
    chunk, and every product writes into memory that is already there.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
        n, vocabulary = hidden.shape[0], weight.shape[0]
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        d_hidden = torch.empty_like(hidden) if needs_hidden else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        buffer = hidden.new_empty(min(chunk, n), vocabulary)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for i in range(0, n, chunk):
            h, y = hidden[i : i + chunk], targets[i : i + chunk]  # (c, d), (c,)
            logits = buffer[: len(h)]  # (c, V)
            torch.mm(h, weight.t(), out=logits)
            # in float32 from here, also for a bfloat16 model
            p = logits if logits.dtype == torch.float32 else logits.float()
            gold = p.gather(1, y[:, None])
            top = p.amax(1, keepdim=True)
            p.sub_(top).exp_()
            norm = p.sum(1, keepdim=True)
            total += (norm.log() - (gold - top)).sum()
            if d_hidden is None and d_weight is None:
                continue
            p.div_(norm * n)
            p.scatter_add_(1, y[:, None], p.new_full((len(h), 1), -1.0 / n))
            p = p.to(hidden.dtype)
            if d_hidden is not None:
                torch.mm(p, weight, out=d_hidden[i : i + chunk])
            if d_weight is not None:
                d_weight.addmm_(p.t(), h) if p.dtype == torch.float32 else d_weight.add_(p.t() @ h)
        ctx.save_for_backward(d_hidden, d_weight)
        ctx.weight_dtype = weight.dtype
        return total / n

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (grad,) = grad_outputs
        d_hidden, d_weight = ctx.saved_tensors
        return (
            None if d_hidden is None else d_hidden * grad.to(d_hidden.dtype),
            None if d_weight is None else (d_weight * grad).to(ctx.weight_dtype),
            None,
            None,
        )


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int = 1024) -> Tensor:
    """Mean cross-entropy in nats of predicting `targets` (n,) from `hidden` (n, d) with output weights (V, d).

    Equal to `F.cross_entropy(hidden @ weight.T, targets)`; a frozen `weight` costs no gradient. Scalar, float32.
    """
    return _LinearCrossEntropy.apply(hidden, weight, targets, chunk)  # pyright: ignore[reportReturnType]
