"""Text for language models: files -> strings -> token blocks. numpy only; the tokenizer is handed in."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lamo.errors import LamoError

PIECE = 1 << 17  # characters handed to the tokenizer at once: long enough to be fast, short enough to bound memory


class Tokenizer(Protocol):
    """What is needed of a `tokenizers.Tokenizer`."""

    def encode_batch(self, input: list[str], add_special_tokens: bool = ...) -> list[Any]: ...


def read_text(paths: Sequence[str | Path]) -> str:
    """The concatenated text of plain or gzipped UTF-8 files.

    Raises `LamoError` for a file that is missing, cut short, empty, or not text (invalid UTF-8 or a NUL character).
    """
    if not paths:
        raise LamoError("--corpus names no file; give one or more plain or gzipped text files")
    texts = []
    for path in map(Path, paths):
        if not path.is_file():
            raise LamoError(f"corpus {path}: no such file; give one or more plain or gzipped text files")
        try:
            raw = path.read_bytes()
            if raw[:2] == b"\x1f\x8b":
                raw = gzip.decompress(raw)
            text = raw.decode("utf-8")
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise LamoError(f"corpus {path}: damaged gzip file ({error}); fetch or make it again") from None
        except UnicodeDecodeError as error:
            raise LamoError(f"corpus {path}: not text, invalid UTF-8 at byte {error.start}; give UTF-8 text") from None
        except OSError as error:
            raise LamoError(f"corpus {path}: cannot be read: {error.strerror or error}") from None
        if "\0" in text:
            raise LamoError(f"corpus {path}: not text, NUL character at position {text.index(chr(0))}; give UTF-8 text")
        if not text.strip():
            raise LamoError(f"corpus {path}: is empty; give a file with text")
        texts.append(text)
    return "\n\n".join(texts)


def pieces(text: str, size: int = PIECE) -> Iterator[str]:
    """Cut `text` into consecutive strings of about `size` characters, each cut just before whitespace.

    A byte-level BPE starts a word with the space before it, so such a cut changes almost no token.
    """
    start = 0
    while start < len(text):
        end = min(start + size, len(text))
        while end < len(text) and not text[end].isspace() and end < start + 2 * size:
            end += 1
        yield text[start:end]
        start = end


def tokenize(tokenizer: Tokenizer, text: str, batch: int = 64) -> np.ndarray:
    """Token ids of `text`, shape (n,), uint16 where the ids fit in it, else uint32."""
    parts: list[np.ndarray] = []
    group: list[str] = []

    def flush() -> None:
        parts.extend(
            np.asarray(e.ids, dtype=np.uint32) for e in tokenizer.encode_batch(group, add_special_tokens=False)
        )
        group.clear()

    for piece in pieces(text):
        group.append(piece)
        if len(group) == batch:
            flush()
    flush()
    ids = np.concatenate(parts) if parts else np.zeros(0, np.uint32)
    return ids.astype(np.uint16) if len(ids) and ids.max() < 1 << 16 else ids


def random_blocks(ids: np.ndarray, length: int, batch: int, rng: np.random.Generator) -> np.ndarray:
    """`batch` blocks of `length` consecutive tokens at uniformly drawn starts, shape (batch, length), int64."""
    if len(ids) < length:
        raise LamoError(f"the corpus has {len(ids)} tokens, fewer than one block of {length}; give more text")
    starts = rng.integers(0, len(ids) - length + 1, size=batch)
    return ids[starts[:, None] + np.arange(length)].astype(np.int64)


def epoch_blocks(ids: np.ndarray, length: int, pass_number: int, seed: int) -> np.ndarray:
    """Starts of non-overlapping blocks of `length` tokens in the order of one pass, shape (blocks,), int64.

    Each pass shifts the grid by an offset of its own and shuffles it, from `seed` and `pass_number` alone: a resumed
    run needs no state but the number of the step.
    """
    rng = np.random.default_rng([seed, pass_number])
    offset = int(rng.integers(0, min(length, max(1, len(ids) - length + 1))))
    starts = np.arange(offset, len(ids) - length + 1, length, dtype=np.int64)
    return rng.permutation(starts)


def unigram_bits_per_byte(train_ids: np.ndarray, ids: np.ndarray, vocabulary: int, n_bytes: int) -> float:
    """Bits per byte of a unigram model of tokens (add-one smoothed counts of `train_ids`) on `ids`: a reference."""
    counts = np.bincount(train_ids, minlength=vocabulary).astype(np.float64) + 1.0
    return float(-np.log2(counts / counts.sum())[ids].sum() / n_bytes)


def gzip_bits_per_byte(text: str) -> float:
    """Bits per byte of gzip at its strongest setting: a reference that everyone has."""
    raw = text.encode("utf-8")
    return 8.0 * len(gzip.compress(raw, 9)) / len(raw)


def join(texts: Iterable[str]) -> str:
    """One text of many documents, separated by a blank line."""
    return "\n\n".join(texts)
