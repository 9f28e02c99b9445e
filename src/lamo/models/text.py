"""The text of the language loss: where it comes from, cached as token ids."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lamo.data import text as text_data
from lamo.errors import LamoError
from lamo.models.pretrained import weights_digest

SELF_TOKENS = 1 << 16  # how much an LM writes for itself: 65 536 tokens are 128 steps of 2 x 256 before a block repeats
HELD_OUT = 0.1  # share of the text, at its end, for the perplexity before and after


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/lamo` or `~/.cache/lamo`: token ids by digest; may be removed at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lamo"


def cached(name: str, make: Any) -> np.ndarray:
    """The array stored as `name` in the cache, made and stored first where it is not there. An unreadable cache is
    made again."""
    path = cache_folder() / f"{name}.npy"
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        ids = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.stem}-{os.getpid()}.npy")
        np.save(new, ids)
        os.replace(new, path)
    except OSError:
        pass  # a read-only home costs time, not the run
    return ids


@torch.no_grad()
def sample_self(
    lm: Any, block: int, device: str | torch.device = "cpu", tokens: int = SELF_TOKENS, batch: int = 64
) -> np.ndarray:
    """Text that the LM writes itself, (tokens,) ids in rows of `block`: ancestral sampling at temperature 1 from
    its start mark, on `device`; the LM is afterwards where it was.

    The cross-entropy of such text is, up to a constant, the divergence KL(pretrained || current): keeping it low
    keeps the language ability without any corpus. Sampled once per LM from a seed of its own, then cached.
    """
    start = lm.config.bos_token_id if lm.config.bos_token_id is not None else lm.config.eos_token_id
    start = 0 if start is None else start[0] if isinstance(start, list) else start
    before, device = lm.get_input_embeddings().weight.device, torch.device(device)
    rows: list[np.ndarray] = []
    was_training = lm.training
    lm.to(device).eval()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        for _ in range(0, max(1, tokens // block), batch):
            ids = torch.full((batch, 1), start, dtype=torch.long, device=device)
            ids = lm.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                top_k=0,
                top_p=1.0,
                temperature=1.0,
                min_new_tokens=block,
                max_new_tokens=block,
                pad_token_id=start,
            )
            rows.append(ids[:, 1:].cpu().numpy().astype(np.uint32))
    lm.to(before).train(was_training)
    return np.concatenate(rows)[: max(1, tokens // block)].reshape(-1)


def _is_dataset(name: str) -> bool:
    """A folder, or what is no file and has the form of a name on the hub: `wikitext`, `owner/name`."""
    path = Path(name)
    return path.is_dir() or not (path.exists() or path.suffix or path.is_absolute() or name.startswith("."))


def _from_hub(name: str) -> str:
    """The column `text` of a Hugging Face dataset's split `train`: a name on the hub, or a folder in its format."""
    try:
        from datasets import load_dataset  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise LamoError(
            f"--corpus {name}: no such file, and Hugging Face datasets need the package `datasets` "
            "(pip install 'lamo[text]'); or give a text file, `self` or `none`"
        ) from None
    # "wikitext" alone is the paper's corpus
    path, config = ("Salesforce/wikitext", "wikitext-103-raw-v1") if name == "wikitext" else (name, None)
    try:
        table = load_dataset(path, config, split="train")
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise LamoError(
            f"--corpus {name}: no text file, and as a Hugging Face dataset it cannot be loaded ({first})"
        ) from None
    if "text" not in table.column_names:
        raise LamoError(f"--corpus {name}: the dataset has no column `text` (it has {', '.join(table.column_names)})")
    return text_data.join(t for t in table["text"] if t)


def corpus_tokens(
    corpus: Sequence[str], lm: Any, tokenizer: Any, block: int, device: str | torch.device = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """(training ids, held-out ids) of a `--corpus` value: text files, one dataset name, or `self`, which the LM writes
    on `device`.

    Raises `LamoError` for text that is missing, empty, not text, or shorter than a few blocks.
    """
    if tuple(corpus) == ("self",):
        name = f"self-{weights_digest(lm)[:16]}-{block}-{SELF_TOKENS}"
        ids = cached(name, lambda: sample_self(lm, block, device))
    else:
        if len(corpus) == 1 and _is_dataset(corpus[0]):
            text = _from_hub(corpus[0])
        else:
            text = text_data.read_text(corpus)
        digest = (
            hashlib.sha256(text.encode()).hexdigest()[:16]
            + hashlib.sha256(tokenizer.to_str().encode()).hexdigest()[:16]
        )
        ids = cached(f"text-{digest}", lambda: text_data.tokenize(tokenizer, text))
    # whole blocks are held out, and text is never cut shorter than one block on either side
    held = max(block + 1, int(len(ids) * HELD_OUT) // block * block)
    if len(ids) < held + block + 1:
        raise LamoError(
            f"--corpus {' '.join(corpus)}: {len(ids)} tokens are too few; at least {2 * block + 2} are "
            f"needed for blocks of {block}"
        )
    return ids[:-held], ids[-held:]
