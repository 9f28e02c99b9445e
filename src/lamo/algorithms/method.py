"""What the value-based methods and imitation have in common: a module of networks that knows how to learn."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lamo.config import Spec


class Batch(NamedTuple):
    """B transitions on the learner's device, in units that networks like."""

    observations: Tensor
    """(B, S) standardised."""
    actions: Tensor
    """(B, A) scaled to [-1, 1], (B,) or (B, A) int64."""
    rewards: Tensor
    """(B,) scaled."""
    next_observations: Tensor
    """(B, S) standardised."""
    terminated: Tensor
    """(B,) float: 1 where the environment ended the episode."""


class Chunks(NamedTuple):
    """The same, with the actions of n steps."""

    observations: Tensor
    actions: Tensor
    """(B, n, A) scaled, (B, n) or (B, n, A) int64."""
    rewards: Tensor
    next_observations: Tensor
    terminated: Tensor
    real: Tensor
    """(B, n) bool: the actions that the episode has."""


class Method(nn.Module):
    """Networks and one gradient step of them. A subclass sets `actor`, calls `optimise`, and defines `update`.

    One Adam holds all parameters; those without a gradient at a step are left alone, moments included, so networks that
    are trained in turn or at different rates share it.
    """

    following: ClassVar[bool] = True
    """Whether it looks at what comes after a step. Imitation does not."""
    actor: nn.Module
    """What acting needs: standardised observations (n, S) -> actions (n, A) within [-1, 1], or a number per choice."""
    optimizer: torch.optim.Optimizer

    def __init__(self, settings: Any, spec: Spec, steps: int) -> None:
        super().__init__()
        self.settings, self.spec, self.total_steps = settings, spec, steps
        self.targets: list[tuple[list[Tensor], list[Tensor]]] = []  # (of the target, of the trained network)

    @staticmethod
    def make_actor(settings: Any, spec: Spec) -> nn.Module:
        """The module of `actor` with new weights; enough to act with once its own are loaded."""
        raise NotImplementedError

    def update(self, batch: Any, step: int) -> dict[str, Tensor]:
        """Gradient step number `step` (from 0): named scalars without gradient, "loss" among them."""
        raise NotImplementedError

    # -------------------------------------------------------------------------------------------- for the subclasses

    def target_of(self, network: nn.Module) -> Any:
        """A copy of `network` that follows it by `follow`, and is never trained itself."""
        target = copy.deepcopy(network).requires_grad_(False)
        self.targets.append((list(target.parameters()), list(network.parameters())))
        return target

    def optimise(self, *groups: tuple[Iterable[nn.Parameter], float], weight_decay: float = 0.0) -> None:
        """Make the optimiser of groups (parameters, learning rate). Weight decay is on matrices alone."""
        rows: list[dict[str, Any]] = []
        for parameters, rate in groups:
            matrices, rest = [], []
            for parameter in parameters:
                (matrices if weight_decay > 0 and parameter.ndim >= 2 else rest).append(parameter)
            for chosen, decay in ((matrices, weight_decay), (rest, 0.0)):
                if chosen:
                    rows.append({"params": chosen, "lr": rate, "peak": rate, "weight_decay": decay})
        self.optimizer = torch.optim.AdamW(rows, fused=True)

    def descend(self, *losses: tuple[Tensor, list[nn.Parameter]]) -> None:
        """One step of Adam on each (loss, the parameters that it is for). A loss may read other networks: gradients of
        their weights are not even computed."""
        for loss, parameters in losses:
            loss.backward(inputs=parameters)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def follow(self, share: float) -> None:
        """Move every target towards its network by `share` (Polyak averaging); 1 copies."""
        average = get_ema_multi_avg_fn(1 - share)
        for target, trained in self.targets:
            average(target, trained, None)


def cosine(step: int, total: int) -> float:
    """From 1 to 0 along half a cosine over `total` steps."""
    return 0.5 * (1 + math.cos(math.pi * min(step, total) / max(1, total)))
