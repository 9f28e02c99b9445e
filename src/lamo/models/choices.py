"""Actions as logits: one categorical distribution, or one for each component, side by side.

Components of n_1, …, n_A choices have Σ n_i logits, those of one component next to each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def likeliest(logits: Tensor, choices: Sequence[int], single: bool) -> Tensor:
    """(…, Σ n_i) -> (…, A) int64, the likeliest choice of each component; (…) where the action is a `single` one."""
    if single:
        return logits.argmax(-1)
    return torch.stack([part.argmax(-1) for part in logits.split(list(choices), -1)], -1)


def surprise(logits: Tensor, actions: Tensor, choices: Sequence[int]) -> Tensor:
    """(B, Σ n_i) and (B,) or (B, A) int64 -> (B,): cross-entropy, the mean over components.

    The mean, as the squared error of vectors is one: its size does not depend on how many components there are.
    """
    if actions.ndim == 1:
        return F.cross_entropy(logits, actions, reduction="none")
    parts = logits.split(list(choices), -1)
    losses = [F.cross_entropy(part, actions[:, i], reduction="none") for i, part in enumerate(parts)]
    return torch.stack(losses, -1).mean(-1)


def choice_loss(logits: Tensor, actions: Tensor, choices: Sequence[int]) -> Tensor:
    """The mean of `surprise`, a scalar."""
    return F.cross_entropy(logits, actions) if actions.ndim == 1 else surprise(logits, actions, choices).mean()


def correct(logits: Tensor, actions: Tensor, choices: Sequence[int]) -> Tensor:
    """(B, Σ n_i) and (B,) or (B, A) int64 -> (B,): the share of choices of which the likeliest is the data's."""
    right = (likeliest(logits, choices, actions.ndim == 1) == actions).float()
    return right if actions.ndim == 1 else right.mean(-1)


def accuracy(logits: Tensor, actions: Tensor, choices: Sequence[int]) -> Tensor:
    """The mean of `correct`, a scalar."""
    return correct(logits, actions, choices).mean()


def one_hot(actions: Tensor, choices: Sequence[int]) -> Tensor:
    """(B, A) int64 -> (B, Σ n_i) float."""
    return torch.cat([F.one_hot(actions[:, i], n) for i, n in enumerate(choices)], -1).float()
