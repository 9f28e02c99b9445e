"""Any Hugging Face causal language model as the Transformer of a decision model, and as a reader of text."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lamo.algorithms.settings import SequenceSettings
from lamo.errors import LamoError
from lamo.models.attention import attention_bias
from lamo.models.cpu import has_fast_bfloat16
from lamo.models.cross_entropy import linear_cross_entropy
from lamo.models.dropout import Masks
from lamo.models.fast import refusal, run_blocks
from lamo.models.projection import SplitProjection

EMBEDDED_LMS = {"tiny": "lm-tiny"}  # name -> folder in lamo.assets

# Attention's query/key/value projections by the names that Hugging Face gives them.
QKV_MODULES = (
    ("c_attn",),
    ("query_key_value",),
    ("qkv_proj",),
    ("Wqkv",),
    ("q_proj", "k_proj", "v_proj"),
    ("q_lin", "k_lin", "v_lin"),
)


# ----------------------------------------------------------------------------------------------------------- loading


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Loading bars and advice of transformers stay out of the user's terminal; its errors become ours."""
    from transformers.utils import logging as hf_logging

    before = hf_logging.get_verbosity()
    bars = hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(before)
        if bars:
            hf_logging.enable_progress_bar()


def language_model_folder(lm: str) -> str:
    """What `from_pretrained` is given for `lm`: the folder of an embedded model, a folder of the user's, or a hub
    name."""
    if lm in EMBEDDED_LMS:
        return str(resources.files("lamo.assets") / EMBEDDED_LMS[lm])
    if Path(lm).is_dir():
        return lm
    if lm.startswith((".", "/", "~")) or lm.count("/") > 1 or os.sep in lm.replace("/", "", 1):
        raise LamoError(
            f"--lm {lm}: no such folder; give a Hugging Face folder, a hub name, or one of: {', '.join(EMBEDDED_LMS)}"
        )
    return lm


def _check_folder(lm: str, folder: str, *, weights: bool) -> None:
    path = Path(folder)
    if not path.is_dir():
        return  # a hub name: the hub's own errors are translated by _explain
    if not (path / "config.json").is_file():
        raise LamoError(
            f"--lm {lm}: the folder has no config.json, so it is not a Hugging Face model; run `lamo lm "
            f"pretrain` or save_pretrained"
        )
    if weights and not any(path.glob("*.safetensors")):
        extra = (
            " (only pickled .bin weights, which are never loaded: save them again as safetensors)"
            if any(path.glob("*.bin"))
            else ""
        )
        raise LamoError(f"--lm {lm}: the folder has no weights{extra}; it needs model.safetensors")
    if not any((path / name).is_file() for name in ("tokenizer.json", "vocab.json", "tokenizer.model", "spiece.model")):
        raise LamoError(
            f"--lm {lm}: the folder has no tokenizer (tokenizer.json or vocab.json + merges.txt); add "
            f"the one the model was trained with"
        )


def _check_weights(lm: str, model: nn.Module, notes: dict[str, Any]) -> None:
    """What a file lacks transformers draws at random: a model that was pretrained in name only."""
    lacking = sorted([*notes["missing_keys"], *(str(key) for key in notes["mismatched_keys"])])
    if lacking:
        raise LamoError(
            f"--lm {lm}: {len(lacking)} weights of a {type(model).__name__} are not in its file or of another shape "
            f"(first {lacking[0]}); give a whole causal language model"
        )
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise LamoError(f"--lm {lm}: weight {name} holds NaN or infinity; fetch or train the model again")


def _explain(lm: str, error: Exception) -> LamoError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if Path(lm).is_dir():
        return LamoError(f"--lm {lm}: the folder cannot be loaded: {first}")
    return LamoError(
        f"--lm {lm}: neither a folder here nor to be had from the Hugging Face hub ({first}); "
        f"give a folder, a hub name with a network, or one of: {', '.join(EMBEDDED_LMS)}"
    )


def load_language_model(lm: str, *, random_seed: int | None = None) -> tuple[Any, Any]:
    """(model, tokenizer): a Hugging Face causal LM in float32 or its stored format, and a `tokenizers.Tokenizer`.

    With `random_seed` the shape is the LM's and the weights are drawn anew. Only safetensors are read, and no code
    from a hub is executed. Raises `LamoError` for an unknown name, a folder without weights or tokenizer, weights that
    are not all there or not finite, and a vocabulary that does not fit its tokenizer.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    model: Any
    folder = language_model_folder(lm)
    _check_folder(lm, folder, weights=random_seed is None)
    options: dict[str, Any] = {"trust_remote_code": False}
    with quiet_transformers():
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        try:
            wrapped: Any = AutoTokenizer.from_pretrained(folder, **options)
            if random_seed is None:
                options |= {"use_safetensors": True, "output_loading_info": True}
                loaded: Any = AutoModelForCausalLM.from_pretrained(folder, **options)
                model, notes = loaded
                _check_weights(lm, model, notes)
            else:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(random_seed)
                    model = AutoModelForCausalLM.from_config(
                        AutoConfig.from_pretrained(folder, **options), dtype=torch.float32
                    )
        except LamoError:
            raise
        except Exception as error:  # transformers raises a dozen kinds; each says in its first line what was wrong
            raise _explain(lm, error) from None
    tokenizer: Any = getattr(wrapped, "backend_tokenizer", None)
    if tokenizer is None:
        raise LamoError(
            f"--lm {lm}: its tokenizer has no fast form (tokenizer.json); convert it with "
            f"AutoTokenizer(...).save_pretrained"
        )
    rows: int = model.get_input_embeddings().num_embeddings
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= rows:
        raise LamoError(
            f"--lm {lm}: its tokenizer has ids up to {largest}, its embedding only {rows} rows; the "
            f"vocabulary does not fit the tokenizer"
        )
    return model, tokenizer


def weights_digest(model: nn.Module) -> str:
    """sha256 over names and bytes of all weights, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------------------- backbone


class Backbone(nn.Module):
    """A causal LM read two ways: embeddings in, hidden states out (control); token ids in, loss out (text).

    On the control path GPT-2's position embeddings are off (`positions="off"`): one zero row is appended to `wpe`
    and the position ids point at it, which is exact in any number format. Rotary models have no such table; they keep
    their relative positions.
    """

    def __init__(self, lm: Any, settings: SequenceSettings, device: str | torch.device = "cpu") -> None:
        super().__init__()
        device = torch.device(device)
        self.lm = lm
        self.width: int = lm.get_input_embeddings().weight.shape[1]
        self.vocabulary: int = lm.get_input_embeddings().weight.shape[0]
        self.text_context: int = getattr(lm.config, "max_position_embeddings", None) or 1024
        frozen = settings.adapt != "full"
        for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop", "attention_dropout", "hidden_dropout"):
            if hasattr(lm.config, name):
                setattr(lm.config, name, settings.dropout)
        self.text_dropout = settings.text_dropout
        self.span = settings.span
        # where the Transformer's own dropout rates are kept; taken before adapters add theirs
        self.dropouts: list[tuple[nn.Module, str]] = []
        for module in lm.modules():
            if isinstance(module, nn.Dropout):
                self.dropouts.append((module, "p"))
            elif isinstance(getattr(module, "attention_dropout", None), float):
                self.dropouts.append((module, "attention_dropout"))  # Llama and its kin keep a number
        for module, attribute in self.dropouts:
            setattr(module, attribute, settings.dropout)
        self.dropout = settings.dropout
        for name, module in list(lm.named_modules()):
            if type(module).__name__ == "NewGELUActivation":  # GPT-2's: the same function, one kernel instead of eight
                lm.set_submodule(name, nn.GELU(approximate="tanh"))
        kernel = settings.attention if settings.attention != "auto" else ("sdpa" if device.type == "cuda" else "eager")
        lm.set_attn_implementation(kernel)
        self.zero_position: int | None = None
        base = lm.base_model
        if settings.positions == "off" and isinstance(getattr(base, "wpe", None), nn.Embedding):
            zero = self.zero_position = int(base.wpe.num_embeddings)
            table = nn.Embedding(zero + 1, self.width, padding_idx=zero)  # padding_idx: it never trains
            table.weight = nn.Parameter(torch.cat([base.wpe.weight.detach(), base.wpe.weight.new_zeros(1, self.width)]))
            base.wpe = table
        self.base_dtype = base_dtype(settings, device, frozen)
        lm.to(self.base_dtype).requires_grad_(not frozen)
        if settings.adapt == "lora":
            self._add_adapters(settings)
        # activations of a Transformer that trains in full: bfloat16 products where they are fast, weights stay float32
        self.autocast = settings.dtype != "float32" and not frozen and (device.type == "cuda" or has_fast_bfloat16())
        self.fast = self._is_fast(settings)
        self.lora_dropout = settings.lora_dropout
        self.checkpointing = settings.gradient_checkpointing
        if self.checkpointing and not self.fast:
            # the older name is deprecated in the newest transformers, the newer missing from the oldest that we admit
            enable = getattr(lm, "activation_checkpointing_enable", None) or lm.gradient_checkpointing_enable
            enable({"use_reentrant": False, "context_fn": self._dropout_as_now})

    def _is_fast(self, settings: SequenceSettings) -> bool:
        """Whether `models.fast` computes the blocks; transformers does otherwise."""
        if settings.blocks == "library":
            return False
        why_not = refusal(self.lm) or ("it trains in bfloat16" if self.autocast else None)
        if why_not and settings.blocks == "fast":
            raise LamoError(f"--blocks fast: not with this language model: {why_not}; use --blocks library")
        return why_not is None

    def _add_adapters(self, settings: SequenceSettings) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        names = {name.rsplit(".", 1)[-1] for name, _ in self.lm.base_model.named_modules()}
        targets = next((list(t) for t in QKV_MODULES if set(t) <= names), None)
        if targets is None:
            raise LamoError(
                f"--adapt lora: no query/key/value projections found in a {self.lm.config.model_type} "
                f"model; use --adapt full or frozen"
            )
        if settings.lora_form == "separate" and targets == ["c_attn"]:
            for block in self.lm.base_model.h:
                block.attn.c_attn = SplitProjection(block.attn.c_attn)
            targets = [r".*\.c_attn\.[qkv]"]
        config = LoraConfig(
            r=settings.lora_rank,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            target_modules=targets[0] if len(targets) == 1 and "*" in targets[0] else targets,
            bias="lora_only" if settings.lora_bias else "none",
            fan_in_fan_out=targets == ["c_attn"],
        )
        inject_adapter_in_model(config, self.lm)
        for name, parameter in self.lm.named_parameters():
            adapter = "lora_" in name
            bias = settings.lora_bias and name.endswith("base_layer.bias")
            parameter.requires_grad_(adapter or bias)
            if adapter:
                parameter.data = parameter.data.float()

    def forward(
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        queries: slice = slice(None),
        *,
        masks: Masks | None = None,
        others: Sequence[Backbone] = (),
    ) -> Tensor:
        """Hidden states (B, T', d) float32 of input embeddings `tokens` (B, T, d), for the tokens `queries` alone.

        `mask` (B, T) is True where a token is real; without it all are. Attention is causal, within the span if there
        is one; padding is seen by nobody. `masks` are the step's dropout masks (fast blocks only; transformers draws
        its own). `others` share this one's frozen weights: B is then the sum over all, in their order.
        """
        length = tokens.shape[1]
        bias = None
        if self.fast and mask is None and self.span is None and tokens.device.type == "cuda":
            pass  # plainly causal, which the fused kernel knows by itself
        else:
            bias = attention_bias(length, mask, self.span, self.base_dtype, tokens.device)
        if self.fast:
            x = tokens.to(self.base_dtype)
            if self.zero_position is None:
                x = x + self.lm.base_model.wpe(_positions(mask, length, tokens.device))
            hidden = run_blocks(
                [each.lm.base_model for each in (self, *others)], x, bias, queries,
                dropout=self.dropout, lora_dropout=self.lora_dropout, masks=self._masks(masks, tokens.device),
                checkpointing=self.checkpointing,
            )  # fmt: skip
            return hidden.float()
        positions = None
        if self.zero_position is not None:
            positions = torch.full((1, length), self.zero_position, dtype=torch.long, device=tokens.device)
        elif mask is not None:
            positions = _positions(mask, length, tokens.device)
        # Always a ready 4-D mask: given a constant `position_ids` and no mask, transformers would take every token
        # for a sequence of its own.
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=self.autocast):
            output = self.lm.base_model(
                inputs_embeds=tokens.to(self.base_dtype), attention_mask=bias, position_ids=positions, use_cache=False
            )
        return output.last_hidden_state[:, queries].float()

    def text_loss(self, ids: Tensor) -> Tensor:
        """Mean next-token cross-entropy in nats of blocks `ids` (b, T + 1) int64, with position embeddings."""
        return self.text_losses(ids)[0]

    def text_losses(self, ids: Tensor, *, masks: Masks | None = None, others: Sequence[Backbone] = ()) -> list[Tensor]:
        """`text_loss` of this one and of each of `others` (see `forward`), on equal shares of the blocks `ids`."""
        if self.fast:
            base = self.lm.base_model
            x = base.wte(ids[:, :-1]) + base.wpe.weight[: ids.shape[1] - 1]
            hidden = run_blocks(
                [each.lm.base_model for each in (self, *others)], x, None,
                dropout=self.dropout if self.text_dropout else 0.0, lora_dropout=self.lora_dropout,
                masks=self._masks(masks, ids.device), checkpointing=self.checkpointing,
            )  # fmt: skip
        else:
            with self._reading(), torch.autocast(ids.device.type, torch.bfloat16, enabled=self.autocast):
                hidden = self.lm.base_model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
        weight, runs = self.lm.get_output_embeddings().weight, 1 + len(others)
        flat = hidden.reshape(-1, hidden.shape[-1]).to(weight.dtype)
        shares = zip(flat.chunk(runs), ids[:, 1:].reshape(-1).chunk(runs), strict=True)
        return [linear_cross_entropy(rows, weight, targets) for rows, targets in shares]

    def _masks(self, masks: Masks | None, device: torch.device) -> Masks | None:
        """Those given, or fresh ones from torch's generator while training; none otherwise."""
        if not self.training:
            return None
        return masks or Masks([int(torch.randint(1 << 62, ()))], 0, device)

    def _reading(self) -> contextlib.AbstractContextManager[None]:
        """The Transformer's own dropout is off inside (unless `text_dropout`); the adapters' stays."""
        return self._dropout_of(self.dropout if self.text_dropout else 0.0)

    def _dropout_as_now(self) -> tuple[contextlib.AbstractContextManager[None], ...]:
        """For a block that is computed now and again in the backward pass, when text may have been read already."""
        rate = getattr(*self.dropouts[0]) if self.dropouts else 0.0
        return contextlib.nullcontext(), self._dropout_of(rate)

    @contextlib.contextmanager
    def _dropout_of(self, rate: float) -> Iterator[None]:
        before = [getattr(module, attribute) for module, attribute in self.dropouts]
        try:
            for module, attribute in self.dropouts:
                setattr(module, attribute, rate)
            yield
        finally:
            for (module, attribute), value in zip(self.dropouts, before, strict=True):
                setattr(module, attribute, value)


def _positions(mask: Tensor | None, length: int, device: torch.device) -> Tensor:
    """Position ids (1 or B, T) that count real tokens alone."""
    if mask is None:
        return torch.arange(length, device=device)[None]
    return (mask.long().cumsum(1) - 1).clamp_min(0)


def base_dtype(settings: SequenceSettings, device: torch.device, frozen: bool) -> torch.dtype:
    """Number format of the Transformer's weights: a frozen base may be bfloat16, a trained one is float32."""
    if not frozen:
        return torch.float32
    if settings.dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" or has_fast_bfloat16() else torch.float32
    return torch.bfloat16 if settings.dtype == "bfloat16" else torch.float32
