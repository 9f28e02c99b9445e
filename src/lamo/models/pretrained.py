"""Pretrained causal language models, from a folder or the Hugging Face hub: loaded safely, or refused in one line."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lamo.errors import LamoError

EMBEDDED_LMS = {"tiny": "lm-tiny"}  # name -> folder in lamo.assets


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


def forget_words(lm: Any) -> None:
    """Drop the embeddings of all tokens but the first (of GPT-2's weights every third), where no text will be read."""
    for module in (lm.get_input_embeddings(), lm.get_output_embeddings()):
        if module is not None:
            module.weight.data = module.weight.data[:1].clone()
