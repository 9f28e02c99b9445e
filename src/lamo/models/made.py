"""Language models that are made, not loaded: DT's own, and the shape that a deployed policy needs."""

from __future__ import annotations

from typing import Any

import torch

from lamo.algorithms.settings import SequenceSettings
from lamo.models.pretrained import quiet_transformers


def scratch_model(settings: SequenceSettings, seed: int) -> Any:
    """DT's Transformer: a GPT-2 of layers × width × heads with ReLU and no vocabulary, random weights drawn from
    `seed`."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=1,
        n_positions=1,
        n_embd=settings.width,
        n_layer=settings.layers,
        n_head=settings.heads,
        activation_function="relu",
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return GPT2LMHeadModel(config)


def deployed_model(config: dict[str, Any]) -> Any:
    """An LM of the shape in `config` (a Hugging Face config as a dict) with a vocabulary of one token: acting reads
    no text. Raises ValueError for a config that is none."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        values = {**config, "vocab_size": 1, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
        with quiet_transformers(), torch.random.fork_rng(devices=[]):
            return AutoModelForCausalLM.from_config(AutoConfig.for_model(**values), dtype=torch.float32)
    except Exception as error:  # transformers raises a dozen kinds
        raise ValueError(f"lm_config: {error}") from None
