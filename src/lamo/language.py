"""How well a language model predicts a text: bits per byte and perplexity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lamo.data import text as text_data
from lamo.errors import LamoError
from lamo.models.cross_entropy import linear_cross_entropy
from lamo.models.pretrained import load_language_model
from lamo.prepare import resolve_device


@torch.no_grad()
def negative_log_likelihood(model: Any, ids: np.ndarray, context: int, stride: int, batch: int = 16) -> float:
    """Total nats of `ids` under `model`: windows of `context` tokens that advance by `stride`; every token counts once.

    A token is predicted from at least `context - stride` tokens before it (fewer only at the start of the text, which
    begins with the end-of-text mark).
    """
    device = model.lm_head.weight.device if hasattr(model, "lm_head") else next(model.parameters()).device
    start_token = model.config.bos_token_id if model.config.bos_token_id is not None else model.config.eos_token_id
    sequence = np.concatenate([[start_token or 0], ids.astype(np.int64)])
    n = len(ids)  # predictions: position i of `sequence` predicts ids[i]
    begins = [0]
    while begins[-1] + context < n:
        begins.append(begins[-1] + stride)
    total, done = 0.0, 0
    output = model.get_output_embeddings().weight
    for i in range(0, len(begins), batch):
        group = begins[i : i + batch]
        # a short last window is padded at its end: attention is causal, so what is scored does not see it
        x = np.zeros((len(group), context), np.int64)
        y, keep = np.zeros_like(x), np.zeros(x.shape, bool)
        for row, begin in enumerate(group):
            end = min(begin + context, n)
            x[row, : end - begin] = sequence[begin:end]
            y[row, : end - begin] = ids[begin:end]
            keep[row, done - begin : end - begin] = True
            done = end
        hidden = model.base_model(torch.from_numpy(x).to(device)).last_hidden_state
        select = torch.from_numpy(keep).to(device)
        h, t = hidden[select], torch.from_numpy(y).to(device)[select]
        total += float(linear_cross_entropy(h, output, t)) * len(t)
    return total


def evaluate_lm(
    lm: str, corpus: Sequence[Path], *, stride: int | None = None, device: str = "auto", references: bool = False
) -> dict:
    """How well a language model predicts a text: bits per byte (comparable across tokenizers) and perplexity per token.

    Windows of the model's context (at most 1 024) advance by `stride` tokens, by default half a context, so that a
    token has at least half a context before it. With `references` the bits per byte of gzip and of a unigram model
    fitted on the text itself.
    """
    text = text_data.read_text(corpus)
    model, tokenizer = load_language_model(lm)
    model = model.to(resolve_device(device)).eval()
    context = min(getattr(model.config, "max_position_embeddings", None) or 1024, 1024)
    step = context // 2 if stride is None else stride
    if not 1 <= step <= context:
        raise LamoError(f"--stride {step} must lie between 1 and the model's context of {context} tokens")
    ids = text_data.tokenize(tokenizer, text)
    n_bytes = len(text.encode())
    nats = negative_log_likelihood(model, ids, context, step)
    result: dict[str, Any] = {
        "lm": lm,
        "bits_per_byte": nats / math.log(2) / n_bytes,
        "perplexity": math.exp(nats / len(ids)),
        "tokens": len(ids),
        "bytes": n_bytes,
        "context": context,
        "stride": step,
    }
    if references:
        result["gzip_bits_per_byte"] = text_data.gzip_bits_per_byte(text)
        result["unigram_bits_per_byte"] = text_data.unigram_bits_per_byte(ids, ids, int(ids.max()) + 1, n_bytes)
    return result
