"""Losses of the value-based methods as pure functions of predictions, one equation each. B transitions, M critics."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def bootstrap(rewards: Tensor, terminated: Tensor, next_values: Tensor, discount: float) -> Tensor:
    """r + γ V(s'), and r alone where the episode terminated; (B,) each. A time limit is no termination."""
    return rewards + discount * (1 - terminated) * next_values


def squared_errors(values: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of each of M critics (M, B) against (B,), summed over the critics."""
    return (values - targets).square().mean(-1).sum()


def expectile_loss(advantages: Tensor, expectile: float) -> Tensor:
    """E |τ - 1(u < 0)| u² of u = Q - V, (B,) (IQL, equation 5)."""
    weights = torch.where(advantages > 0, expectile, 1 - expectile)
    return (weights * advantages.square()).mean()


def advantage_weights(advantages: Tensor, temperature: float, clip: float) -> Tensor:
    """min(exp(β A), clip), (B,), without gradient (IQL, equation 7; the clip is of its code)."""
    return torch.exp(temperature * advantages.detach()).clamp(max=clip)


def td3bc_policy_loss(values: Tensor, proposed: Tensor, actions: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """-λ E Q(s, π(s)) + E (π(s) - a)² with λ = α / E |Q| held fixed (TD3+BC, equations 3 and 5).

    values (B,) of proposed (B, A). Returns the loss, and the squared error by itself.
    """
    imitation = F.mse_loss(proposed, actions)
    scale = alpha / values.abs().mean().detach()
    return imitation - scale * values.mean(), imitation


def conservative_gap(values: Tensor, log_densities: Tensor, of_data: Tensor) -> Tensor:
    """log Σ exp(Q(s, a) - log p(a|s)) over sampled actions, minus Q of the data's action (CQL, appendix F): (M, B).

    values (M, B, n), log_densities (B, n) of the distributions that the actions were drawn from, of_data (M, B). The
    mean over the n samples would be the integral over actions; as in the published code it is their sum.
    """
    return torch.logsumexp(values - log_densities, -1) - of_data


def choice_gap(values: Tensor, of_data: Tensor) -> Tensor:
    """log Σ_a exp Q(s, a) - Q(s, data's action): (…, B, A), (…, B) -> (…, B) (CQL, equation 4)."""
    return torch.logsumexp(values, -1) - of_data


def autoencoder_loss(rebuilt: Tensor, actions: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Squared error plus half the mean divergence of N(mean, std²) from N(0, 1) (BCQ's code)."""
    divergence = -0.5 * (1 + 2 * log_std - mean.square() - (2 * log_std).exp()).mean()
    return F.mse_loss(rebuilt, actions) + 0.5 * divergence


def soft_minimum(values: Tensor, weight: float) -> Tensor:
    """λ min + (1 - λ) max over M critics, (M, …) -> (…) (BCQ, equation 13)."""
    return weight * values.amin(0) + (1 - weight) * values.amax(0)


def likely_only(values: Tensor, logits: Tensor, threshold: float) -> Tensor:
    """`values` (B, A) with -inf for choices less likely than τ times the likeliest (discrete BCQ, equation 17)."""
    relative = logits - logits.amax(-1, keepdim=True)  # log of the ratio to the likeliest
    return values.masked_fill(relative.exp() < threshold, float("-inf"))
