"""Wiki-RL's alignment: trajectory tokens are drawn towards words (Reid et al. 2022, arXiv 2201.12122, section 3.2).

The words are k-means centres of the language model's own word embeddings; a token's alignment is its largest cosine
similarity to any of them. The term is maximised, with a weight that falls away early in training.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lamo.errors import LamoError
from lamo.models.text import cached

ITERATIONS = 100  # of k-means at most
END = 2.0  # in units of `steps`: from here on the weight is below 1e-6 and the term is not computed


def word_centres(lm: Any, digest: str, count: int) -> Tensor:
    """(count', d) float32 of length 1: centres of the directions of all word embeddings, count' at most the vocabulary.

    Found once per language model (`digest` names its weights) and cached. Raises `LamoError` without scikit-learn.
    """
    words = lm.get_input_embeddings().weight.detach().float().cpu().numpy()  # (vocabulary, d)
    count = min(count, len(words))
    return torch.from_numpy(cached(f"words-{digest[:16]}-{count}", lambda: _cluster(words, count)))


def _cluster(words: np.ndarray, count: int) -> np.ndarray:
    """(vocabulary, d) -> (count, d). K-means of the words' directions: between unit vectors the squared distance is two
    less twice the cosine, by which the published code clusters."""
    try:
        from sklearn.cluster import KMeans
    except ImportError:
        raise LamoError(
            '--cosine-weight needs scikit-learn, which is not installed: pip install "lamo[baselines]"'
        ) from None
    directions = words / np.maximum(np.linalg.norm(words, axis=1, keepdims=True), 1e-12)
    clusters = KMeans(count, n_init=1, max_iter=ITERATIONS, random_state=0)  # pyright: ignore[reportArgumentType]
    found = clusters.fit(directions).cluster_centers_
    return (found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def alignment(tokens: Tensor, centres: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over real tokens (B, T, d) of the largest cosine similarity to a centre (n, d); `mask` (B, T)."""
    flat = tokens.reshape(-1, tokens.shape[-1]) if mask is None else tokens[mask]
    return (F.normalize(flat, dim=-1) @ centres.T).amax(-1).mean()


def alignment_weight(step: int, steps: int) -> float:
    """1 at first, one half at steps / 2, 0.7 % at `steps`, on a logistic curve; 0 from 2 · steps on."""
    if step >= END * steps:
        return 0.0
    return 1 / (1 + math.exp(10 * step / steps - 5))
