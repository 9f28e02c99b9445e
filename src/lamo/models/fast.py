"""GPT-2's blocks as few large matrix products, with their gradients by hand.

The weights stay where `transformers` and `peft` put them; this is another way to compute with them, and the library's
own modules remain the reference that the tests hold it to (`--blocks library` runs them). What it saves:

- a frozen base gets no weight gradients and keeps nothing that only these would need;
- GELU's derivative is formed while GELU is, so that its backward is one product (tanh is never called: see `_gelu`);
- dropout masks come from one fast stream, 16 bits each, instead of one slow draw an element;
- the last block computes only the tokens asked for (`queries`): states while training, the newest one while acting;
- S runs that share a frozen base go through it as one batch, each with adapters of its own.

Shapes: S runs, B sequences of T tokens each, width d, H heads; M = S · B · T rows, those of run 0 first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

MASKS = 2  # the stream of dropout masks is seeded with (seed, this, step): a resumed run draws what it would have drawn
FUSED_ATTENTION_FROM = 512  # tokens from which PyTorch's fused attention takes less time and memory than whole scores

CACHED_ELEMENTS = 1 << 17  # of a hidden layer at a time: half a MiB in float32

# --------------------------------------------------------------------------------------------------------- dropout


class Masks:
    """Dropout masks of one gradient step of S runs; each run's are those it would draw alone."""

    def __init__(self, seeds: Sequence[int], step: int, device: torch.device) -> None:
        self.device = device
        on_cpu = device.type == "cpu"
        self.streams = [np.random.SFC64((seed, MASKS, step)) for seed in seeds] if on_cpu else []

    def draw(self, rate: float, *shape: int) -> Keep | None:
        """What dropout of `rate` keeps of a tensor of `shape`, whose first dimension is S times something."""
        if rate == 0:
            return None
        if not self.streams:
            return Keep(torch.empty(shape, dtype=torch.bool, device=self.device).bernoulli_(1 - rate), 1 / (1 - rate))
        size = int(np.prod(shape)) // len(self.streams)
        least = round(rate * 65536)  # of 16 random bits: the rate holds to 1 in 65 536, and the scale fits it exactly
        bits = (stream.random_raw(-(-size // 4)).view(np.uint16)[:size] for stream in self.streams)
        keep = np.concatenate([part >= least for part in bits]) if len(self.streams) > 1 else next(bits) >= least
        return Keep(torch.from_numpy(keep).view(shape), 65536 / (65536 - least))


@dataclass(frozen=True, eq=False)
class Keep:
    """A dropout mask: kept elements are multiplied by `scale`, the others by zero."""

    mask: Tensor
    scale: float

    def factors(self, like: Tensor) -> Tensor:
        """0 or `scale`, in the number format of `like`; a product of two floats is four times faster than with a
        bool."""
        return self.mask.to(like.dtype).mul_(self.scale)


def dropped(x: Tensor, keep: Keep | None) -> Tensor:
    """Dropout of `x`; no copy where nothing is dropped."""
    return x if keep is None else x * keep.factors(x)


def _add_dropped(x: Tensor, branch: Tensor, keep: Keep | None) -> Tensor:
    """x + dropout(branch), into the memory of `branch`."""
    if keep is None:
        return branch.add_(x)
    return torch.addcmul(x, branch, keep.mask.to(x.dtype), value=keep.scale, out=branch)


# ------------------------------------------------------------------------------------------------------ activations


def _gelu(x: Tensor, slope: bool) -> tuple[Tensor, Tensor | None]:
    """(gelu(x), its derivative or None) of GPT-2's GELU, x (1 + tanh u) / 2 with u = √(2/π) (x + 0.044715 x³).

    As x σ(2u), which is the same function: σ costs a quarter of tanh here. The derivative is σ + x σ (1 - σ) 2u'.
    """
    c = 1.5957691216057308  # 2 √(2/π)
    square = x * x
    sigma = torch.addcmul(x.mul(c), square, x, value=0.044715 * c).sigmoid_()
    g = x * sigma
    if not slope:
        return g, None
    inner = square.mul_(3 * 0.044715 * c).add_(c)  # 2u'
    return g, sigma.addcmul_(inner.mul_(g), 1 - sigma)


def _relu(x: Tensor, slope: bool) -> tuple[Tensor, Tensor | None]:
    return F.relu(x), (x > 0).to(x.dtype) if slope else None


ACTIVATIONS = {"gelu_new": _gelu, "gelu_pytorch_tanh": _gelu, "relu": _relu}

# ----------------------------------------------------------------------------------------------------------- products


def _norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    return torch.native_layer_norm(x, (x.shape[-1],), weight, bias, eps)


def _norm_backward(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, moments: Any, trained: bool) -> Any:
    """(dx, dweight, dbias), the latter None unless `trained`."""
    return torch.ops.aten.native_layer_norm_backward(
        grad, x, (x.shape[-1],), *moments, weight, bias, (True, trained, trained)
    )


def _like(grad: Tensor | None, parameter: Tensor) -> Tensor | None:
    return None if grad is None else grad.to(parameter.dtype)


def _chunks(x: Tensor, width: int) -> Iterator[slice]:
    """Rows of x (M, d) by as many as keep (rows, width) within a processor's cache; all at once on a GPU."""
    size = len(x) if x.device.type != "cpu" else max(128, CACHED_ELEMENTS // width)
    return (slice(i, i + size) for i in range(0, len(x), size))


class _Project(torch.autograd.Function):
    """x (M, d) -> q, k, v (M, 3d): layer norm, GPT-2's fused projection, and beside it the adapters of S runs.

    qkv = h W + b + s · dropout(h) Aᵀ Bᵀ with h = norm(x), A (S, r, d), B (S, 3d, r).
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
        keep: Keep | None,
        eps: float,
    ) -> Tensor:
        h, *moments = _norm(x, norm_weight, norm_bias, eps)
        qkv = torch.addmm(bias, h, weight)
        low = None
        if a is not None and b is not None:
            runs = len(a)
            low = torch.bmm(dropped(h, keep).view(runs, -1, h.shape[1]), a.to(h.dtype).transpose(1, 2))  # (S, M/S, r)
            qkv.view(runs, -1, qkv.shape[1]).baddbmm_(low, b.to(h.dtype).transpose(1, 2), alpha=scaling)
        ctx.save_for_backward(x, norm_weight, norm_bias, weight, bias, a, b, low, *moments)
        ctx.scaling, ctx.keep, ctx.eps = scaling, keep, eps
        return qkv

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (grad,) = grad_outputs  # (M, 3d)
        x, norm_weight, norm_bias, weight, bias, a, b, low, *moments = ctx.saved_tensors
        trained = ctx.needs_input_grad
        dh = grad @ weight.t()
        d_weight = d_bias = d_a = d_b = None
        h = _norm(x, norm_weight, norm_bias, ctx.eps)[0] if a is not None or trained[3] else None
        if trained[3]:
            assert h is not None
            d_weight = h.t() @ grad
        if trained[4]:
            d_bias = grad.sum(0)
        if a is not None and h is not None:
            runs, by_run = len(a), grad.view(len(a), -1, grad.shape[1])
            factors = None if ctx.keep is None else ctx.keep.factors(h)
            d_low = torch.bmm(by_run, b.to(grad.dtype)).mul_(ctx.scaling)  # (S, M/S, r)
            d_b = torch.bmm(by_run.transpose(1, 2), low).mul_(ctx.scaling)
            h = h if factors is None else h.mul_(factors)
            d_a = torch.bmm(d_low.transpose(1, 2), h.view(runs, -1, h.shape[1]))
            through = torch.bmm(d_low, a.to(grad.dtype)).view_as(dh)
            dh = dh.add_(through) if factors is None else dh.addcmul_(through, factors)
        dx, d_norm_weight, d_norm_bias = _norm_backward(dh, x, norm_weight, norm_bias, moments, trained[1])
        grads = (d_weight, d_bias, d_a, d_b)
        kinds = (weight, bias, a, b)
        return dx, d_norm_weight, d_norm_bias, *map(_like, grads, kinds), None, None, None


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
        middle = _add_dropped(x, torch.addmm(out_bias, attended, out_weight), keep_attended)
        h, *moments = _norm(middle, norm_weight, norm_bias, eps)
        y = torch.empty_like(middle)
        slope = h.new_empty(len(h), up_weight.shape[1]) if trained else None
        inside = torch.empty_like(slope) if full and slope is not None else None
        for rows in _chunks(h, up_weight.shape[1]):
            g, tangent = activation(torch.addmm(up_bias, h[rows], up_weight), trained)
            torch.addmm(down_bias, g, down_weight, out=y[rows])
            if slope is not None:
                slope[rows] = tangent
            if inside is not None:
                inside[rows] = g
        y = _add_dropped(middle, y, keep)
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


class _Attend(torch.autograd.Function):
    """softmax(q kᵀ / √(d/H) + bias) v, heads side by side: q, k, v (M, 3d) -> (M', d) for the asked-for `queries`.

    Whole scores: for windows of a hundred tokens they fit the cache, and on a CPU this is faster than fused kernels.
    """

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, length: int, heads: int, bias: Tensor, queries: slice, keep: Keep | None
    ) -> Tensor:
        q, k, v = _heads(qkv, length, heads, queries)
        scale = q.shape[-1] ** -0.5
        if bias.shape[0] == 1:  # one mask for all
            scores = torch.baddbmm(bias[0].expand(len(q), -1, -1), q, k.transpose(1, 2), alpha=scale)
        else:
            scores = torch.bmm(q, k.transpose(1, 2)).mul_(scale)
            scores.view(len(bias), heads, *scores.shape[1:]).add_(bias)
        p = torch.softmax(scores, -1)
        ctx.save_for_backward(q, k, v, p)
        ctx.rest = length, heads, queries, keep, scale
        return _side_by_side(torch.bmm(dropped(p, keep), v), heads)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        q, k, v, p = ctx.saved_tensors
        length, heads, queries, keep, scale = ctx.rest
        d_out = _apart(grad_outputs[0], q.shape[1], heads)
        dp = torch.bmm(d_out, v.transpose(1, 2))
        if keep is None:
            dv = torch.bmm(p.transpose(1, 2), d_out)
        else:
            factors = keep.factors(p)
            dv = torch.bmm((p * factors).transpose(1, 2), d_out)
            dp.mul_(factors)
        d_scores = torch._softmax_backward_data(dp, p, -1, p.dtype).mul_(scale)
        d_qkv = q.new_zeros if q.shape[1] < length else q.new_empty
        d_qkv = d_qkv(len(q) // heads, length, 3, heads, q.shape[-1])
        parts = torch.bmm(d_scores, k), torch.bmm(d_scores.transpose(1, 2), q), dv
        for i, (part, rows) in enumerate(zip(parts, (queries, slice(None), slice(None)), strict=True)):
            d_qkv[:, rows, i] = part.view(-1, heads, *part.shape[1:]).transpose(1, 2)
        return d_qkv.view(-1, 3 * heads * q.shape[-1]), None, None, None, None, None


def _heads(qkv: Tensor, length: int, heads: int, queries: slice) -> tuple[Tensor, Tensor, Tensor]:
    """(M, 3d) -> q (SBH, T', d/H), k and v (SBH, T, d/H)."""
    parts = qkv.view(-1, length, 3, heads, qkv.shape[1] // (3 * heads))
    q, k, v = (parts[:, rows, i].transpose(1, 2) for i, rows in enumerate((queries, slice(None), slice(None))))
    return q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)


def _side_by_side(x: Tensor, heads: int) -> Tensor:
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
    """See `_Attend`; by PyTorch's fused kernel on a GPU and for long text.

    `bias` (1 or SB, 1, T, T) is added to the scores; None is plainly causal. Dropout of `rate` by `masks`.
    """
    rate = 0.0 if masks is None else rate
    if qkv.device.type == "cpu" and (length < FUSED_ATTENTION_FROM or rate):
        if bias is None:
            bias = attention_bias(length, None, None, qkv.dtype, qkv.device)
        bias = bias[:, :, queries]
        rows = len(qkv) // length * heads
        keep = masks.draw(rate, rows, bias.shape[2], length) if masks else None
        return _Attend.apply(qkv, length, heads, bias, queries, keep)  # pyright: ignore[reportReturnType]
    parts = qkv.view(-1, length, 3, heads, qkv.shape[1] // (3 * heads))
    q, k, v = (parts[:, :, i].transpose(1, 2) for i in range(3))
    out = F.scaled_dot_product_attention(q, k, v, bias, rate, is_causal=bias is None)
    return out.transpose(1, 2)[:, queries].reshape(-1, qkv.shape[1] // 3)


def attention_bias(
    length: int, mask: Tensor | None, span: int | None, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Additive attention mask, (1 or B, 1, T, T): 0 where query i may see key j (j <= i, j real, and of the last `span`
    steps of three tokens if there is a span), else the lowest number.

    ```
    T = 4, first token padded        keys
                                 p  1  2  3
                     queries  p  -  -  -  -     (a padded query's output is never used)
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
        visible = visible & mask[:, None, None, :]
    return torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill_(~visible, torch.finfo(dtype).min)


# ------------------------------------------------------------------------------------------------------------- blocks


def refusal(lm: Any) -> str | None:
    """Why the blocks of this causal LM cannot be computed here, or None: they must be GPT-2's, adapted on the fused
    projection or not at all."""
    config, blocks = lm.config, getattr(lm.base_model, "h", None)
    if config.model_type != "gpt2" or not isinstance(blocks, nn.ModuleList):
        return f"a {config.model_type} model is not a GPT-2"
    if config.activation_function not in ACTIVATIONS:
        return f"its activation is {config.activation_function}; known: {', '.join(ACTIVATIONS)}"
    if not config.scale_attn_weights or config.scale_attn_by_inverse_layer_idx or config.add_cross_attention:
        return "its attention is not GPT-2's"
    if not all(hasattr(_base(block.attn.c_attn), "weight") for block in blocks):
        return "its query, key and value projections are apart (--lora-form separate)"
    return None


def _base(projection: Any) -> Any:
    return getattr(projection, "base_layer", projection)


@dataclass(frozen=True, eq=False)
class Adapters:
    """LoRA of one block for S runs: a (S, r, d), b (S, 3d, r), multiplied by `scaling`."""

    a: Tensor
    b: Tensor
    scaling: float

    @staticmethod
    def of(blocks: Sequence[Any]) -> Adapters | None:
        """Adapters of the same block in each of S runs; None where it has none."""
        layers = [block.attn.c_attn for block in blocks]
        if not hasattr(layers[0], "lora_A"):
            return None
        a, b = ([getattr(layer, name)["default"].weight for layer in layers] for name in ("lora_A", "lora_B"))
        if len(layers) == 1:
            return Adapters(a[0][None], b[0][None], layers[0].scaling["default"])
        return Adapters(torch.stack(a), torch.stack(b), layers[0].scaling["default"])


def run_blocks(
    transformers: Sequence[Any],
    x: Tensor,
    bias: Tensor | None,
    queries: slice = slice(None),
    *,
    dropout: float = 0.0,
    lora_dropout: float = 0.0,
    masks: Masks | None = None,
) -> Tensor:
    """Input embeddings x (SB, T, d) -> last hidden states (SB, T', d) of the tokens `queries`, after the final norm.

    `transformers`: the GPT2Model of each of S runs; whatever is not an adapter is taken from the first. `bias` as in
    `attend`. Without `masks` nothing is dropped.
    """
    first = transformers[0]
    sequences, length, width = x.shape
    heads, activation = first.config.n_head, ACTIVATIONS[first.config.activation_function]
    last = len(first.h) - 1
    everything = slice(None)

    def keep(rate: float, rows: int) -> Keep | None:
        return masks.draw(rate, rows, width) if masks else None

    x = dropped(x.reshape(-1, width), keep(dropout, sequences * length))
    for i, block in enumerate(first.h):
        projection = _base(block.attn.c_attn)
        adapters = Adapters.of([transformer.h[i] for transformer in transformers])
        a, b, scaling = (adapters.a, adapters.b, adapters.scaling) if adapters else (None, None, 0.0)
        qkv: Any = _Project.apply(
            x, block.ln_1.weight, block.ln_1.bias, projection.weight, projection.bias, a, b, scaling,
            keep(lora_dropout, len(x)) if adapters else None, block.ln_1.eps,
        )  # fmt: skip
        rows = queries if i == last else everything  # nobody asks for the other tokens any more
        attended = attend(qkv, length, heads, bias, rows, dropout, masks)
        if i == last:
            x = x.view(sequences, length, width)[:, queries].reshape(-1, width)
        x = _Finish.apply(
            x, attended, block.attn.c_proj.weight, block.attn.c_proj.bias, block.ln_2.weight, block.ln_2.bias,
            block.mlp.c_fc.weight, block.mlp.c_fc.bias, block.mlp.c_proj.weight, block.mlp.c_proj.bias,
            activation, keep(dropout, len(x)), keep(dropout, len(x)), block.ln_2.eps,
        )  # fmt: skip  # pyright: ignore[reportAssignmentType]
    return first.ln_f(x).view(sequences, -1, width)
