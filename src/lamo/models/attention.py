"""Causal attention over short windows, and the mask that says who may see whom."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lamo.models.dropout import Keep, Masks, dropped

FUSED_ATTENTION_FROM = 512  # tokens from which PyTorch's fused attention takes less time and memory than whole scores


class _Attend(torch.autograd.Function):
    """softmax(q kᵀ / √(d/H) + bias) v, heads side by side: q, k, v (M, 3d) -> (M', d) for the asked-for `queries`.

    Whole scores: for windows of a hundred tokens they fit the cache, and on a CPU this is faster than fused kernels.
    """

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, length: int, heads: int, bias: Tensor, queries: slice, keep: Keep | None
    ) -> Tensor:
        q, k, v = heads_apart(qkv, length, heads, queries)
        scale = q.shape[-1] ** -0.5
        if bias.shape[0] == 1:  # one mask for all
            scores = torch.baddbmm(bias[0].expand(len(q), -1, -1), q, k.transpose(1, 2), alpha=scale)
        else:
            scores = torch.bmm(q, k.transpose(1, 2)).mul_(scale)
            scores.view(len(bias), heads, *scores.shape[1:]).add_(bias)
        p = torch.softmax(scores, -1)
        ctx.save_for_backward(q, k, v, p)
        ctx.rest = length, heads, queries, keep, scale
        return side_by_side(torch.bmm(dropped(p, keep), v), heads)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        q, k, v, p = ctx.saved_tensors
        length, heads, queries, keep, scale = ctx.rest
        d_out = _apart(grad_outputs[0], q.shape[1], heads)
        dp = torch.bmm(d_out, v.transpose(1, 2))
        keep = keep and keep.twice(p)
        dv = torch.bmm(dropped(p, keep).transpose(1, 2), d_out)
        dp = dropped(dp, keep)
        d_scores = torch.ops.aten._softmax_backward_data(dp, p, -1, p.dtype).mul_(scale)
        d_qkv = q.new_zeros if q.shape[1] < length else q.new_empty
        d_qkv = d_qkv(len(q) // heads, length, 3, heads, q.shape[-1])
        parts = torch.bmm(d_scores, k), torch.bmm(d_scores.transpose(1, 2), q), dv
        for i, (part, rows) in enumerate(zip(parts, (queries, slice(None), slice(None)), strict=True)):
            d_qkv[:, rows, i] = part.view(-1, heads, *part.shape[1:]).transpose(1, 2)
        return d_qkv.view(-1, 3 * heads * q.shape[-1]), None, None, None, None, None


def heads_apart(qkv: Tensor, length: int, heads: int, queries: slice) -> tuple[Tensor, Tensor, Tensor]:
    """(M, 3d) -> q (SBH, T', d/H), k and v (SBH, T, d/H)."""
    parts = qkv.view(-1, length, 3, heads, qkv.shape[1] // (3 * heads))
    q, k, v = (parts[:, rows, i].transpose(1, 2) for i, rows in enumerate((queries, slice(None), slice(None))))
    return q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)


def side_by_side(x: Tensor, heads: int) -> Tensor:
    """(SBH, T, d/H) -> (M, d)."""
    return x.view(-1, heads, *x.shape[1:]).transpose(1, 2).reshape(-1, heads * x.shape[-1])


def _apart(x: Tensor, length: int, heads: int) -> Tensor:
    """(M, d) -> (SBH, T, d/H)."""
    return x.view(-1, length, heads, x.shape[1] // heads).transpose(1, 2).flatten(0, 1)


def attend(
    qkv: Tensor,
    length: int,
    heads: int,
    bias: Tensor | None,
    queries: slice,
    rate: float = 0.0,
    masks: Masks | None = None,
) -> Tensor:
    """See `_Attend`; by PyTorch's fused kernel on a GPU and for long text, unless something is dropped: that kernel
    draws from the device's one generator, and a run in company would not be the run that it is alone.

    `bias` (1 or SB, 1, T, T) is added to the scores; None is plainly causal. Dropout of `rate` by `masks`.
    """
    rate = 0.0 if masks is None else rate
    if rate or (qkv.device.type == "cpu" and length < FUSED_ATTENTION_FROM):
        if bias is None:
            bias = attention_bias(length, None, None, qkv.dtype, qkv.device)
        bias = bias[:, :, queries]
        rows = len(qkv) // length * heads
        keep = masks.draw(rate, rows, bias.shape[2], length) if masks else None
        return _Attend.apply(qkv, length, heads, bias, queries, keep)  # pyright: ignore[reportReturnType]
    parts = qkv.view(-1, length, 3, heads, qkv.shape[1] // (3 * heads))
    q, k, v = (part.transpose(1, 2) for part in parts.unbind(2))  # whose gradients are put together in one copy
    out = F.scaled_dot_product_attention(q, k, v, bias, is_causal=bias is None)
    return out.transpose(1, 2)[:, queries].reshape(-1, qkv.shape[1] // 3)


def attention_bias(
    length: int, mask: Tensor | None, span: int | None, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Additive attention mask, (1 or B, 1, T, T): 0 where query i may see key j (j <= i, j real, and of the last `span`
    steps of three tokens if there is a span), else the lowest number. Padding sees itself, for some kernels make NaN of
    a query that sees nothing.

    ```
    T = 4, first token padded        keys
                                 p  1  2  3
                     queries  p  0  -  -  -     (a padded query's output is never used)
                              1  -  0  -  -
                              2  -  0  0  -
                              3  -  0  0  0
    ```
    """
    visible = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    if span is not None:
        step = torch.arange(length, device=device) // 3
        visible &= step[:, None] - step < span
    visible = visible[None, None]
    if mask is not None:
        visible = visible & mask[:, None, None, :] | torch.eye(length, dtype=torch.bool, device=device)
    return torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill_(~visible, torch.finfo(dtype).min)
