"""Minimal PyTorch loops of each method's mathematics, as one would write them by hand: what `baselines.py` times lamo
against. Networks of two hidden layers of 256, one Adam for each network, no library beyond PyTorch.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lamo.data.episodes import Episodes

Step = Callable[[], object]


class Buffer:
    """All transitions as tensors, drawn by index."""

    def __init__(self, episodes: Episodes, batch: int) -> None:
        n = episodes.steps - 1
        self.batch, self.n = batch, n
        self.observations = torch.from_numpy(episodes.observations[:n])
        self.following = torch.from_numpy(episodes.observations[1:])
        self.actions = torch.from_numpy(episodes.actions[:n])
        self.rewards = torch.from_numpy(episodes.rewards[:n])
        ends = torch.zeros(episodes.steps)
        ends[torch.from_numpy(episodes.offsets[1:] - 1)] = torch.from_numpy(episodes.terminated).float()
        self.terminated = ends[:n]
        self.size = episodes.observations.shape[1]
        self.choices = 0 if self.actions.ndim == 2 else int(self.actions.max()) + 1
        self.action_size = self.choices or self.actions.shape[1]

    def sample(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        i = torch.randint(self.n, (self.batch,))
        return self.observations[i], self.actions[i], self.rewards[i], self.following[i], self.terminated[i]


def net(inputs: int, outputs: int, width: int = 256, *last: nn.Module) -> nn.Sequential:
    layers = [nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs)]
    return nn.Sequential(*layers, *last)


def q(network: nn.Module, s: Tensor, a: Tensor) -> Tensor:
    return network(torch.cat([s, a], -1)).squeeze(-1)


def adam(rate: float, *networks: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam([p for network in networks for p in network.parameters()], lr=rate)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@torch.no_grad()
def follow(target: nn.Module, network: nn.Module, share: float = 0.005) -> None:
    for a, b in zip(target.parameters(), network.parameters(), strict=True):
        a.copy_((1 - share) * a + share * b)


def bc(episodes: Episodes, batch: int) -> Step:
    data = Buffer(episodes, batch)
    actor = net(data.size, data.action_size)
    optimizer = adam(3e-4, actor)

    def step() -> float:
        s, a, *_ = data.sample()
        loss = F.cross_entropy(actor(s), a) if data.choices else F.mse_loss(torch.tanh(actor(s)), a)
        descend(optimizer, loss)
        return loss.item()

    return step


def iql(episodes: Episodes, batch: int) -> Step:
    data = Buffer(episodes, batch)
    critics = [net(data.size, data.choices) if data.choices else net(data.size + data.action_size, 1) for _ in range(2)]
    targets = copy.deepcopy(critics)
    value, actor = net(data.size, 1), net(data.size, data.action_size)
    log_std = nn.Parameter(torch.zeros(data.action_size))
    of_value, of_critics = adam(3e-4, value), adam(3e-4, *critics)
    of_actor = torch.optim.Adam([*actor.parameters(), log_std], lr=3e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(of_actor, 100_000)

    def of(network: nn.Module, s: Tensor, a: Tensor) -> Tensor:
        return network(s).gather(1, a[:, None]).squeeze(1) if data.choices else q(network, s, a)

    def step() -> list[float]:
        s, a, r, s2, d = data.sample()
        with torch.no_grad():
            lower = torch.min(of(targets[0], s, a), of(targets[1], s, a))
            y = r + 0.99 * (1 - d) * value(s2).squeeze(-1)
        advantage = lower - value(s).squeeze(-1)
        value_loss = (torch.abs(0.7 - (advantage < 0).float()) * advantage**2).mean()
        descend(of_value, value_loss)
        critic_loss = F.mse_loss(of(critics[0], s, a), y) + F.mse_loss(of(critics[1], s, a), y)
        descend(of_critics, critic_loss)
        weight = torch.exp(3 * advantage.detach()).clamp(max=100)
        if data.choices:
            log_prob = torch.distributions.Categorical(logits=actor(s)).log_prob(a)
        else:
            log_prob = torch.distributions.Normal(torch.tanh(actor(s)), log_std.exp()).log_prob(a).sum(-1)
        actor_loss = -(weight * log_prob).mean()
        descend(of_actor, actor_loss)
        schedule.step()
        for target, critic in zip(targets, critics, strict=True):
            follow(target, critic)
        return [value_loss.item(), critic_loss.item(), actor_loss.item()]

    return step


def td3bc(episodes: Episodes, batch: int) -> Step:
    data = Buffer(episodes, batch)
    actor = net(data.size, data.action_size, 256, nn.Tanh())
    critics = [net(data.size + data.action_size, 1) for _ in range(2)]
    target_actor, targets = copy.deepcopy(actor), copy.deepcopy(critics)
    of_actor, of_critics = adam(3e-4, actor), adam(3e-4, *critics)
    count = 0

    def step() -> list[float]:
        nonlocal count
        count += 1
        s, a, r, s2, d = data.sample()
        with torch.no_grad():
            a2 = (target_actor(s2) + (0.2 * torch.randn_like(a)).clamp(-0.5, 0.5)).clamp(-1, 1)
            y = r + 0.99 * (1 - d) * torch.min(q(targets[0], s2, a2), q(targets[1], s2, a2))
        critic_loss = F.mse_loss(q(critics[0], s, a), y) + F.mse_loss(q(critics[1], s, a), y)
        descend(of_critics, critic_loss)
        if count % 2:
            return [critic_loss.item()]
        pi = actor(s)
        values = q(critics[0], s, pi)
        actor_loss = -2.5 / values.abs().mean().detach() * values.mean() + F.mse_loss(pi, a)
        descend(of_actor, actor_loss)
        for target, network in zip([*targets, target_actor], [*critics, actor], strict=True):
            follow(target, network)
        return [critic_loss.item(), actor_loss.item()]

    return step


def cql(episodes: Episodes, batch: int) -> Step:
    data, n = Buffer(episodes, batch), 10
    size = data.action_size
    actor = net(data.size, 2 * size)
    critics = [net(data.size + size, 1) for _ in range(2)]
    targets = copy.deepcopy(critics)
    log_alpha = nn.Parameter(torch.zeros(()))
    of_actor, of_critics = adam(3e-5, actor), adam(3e-4, *critics)
    of_alpha = torch.optim.Adam([log_alpha], lr=3e-5)

    def sample(s: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = actor(s).chunk(2, -1)
        log_std = (log_std - 1).clamp(-20, 2)
        normal = torch.distributions.Normal(mean, log_std.exp())
        raw = normal.rsample()
        slope = 2 * (math.log(2) - raw - F.softplus(-2 * raw))
        return torch.tanh(raw), (normal.log_prob(raw) - slope).sum(-1)

    def step() -> list[float]:
        s, a, r, s2, d = data.sample()
        pi, log_pi = sample(s)
        alpha_loss = -(log_alpha * (log_pi - size).detach()).mean()
        alpha = log_alpha.exp().detach()
        actor_loss = (alpha * log_pi - torch.min(q(critics[0], s, pi), q(critics[1], s, pi))).mean()
        with torch.no_grad():
            a2, _ = sample(s2)
            y = r + 0.99 * (1 - d) * torch.min(q(targets[0], s2, a2), q(targets[1], s2, a2))
            repeated = s.repeat_interleave(n, 0)
            here, log_here = sample(repeated)
            there, log_there = sample(s2.repeat_interleave(n, 0))
            uniform = torch.rand_like(here) * 2 - 1
        critic_loss = torch.zeros(())
        for critic in critics:
            value = q(critic, s, a)
            columns = [q(critic, repeated, uniform).view(-1, n) - size * math.log(0.5)]
            columns.append(q(critic, repeated, there).view(-1, n) - log_there.view(-1, n))
            columns.append(q(critic, repeated, here).view(-1, n) - log_here.view(-1, n))
            gap = torch.logsumexp(torch.cat(columns, 1), 1) - value
            critic_loss = critic_loss + F.mse_loss(value, y) + 10 * gap.mean()
        descend(of_alpha, alpha_loss)
        descend(of_actor, actor_loss)
        descend(of_critics, critic_loss)
        for target, critic in zip(targets, critics, strict=True):
            follow(target, critic)
        return [critic_loss.item(), actor_loss.item(), alpha_loss.item()]

    return step


def bcq(episodes: Episodes, batch: int) -> Step:
    data, n = Buffer(episodes, batch), 10
    size, latent = data.action_size, 2 * data.action_size
    encoder, decoder = net(data.size + size, 2 * latent, 750), net(data.size + latent, size, 750, nn.Tanh())
    actor = net(data.size + size, size, 256, nn.Tanh())
    critics = [net(data.size + size, 1) for _ in range(2)]
    target_actor, targets = copy.deepcopy(actor), copy.deepcopy(critics)
    of_vae, of_critics, of_actor = adam(1e-3, encoder, decoder), adam(1e-3, *critics), adam(1e-3, actor)

    def move(network: nn.Module, s: Tensor, a: Tensor) -> Tensor:
        return (a + 0.05 * network(torch.cat([s, a], -1))).clamp(-1, 1)

    def propose(s: Tensor) -> Tensor:
        return decoder(torch.cat([s, torch.randn(len(s), latent).clamp(-0.5, 0.5)], -1))

    def step() -> list[float]:
        s, a, r, s2, d = data.sample()
        mean, log_std = encoder(torch.cat([s, a], -1)).chunk(2, -1)
        std = log_std.clamp(-4, 15).exp()
        rebuilt = decoder(torch.cat([s, mean + std * torch.randn_like(std)], -1))
        divergence = -0.5 * (1 + torch.log(std**2) - mean**2 - std**2).mean()
        vae_loss = F.mse_loss(rebuilt, a) + 0.5 * divergence
        descend(of_vae, vae_loss)
        with torch.no_grad():
            repeated = s2.repeat_interleave(n, 0)
            a2 = move(target_actor, repeated, propose(repeated))
            both = q(targets[0], repeated, a2), q(targets[1], repeated, a2)
            y = 0.75 * torch.min(*both) + 0.25 * torch.max(*both)
            y = r + 0.99 * (1 - d) * y.view(-1, n).amax(1)
        critic_loss = F.mse_loss(q(critics[0], s, a), y) + F.mse_loss(q(critics[1], s, a), y)
        descend(of_critics, critic_loss)
        actor_loss = -q(critics[0], s, move(actor, s, propose(s))).mean()
        descend(of_actor, actor_loss)
        for target, network in zip([*targets, target_actor], [*critics, actor], strict=True):
            follow(target, network)
        return [vae_loss.item(), critic_loss.item(), actor_loss.item()]

    return step


def of_choices(kind: str) -> Callable[[Episodes, int], Step]:
    """Discrete CQL, BCQ and NFQ."""

    def make(episodes: Episodes, batch: int) -> Step:
        data = Buffer(episodes, batch)
        network, imitation = net(data.size, data.choices), net(data.size, data.choices)
        target = copy.deepcopy(network)
        optimizer = adam(3e-4, network, *([imitation] if kind == "bcq" else []))
        count = 0

        def step() -> float:
            nonlocal count
            count += 1
            s, a, r, s2, d = data.sample()
            with torch.no_grad():
                if kind == "nfq":
                    following = target(s2).amax(1)
                else:
                    values = network(s2)
                    if kind == "bcq":
                        p = torch.softmax(imitation(s2), 1)
                        values = torch.where(p / p.amax(1, keepdim=True) >= 0.3, values, -1e8)
                    following = target(s2).gather(1, values.argmax(1, keepdim=True)).squeeze(1)
                y = r + 0.99 * (1 - d) * following
            values = network(s)
            of_data = values.gather(1, a[:, None]).squeeze(1)
            if kind == "bcq":
                logits = imitation(s)
                loss = F.smooth_l1_loss(of_data, y) + F.cross_entropy(logits, a) + 0.01 * (logits**2).mean()
            elif kind == "cql":
                loss = 0.5 * F.mse_loss(of_data, y) + (torch.logsumexp(values, 1) - of_data).mean()
            else:
                loss = F.mse_loss(of_data, y)
            descend(optimizer, loss)
            if kind != "nfq":
                follow(target, network)
            elif count % 1000 == 0:
                follow(target, network, 1.0)
            return loss.item()

        return step

    return make


REFERENCES: dict[tuple[str, str], Callable[[Episodes, int], Step]] = {
    ("bc", "continuous"): bc,
    ("bc", "discrete"): bc,
    ("iql", "continuous"): iql,
    ("iql", "discrete"): iql,
    ("td3bc", "continuous"): td3bc,
    ("cql", "continuous"): cql,
    ("cql", "discrete"): of_choices("cql"),
    ("bcq", "continuous"): bcq,
    ("bcq", "discrete"): of_choices("bcq"),
    ("nfq", "discrete"): of_choices("nfq"),
}


def torchrl_step(name: str, kind: str, episodes: Episodes, batch: int, *, compiled: bool = False) -> Step | None:
    """A step on TorchRL's loss modules as its own examples take it, or with the losses compiled; None where it is not
    installed or has no such loss of the same mathematics."""
    try:
        from tensordict import TensorDict
        from tensordict.nn import ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential, TensorDictModule
        from torchrl.modules import IndependentNormal, ValueOperator
        from torchrl.objectives import IQLLoss, SoftUpdate, TD3BCLoss
    except ImportError:
        return None
    if kind == "discrete" or name not in ("iql", "td3bc"):
        return None
    data = Buffer(episodes, batch)

    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = net(data.size + data.action_size, 1)

        def forward(self, s: Tensor, a: Tensor) -> Tensor:
            return self.network(torch.cat([s, a], -1))

    class Gaussian(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = net(data.size, data.action_size, 256, nn.Tanh())
            self.log_std = nn.Parameter(torch.zeros(data.action_size))

        def forward(self, s: Tensor) -> tuple[Tensor, Tensor]:
            mean = self.network(s)
            return mean, self.log_std.exp().expand_as(mean)

    critic = ValueOperator(Joined(), in_keys=["observation", "action"])
    loss: Any
    if name == "iql":
        actor = ProbabilisticTensorDictSequential(
            TensorDictModule(Gaussian(), in_keys=["observation"], out_keys=["loc", "scale"]),
            ProbabilisticTensorDictModule(
                in_keys=["loc", "scale"], out_keys=["action"], distribution_class=IndependentNormal
            ),
        )
        value = ValueOperator(net(data.size, 1), in_keys=["observation"])
        loss = IQLLoss(actor, critic, value, loss_function="l2", temperature=3.0, expectile=0.7, deactivate_vmap=True)
    else:
        deterministic = net(data.size, data.action_size, 256, nn.Tanh())
        actor = TensorDictModule(deterministic, in_keys=["observation"], out_keys=["action"])
        bounds = (-torch.ones(data.action_size), torch.ones(data.action_size))
        loss = TD3BCLoss(actor, critic, bounds=bounds, loss_function="l2", deactivate_vmap=True)
    loss.make_value_estimator(gamma=0.99)
    if compiled:
        for part in ("forward",) if name == "iql" else ("qvalue_loss", "actor_loss"):
            setattr(loss, part, torch.compile(getattr(loss, part)))
    targets = SoftUpdate(loss, tau=0.005)
    optimizer = torch.optim.Adam(loss.parameters(), lr=3e-4, fused=True)
    count = 0

    def step() -> float:
        nonlocal count
        count += 1
        s, a, r, s2, d = data.sample()
        ended = d[:, None].bool()
        following = {"observation": s2, "reward": r[:, None], "done": ended, "terminated": ended}
        table = TensorDict({"observation": s, "action": a, "next": following}, [batch])
        if name == "iql":
            out = loss(table)
            total = out["loss_actor"] + out["loss_qvalue"] + out["loss_value"]
            descend(optimizer, total)
            targets.step()
            return total.item()
        total, _ = loss.qvalue_loss(table)
        descend(optimizer, total)
        if count % 2 == 0:
            actor_loss, _ = loss.actor_loss(table)
            descend(optimizer, actor_loss)
            targets.step()
        return total.item()

    return step
