"""What sequence models learn from: a batch, and its losses, part by part of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lamo.data.windows import WindowBatch
from lamo.models.alignment import alignment, alignment_weight
from lamo.models.choices import accuracy, choice_loss
from lamo.models.dropout import Masks
from lamo.models.sequence import STATES, token_mask

if TYPE_CHECKING:
    from lamo.algorithms.sequence import SequenceLearner

Losses = list[tuple[Tensor, dict[str, Tensor]]]
"""Of each of S learners a part's share of the batch's loss, to be differentiated, and of what is told of it."""


class SequenceBatch(NamedTuple):
    """One gradient step's data: windows of behaviour, and text (b, T + 1) int64 or None."""

    windows: WindowBatch
    text: np.ndarray | None
    wanted: tuple[np.ndarray, np.ndarray] | None = None
    """With chunks of n actions: (B, K, n, …) those from each step on, and which are of real steps (B, K, n) bool."""


def parts(count: int, size: int) -> list[slice]:
    """`count` rows by `size` at most: by its largest number that leaves no rest, unless that is less than half of it.

    Parts of one size find the memory that those before them left.
    """
    size = min(size, count)
    even = next(each for each in range(size, 0, -1) if count % each == 0)
    size = even if 2 * even >= size else size
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def action_loss(
    predicted: Tensor, actions: Tensor, mask: Tensor, choices: Sequence[int] = ()
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss over real actions: mean squared error of (…, A), or cross-entropy of logits (…, Σ n_i) against (…) or (…, A)
    int64 of so many `choices` per component. mask (…) bool.

    The squared error is averaged over real actions and their numbers. Returns (scalar, info).
    """
    predicted, actions = predicted[mask], actions[mask]  # (real actions, …)
    if actions.is_floating_point():
        loss = F.mse_loss(predicted, actions)
        return loss, {"action_loss": loss.detach()}
    loss = choice_loss(predicted, actions, choices)
    return loss, {"action_loss": loss.detach(), "action_accuracy": accuracy(predicted, actions, choices)}


def behaviour_losses(
    learners: Sequence[SequenceLearner], batches: Sequence[SequenceBatch], rows: slice, masks: Masks
) -> Losses:
    """Action losses of some windows of each batch, with the alignment term while its weight is not zero."""
    first, *others = [learner.model.backbone for learner in learners]
    device = learners[0].device
    windows = [WindowBatch(*(array[rows] for array in batch.windows)) for batch in batches]
    tokens, real = [], []
    for learner, part in zip(learners, windows, strict=True):
        *inputs, mask = (torch.from_numpy(array).to(device) for array in part)
        tokens.append(learner.model.tokens(*inputs))
        real.append(mask)
    whole = all(bool(part.mask.all()) for part in windows)
    hidden = first(
        torch.cat(tokens)[:, :-1], None if whole else token_mask(torch.cat(real)), STATES, masks=masks, others=others
    ).chunk(len(learners))
    results: Losses = []
    for learner, batch, predicted, own, mask in zip(learners, batches, hidden, tokens, real, strict=True):
        loss, info = _predicted(learner, batch, rows, predicted)
        weight = learner.settings.cosine_weight * alignment_weight(learner.steps, learner.settings.cosine_steps)
        if learner.centres is not None and weight > 0:
            count, of = (3 * int(m.sum()) - len(m) for m in (batch.windows.mask[rows], batch.windows.mask))  # tokens
            cosine = count / of * alignment(own[:, :-1], learner.centres, token_mask(mask))
            loss, info = loss - weight * cosine, {**info, "cosine": cosine.detach()}
        results.append((loss, info))
    return results


def _predicted(
    learner: SequenceLearner, batch: SequenceBatch, rows: slice, hidden: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The action loss of some rows' hidden states (b, K, d), as a share of the batch's."""
    actions, real = (batch.windows.actions, batch.windows.mask) if batch.wanted is None else batch.wanted
    share = float(real[rows].sum() / real.sum())
    wanted, mask = (torch.from_numpy(array[rows]).to(learner.device) for array in (actions, real))
    loss, info = action_loss(learner.model.head(hidden).reshape(*mask.shape, -1), wanted, mask, learner.spec.choices)
    return share * loss, {key: share * value for key, value in info.items()}


def language_losses(
    learners: Sequence[SequenceLearner], batches: Sequence[SequenceBatch], rows: slice, masks: Masks
) -> Losses:
    """λ · language losses of some blocks of each batch's text."""
    first, *others = [learner.model.backbone for learner in learners]
    texts = [batch.text for batch in batches if batch.text is not None]
    ids = torch.from_numpy(np.concatenate([text[rows] for text in texts])).to(learners[0].device)
    share = len(texts[0][rows]) / len(texts[0])
    losses = [share * loss for loss in first.text_losses(ids, masks=masks, others=others)]
    return [
        (learner.settings.language_weight * loss, {"language_loss": loss.detach()})
        for learner, loss in zip(learners, losses, strict=True)
    ]
