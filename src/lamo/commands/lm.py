"""`lamo lm pretrain` and `lamo lm evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from tyro.conf import Positional

from lamo.commands import answer, parse, stdout_kept_clean


@dataclass
class Pretrain:
    """Train a byte-level BPE tokenizer and a GPT-2 on text, and write an ordinary Hugging Face folder."""

    corpus: tuple[Path, ...]
    """Text files, plain or gzipped."""
    out: Path
    """Folder of the model; it must not exist or be empty. While training, OUT.training holds the state."""
    settings: Any
    resume: bool = False
    """Go on with the unfinished pretraining in OUT.training."""
    quiet: bool = False
    """No progress."""
    json: bool = False
    """Print the result as one JSON object: bits_per_byte (held out), steps, tokens, seconds, …"""


def pretrain_verb(argv: list[str]) -> int:
    """`lamo lm pretrain`."""
    from lamo.pretrain import PretrainSettings, pretrain

    # `settings` is of a type that only torch's import makes known: tyro takes it from the default.
    default = Pretrain(corpus=tyro.MISSING, out=tyro.MISSING, settings=PretrainSettings())
    options = parse(Pretrain, "lm pretrain", argv, default)
    with stdout_kept_clean(options.json):
        result = pretrain(options.corpus, options.out, options.settings, resume=options.resume, quiet=options.quiet)
    result = {"out": str(options.out), **result}

    def text() -> str:
        bits = "" if result["bits_per_byte"] is None else f", {result['bits_per_byte']:.3f} bits per byte held out"
        spent = f"{result['steps']} steps in {result['seconds'] / 60:.1f} min"
        return f"{options.out}: {result['parameters']:,} parameters, {spent}{bits}"

    return answer(result, options.json, text)


@dataclass
class Evaluate:
    """How well a language model predicts a text."""

    lm: Positional[str]
    """`tiny` (embedded), a Hugging Face folder, or a name on the hub."""
    corpus: tuple[Path, ...]
    """Text files, plain or gzipped."""
    stride: int | None = None
    """Tokens by which the window advances; by default half the model's context."""
    references: bool = False
    """Also the bits per byte of gzip and of a unigram model."""
    device: str = "auto"
    """cpu, cuda, or auto."""
    json: bool = False
    """Print one JSON object: bits_per_byte, perplexity, tokens, bytes, …"""


def evaluate_verb(argv: list[str]) -> int:
    """`lamo lm evaluate`."""
    options = parse(Evaluate, "lm evaluate", argv)
    with stdout_kept_clean(options.json):
        from lamo.language import evaluate_lm

        result = evaluate_lm(
            options.lm,
            options.corpus,
            stride=options.stride,
            device=options.device,
            references=options.references,
        )

    def text() -> str:
        lines = [f"{options.lm} on {result['bytes']:,} bytes ({result['tokens']:,} tokens)"]
        lines += [
            f"  {'bits per byte':<24}{result['bits_per_byte']:.4f}",
            f"  {'perplexity per token':<24}{result['perplexity']:.3f}",
        ]
        names = {"gzip_bits_per_byte": "gzip, bits per byte", "unigram_bits_per_byte": "unigram, bits per byte"}
        lines += [f"  {label:<24}{result[key]:.4f}" for key, label in names.items() if key in result]
        return "\n".join(lines)

    return answer(result, options.json, text)
