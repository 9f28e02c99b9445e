"""GPT-2's blocks as few large matrix products, with their gradients by hand.

The weights stay where `transformers` and `peft` put them; this is another way to compute with them, and the library's
own modules remain the reference that the tests hold it to (`--blocks library` runs them). What it saves:

- a frozen base gets no weight gradients and keeps nothing that only these would need;
- GELU's derivative is formed while GELU is, so that its backward is one product (models/activations.py);
- dropout masks come from one fast stream, 16 bits each, instead of one slow draw an element;
- the last block computes only the tokens asked for (`queries`): states while training, the newest one while acting;
- S runs that share a frozen base go through it as one batch, each with adapters of its own.

Shapes: S runs, B sequences of T tokens each, width d, H heads; M = S · B · T rows, those of run 0 first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lamo.models import projection
from lamo.models.activations import ACTIVATIONS
from lamo.models.attention import attend
from lamo.models.checkpoint import checkpointed
from lamo.models.dropout import Keep, Masks, add_dropped, dropped

CACHED_ELEMENTS = 1 << 17  # of a hidden layer at a time: half a MiB in float32

# ----------------------------------------------------------------------------------------------------------- products


def _norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    return torch.native_layer_norm(x, (x.shape[-1],), weight, bias, eps)


def _norm_backward(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, moments: Any, trained: bool) -> Any:
    """(dx, dweight, dbias), the latter None unless `trained`."""
    return torch.ops.aten.native_layer_norm_backward(
        grad, x, (x.shape[-1],), *moments, weight, bias, (True, trained, trained)
    )


class _Forgets:
    """What a forward pass keeps for a backward pass that will not come."""

    needs_input_grad = (False,) * 16

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...


def _apply(function: Any, *arguments: Any) -> Tensor:
    """`function.apply`, or where no gradient is wanted its forward pass alone, without autograd's bookkeeping."""
    return function.apply(*arguments) if torch.is_grad_enabled() else function.forward(_Forgets(), *arguments)


def _like(grad: Tensor | None, parameter: Any) -> Tensor | None:
    return None if grad is None else grad.to(parameter.dtype)


def _chunks(x: Tensor, width: int) -> Iterator[slice]:
    """Rows of x (M, d) by as many as keep (rows, width) within a processor's cache; all at once on a GPU."""
    size = len(x) if x.device.type != "cpu" else max(128, CACHED_ELEMENTS // width)
    return (slice(i, i + size) for i in range(0, len(x), size))


def _placed(whole: Tensor | None, rows: slice, part: Tensor, count: int) -> Tensor:
    """`part` (m, width) at `rows` of `whole` (count, width), which the first part makes; itself where it is all."""
    if len(part) == count:
        return part
    whole = part.new_empty(count, part.shape[1]) if whole is None else whole
    whole[rows] = part
    return whole


class _Project(torch.autograd.Function):
    """x (M, d) -> q, k, v (M, 3d): layer norm, GPT-2's fused projection, and beside it the adapters of S runs.

    qkv = h W + b + s · dropout(h) Aᵀ Bᵀ with h = norm(x), A (S, r, d), B (S, 3d, r); or a pair each, with dropout of
    its own, for the columns of q, k and v: A (S, 3, r, d), B (S, 3, d, r).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        weight: Tensor,
        bias: Tensor,
        a: Tensor | None,
        b: Tensor | None,
        scaling: float,
        keeps: Sequence[Keep | None],
        eps: float,
    ) -> Tensor:
        h, *moments = _norm(x, norm_weight, norm_bias, eps)
        qkv = torch.addmm(bias, h, weight)
        lows: list[Tensor] = []  # (S, M/S, r) each
        if a is not None and b is not None:
            runs = len(a)
            for (columns, a_i, b_i), keep in zip(_groups(qkv, a, b), keeps, strict=True):
                low = torch.bmm(dropped(h, keep).view(runs, -1, h.shape[1]), a_i.to(h.dtype).transpose(1, 2))
                part = columns.view(runs, -1, columns.shape[1])
                part.baddbmm_(low, b_i.to(h.dtype).transpose(1, 2), alpha=scaling)
                lows.append(low)
        ctx.save_for_backward(x, norm_weight, norm_bias, weight, bias, a, b, *moments, *lows)
        ctx.scaling, ctx.keeps, ctx.eps = scaling, keeps, eps
        return qkv

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (grad,) = grad_outputs  # (M, 3d)
        x, norm_weight, norm_bias, weight, bias, a, b, *rest = ctx.saved_tensors
        moments, lows = rest[:2], rest[2:]
        trained = ctx.needs_input_grad
        goes_on = any(trained[:3])  # not into frozen token embeddings: text's first block
        dh = grad @ weight.t() if goes_on else None
        d_weight = d_bias = d_a = d_b = None
        h = _norm(x, norm_weight, norm_bias, ctx.eps)[0] if a is not None or trained[3] else None
        if trained[3]:
            assert h is not None
            d_weight = h.t() @ grad
        if trained[4]:
            d_bias = grad.sum(0)
        if a is not None and h is not None:
            runs = len(a)
            d_as: list[Tensor] = []
            d_bs: list[Tensor] = []
            for (columns, a_i, b_i), keep, low in zip(_groups(grad, a, b), ctx.keeps, lows, strict=True):
                by_run = columns.view(runs, -1, columns.shape[1])
                twice = keep and keep.twice(h)
                d_low = torch.bmm(by_run, b_i.to(grad.dtype)).mul_(ctx.scaling)  # (S, M/S, r)
                d_bs.append(torch.bmm(by_run.transpose(1, 2), low).mul_(ctx.scaling))
                d_as.append(torch.bmm(d_low.transpose(1, 2), dropped(h, twice).view(runs, -1, h.shape[1])))
                if dh is not None:
                    through = torch.bmm(d_low, a_i.to(grad.dtype)).view_as(dh)
                    dh = add_dropped(dh, through, twice)
            d_a, d_b = (each[0] if len(each) == 1 else torch.stack(each, 1) for each in (d_as, d_bs))
        dx = d_norm_weight = d_norm_bias = None
        if dh is not None:
            dx, d_norm_weight, d_norm_bias = _norm_backward(dh, x, norm_weight, norm_bias, moments, trained[1])
        grads = (d_weight, d_bias, d_a, d_b)
        kinds = (weight, bias, a, b)
        named = (_like(grad, kind) for grad, kind in zip(grads, kinds, strict=True))
        return dx, d_norm_weight, d_norm_bias, *named, None, None, None


def _groups(qkv: Tensor, a: Tensor, b: Tensor) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
    """The columns of (M, 3d) that an adapter writes, and the adapter: A (S, r, d), B (S, columns, r)."""
    if a.ndim == 3:
        return [(qkv, a, b)]
    return zip(qkv.split(b.shape[2], dim=1), a.unbind(1), b.unbind(1), strict=True)


class _Finish(torch.autograd.Function):
    """The rest of a block: residual x and attention's output (M, d) -> (M, d).

    x' = x + dropout(attended W_o + b_o);  y = x' + dropout(act(norm(x') W_1 + b_1) W_2 + b_2)
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        attended: Tensor,
        out_weight: Tensor,
        out_bias: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        up_weight: Tensor,
        up_bias: Tensor,
        down_weight: Tensor,
        down_bias: Tensor,
        activation: Any,
        keep_attended: Keep | None,
        keep: Keep | None,
        eps: float,
    ) -> Tensor:
        trained = any(ctx.needs_input_grad)
        full = ctx.needs_input_grad[2]  # only weight gradients need what went into the products
        middle = add_dropped(x, torch.addmm(out_bias, attended, out_weight), keep_attended)
        h, *moments = _norm(middle, norm_weight, norm_bias, eps)
        y = torch.empty_like(middle)
        slope = inside = None
        for rows in _chunks(h, up_weight.shape[1]):
            g, tangent = activation(torch.addmm(up_bias, h[rows], up_weight), trained)
            torch.addmm(down_bias, g, down_weight, out=y[rows])
            if trained:
                slope = _placed(slope, rows, tangent, len(h))
            if full:
                inside = _placed(inside, rows, g, len(h))
        y = add_dropped(middle, y, keep)
        if trained:
            ctx.save_for_backward(
                middle, slope, attended if full else None, inside, *moments,
                out_weight, norm_weight, norm_bias, up_weight, down_weight,
            )  # fmt: skip
        ctx.keeps, ctx.eps = (keep_attended, keep), eps
        return y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (grad,) = grad_outputs
        (middle, slope, attended, inside, *moments, out_weight, norm_weight, norm_bias, up_weight, down_weight) = (
            ctx.saved_tensors
        )
        trained = ctx.needs_input_grad
        keep_attended, keep = ctx.keeps
        branch = dropped(grad, keep)
        dh = torch.empty_like(branch)
        for rows in _chunks(branch, up_weight.shape[1]):
            d_up = slope[rows].mul_(torch.mm(branch[rows], down_weight.t()))  # takes slope's place: it served its turn
            torch.mm(d_up, up_weight.t(), out=dh[rows])
        d_middle, d_norm_weight, d_norm_bias = _norm_backward(dh, middle, norm_weight, norm_bias, moments, trained[4])
        d_middle += grad
        d_out = dropped(d_middle, keep_attended)
        grads: list[Tensor | None] = [None] * 4
        if trained[2]:
            h = _norm(middle, norm_weight, norm_bias, ctx.eps)[0]
            grads = [
                attended.t() @ d_out,
                d_out.sum(0),
                h.t() @ slope,
                slope.sum(0),
                inside.t() @ branch,
                branch.sum(0),
            ]
        else:
            grads = [None] * 6
        return (
            d_middle, d_out @ out_weight.t(), *grads[:2], d_norm_weight, d_norm_bias, *grads[2:],
            None, None, None, None,
        )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- blocks


def refusal(lm: Any) -> str | None:
    """Why the blocks of this causal LM cannot be computed here, or None: they must be GPT-2's, adapted on the fused
    projection or not at all."""
    config = lm.config
    blocks: Any = getattr(lm.base_model, "h", ())
    if config.model_type != "gpt2" or not len(blocks):
        return f"a {config.model_type} model is not a GPT-2"
    if config.activation_function not in ACTIVATIONS:
        return f"its activation is {config.activation_function}; known: {', '.join(ACTIVATIONS)}"
    if not config.scale_attn_weights or config.scale_attn_by_inverse_layer_idx or config.add_cross_attention:
        return "its attention is not GPT-2's"
    return None


@dataclass(frozen=True, eq=False)
class Adapters:
    """LoRA of one block for S runs: a (S, r, d), b (S, 3d, r), or three of each in a second dimension, multiplied by
    `scaling`; see `_Project`."""

    a: Tensor
    b: Tensor
    scaling: float

    @staticmethod
    def of(blocks: Sequence[Any]) -> Adapters | None:
        """Adapters of the same block in each of S runs; None where it has none."""
        layers = [part for block in blocks for part in projection.parts(block.attn.c_attn)]
        if not hasattr(layers[0], "lora_A"):
            return None
        groups, scaling = len(layers) // len(blocks), layers[0].scaling["default"]
        a, b = ([getattr(layer, name)["default"].weight for layer in layers] for name in ("lora_A", "lora_B"))
        if len(layers) == 1:
            return Adapters(a[0][None], b[0][None], scaling)
        if groups == 1:
            return Adapters(torch.stack(a), torch.stack(b), scaling)
        shape = (len(blocks), groups)
        return Adapters(torch.stack(a).unflatten(0, shape), torch.stack(b).unflatten(0, shape), scaling)

    @property
    def count(self) -> int:
        """Pairs of matrices for each run."""
        return 1 if self.a.ndim == 3 else self.a.shape[1]


def run_blocks(
    transformers: Sequence[Any],
    x: Tensor,
    bias: Tensor | None,
    queries: slice = slice(None),
    *,
    dropout: float = 0.0,
    lora_dropout: float = 0.0,
    masks: Masks | None = None,
    checkpointing: bool = False,
) -> Tensor:
    """Input embeddings x (SB, T, d) -> last hidden states (SB, T', d) of the tokens `queries`, after the final norm.

    `transformers`: the GPT2Model of each of S runs; whatever is not an adapter is taken from the first. `bias` as in
    `attend`. Without `masks` nothing is dropped. With `checkpointing` a block keeps its input alone for the backward
    pass (`models.checkpoint`); numbers stay what they are.
    """
    first = transformers[0]
    sequences, length, width = x.shape
    heads, activation = first.config.n_head, ACTIVATIONS[first.config.activation_function]
    last = len(first.h) - 1
    everything = slice(None)

    def keep(rate: float, rows: int, masks: Masks | None) -> Keep | None:
        return masks.draw(rate, rows, width) if masks else None

    x = dropped(x.reshape(-1, width), keep(dropout, sequences * length, masks))
    for i in range(len(first.h)):
        same = [transformer.h[i] for transformer in transformers]

        def compute(x: Tensor, masks: Masks | None, same: list[Any] = same, last: bool = i == last) -> Tensor:
            adapters = Adapters.of(same)
            keeps = [keep(lora_dropout, len(x), masks) for _ in range(adapters.count)] if adapters else []
            qkv = project(same[0], x, adapters, keeps)
            rows = queries if last else everything  # nobody asks for the other tokens any more
            attended = attend(qkv, length, heads, bias, rows, dropout, masks)
            if last:
                x = x.view(sequences, length, width)[:, queries].reshape(-1, width)
            keeps = [keep(dropout, len(x), masks) for _ in range(2)]
            return finish(same[0], x, attended, activation, *keeps)

        if checkpointing and torch.is_grad_enabled():
            x = checkpointed(compute, x, masks, [p for block in same for p in block.parameters()])
        else:
            x = compute(x, masks)
    return first.ln_f(x).view(sequences, -1, width)


def project(block: Any, x: Tensor, adapters: Adapters | None, keeps: Sequence[Keep | None] = ()) -> Tensor:
    """Queries, keys and values (M, 3d) of residuals x (M, d): see `_Project`. A mask for each adapter of a run,
    or none."""
    a, b, scaling = (adapters.a, adapters.b, adapters.scaling) if adapters else (None, None, 0.0)
    keeps = keeps or (None,) * (adapters.count if adapters else 0)
    norm = block.ln_1
    fused = projection.fused(block.attn.c_attn)
    return _apply(_Project, x, norm.weight, norm.bias, *fused, a, b, scaling, keeps, norm.eps)


def finish(
    block: Any,
    x: Tensor,
    attended: Tensor,
    activation: Any,
    keep_attended: Keep | None = None,
    keep: Keep | None = None,
) -> Tensor:
    """The rest of a block: see `_Finish`."""
    out, norm, up, down = block.attn.c_proj, block.ln_2, block.mlp.c_fc, block.mlp.c_proj
    return _apply(
        _Finish, x, attended, out.weight, out.bias, norm.weight, norm.bias, up.weight, up.bias, down.weight, down.bias,
        activation, keep_attended, keep, norm.eps,
    )  # fmt: skip
