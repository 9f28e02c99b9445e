"""Dropout whose masks are a function of (seed, step): drawn in bulk, equal after a resume, equal in any company."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MASKS = 2  # the stream of dropout masks is seeded with (seed, this, step): a resumed run draws what it would have drawn


class Masks:
    """Dropout masks of one gradient step of S runs; each run's are those it would draw alone."""

    def __init__(self, seeds: Sequence[int], step: int, device: torch.device) -> None:
        self.seeds, self.device = seeds, device
        self.streams: list[np.random.SFC64] = []  # on a CPU
        self.generators = [torch.Generator(device) for _ in seeds] if device.type != "cpu" else []
        self.begin(step)

    def begin(self, step: int) -> None:
        """Draw from here on what a step of that number draws. A GPU's generators stay the ones that they are, for a
        recorded step draws from them."""
        keys = [(seed, MASKS, step) for seed in self.seeds]
        if self.device.type == "cpu":
            self.streams = [np.random.SFC64(key) for key in keys]
            return
        for generator, key in zip(self.generators, keys, strict=True):
            generator.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1)))

    def copy(self) -> Masks:
        """Masks that draw from here on what these will."""
        other = Masks([], 0, self.device)
        for stream in self.streams:
            other.streams.append(np.random.SFC64(0))
            other.streams[-1].state = stream.state
        for generator in self.generators:
            other.generators.append(torch.Generator(self.device))
            other.generators[-1].set_state(generator.get_state())
        return other

    def draw(self, rate: float, *shape: int) -> Keep | None:
        """What dropout of `rate` keeps of a tensor of `shape`, whose first dimension is S times something."""
        if rate == 0:
            return None
        if self.generators:
            mask = torch.empty(shape, dtype=torch.bool, device=self.device)
            for part, generator in zip(mask.chunk(len(self.generators)), self.generators, strict=True):
                part.bernoulli_(1 - rate, generator=generator)
            return Keep(mask, 1 / (1 - rate))
        size = int(np.prod(shape)) // len(self.streams)
        least = round(rate * 65536)  # of 16 random bits: the rate holds to 1 in 65 536, and the scale fits it exactly
        bits = (stream.random_raw(-(-size // 4)).view(np.uint16)[:size] for stream in self.streams)
        keep = np.concatenate([part >= least for part in bits]) if len(self.streams) > 1 else next(bits) >= least
        return Keep(torch.from_numpy(keep).view(shape), 65536 / (65536 - least))


@dataclass(frozen=True, eq=False)
class Keep:
    """A dropout mask: kept elements are multiplied by `scale`, the others by zero."""

    mask: Tensor
    """bool; after `twice` the factors themselves."""
    scale: float

    def factors(self, like: Tensor) -> Tensor:
        """0 or `scale`, in the number format of `like`; a product of two floats is four times faster than with a
        bool."""
        factors = self.mask.to(like.dtype)
        return factors if factors is self.mask else factors.mul_(self.scale)

    def twice(self, like: Tensor) -> Keep:
        """The same, for two uses: a processor makes the factors once. A GPU reads the mask as it is."""
        return Keep(self.factors(like), 1.0) if _on_processor(like) else self


def _on_processor(x: Tensor) -> bool:
    return x.device.type == "cpu"


def dropped(x: Tensor, keep: Keep | None) -> Tensor:
    """Dropout of `x`; no copy where nothing is dropped. On a GPU in one pass over memory, which takes less than a
    product with `factors`, on a processor more."""
    if keep is None:
        return x
    if _on_processor(x):
        return x * keep.factors(x)
    return torch.ops.aten.native_dropout_backward(x, keep.mask, keep.scale)


def add_dropped(x: Tensor, branch: Tensor, keep: Keep | None) -> Tensor:
    """x + dropout(branch), into the memory of `branch`."""
    if keep is None:
        return branch.add_(x)
    mask = keep.mask.to(x.dtype) if _on_processor(x) else keep.mask  # a GPU's kernel converts what it reads
    return torch.addcmul(x, branch, mask, value=keep.scale, out=branch)
