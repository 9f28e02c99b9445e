"""Small networks of the value-based methods: critics, and actors of each kind.

Continuous actions are scaled to [-1, 1] throughout; who acts scales them back. An actor is a module from standardised
observations (n, S) to actions (n, A), or to one number per choice (n, A), of which the highest is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lamo.models.choices import one_hot, surprise

LOG_STD_RANGE = (-20.0, 2.0)  # of a Gaussian policy, as in IQL's and CQL's published code


def mlp(inputs: int, width: int, layers: int, outputs: int, dropout: float = 0.0) -> nn.Sequential:
    """(…, inputs) -> (…, outputs) with `layers` hidden layers of ReLU."""
    parts: list[nn.Module] = []
    for i in range(layers):
        parts += [nn.Linear(inputs if i == 0 else width, width), nn.ReLU(inplace=True)]
        if dropout > 0:
            parts.append(nn.Dropout(dropout))
    return nn.Sequential(*parts, nn.Linear(width, outputs))


def initialise_orthogonally(network: nn.Sequential) -> None:
    """Orthogonal weights (gain √2, of the last layer 0.01) and no biases: how CQL's critics begin in CORL."""
    layers = [module for module in network if isinstance(module, nn.Linear)]
    for layer in layers:
        nn.init.orthogonal_(layer.weight, gain=0.01 if layer is layers[-1] else math.sqrt(2))
        nn.init.zeros_(layer.bias)


class Critic(nn.Module):
    """M independent networks for Q of continuous actions."""

    def __init__(self, observations: int, actions: int, width: int, layers: int, count: int = 2) -> None:
        super().__init__()
        self.observation_dim = observations
        self.networks = nn.ModuleList(mlp(observations + actions, width, layers, 1) for _ in range(count))

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:  # (B, S), (B, A) -> (M, B)
        both = torch.cat([observations, actions], -1)
        return torch.stack([network(both).squeeze(-1) for network in self.networks])

    def first(self, observations: Tensor, actions: Tensor) -> Tensor:
        """The first network's Q alone: (B, S), (B, A) -> (B,)."""
        return self.networks[0](torch.cat([observations, actions], -1)).squeeze(-1)

    def many(self, observations: Tensor, actions: Tensor) -> Tensor:
        """n actions per state: (B, S), (B, n, A) -> (M, B, n).

        The first layer's part for the state is computed once per state and not once per action.
        """
        batch, n, size = actions.shape
        flat, values = actions.reshape(batch * n, size), []
        for network in self.networks:
            assert isinstance(network, nn.Sequential)
            layer = network[0]
            assert isinstance(layer, nn.Linear)
            of_state = F.linear(observations, layer.weight[:, : self.observation_dim], layer.bias)  # (B, width)
            hidden = F.linear(flat, layer.weight[:, self.observation_dim :])  # (B n, width)
            hidden = (hidden.view(batch, n, -1) + of_state[:, None]).view(batch * n, -1)
            values.append(network[1:](hidden).view(batch, n))
        return torch.stack(values)


class ChoiceCritic(nn.Module):
    """M independent networks for Q of each of A choices."""

    def __init__(self, observations: int, actions: int, width: int, layers: int, count: int = 2) -> None:
        super().__init__()
        self.networks = nn.ModuleList(mlp(observations, width, layers, actions) for _ in range(count))

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:  # (B, S), (B,) int -> (M, B)
        return chosen(self.values(observations), actions)

    def values(self, observations: Tensor) -> Tensor:  # (B, S) -> (M, B, A)
        return torch.stack([network(observations) for network in self.networks])


def chosen(values: Tensor, actions: Tensor) -> Tensor:
    """(…, B, A), (B,) int -> (…, B): the value of each row's action."""
    index = actions[..., None].expand(*values.shape[:-1], 1)
    return values.gather(-1, index).squeeze(-1)


class SeveralCritic(Critic):
    """M independent networks for Q of several choices at once, of which each is one-hot."""

    def __init__(self, observations: int, choices: Sequence[int], width: int, layers: int, count: int = 2) -> None:
        super().__init__(observations, sum(choices), width, layers, count)
        self.choices = choices

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:  # (B, S), (B, A) int -> (M, B)
        return super().forward(observations, one_hot(actions, self.choices))


class DeterministicActor(nn.Module):
    """tanh of a network; imitates by squared error."""

    def __init__(self, observations: int, actions: int, width: int, layers: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.network = mlp(observations, width, layers, actions, dropout)

    def forward(self, observations: Tensor) -> Tensor:  # (n, S) -> (n, A) within (-1, 1)
        return torch.tanh(self.network(observations))

    def imitation_loss(self, observations: Tensor, actions: Tensor) -> Tensor:  # (B, S), (B, A) -> (B,)
        return (self(observations) - actions).square().sum(-1)


class GaussianActor(DeterministicActor):
    """A Gaussian around the above, with a standard deviation that does not depend on the observation; acts by its
    mean, imitates by likelihood."""

    def __init__(self, observations: int, actions: int, width: int, layers: int, dropout: float = 0.0) -> None:
        super().__init__(observations, actions, width, layers, dropout)
        self.log_std = nn.Parameter(torch.zeros(actions))

    def imitation_loss(self, observations: Tensor, actions: Tensor) -> Tensor:  # (B, S), (B, A) -> (B,)
        log_std = self.log_std.clamp(*LOG_STD_RANGE)
        scaled = (actions - self(observations)) * torch.exp(-log_std)
        return 0.5 * scaled.square().sum(-1) + (log_std.sum() + 0.5 * math.log(2 * math.pi) * actions.shape[-1])


class ChoiceActor(nn.Module):
    """Logits of A choices; acts by the likeliest, imitates by likelihood.

    `choices`: those of each component, where A is the sum of several.
    """

    def __init__(
        self,
        observations: int,
        actions: int,
        width: int,
        layers: int,
        dropout: float = 0.0,
        choices: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.network = mlp(observations, width, layers, actions, dropout)
        self.choices = choices

    def forward(self, observations: Tensor) -> Tensor:  # (n, S) -> (n, A)
        return self.network(observations)

    def imitation_loss(self, observations: Tensor, actions: Tensor) -> Tensor:  # (B, S), (B,) or (B, A) int -> (B,)
        return surprise(self(observations), actions, self.choices)


class SquashedGaussianActor(nn.Module):
    """tanh of a Gaussian whose mean and deviation depend on the observation (SAC, arXiv 1801.01290); acts by the tanh
    of its mean.

    The deviation's logarithm passes through a learned scale and shift, which begin at 1 and -1, and the last layer
    begins near 0, as in CORL.
    """

    def __init__(self, observations: int, actions: int, width: int, layers: int) -> None:
        super().__init__()
        self.network = mlp(observations, width, layers, 2 * actions)
        last = self.network[-1]
        assert isinstance(last, nn.Linear)
        nn.init.xavier_uniform_(last.weight, gain=0.01)
        nn.init.zeros_(last.bias)
        self.log_std_scale = nn.Parameter(torch.tensor(1.0))
        self.log_std_shift = nn.Parameter(torch.tensor(-1.0))

    def forward(self, observations: Tensor) -> Tensor:  # (n, S) -> (n, A) within (-1, 1)
        return torch.tanh(self.network(observations).chunk(2, -1)[0])

    def distribution(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the deviation before tanh, (B, A) each."""
        mean, log_std = self.network(observations).chunk(2, -1)
        return mean, (self.log_std_scale * log_std + self.log_std_shift).clamp(*LOG_STD_RANGE)


def squashed_sample(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """tanh(mean + std · noise) and its log-density: (…, A) each -> (…, A), (…).

    The density of tanh(u) is that of u over 1 - tanh²(u), whose logarithm is 2 (log 2 - u - softplus(-2u)) without
    cancellation.
    """
    raw = mean + log_std.exp() * noise
    log_normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    log_slope = 2 * (math.log(2) - raw - F.softplus(-2 * raw))
    return torch.tanh(raw), (log_normal - log_slope).sum(-1)
