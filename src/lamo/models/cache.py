"""Keys and values of past tokens, so that acting computes the new tokens of a step and nothing twice.

Exact where what a token saw stays what it saw: while a window has not begun to slide, and for ever where attention is
banded (`span`). A window that slides changes every token's past, and then all of it must be computed again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lamo.models.activations import ACTIVATIONS
from lamo.models.attention import heads_apart, side_by_side
from lamo.models.fast import Adapters, finish, project

UNSEEN = -(1 << 40)  # the step of an empty slot: before every band


class KeyValueCache:
    """A ring of slots per layer and episode. Slots need no order: the control path has no position embeddings.

    `span` is in steps, as in `attention_bias`; without one every past token is seen, and `steps` is the most that fit.
    """

    def __init__(self, transformer: Any, n: int, steps: int, span: int | None = None) -> None:
        config, weight = transformer.config, transformer.ln_f.weight
        self.slots, self.span = 3 * (steps if span is None else span + 1), span
        shape = (config.n_layer, n, config.n_head, self.slots, config.n_embd // config.n_head)
        self.device = weight.device
        self.keys, self.values = (torch.zeros(shape, dtype=weight.dtype, device=self.device) for _ in range(2))
        self.order = np.full((n, self.slots), -1)  # which token of its episode a slot holds
        self.step = np.full((n, self.slots), UNSEEN)  # and of which step it is
        # Tokens so far. Counted from one, as if there had been an action before the first step: the three tokens of a
        # step then lie side by side, also where the ring closes.
        self.count = np.ones(n, np.int64)
        # Episodes that go on are kept apart, close together: products then read no gaps and copy nothing.
        self.rows = np.arange(n)
        self.near = self.keys, self.values

    @staticmethod
    def size(transformer: Any, n: int, steps: int) -> int:
        """Bytes of a cache for `n` episodes of `steps` steps."""
        return 2 * 3 * steps * n * transformer.config.n_layer * transformer.config.n_embd * transformer.dtype.itemsize

    def gather(self, rows: np.ndarray) -> None:
        """The next tokens are of the episodes `rows`. Costs a copy when they are others than before."""
        if np.array_equal(rows, self.rows):
            return
        n = self.keys.shape[1]
        if self.near[0] is not self.keys:
            index = torch.from_numpy(self.rows).to(self.device)
            self.keys[:, index], self.values[:, index] = self.near
        everyone = np.array_equal(rows, np.arange(n))
        index = torch.from_numpy(rows).to(self.device)
        self.near = (self.keys, self.values) if everyone else (self.keys[:, index], self.values[:, index])
        self.rows = rows.copy()

    def place(self, steps: np.ndarray) -> tuple[Tensor | slice, Tensor]:
        """Take a slot for each new token, of `steps` (n, t) -> (slots (n, t), or those of every episode; additive mask
        (1 or n, 1, t, slots)).
        """
        rows, new = self.rows, steps.shape[1]
        numbers = self.count[rows, None] + np.arange(new)
        slots = numbers % self.slots
        self.order[rows[:, None], slots], self.step[rows[:, None], slots] = numbers, steps
        self.count[rows] += new
        order, step = self.order[rows, None], self.step[rows, None]  # (n, 1, slots)
        seen = (order >= 0) & (order <= numbers[..., None])
        if self.span is not None:
            seen &= step > steps[..., None] - self.span
        if (seen == seen[:1]).all():
            seen = seen[:1]
        low = torch.finfo(self.keys.dtype).min
        bias = torch.from_numpy(seen[:, None]).to(self.device)
        mask = torch.zeros(bias.shape, dtype=self.keys.dtype, device=self.device).masked_fill_(~bias, low)
        first = int(slots[0, 0])
        if (slots == np.arange(first, first + new)).all():
            return slice(first, first + new), mask
        return torch.from_numpy(slots).to(self.device), mask

    def write(self, layer: int, slots: Tensor | slice, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put the new k, v (nH, t, d/H) into the `slots` that `place` gave -> all of that layer's (nH, slots, d/H)."""
        n, heads = len(self.rows), self.keys.shape[2]
        for store, new in zip(self.near, (k, v), strict=True):
            apart = new.view(n, heads, *new.shape[1:])
            if isinstance(slots, slice):
                store[layer][:, :, slots] = apart
            else:
                store[layer][torch.arange(n, device=self.device)[:, None], :, slots] = apart.transpose(1, 2)
        keys, values = (store[layer].flatten(0, 1) for store in self.near)
        return keys, values


def advance(transformer: Any, x: Tensor, steps: np.ndarray, cache: KeyValueCache) -> Tensor:
    """Embeddings x (n, t, d) of new tokens, of `steps` (n, t), of the episodes that the cache has gathered -> the
    newest token's hidden state (n, d).

    Equal to `run_blocks` over all tokens so far. Needs `torch.no_grad`; nothing is dropped.
    """
    config = transformer.config
    heads, activation, (n, new, width) = config.n_head, ACTIVATIONS[config.activation_function], x.shape
    slots, bias = cache.place(steps)
    everything, newest, last = slice(None), slice(-1, None), len(transformer.h) - 1
    x = x.reshape(-1, width)
    for i, block in enumerate(transformer.h):
        qkv = project(block, x, Adapters.of([block]))
        rows = newest if i == last else everything
        q, k, v = heads_apart(qkv, new, heads, rows)
        k, v = cache.write(i, slots, k, v)
        seen = bias[:, :, rows]
        scores = torch.bmm(q, k.transpose(1, 2)).mul_(q.shape[-1] ** -0.5)
        scores.view(n, heads, *scores.shape[1:]).add_(seen)
        attended = side_by_side(torch.bmm(torch.softmax(scores, -1), v), heads)
        if i == last:
            x = x.view(n, new, width)[:, -1]
        x = finish(block, x, attended, activation)
    return transformer.ln_f(x)
