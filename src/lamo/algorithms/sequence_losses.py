"""What sequence models learn from: a batch, and its losses, part by part of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lamo.data.windows import WindowBatch
from lamo.models.alignment import alignment, alignment_weight
from lamo.models.choices import correct, surprise
from lamo.models.dropout import Masks
from lamo.models.sequence import STATES, token_mask

if TYPE_CHECKING:
    from lamo.algorithms.sequence import SequenceLearner

Losses = list[tuple[Tensor, dict[str, Tensor]]]
"""Of each of S learners a part's share of the batch's loss, to be differentiated, and of what is told of it."""


class SequenceBatch(NamedTuple):
    """One gradient step's data, as drawn: windows of behaviour, and text (b, T + 1) int64 or None."""

    steps: np.ndarray
    """(B,) int64: the rows at which the windows begin."""
    windows: WindowBatch | None
    """None where the episodes lie on the device, and are cut there."""
    text: np.ndarray | None
    wanted: tuple[np.ndarray, np.ndarray] | None = None
    """With chunks of n actions: (B, K, n, …) those from each step on, and which are of real steps (B, K, n) bool."""


class DeviceBatch(NamedTuple):
    """The same on the learner's device. Shapes as in `WindowBatch`."""

    returns_to_go: Tensor
    observations: Tensor
    actions: Tensor
    timesteps: Tensor
    mask: Tensor
    wanted: Tensor
    """What is to be predicted: (B, K, …), with chunks (B, K, n, …)."""
    real: Tensor
    """(B, K) or (B, K, n) bool: which of it is of real steps."""
    text: Tensor | None
    padded: bool
    """Whether steps of the windows may be padding: where they are known not to be, no mask is needed."""

    @property
    def tensors(self) -> list[Tensor]:
        """All that there are, in the order of the fields."""
        return [value for value in self if isinstance(value, Tensor)]

    def copy(self) -> DeviceBatch:
        """The same in memory of its own."""
        return self._replace(**{k: v.clone() for k, v in self._asdict().items() if isinstance(v, Tensor)})


def parts(count: int, size: int) -> list[slice]:
    """`count` rows by `size` at most: by its largest number that leaves no rest, unless that is less than half of it.

    Parts of one size find the memory that those before them left.
    """
    size = min(size, count)
    even = next(each for each in range(size, 0, -1) if count % each == 0)
    size = even if 2 * even >= size else size
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def action_loss(
    predicted: Tensor, actions: Tensor, mask: Tensor, choices: Sequence[int] = (), count: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss over real actions: mean squared error of (…, A), or cross-entropy of logits (…, Σ n_i) against (…) or (…, A)
    int64 of so many `choices` per component. mask (…) bool.

    The squared error is averaged over real actions and their numbers; `count` () are the real actions of a batch of
    which these are a part. Nothing waits for the device. Returns (scalar, info).
    """
    weights = mask / (mask.sum() if count is None else count)
    if actions.is_floating_point():
        loss = (weights * (predicted - actions).square().mean(-1)).sum()
        return loss, {"action_loss": loss.detach()}
    flat = predicted.flatten(0, mask.ndim - 1), actions.flatten(0, mask.ndim - 1), choices
    loss, right = ((weights.flatten() * each(*flat)).sum() for each in (surprise, correct))
    return loss, {"action_loss": loss.detach(), "action_accuracy": right}


def behaviour_losses(
    learners: Sequence[SequenceLearner], batches: Sequence[DeviceBatch], rows: slice, masks: Masks
) -> Losses:
    """Action losses of some windows of each batch, with the alignment term while its weight is not zero."""
    first, *others = [learner.model.backbone for learner in learners]
    tokens = [
        learner.model.tokens(*(tensor[rows] for tensor in batch[:4]))
        for learner, batch in zip(learners, batches, strict=True)
    ]
    padded = any(batch.padded for batch in batches)
    hidden = first(
        torch.cat(tokens)[:, :-1],
        token_mask(torch.cat([batch.mask[rows] for batch in batches])) if padded else None,
        STATES,
        masks=masks,
        others=others,
    ).chunk(len(learners))
    results: Losses = []
    for learner, batch, states, own in zip(learners, batches, hidden, tokens, strict=True):
        real = batch.real[rows]
        predicted = learner.model.head(states).reshape(*real.shape, -1)
        loss, info = action_loss(predicted, batch.wanted[rows], real, learner.spec.choices, batch.real.sum())
        weight = learner.settings.cosine_weight * alignment_weight(learner.steps, learner.settings.cosine_steps)
        if learner.centres is not None and weight > 0:
            mask = batch.mask[rows]
            count, of = (3 * int(m.sum()) - len(m) for m in (mask, batch.mask))  # tokens
            cosine = count / of * alignment(own[:, :-1], learner.centres, token_mask(mask))
            loss, info = loss - weight * cosine, {**info, "cosine": cosine.detach()}
        results.append((loss, info))
    return results


def language_losses(
    learners: Sequence[SequenceLearner], batches: Sequence[DeviceBatch], rows: slice, masks: Masks
) -> Losses:
    """λ · language losses of some blocks of each batch's text."""
    first, *others = [learner.model.backbone for learner in learners]
    texts = [batch.text for batch in batches if batch.text is not None]
    share = len(texts[0][rows]) / len(texts[0])
    ids = torch.cat([text[rows] for text in texts])
    losses = [share * loss for loss in first.text_losses(ids, masks=masks, others=others)]
    return [
        (learner.settings.language_weight * loss, {"language_loss": loss.detach()})
        for learner, loss in zip(learners, losses, strict=True)
    ]
