"""Backbones: what is frozen, what LoRA costs, position embeddings off and on, bad folders."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from lamo.algorithms.settings import SequenceSettings
from lamo.errors import LamoError
from lamo.models import backbone as backbone_module
from lamo.models.attention import attention_bias
from lamo.models.backbone import Backbone
from lamo.models.pretrained import load_language_model


def gpt2(**changes: int) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    values = {
        "vocab_size": 50,
        "n_positions": 16,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 2,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    return GPT2LMHeadModel(GPT2Config(**{**values, **changes}))


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=32,
        )
    )


def settings(**changes: object) -> SequenceSettings:
    return SequenceSettings(**{"dropout": 0.0, "lora_dropout": 0.0, "dtype": "float32", **changes})  # pyright: ignore[reportArgumentType]


def test_published_lora_shares_on_gpt2() -> None:
    """0.73 % with a pair each for q, k, v and their biases (the paper's count); 0.47 % in peft's fused form."""
    for form, bias, share in (("separate", True, 0.0073), ("fused", False, 0.0047)):
        lm = GPT2LMHeadModel(GPT2Config(n_layer=2, vocab_size=50, bos_token_id=0, eos_token_id=0))
        full_size = (
            124_439_808 / 12 * 2
        )  # adapters grow with depth, so two layers' worth is measured against a sixth of GPT-2
        backbone = Backbone(lm, settings(lora_form=form, lora_bias=bias))
        trainable = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
        assert trainable / full_size == pytest.approx(share, abs=5e-5)


def test_adapters_off_equals_the_base_model() -> None:
    tokens = torch.randn(2, 7, 32)
    want = Backbone(gpt2(), settings(adapt="frozen", language_weight=0.0)).eval()(tokens)
    for form in ("fused", "separate"):
        got = Backbone(gpt2(), settings(lora_form=form)).eval()(tokens)  # B = 0: an untrained adapter changes nothing
        torch.testing.assert_close(got, want)


def test_positions_off_is_a_model_whose_table_is_zero() -> None:
    lm = gpt2()
    with torch.no_grad():
        lm.transformer.wpe.weight.zero_()
    tokens = torch.randn(2, 7, 32)
    want = lm.eval().transformer(inputs_embeds=tokens).last_hidden_state
    torch.testing.assert_close(Backbone(gpt2(), settings()).eval()(tokens), want)


def test_text_keeps_its_positions() -> None:
    ids = torch.randint(0, 50, (2, 9))
    want = gpt2().eval()(ids, labels=ids).loss
    torch.testing.assert_close(Backbone(gpt2(), settings()).eval().text_loss(ids), want)


def test_text_is_read_without_dropout_unless_asked() -> None:
    ids = torch.randint(0, 50, (2, 9))
    for asked in (False, True):
        backbone = Backbone(gpt2(), settings(dropout=0.5, text_dropout=asked)).train()
        same = torch.equal(backbone.text_loss(ids), backbone.text_loss(ids))
        assert same != asked
        tokens = torch.randn(1, 5, 32)
        assert not torch.equal(backbone(tokens), backbone(tokens))  # behaviour keeps its dropout


def test_zero_position_row_never_trains() -> None:
    backbone = Backbone(gpt2(), settings(adapt="full"))
    backbone(torch.randn(2, 5, 32)).sum().backward()
    table = backbone.lm.transformer.wpe.weight
    assert backbone.zero_position == 16
    assert not table[16].any()
    assert table.grad is None or not table.grad[16].any()


def test_a_named_attention_kernel_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is one of transformers' blocks, so the fast ones step aside."""
    kernels: list[str] = []
    plain = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *given, **named: (kernels.append("sdpa"), plain(*given, **named))[1],
    )
    for attention, count in (("auto", 0), ("eager", 0), ("sdpa", 2)):
        kernels.clear()
        backbone = Backbone(gpt2(), settings(attention=attention)).eval()
        backbone(torch.randn(1, 5, 32))
        assert (backbone.fast, len(kernels)) == (attention == "auto", count), attention
    with pytest.raises(LamoError, match="--attention sdpa"):
        settings(attention="sdpa", blocks="fast")


def test_a_band_has_float32_products_where_all_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast blocks, which act with a band, cast nothing; so it is trained alike wherever it is."""
    for fast in (False, True):
        monkeypatch.setattr(backbone_module, "has_fast_bfloat16", lambda fast=fast: fast)
        whole = {"adapt": "full", "dtype": "auto"}
        assert Backbone(gpt2(), settings(**whole, span=2)).fast
        assert Backbone(gpt2(), settings(**whole)).fast is not fast


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_padding_changes_nothing(attention: str) -> None:
    backbone = Backbone(gpt2(), settings(attention=attention)).eval()
    tokens = torch.randn(1, 6, 32)
    padded = torch.cat([torch.randn(1, 3, 32), tokens], dim=1)
    mask = torch.tensor([[False] * 3 + [True] * 6])
    torch.testing.assert_close(backbone(padded, mask)[:, 3:], backbone(tokens), atol=1e-5, rtol=1e-5)


def test_rotary_models_work_and_padding_changes_nothing() -> None:
    backbone = Backbone(llama(), settings()).eval()
    assert backbone.zero_position is None
    assert sum(p.numel() for p in backbone.parameters() if p.requires_grad) == 2 * 3 * 2 * 16 * 32
    tokens = torch.randn(1, 6, 32)
    padded = torch.cat([torch.randn(1, 3, 32), tokens], dim=1)
    mask = torch.tensor([[False] * 3 + [True] * 6])
    torch.testing.assert_close(backbone(padded, mask)[:, 3:], backbone(tokens), atol=1e-5, rtol=1e-5)
    assert backbone.text_loss(torch.randint(0, 50, (2, 9))).isfinite()


def test_attention_is_causal() -> None:
    backbone = Backbone(gpt2(), settings()).eval()
    tokens = torch.randn(1, 6, 32)
    changed = tokens.clone()
    changed[:, 4:] += 1
    torch.testing.assert_close(backbone(tokens)[:, :4], backbone(changed)[:, :4])
    assert attention_bias(3, None, None, torch.float32, torch.device("cpu")).shape == (1, 1, 3, 3)


def test_bfloat16_base_keeps_adapters_in_float32() -> None:
    backbone = Backbone(gpt2(), settings(dtype="bfloat16"))
    for name, p in backbone.named_parameters():
        assert p.dtype == (torch.float32 if "lora_" in name else torch.bfloat16), name
    out = backbone(torch.randn(2, 5, 32))
    assert out.dtype == torch.float32
    out.sum().backward()
    reference = Backbone(gpt2(), settings()).eval()(tokens := torch.randn(2, 5, 32))
    assert (backbone.eval()(tokens) - reference).abs().max() < 0.1


def test_random_weights_have_the_shape_and_not_the_values(small_lm: Path) -> None:
    real, _ = load_language_model(str(small_lm))
    random, _ = load_language_model(str(small_lm), random_seed=3)
    again, _ = load_language_model(str(small_lm), random_seed=3)
    for (name, a), b, c in zip(real.named_parameters(), random.parameters(), again.parameters(), strict=True):
        assert a.shape == b.shape
        assert torch.equal(b, c)
        if name.endswith("c_attn.weight"):
            assert not torch.equal(a, b)


def test_bad_folders_are_one_line(small_lm: Path, tmp_path: Path) -> None:
    def broken(name: str) -> Path:
        return Path(shutil.copytree(small_lm, tmp_path / name))

    cases: list[tuple[Path, str]] = []
    (folder := broken("no-weights")).joinpath("model.safetensors").unlink()
    cases.append((folder, "no weights"))
    for file in (folder := broken("no-tokenizer")).glob("tokenizer*"):
        file.unlink()
    cases.append((folder, "no tokenizer"))
    (folder := broken("no-config")).joinpath("config.json").unlink()
    cases.append((folder, "config.json"))
    weights = (folder := broken("torn")).joinpath("model.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    cases.append((folder, "cannot be loaded"))
    tokenizer = json.loads((folder := broken("vocabulary")).joinpath("tokenizer.json").read_text())
    tokenizer["added_tokens"].append(
        {
            "id": 100_000,
            "content": "<x>",
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
    )
    tokenizer["model"]["vocab"]["<x>"] = 100_000
    folder.joinpath("tokenizer.json").write_text(json.dumps(tokenizer))
    cases.append((folder, "does not fit"))
    tensors = load_file(small_lm / "model.safetensors")
    first = next(name for name in sorted(tensors) if "c_attn.weight" in name)
    missing = {name: tensor for name, tensor in tensors.items() if name != first}
    save_file(missing, (folder := broken("half")) / "model.safetensors", metadata={"format": "pt"})
    cases.append((folder, rf"1 weights of a GPT2LMHeadModel are not in its file.*{first}"))
    tensors[first][0, 0] = torch.nan
    save_file(tensors, (folder := broken("nan")) / "model.safetensors", metadata={"format": "pt"})
    cases.append((folder, "holds NaN or infinity"))
    for folder, words in cases:
        with pytest.raises(LamoError, match=words) as caught:
            load_language_model(str(folder))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["no/such/folder", "./nothing", "no-such-model-anywhere"])
def test_unknown_lm_is_one_line(name: str) -> None:
    with pytest.raises(LamoError, match="tiny"):
        load_language_model(name)
