"""The fast blocks compute what transformers and peft compute: outputs, losses and every gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from lamo.algorithms.settings import SequenceSettings
from lamo.errors import LamoError
from lamo.models import dropout, fast
from lamo.models.activations import ACTIVATIONS, fused_gelu
from lamo.models.attention import attend, attention_bias
from lamo.models.backbone import Backbone
from lamo.models.dropout import Keep, Masks, dropped
from lamo.models.fast import refusal
from lamo.models.projection import fused, parts

CPU = torch.device("cpu")
QUIET: dict[str, Any] = {"dropout": 0.0, "lora_dropout": 0.0}


def gpt2(seed: int = 0, **config: Any) -> GPT2LMHeadModel:
    shape: dict[str, Any] = {"vocab_size": 50, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 32}
    torch.manual_seed(seed)
    return GPT2LMHeadModel(GPT2Config(**{**shape, "bos_token_id": 0, "eos_token_id": 0, **config}))


def backbone(seed: int = 0, config: dict[str, Any] | None = None, **settings: Any) -> Backbone:
    """Adapters that are not zero, as they are once training has begun."""
    made = Backbone(gpt2(**(config or {})), SequenceSettings(**settings))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(made.named_parameters()):
            if "lora_B" in name:
                p.normal_(std=0.1)
    return made.train()


def gradients(module: Backbone, loss: Tensor) -> dict[str, Tensor]:
    module.zero_grad()
    loss.backward()
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None and p.grad.any()}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lora_bias": True, "positions": "on"},
        {"lora_form": "separate"},
        {"lora_form": "separate", "lora_bias": True},
        {"adapt": "frozen", "language_weight": 0.0},
        {"adapt": "full"},
        {"span": 2, "context": 20},
        {"gradient_checkpointing": True},
        {"gradient_checkpointing": True, "adapt": "full"},
    ],
    ids=lambda s: "-".join(s) or "lora",
)
@pytest.mark.parametrize("config", [{}, {"activation_function": "relu"}], ids=["gelu", "relu"])
def test_hidden_states_and_every_gradient_equal_the_librarys(
    config: dict[str, Any], settings: dict[str, Any], padded: bool
) -> None:
    fast, library = (backbone(config=config, blocks=b, **QUIET, **settings) for b in ("fast", "library"))
    torch.manual_seed(1)
    tokens, weight = torch.randn(5, 14, 32), torch.randn(5, 5, 32)
    mask = torch.arange(14) >= torch.tensor([0, 3, 6, 0, 9])[:, None] if padded else None
    results = []
    for module in (fast, library):
        x = tokens.clone().requires_grad_()
        out = module(x, mask, slice(1, None, 3))
        real = 1.0 if mask is None else mask[:, 1::3, None].float()
        grads = gradients(module, (out * weight * real).sum())
        results.append({"hidden": (out * real).detach(), "tokens": x.grad, **grads})
    assert results[0].keys() == results[1].keys()
    for name, value in results[1].items():
        torch.testing.assert_close(results[0][name], value, atol=2e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_text_loss_and_its_gradients_equal_the_librarys() -> None:
    fast, library = (backbone(blocks=b, **QUIET) for b in ("fast", "library"))
    ids = torch.randint(0, 50, (2, 17))
    losses = [module.text_loss(ids) for module in (fast, library)]
    torch.testing.assert_close(*losses)
    ours, theirs = (gradients(m, loss) for m, loss in zip((fast, library), losses, strict=True))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    "settings", [{}, {"adapt": "full"}, {"blocks": "library"}], ids=lambda s: "-".join(s) or "lora"
)
def test_checkpointing_changes_no_number(settings: dict[str, Any]) -> None:
    """With dropout: what is computed again draws the masks that it drew."""
    results = []
    for checkpointing in (False, True):
        module = backbone(gradient_checkpointing=checkpointing, **settings)
        torch.manual_seed(1)
        x = torch.randn(4, 14, 32, requires_grad=True)
        masks = Masks([5], 3, CPU)
        hidden = module(x, None, slice(1, None, 3), masks=masks)
        text = module.text_losses(torch.randint(0, 50, (2, 17)), masks=masks)[0]
        results.append({"hidden": hidden.detach(), **gradients(module, hidden.square().sum() + text), "x": x.grad})
    assert results[0].keys() == results[1].keys()
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, atol=0, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def test_checkpointing_keeps_one_residual_a_block() -> None:
    kept = []
    for checkpointing in (False, True):
        module = backbone(gradient_checkpointing=checkpointing, config={"n_layer": 6})
        held: dict[int, int] = {}

        def pack(tensor: Tensor, held: dict[int, int] = held) -> Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            module(torch.randn(8, 14, 32))
        weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
        kept.append(sum(size for pointer, size in held.items() if pointer not in weights))
    residual = 8 * 14 * 32 * 4
    assert kept[1] <= (6 + 4) * residual < kept[0] / 4


def test_a_bfloat16_base_is_near_the_float32_step() -> None:
    """Stated tolerance of a bfloat16 base: 2 % in hidden states, 5 % in each gradient (relative norms)."""
    results = []
    for kind in ("bfloat16", "float32"):
        module = backbone(dtype=kind, **QUIET)
        torch.manual_seed(1)
        out = module(torch.randn(5, 14, 32))
        results.append({"hidden": out.detach(), **gradients(module, (out * torch.randn_like(out)).sum())})
    for name, exact in results[1].items():
        error = (results[0][name] - exact).norm() / exact.norm()
        assert error < (0.02 if name == "hidden" else 0.05), (name, error)


def plain(module: Backbone, tokens: Tensor, masks: Masks) -> Tensor:
    """GPT-2 with LoRA and dropout as the papers write them, in the order in which masks are drawn."""
    base, p, q = module.lm.base_model, module.dropout, module.lora_dropout
    (count, length, width), heads = tokens.shape, base.config.n_head
    rows = count * length
    x = dropped(tokens.reshape(rows, width), masks.draw(p, rows, width))
    for block in base.h:
        h = block.ln_1(x)
        projected = []
        for layer in parts(block.attn.c_attn):
            low = dropped(h, masks.draw(q, rows, width)) @ layer.lora_A["default"].weight.T
            projected.append(layer.base_layer(h) + low @ layer.lora_B["default"].weight.T * layer.scaling["default"])
        qkv = torch.cat(projected, dim=1)
        parted = (part.view(count, length, heads, -1).transpose(1, 2) for part in qkv.split(width, dim=1))
        query, key, value = parted
        scores = query @ key.transpose(2, 3) / (width / heads) ** 0.5
        scores = scores.masked_fill(torch.ones(length, length).tril() == 0, -1e30)
        keep = masks.draw(p, count * heads, length, length)
        chances = dropped(scores.softmax(-1).flatten(0, 1), keep).view_as(scores)
        attended = (chances @ value).transpose(1, 2).reshape(rows, width)
        first, second = masks.draw(p, rows, width), masks.draw(p, rows, width)
        x = x + dropped(block.attn.c_proj(attended), first)
        x = x + dropped(block.mlp.c_proj(block.mlp.act(block.mlp.c_fc(block.ln_2(x)))), second)
    return base.ln_f(x).view(count, length, width)


@pytest.mark.parametrize(("form", "kernels"), [("fused", "cpu"), ("separate", "cpu"), ("fused", "gpu")])
def test_with_dropout_it_equals_the_plain_formulas_under_the_same_masks(
    form: str, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernels == "gpu":  # what takes its place there
        monkeypatch.setitem(ACTIVATIONS, "gelu_new", fused_gelu)
        monkeypatch.setattr(dropout, "_on_processor", lambda x: False)
        monkeypatch.setattr(fast, "_chunks", lambda x, width: [slice(0, len(x))])
    module = backbone(dropout=0.3, lora_dropout=0.2, lora_form=form)
    tokens = torch.randn(4, 9, 32)
    weight = torch.randn(4, 9, 32)
    ours = module(tokens, masks=Masks([7], 3, CPU))
    theirs = plain(module, tokens, Masks([7], 3, CPU))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    mine, reference = (gradients(module, (out * weight).sum()) for out in (ours, theirs))
    assert mine.keys() == reference.keys()
    for name, value in reference.items():
        torch.testing.assert_close(mine[name], value, atol=1e-4, rtol=1e-3)


def test_without_masks_training_still_drops() -> None:
    module = backbone(dropout=0.5)
    tokens = torch.randn(1, 5, 32)
    assert not torch.equal(module(tokens), module(tokens))
    assert torch.equal(module.eval()(tokens), module(tokens))


def test_a_bfloat16_step_backward_twice_is_refused_not_wrong() -> None:
    module = backbone(**QUIET)
    loss = module(torch.randn(2, 5, 32)).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="in-?place"):
        loss.backward()


@pytest.mark.parametrize("activation", [ACTIVATIONS["gelu_new"], ACTIVATIONS["relu"], fused_gelu])
def test_activations_and_slopes(activation: Any) -> None:
    x = torch.linspace(-6, 6, 101, dtype=torch.float64).requires_grad_()
    value, slope = activation(x.detach(), True)
    assert torch.equal(activation(x.detach(), False)[0], value)
    expected = torch.relu(x) if activation is ACTIVATIONS["relu"] else torch.nn.functional.gelu(x, approximate="tanh")
    (exact,) = torch.autograd.grad(expected.sum(), x)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(slope, exact)


def test_masks_keep_the_rate_and_are_a_function_of_seed_and_step() -> None:
    def draw(seeds: list[int], step: int, rows: int = 4) -> Tensor:
        keep = Masks(seeds, step, CPU).draw(0.1, rows, 30_001)
        assert keep is not None
        assert keep.scale == pytest.approx(1 / 0.9, rel=1e-4)
        return keep.mask

    alone = draw([5], 9)
    assert abs(alone.float().mean() - 0.9) < 0.005
    assert torch.equal(alone, draw([5], 9))
    assert not torch.equal(alone, draw([5], 10))
    assert not torch.equal(alone, draw([6], 9))
    assert torch.equal(draw([5, 6], 9, 8)[:4], alone)  # what a run draws does not depend on its company
    assert Masks([5], 0, CPU).draw(0.0, 3, 3) is None


@pytest.mark.parametrize("padded", [False, True])
def test_attention_on_a_gpu_drops_by_the_masks_of_the_runs(padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by the fused kernel's own draw, which is one for a whole pack. `meta` is a device that is no processor."""
    meta = torch.device("meta")
    drawn: list[tuple[float, ...]] = []

    class Drawing(Masks):
        def draw(self, rate: float, *shape: int) -> Keep | None:
            drawn.append((rate, *shape))
            return Keep(torch.empty(shape, dtype=torch.bool, device=meta), 1 / (1 - rate)) if rate else None

    qkv = torch.empty(4 * 9, 3 * 32, device=meta, requires_grad=True)  # four windows of nine tokens, two heads
    bias = attention_bias(9, torch.ones(4, 9, dtype=torch.bool, device=meta), None, qkv.dtype, meta) if padded else None
    masks = Drawing([0, 1], 0, CPU)
    assert attend(qkv, 9, 2, bias, slice(None), 0.0, masks).shape == (36, 32)
    assert drawn == []
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda *a, **k: pytest.fail("fused"))
    attended = attend(qkv, 9, 2, bias, slice(1, None, 3), 0.1, masks)
    attended.sum().backward()
    assert attended.shape == (12, 32)
    assert qkv.grad is not None
    assert drawn == [(0.1, 8, 3, 9)]


def test_band_of_two_steps() -> None:
    bias = attention_bias(8, None, 2, torch.float32, CPU)[0, 0] == 0  # R1 s1 a1 R2 s2 a2 R3 s3
    assert np.flatnonzero(bias[7]).tolist() == [3, 4, 5, 6, 7]
    assert np.flatnonzero(bias[5]).tolist() == [0, 1, 2, 3, 4, 5]


def test_other_models_are_left_to_the_library() -> None:
    shape = LlamaConfig(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    assert refusal(LlamaForCausalLM(shape))
    assert not Backbone(LlamaForCausalLM(shape), SequenceSettings()).fast
    with pytest.raises(LamoError, match="--blocks fast"):
        Backbone(LlamaForCausalLM(shape), SequenceSettings(blocks="fast"))


def test_weights_that_were_split_are_one_storage_and_stay_so() -> None:
    module = backbone(lora_form="separate")
    split = module.lm.base_model.h[0].attn.c_attn
    before = [part.base_layer.weight.clone() for part in parts(split)]
    for _ in range(2):
        weight, bias = fused(split)
        assert torch.equal(weight, torch.cat(before).t()) and bias.shape == (96,)
        assert len({part.base_layer.weight.untyped_storage().data_ptr() for part in parts(split)}) == 1
        module = module.double().float()  # moved, they are apart again
