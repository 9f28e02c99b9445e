"""Each loss against the equations of its paper, written out once more, sample by sample where that is clearest.

Nothing of `lamo.algorithms.losses` is used here; the networks are read through their weights.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from test_contract import spec
from torch import Tensor, nn

from lamo.algorithms import settings_type
from lamo.algorithms.baselines import method_for
from lamo.algorithms.cql import Noise
from lamo.algorithms.method import Batch
from lamo.models.mlp import squashed_sample

B, S = 32, 3
GAMMA = 0.97


def make(name: str, kind: str, **changes: Any) -> Any:
    """A method whose targets differ from its networks, as they do in training."""
    torch.manual_seed(0)
    changes = {"width": 16, "discount": GAMMA, **changes}
    method = method_for(name, kind)(settings_type(name)(**changes), spec(kind), 10)
    for target, _ in method.targets:
        for parameter in target:
            parameter.add_(0.1 * torch.randn_like(parameter))
    return method


def batch(kind: str) -> Batch:
    generator = torch.Generator().manual_seed(1)
    actions = torch.rand(B, 2, generator=generator) * 2 - 1
    if kind == "discrete":
        actions = torch.randint(2, (B,), generator=generator)
    observations, following = torch.randn(2, B, S, generator=generator)
    terminated = (torch.rand(B, generator=generator) < 0.3).float()
    return Batch(observations, actions, torch.randn(B, generator=generator), following, terminated)


def run(network: nn.Sequential, x: Tensor) -> Tensor:
    """A network by its weights: h = max(0, W h + b) at each layer but the last."""
    layers = [layer for layer in network if isinstance(layer, nn.Linear)]
    for layer in layers:
        x = x @ layer.weight.T + layer.bias
        if layer is not layers[-1]:
            x = x * (x > 0)
    return x


def q(critic: Any, i: int, observations: Tensor, actions: Tensor) -> Tensor:
    return run(critic.networks[i], torch.cat([observations, actions], -1))[..., 0]


def close(mine: Tensor, reference: Any) -> None:
    torch.testing.assert_close(mine.detach(), torch.as_tensor(reference).detach(), rtol=1e-5, atol=1e-5)


def test_behaviour_cloning() -> None:
    method, data = make_bc("continuous"), batch("continuous")
    error = (torch.tanh(run(method.actor.network, data.observations)) - data.actions) ** 2
    close(method.losses(data)["action_loss"], error.sum() / error.numel())
    method, data = make_bc("discrete"), batch("discrete")
    p = torch.softmax(run(method.actor.network, data.observations), -1).detach()
    close(method.losses(data)["action_loss"], -sum(math.log(p[i, a]) for i, a in enumerate(data.actions)) / B)


def make_bc(kind: str) -> Any:
    torch.manual_seed(0)
    return method_for("bc", kind)(settings_type("bc")(width=16), spec(kind), 10)


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_iql(kind: str) -> None:
    tau, beta = 0.8, 2.5
    clip = {"continuous": 0.28, "discrete": 1.0}[kind]  # between the weights, so that it clips some
    method, data = make("iql", kind, expectile=tau, temperature=beta, weight_clip=clip), batch(kind)
    s, a, r, s2, d = data

    def q_of(critic: Any, i: int) -> Tensor:
        if kind == "continuous":
            return q(critic, i, s, a)
        return run(critic.networks[i], s)[torch.arange(B), a]

    v, v2 = run(method.value, s)[:, 0], run(method.value, s2)[:, 0]
    u = torch.minimum(q_of(method.target_critic, 0), q_of(method.target_critic, 1)) - v
    y = r + GAMMA * v2 * (d == 0)
    if kind == "continuous":
        mean, std = torch.tanh(run(method.actor.network, s)), method.actor.log_std.exp()
        log_pi = torch.distributions.Normal(mean, std).log_prob(a).sum(-1)
    else:
        log_pi = torch.log_softmax(run(method.actor.network, s), -1)[torch.arange(B), a]
    weight = torch.exp(beta * u).clamp(max=clip)
    assert (weight == clip).any() and (weight < clip).any()
    losses = method.losses(data)
    close(losses["value_loss"], (abs(tau - (u < 0).float()) * u**2).mean())
    close(losses["critic_loss"], sum(((q_of(method.critic, i) - y) ** 2).mean() for i in (0, 1)))
    close(losses["actor_loss"], -(weight * log_pi).mean())


def test_several_choices_at_once() -> None:
    """One categorical distribution per component; of their log-probabilities the mean, as of a vector's squared errors.
    Q is of the observation and the components one-hot, side by side.
    """
    widths = spec("multidiscrete").choices
    a = torch.stack([torch.arange(B) % n for n in widths], -1)
    data = batch("continuous")._replace(actions=a)
    s, _, r, s2, d = data
    bc, iql = make_bc("multidiscrete"), make("iql", "multidiscrete", expectile=0.8, temperature=2.5)

    def log_pi(actor: Any) -> Tensor:
        parts = torch.split(run(actor.network, s), list(widths), -1)
        each = [torch.log_softmax(part, -1)[torch.arange(B), a[:, i]] for i, part in enumerate(parts)]
        return torch.stack(each).mean(0)

    close(bc.losses(data)["action_loss"], -log_pi(bc.actor).mean())
    ones = torch.cat([torch.eye(n)[a[:, i]] for i, n in enumerate(widths)], -1)
    v, v2 = run(iql.value, s)[:, 0], run(iql.value, s2)[:, 0]
    u = torch.minimum(*(q(iql.target_critic, i, s, ones) for i in (0, 1))) - v
    y = r + GAMMA * v2 * (d == 0)
    losses = iql.losses(data)
    close(losses["value_loss"], (abs(0.8 - (u < 0).float()) * u**2).mean())
    close(losses["critic_loss"], sum(((q(iql.critic, i, s, ones) - y) ** 2).mean() for i in (0, 1)))
    close(losses["actor_loss"], -(torch.exp(2.5 * u).clamp(max=100) * log_pi(iql.actor)).mean())


def test_iql_with_a_deterministic_policy() -> None:
    method, data = make("iql", "continuous", policy="deterministic"), batch("continuous")
    s, a = data.observations, data.actions
    u = torch.minimum(*(q(method.target_critic, i, s, a) for i in (0, 1))) - run(method.value, s)[:, 0]
    error = ((torch.tanh(run(method.actor.network, s)) - a) ** 2).sum(-1)
    close(method.losses(data)["actor_loss"], (torch.exp(3 * u).clamp(max=100) * error).mean())


def test_td3bc() -> None:
    method, data = make("td3bc", "continuous", alpha=1.5), batch("continuous")
    s, a, r, s2, d = data
    noise = torch.randn(B, 2)
    a2 = (torch.tanh(run(method.target_actor.network, s2)) + (0.2 * noise).clamp(-0.5, 0.5)).clamp(-1, 1)
    y = r + GAMMA * (1 - d) * torch.minimum(*(q(method.target_critic, i, s2, a2) for i in (0, 1)))
    close(method.critic_loss(data, noise), sum(((q(method.critic, i, s, a) - y) ** 2).mean() for i in (0, 1)))
    pi = torch.tanh(run(method.actor.network, s))
    value = q(method.critic, 0, s, pi)
    close(method.actor_loss(data)[0], -1.5 / value.abs().mean() * value.mean() + ((pi - a) ** 2).mean())


def tanh_gaussian(actor: Any, s: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Sample and log-density by torch.distributions."""
    mean, log_std = run(actor.network, s).chunk(2, -1)
    log_std = (actor.log_std_scale * log_std + actor.log_std_shift).clamp(-20, 2)
    plain = torch.distributions.Normal(mean, log_std.exp())
    squashed = torch.distributions.TransformedDistribution(
        plain, torch.distributions.transforms.TanhTransform(cache_size=1)
    )
    sample = torch.tanh(mean + log_std.exp() * noise)
    return sample, squashed.log_prob(sample).sum(-1)


def test_squashed_density_far_from_zero() -> None:
    """Where tanh rounds to 1 the density still is that of the value before it."""
    mean, log_std, noise = torch.tensor([12.0]), torch.tensor([-1.0]), torch.tensor([0.5])
    u = mean + log_std.exp() * noise
    slope = -2 * math.log(math.cosh(float(u)))  # log(1 - tanh²)
    expected = torch.distributions.Normal(mean, log_std.exp()).log_prob(u) - slope
    close(squashed_sample(mean, log_std, noise)[1], expected.sum())


def test_cql() -> None:
    n, weight = 4, 5.0
    method, data = make("cql", "continuous", sampled_actions=n, conservative_weight=weight), batch("continuous")
    with torch.no_grad():  # the last layers begin near zero; away from it every term has a say
        for parameter in method.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    s, a, r, s2, d = data
    noise = Noise.draw(a, n)
    actor, critic = method.actor, method.critic
    a2, _ = tanh_gaussian(actor, s2, noise.following)
    y = r + GAMMA * (1 - d) * torch.minimum(*(q(method.target_critic, i, s2, a2) for i in (0, 1)))
    critic_loss = torch.tensor(0.0)
    for i in (0, 1):
        critic_loss = critic_loss + ((q(critic, i, s, a) - y.detach()) ** 2).mean()
        terms = []
        for j in range(n):
            here, log_here = tanh_gaussian(actor, s, noise.many_here[:, j])
            there, log_there = tanh_gaussian(actor, s2, noise.many_following[:, j])
            terms += [q(critic, i, s, noise.uniform[:, j]) - math.log(0.5**2)]
            terms += [q(critic, i, s, here) - log_here, q(critic, i, s, there) - log_there]
        critic_loss = critic_loss + weight * (torch.logsumexp(torch.stack(terms), 0) - q(critic, i, s, a)).mean()
    pi, log_pi = tanh_gaussian(actor, s, noise.here)
    alpha = method.log_alpha.exp()
    losses = method.losses(data, noise)
    close(losses["critic_loss"], critic_loss)
    close(losses["actor_loss"], (alpha * log_pi - torch.minimum(*(q(critic, i, s, pi) for i in (0, 1)))).mean())
    close(losses["entropy_loss"], -(method.log_alpha * (log_pi - 2)).mean())


def double_target(data: Batch, choose: Tensor, target: nn.Sequential) -> Tensor:
    value = run(target, data.next_observations)[torch.arange(B), choose]
    return data.rewards + GAMMA * (1 - data.terminated) * value


def test_discrete_cql() -> None:
    method, data = make("cql", "discrete", conservative_weight=2.0), batch("discrete")
    online, target = method.actor.critic.networks[0], method.target_actor.critic.networks[0]
    values = run(online, data.observations)
    of_data = values[torch.arange(B), data.actions]
    y = double_target(data, run(online, data.next_observations).argmax(-1), target)
    gap = torch.log(values.exp().sum(-1)) - of_data
    close(method.losses(data)["critic_loss"], 0.5 * ((of_data - y) ** 2).mean() + 2.0 * gap.mean())


def test_nfq() -> None:
    method, data = make_nfq(), batch("discrete")
    online, target = method.actor.critic.networks[0], method.target_actor.critic.networks[0]
    y = double_target(data, run(target, data.next_observations).argmax(-1), target)
    error = run(online, data.observations)[torch.arange(B), data.actions] - y
    close(method.losses(data)["critic_loss"], (error**2).mean())


def make_nfq() -> Any:
    return make("nfq", "discrete")


def test_bcq() -> None:
    lam, reach, n = 0.6, 0.1, 5
    changes = {"minimum_weight": lam, "perturbation": reach, "candidates": n, "autoencoder_width": 16}
    method, data = make("bcq", "continuous", **changes), batch("continuous")
    s, a, r, s2, d = data
    autoencoder, critic = method.actor.autoencoder, method.actor.critic
    noise = torch.randn(B, 4)
    mean, log_std = run(autoencoder.encoder, torch.cat([s, a], -1)).chunk(2, -1)
    std = log_std.clamp(-4, 15).exp()

    def decode(s: Tensor, z: Tensor) -> Tensor:
        return torch.tanh(run(autoencoder.decoder, torch.cat([s, z], -1)))

    def move(network: Any, s: Tensor, a: Tensor) -> Tensor:
        return (a + reach * torch.tanh(run(network.network, torch.cat([s, a], -1)))).clamp(-1, 1)

    divergence = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, std), torch.distributions.Normal(0.0, 1.0)
    )
    close(
        method.autoencoder_loss(data, noise),
        ((decode(s, mean + std * noise) - a) ** 2).mean() + 0.5 * divergence.mean(),
    )
    z = torch.randn(B * n, 4).clamp(-0.5, 0.5)
    best = torch.full((B,), -math.inf)
    for j in range(n):
        a2 = move(method.target_perturbation, s2, decode(s2, z.view(B, n, 4)[:, j]))
        both = torch.stack([q(method.target_critic, i, s2, a2) for i in (0, 1)])
        best = torch.maximum(best, lam * both.min(0).values + (1 - lam) * both.max(0).values)
    y = r + GAMMA * (1 - d) * best
    close(method.critic_loss(data, z), sum(((q(critic, i, s, a) - y) ** 2).mean() for i in (0, 1)))
    z = torch.randn(B, 4).clamp(-0.5, 0.5)
    moved = move(method.actor.perturbation, s, decode(s, z))
    close(method.perturbation_loss(data, z), -q(critic, 0, s, moved).mean())


def test_discrete_bcq() -> None:
    tau = 0.7
    method, data = make("bcq", "discrete", threshold=tau), batch("discrete")
    values, logits = method.actor.values, method.actor.logits
    p = torch.softmax(run(logits, data.next_observations), -1)
    allowed = p / p.max(-1, keepdim=True).values >= tau
    assert (~allowed).any()
    choose = torch.where(allowed, run(values, data.next_observations), -1e8).argmax(-1)
    error = run(values, data.observations)[torch.arange(B), data.actions] - double_target(
        data, choose, method.target_values
    )
    huber = torch.where(error.abs() < 1, 0.5 * error**2, error.abs() - 0.5).mean()
    z = run(logits, data.observations)
    imitation = -torch.log_softmax(z, -1)[torch.arange(B), data.actions].mean()
    losses = method.losses(data)
    close(losses["critic_loss"], huber)
    close(losses["action_loss"], imitation)
    close(losses["logit_loss"], 0.01 * (z**2).mean())


@pytest.mark.parametrize(("name", "kind"), [("iql", "continuous"), ("td3bc", "continuous"), ("cql", "continuous")])
def test_a_policy_loss_moves_no_critic(name: str, kind: str) -> None:
    """One step with a critic that does not learn leaves it as it was, although the policy's loss reads it."""
    method = make(name, kind, critic_learning_rate=1e-30)
    before = [parameter.detach().clone() for parameter in method.critic.parameters()]
    actor = [parameter.detach().clone() for parameter in method.actor.parameters()]
    for step in range(2):
        method.update(batch(kind), step)
    assert all((a - b).abs().max() < 1e-20 for a, b in zip(before, method.critic.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(actor, method.actor.parameters(), strict=True))
