"""Each loss against TorchRL's, where TorchRL has it: same networks, same targets, same batch, and the same number.

TorchRL is not needed to train (docs/baselines.md says why); it is the reference here.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from test_equations import GAMMA, B, batch, close, make, make_bc
from torch import Tensor, nn

from lamo.algorithms.cql import Noise
from lamo.algorithms.method import Batch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of a third party, at import
    tensordict = pytest.importorskip("tensordict")
    objectives = pytest.importorskip("torchrl.objectives")
    from tensordict import TensorDict
    from tensordict.nn import (
        ProbabilisticTensorDictModule,
        ProbabilisticTensorDictSequential,
        TensorDictModule,
        TensorDictSequential,
    )
    from torchrl.modules import IndependentNormal, QValueModule, TanhNormal, ValueOperator

pytestmark = pytest.mark.filterwarnings("ignore")  # TorchRL's own


class Calls(nn.Module):
    """A module whose forward is `function(module, …)`."""

    def __init__(self, module: nn.Module, function: Any) -> None:
        super().__init__()
        self.module, self.function = module, function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self.module, *inputs)


def table(data: Batch) -> Any:
    following = {"observation": data.next_observations, "reward": data.rewards[:, None]}
    ended = data.terminated[:, None].bool()
    return TensorDict(
        {
            "observation": data.observations,
            "action": data.actions,
            "next": {**following, "done": ended, "terminated": ended},
        },
        [B],
    )


def of_pair(network: nn.Module) -> Any:
    """A critic's network as TorchRL wants it."""
    join = Calls(network, lambda net, s, a: net(torch.cat([s, a], -1)))
    return ValueOperator(join, in_keys=["observation", "action"])


def of_choices(network: nn.Module) -> Any:
    return TensorDictModule(network, in_keys=["observation"], out_keys=["state_action_value"])


def policy(module: nn.Module, keys: list[str], distribution: Any, **options: Any) -> Any:
    return ProbabilisticTensorDictSequential(
        TensorDictModule(module, in_keys=["observation"], out_keys=keys),
        ProbabilisticTensorDictModule(
            in_keys=keys, out_keys=["action"], distribution_class=distribution, return_log_prob=False, **options
        ),
    )


def set_targets(parameters: Any, modules: list[Any]) -> None:
    """The target parameters of a TorchRL loss, stacked over the critics, become those of ours."""
    parameters.data.copy_(TensorDict.from_modules(*modules).data)


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_iql(kind: str) -> None:
    method, data = make("iql", kind, expectile=0.8, temperature=2.0), batch(kind)
    value = ValueOperator(method.value, in_keys=["observation"])
    options = {"num_qvalue_nets": 2, "loss_function": "l2", "temperature": 2.0, "expectile": 0.8}
    if kind == "continuous":

        def gaussian(actor: Any, s: Tensor) -> tuple[Tensor, Tensor]:
            mean = actor(s)
            return mean, actor.log_std.exp().expand_as(mean)

        actor = policy(Calls(method.actor, gaussian), ["loc", "scale"], IndependentNormal)
        wrap = of_pair
        loss = objectives.IQLLoss(actor, [wrap(n) for n in method.critic.networks], value, **options)
    else:
        actor = policy(method.actor, ["logits"], torch.distributions.Categorical)
        wrap = of_choices
        loss = objectives.DiscreteIQLLoss(
            actor, [wrap(n) for n in method.critic.networks], value, action_space="categorical", **options
        )
    loss.make_value_estimator(gamma=GAMMA)
    set_targets(loss.target_qvalue_network_params, [wrap(n) for n in method.target_critic.networks])
    theirs, mine = loss(table(data)), method.losses(data)
    close(mine["critic_loss"], theirs["loss_qvalue"])
    close(mine["value_loss"], theirs["loss_value"])
    close(mine["actor_loss"], theirs["loss_actor"])


def test_td3bc() -> None:
    method, data = make("td3bc", "continuous", alpha=1.5), batch("continuous")
    actor = TensorDictModule(method.actor, in_keys=["observation"], out_keys=["action"])
    loss = objectives.TD3BCLoss(
        actor,
        [of_pair(n) for n in method.critic.networks],
        bounds=(-torch.ones(2), torch.ones(2)),
        alpha=1.5,
        loss_function="l2",
    )
    loss.make_value_estimator(gamma=GAMMA)
    set_targets(loss.target_qvalue_network_params, [of_pair(n) for n in method.target_critic.networks])
    target_actor = TensorDictModule(method.target_actor, in_keys=["observation"], out_keys=["action"])
    loss.target_actor_network_params.data.copy_(TensorDict.from_module(target_actor).data)
    torch.manual_seed(5)
    theirs, _ = loss.qvalue_loss(table(data))
    torch.manual_seed(5)
    close(method.critic_loss(data, torch.randn_like(data.actions)), theirs)
    close(method.actor_loss(data)[0], loss.actor_loss(table(data))[0])


@pytest.fixture
def float64() -> Iterator[None]:
    """What is made inside is float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("float64")
def test_cql(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one sample from each source. TorchRL 0.14 takes the log-sum-exp over one sample of each and then the mean
    over samples, where the paper's code has all samples in one log-sum-exp; with one they are the same.
    """
    method, data = make("cql", "continuous", sampled_actions=1, conservative_weight=2.0), batch("continuous")

    def squashed(actor: Any, s: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = actor.distribution(s)
        return mean, log_std.exp()

    actor = policy(
        Calls(method.actor, squashed),
        ["loc", "scale"],
        TanhNormal,
        distribution_kwargs={"tanh_loc": False, "low": -1.0, "high": 1.0, "safe_tanh": False},
    )
    loss = objectives.CQLLoss(
        actor,
        [of_pair(n) for n in method.critic.networks],
        loss_function="l2",
        min_q_weight=2.0,
        num_random=1,
        action_spec=None,
        target_entropy=-2.0,
    )
    loss.make_value_estimator(gamma=GAMMA)
    set_targets(loss.target_qvalue_network_params, [of_pair(n) for n in method.target_critic.networks])
    noise = Noise.draw(data.actions, 1)
    order: list[Tensor] = []

    def drawn(shape: Any, *rest: Any, **options: Any) -> Tensor:
        return order.pop(0).reshape(shape)

    monkeypatch.setattr("torch.distributions.normal._standard_normal", drawn)
    uniform = noise.uniform
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda tensor, *_: tensor.copy_(uniform.reshape(tensor.shape)))
    inputs = table(data)
    order[:] = [noise.following]
    errors, _ = loss.q_loss(inputs)
    order[:] = [noise.many_here, noise.many_following]
    gap, _ = loss.cql_loss(inputs)
    order[:] = [noise.here]
    actor_loss, info = loss.actor_loss(inputs)
    entropy_loss, _ = loss.alpha_loss(info)
    mine = method.losses(data, noise)
    close(mine["critic_loss"], errors + gap)
    close(mine["actor_loss"], actor_loss)
    close(mine["entropy_loss"], entropy_loss)


def values_actor(module: nn.Module) -> Any:
    return TensorDictSequential(
        TensorDictModule(module, in_keys=["observation"], out_keys=["action_value"]),
        QValueModule(action_space="categorical"),
    )


@pytest.mark.parametrize("name", ["cql", "nfq"])
def test_of_choices(name: str) -> None:
    method, data = make(name, "discrete"), batch("discrete")
    kind = {"cql": objectives.DiscreteCQLLoss, "nfq": objectives.DQNLoss}[name]
    loss = kind(values_actor(method.actor), loss_function="l2", action_space="categorical")
    loss.make_value_estimator(gamma=GAMMA)
    if name == "cql":  # TorchRL's is without double Q-learning; with equal networks that is the same
        for target, trained in method.targets:
            for a, b in zip(target, trained, strict=True):
                a.copy_(b.detach())
    loss.target_value_network_params.data.copy_(TensorDict.from_module(values_actor(method.target_actor)).data)
    theirs = loss(table(data))
    expected = theirs["loss"] if name == "nfq" else theirs["loss_qvalue"] + theirs["loss_cql"]
    close(method.losses(data)["critic_loss"], expected)


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_behaviour_cloning(kind: str) -> None:
    method, data = make_bc(kind), batch(kind)
    if kind == "continuous":
        actor = TensorDictModule(method.actor, in_keys=["observation"], out_keys=["action"])
        loss = objectives.BCLoss(actor, loss_function="l2")
    else:
        loss = objectives.BCLoss(TensorDictModule(method.actor, in_keys=["observation"], out_keys=["action"]))
    close(method.losses(data)["action_loss"], loss(table(data))["loss_bc"])
