"""What a piece of torch code does, by counts: they are the same on a busy machine and on an idle one."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

PRODUCTS = ("mm", "addmm", "addmm_", "bmm", "baddbmm", "baddbmm_")


class Counts(TorchDispatchMode):
    """FLOPs of matrix products, kernels, fresh memory, and the shapes that appear, of all that runs inside.

    Inside a custom autograd function and in the backward pass too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.calls = self.fresh_bytes = 0
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        self.calls += 1
        if name in PRODUCTS:
            a, b = (x.shape for x in args[-2:])  # with or without a tensor to add before them
            self.flops += 2 * prod(a) * b[-1]
        elif name == "linear":  # comes whole in inference mode
            self.flops += 2 * prod(args[0].shape) * len(args[1])
        given = {x.untyped_storage().data_ptr() for x in tensors((args, kwargs))}
        for x in tensors(out):
            self.shapes.add(tuple(x.shape))
            if x.untyped_storage().data_ptr() not in given:
                self.fresh_bytes += x.untyped_storage().nbytes()
        return out


def tensors(value: Any) -> list[torch.Tensor]:
    """All tensors in nested lists, tuples and dicts."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = tuple(value.values())
    return [x for item in value for x in tensors(item)] if isinstance(value, (list, tuple)) else []
