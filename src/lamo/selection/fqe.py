"""Fitted Q evaluation: what a policy would earn, regressed from logged steps (Le, Voloshin and Yue 2019, section 4).

    Q(s, a)  <-  r + γ Q'(s', π(s'))        Q' follows Q slowly; nothing is added behind a terminal state

A small ensemble, each member on its own bootstrap sample of the episodes with its own initial weights, so that their
spread says how much the estimate hangs on the data (Hao et al. 2021). The policy is asked once, beforehand, at every
logged next state (`lamo.replay`); after that a fit is plain regression. A policy with memory is not a function of s':
there the estimate is of its answers along the logged histories.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lamo.data.actions import action_scaling, one_hot
from lamo.data.episodes import Episodes
from lamo.errors import LamoError
from lamo.replay import Replay, final_known

INDEX_STEPS = 256  # gradient steps whose batches are drawn at once


@dataclass(frozen=True)
class CriticSettings:
    """How a critic is fitted."""

    fqe_steps: int = 5_000
    """Gradient steps of each critic."""
    members: int = 4
    """Critics in the ensemble, each on its own bootstrap sample of the episodes."""
    discount: float = 0.99
    """γ in [0, 1): what a reward one step later counts."""
    batch_size: int = 256
    """Transitions per gradient step and member."""
    width: int = 128
    """Width of the two hidden layers."""
    learning_rate: float = 1e-3
    """Adam's learning rate at the beginning; it falls to zero along a cosine."""
    target_rate: float = 0.05
    """Share of the way that the target network goes towards the network at each step (Polyak averaging)."""

    def __post_init__(self) -> None:
        for name, low in (("fqe_steps", 1), ("members", 1), ("batch_size", 1), ("width", 1)):
            if getattr(self, name) < low:
                raise LamoError(f"--{name.replace('_', '-')} {getattr(self, name)} must be at least {low}")
        if not 0 <= self.discount < 1:
            raise LamoError(f"--discount {self.discount} lies outside [0, 1)")
        if not 0 < self.target_rate <= 1:
            raise LamoError(f"--target-rate {self.target_rate} lies outside (0, 1]")
        if not 0 < self.learning_rate < float("inf"):
            raise LamoError(f"--learning-rate {self.learning_rate} must be a positive number")


class Transitions(NamedTuple):
    """M logged steps whose outcome is known, as a critic reads them."""

    rows: np.ndarray
    """(M,) int64: their rows in the Episodes."""
    episode: np.ndarray
    """(M,) int64: position of the episode that each belongs to."""
    next_observations: np.ndarray
    """(M, S) float32; of no account where `goes_on` is False."""
    goes_on: np.ndarray
    """(M,) bool: False where the environment ended the episode, so that nothing can be earned after it."""


def transitions(episodes: Episodes) -> Transitions:
    """Every step but those that a time limit or the end of the log cut off without saying what came next.

    What a time limit cuts off goes on, in truth: its last step is used, with the value of what followed, if that was
    logged (`final_observations`), and left out otherwise. Raises `LamoError` if no step remains.
    """
    last, known = episodes.offsets[1:] - 1, final_known(episodes)
    following = np.concatenate([episodes.observations[1:], episodes.observations[:1]])
    following[last] = 0
    if episodes.final_observations is not None:
        following[last[known]] = episodes.final_observations[known]
    goes_on, usable = np.ones(episodes.steps, bool), np.ones(episodes.steps, bool)
    goes_on[last] = ~episodes.terminated
    usable[last] = episodes.terminated | known
    rows = np.flatnonzero(usable)
    if len(rows) == 0:
        raise LamoError(f"{episodes.source}: no step says what came after it; a critic needs at least one")
    owner = np.repeat(np.arange(len(episodes)), episodes.lengths)
    return Transitions(rows, owner[rows], following[rows], goes_on[rows])


def next_answers(episodes: Episodes, replayed: Replay) -> np.ndarray:
    """(N, A) or (N,): the policy's answer at the state after each logged step, from its replay; 0 where not known."""
    answers = np.concatenate([replayed.actions[1:], replayed.actions[:1]])
    answers[episodes.offsets[1:] - 1] = replayed.final
    return answers


def next_logged(episodes: Episodes) -> tuple[np.ndarray, np.ndarray]:
    """((N, A) or (N,), (N,) bool): the action that the behaviour took next, and whether there was one."""
    answers, known = np.concatenate([episodes.actions[1:], episodes.actions[:1]]), np.ones(episodes.steps, bool)
    known[episodes.offsets[1:] - 1] = False
    return answers, known


class _Network:
    """`members` MLPs of two hidden layers side by side: (members, B, inputs) -> (members, B).

    Layer norms without parameters keep a critic from running away where the log has no data (Ball et al. 2023).
    """

    def __init__(self, members: int, inputs: int, width: int, generator: torch.Generator) -> None:
        self.weights: list[Tensor] = []
        for fan_in, fan_out in ((inputs, width), (width, width), (width, 1)):
            bound = fan_in**-0.5
            for shape in ((members, fan_in, fan_out), (members, 1, fan_out)):
                self.weights.append(bound * (2 * torch.rand(shape, generator=generator) - 1))

    def __call__(self, x: Tensor, weights: Sequence[Tensor] | None = None) -> Tensor:
        w1, b1, w2, b2, w3, b3 = self.weights if weights is None else weights
        width = (w1.shape[-1],)
        x = F.relu(F.layer_norm(torch.baddbmm(b1, x, w1), width))
        x = F.relu(F.layer_norm(torch.baddbmm(b2, x, w2), width))
        return torch.baddbmm(b3, x, w3)[..., 0]


class Critics:
    """A fitted ensemble: what is earned from a state on, discounted, in units of the reward."""

    def __init__(self, network: _Network, scaling: _Scaling, shift: float, scale: float) -> None:
        self.network, self.scaling, self.shift, self.scale = network, scaling, shift, scale

    @torch.no_grad()
    def __call__(self, observations: np.ndarray, actions: np.ndarray, block: int = 4096) -> np.ndarray:
        """(M, S) and (M, A) or (M,) -> (members, M) float64."""
        found = []
        for start in range(0, len(observations), block):
            x = self.scaling(observations[start : start + block], actions[start : start + block])
            found.append(self.network(x.expand(len(self.network.weights[0]), *x.shape)).double().numpy())
        return self.shift + self.scale * np.concatenate(found, axis=1)


class _Scaling:
    """Observations standardised, actions scaled to [-1, 1] by their extremes, choices one-hot; side by side."""

    def __init__(self, episodes: Episodes, choices: Sequence[int]) -> None:
        statistics = episodes.statistics()
        self.mean, self.std, self.choices = statistics.mean, statistics.std, choices
        self.box = None if choices else action_scaling(None, None, episodes.extremes("actions"))

    def __call__(self, observations: np.ndarray, actions: np.ndarray) -> Tensor:
        state = (observations - self.mean) / self.std
        action = one_hot(actions, self.choices) if self.box is None else self.box.to_unit(actions)
        return torch.from_numpy(np.concatenate([state, action], axis=1, dtype=np.float32))


def fit(
    episodes: Episodes,
    answers: np.ndarray,
    pools: Sequence[np.ndarray],
    settings: CriticSettings,
    seed: int,
    *,
    known: np.ndarray | None = None,
    choices: Sequence[int] = (),
    progress: Callable[[int, int], object] | None = None,
) -> Critics:
    """Fit one critic per pool to the values of the policy that answers `answers` at the state after each logged step.

    `answers` (N, A) or (N,) from `next_answers`, or from `next_logged` for the behaviour itself, with its `known` (N,):
    steps that go on without an answer are left out. `pools`: for each member the positions of its episodes, once for
    each time that the bootstrap drew them. `choices`: how many each component of an action has, none for vectors. With
    equal `seed` and pools all fits begin with the same weights and read the same batches, so that two policies are
    compared in pairs. Raises `LamoError` for a pool without a usable step.
    """
    steps = transitions(episodes)
    usable = np.ones(len(steps.rows), bool) if known is None else ~steps.goes_on | known[steps.rows]
    scaling = _Scaling(episodes, choices)
    now = scaling(episodes.observations[steps.rows], episodes.actions[steps.rows])
    following = scaling(steps.next_observations, answers[steps.rows])
    rewards = episodes.rewards[steps.rows].astype(np.float64)
    shift, scale = _magnitude(episodes, settings.discount)
    low, high = _reachable(rewards, settings.discount, ends=bool(episodes.terminated.any()))
    floor, ceiling = (low - shift) / scale, (high - shift) / scale
    # In the network's units, y = shift + scale · q: what it is to be without what comes after, and the factor of that.
    constant = torch.from_numpy((rewards + settings.discount * shift * steps.goes_on - shift) / scale).float()
    factor = torch.from_numpy(settings.discount * steps.goes_on.astype(np.float32))
    draws = [_expand(pool, steps.episode, usable) for pool in pools]
    if min(map(len, draws)) == 0:
        raise LamoError(f"{episodes.source}: too few episodes: a part of them has no step that a critic can learn from")

    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    network = _Network(len(pools), now.shape[1], settings.width, generator)
    slow = [weight.clone() for weight in network.weights]
    for weight in network.weights:
        weight.requires_grad_(True)
    optimizer = torch.optim.Adam(network.weights, settings.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.fqe_steps)
    indices = torch.empty(0)
    for step in range(settings.fqe_steps):
        if step % INDEX_STEPS == 0:
            shape = (min(INDEX_STEPS, settings.fqe_steps - step), settings.batch_size)
            drawn = np.stack([draw[rng.integers(len(draw), size=shape)] for draw in draws], axis=1)
            indices = torch.from_numpy(drawn)  # (steps, members, B)
        rows = indices[step % INDEX_STEPS]
        with torch.no_grad():
            wanted = constant[rows] + factor[rows] * network(following[rows], slow).clamp(floor, ceiling)
        loss = (network(now[rows]) - wanted).square().mean(dim=1).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            for behind, weight in zip(slow, network.weights, strict=True):
                behind.lerp_(weight, settings.target_rate)
        if progress and (step + 1) % 100 == 0:
            progress(step + 1, settings.fqe_steps)
    network.weights = slow  # the average over the last steps has less noise than the last step
    return Critics(network, scaling, shift, scale)


def _expand(pool: np.ndarray, owner: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Positions of the usable transitions of the episodes in `pool`, as often as each episode stands there."""
    times = np.bincount(pool, minlength=int(owner.max()) + 1)[owner] * usable
    return np.repeat(np.arange(len(owner)), times)


def _magnitude(episodes: Episodes, discount: float) -> tuple[float, float]:
    """Mean and deviation of the discounted sums of rewards that were logged: what values will be like, and where the
    critics begin.
    """
    to_go = discounted(episodes, discount)
    return float(to_go.mean()), max(float(to_go.std()), 1e-6, 1e-3 * float(np.abs(to_go).max()))


def discounted(episodes: Episodes, discount: float) -> np.ndarray:
    """(N,) float64: the discounted sum of rewards from each step to the end of its episode."""
    out = np.zeros(episodes.steps)
    lengths, last = episodes.lengths, episodes.offsets[1:] - 1
    carried = np.zeros(len(episodes))
    for back in range(int(lengths.max())):  # all episodes at once, from their ends
        alive = lengths > back
        rows = last[alive] - back
        carried[alive] = episodes.rewards[rows] + discount * carried[alive]
        out[rows] = carried[alive]
    return out


def _reachable(rewards: np.ndarray, discount: float, ends: bool) -> tuple[float, float]:
    """No value lies beyond the smallest and the largest reward for ever, or where an environment `ends` episodes, once:
    a critic's targets are cut there.
    """
    low, high = float(rewards.min()), float(rewards.max())
    least, most = low / (1 - discount), high / (1 - discount)
    return (min(low, least), max(high, most)) if ends else (least, most)


def bootstrap_pools(episodes: int, members: int, rng: np.random.Generator) -> list[np.ndarray]:
    """For each member as many episodes as there are, drawn with replacement."""
    return [rng.integers(episodes, size=episodes) for _ in range(members)]


def first_values(critics: Critics, episodes: Episodes, actions: np.ndarray) -> np.ndarray:
    """(members, E): the value of each episode's first state under the answer to it, of the answers (N, A) or (N,) to
    all logged states.
    """
    first = episodes.offsets[:-1]
    return critics(episodes.observations[first], actions[first])
