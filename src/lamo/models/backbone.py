"""Any Hugging Face causal language model as the Transformer of a decision model, and as a reader of text."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lamo.algorithms.settings import SequenceSettings
from lamo.errors import LamoError
from lamo.models.attention import FUSED_ATTENTION_FROM, attention_bias
from lamo.models.cpu import has_fast_bfloat16
from lamo.models.cross_entropy import linear_cross_entropy
from lamo.models.dropout import Masks
from lamo.models.fast import refusal, run_blocks
from lamo.models.projection import SplitProjection

KEPT_BYTES = 384 << 20  # for the backward pass, of a batch that would keep more

# Attention's query/key/value projections by the names that Hugging Face gives them.
QKV_MODULES = (
    ("c_attn",),
    ("query_key_value",),
    ("qkv_proj",),
    ("Wqkv",),
    ("q_proj", "k_proj", "v_proj"),
    ("q_lin", "k_lin", "v_lin"),
)


class Backbone(nn.Module):
    """A causal LM read two ways: embeddings in, hidden states out (control); token ids in, loss out (text).

    On the control path GPT-2's position embeddings are off (`positions="off"`): one zero row is appended to `wpe`
    and the position ids point at it, which is exact in any number format. Rotary models have no such table; they keep
    their relative positions.
    """

    def __init__(
        self,
        lm: Any,
        settings: SequenceSettings,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,  # of products; None: by settings and device
    ) -> None:
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
        self.product_dtype = dtype or product_dtype(settings, device, frozen)
        self.base_dtype = self.product_dtype if frozen else torch.float32  # what trains is float32
        lm.to(self.base_dtype).requires_grad_(not frozen)
        if settings.adapt == "lora":
            self._add_adapters(settings)
        self.autocast = not frozen and self.product_dtype == torch.bfloat16  # weights stay float32
        self.fast = self._is_fast(settings)
        self.lora_dropout = settings.lora_dropout
        self.checkpointing = settings.gradient_checkpointing
        if self.checkpointing and not self.fast:
            # the older name is deprecated in the newest transformers, the newer missing from the oldest that we admit
            enable = getattr(lm, "activation_checkpointing_enable", None) or lm.gradient_checkpointing_enable
            enable({"use_reentrant": False, "context_fn": self._dropout_as_now})

    def _is_fast(self, settings: SequenceSettings) -> bool:
        """Whether `models.fast` computes the blocks; transformers does otherwise."""
        if settings.blocks == "library" or settings.attention != "auto":
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

    def rows_at_a_time(self, tokens: int) -> int:
        """Sequences of so many tokens whose forward pass keeps at most `KEPT_BYTES` for its backward pass, or less with
        gradient checkpointing; all on a GPU. By what `models.fast` keeps: transformers' own modules keep twice that.
        """
        if self.lm.device.type != "cpu":
            return sys.maxsize
        config = self.lm.config.get_text_config()  # that of a model which also sees lies inside another
        scores = config.num_attention_heads * tokens if tokens < FUSED_ATTENTION_FROM else 0
        elements = tokens * config.num_hidden_layers * (11 * self.width + scores)
        return max(1, KEPT_BYTES // (elements * self.base_dtype.itemsize))

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


def product_dtype(settings: SequenceSettings, device: torch.device, frozen: bool) -> torch.dtype:
    """Number format of the Transformer's products: bfloat16 where it is fast, unless settings say otherwise. Only a
    frozen base can be made to use it elsewhere, and in the fast blocks, which a band needs, only a frozen one."""
    if settings.span is not None and not frozen:
        return torch.float32
    forced = settings.dtype == "bfloat16" and frozen
    fast = settings.dtype != "float32" and (device.type == "cuda" or has_fast_bfloat16())
    return torch.bfloat16 if forced or fast else torch.float32
