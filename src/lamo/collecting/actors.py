"""Actors of Stable-Baselines3's `MlpPolicy`, of PPO, A2C, SAC, TD3, DDPG and DQN, as behaviours; and as safe files.

PyTorch computes them, on one thread (`lamo.collecting.request.Recorder`), so that they act alike in every process.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from lamo.envs.pool import EnvPool
from lamo.errors import LamoError

Kind = Literal["gaussian", "softmax", "squashed", "tanh", "greedy"]
"""gaussian, softmax: PPO and A2C; squashed: SAC's Gaussian through tanh; tanh: TD3, which is deterministic; greedy:
DQN."""
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "Tanh": torch.tanh,
    "ReLU": torch.relu,
    "ELU": functional.elu,
    "LeakyReLU": functional.leaky_relu,
}
_LOG_STD = (-20.0, 2.0)  # SAC clips to these
_CLIP, _EPSILON = 10.0, 1e-8  # VecNormalize's defaults


@dataclass(frozen=True)
class Actor:
    """A network from observations (S) to actions. `tensors`, float32:

    layers.0.weight (H, S), layers.0.bias (H), layers.1.…    hidden layers, each followed by the activation
    head.weight (A, H), head.bias (A)                        mean, logits or values
    log_std (A), or log_std.weight (A, H), log_std.bias (A)  gaussian, or squashed
    mean (S), std (S)                                        optional: observations are normalised by them
    """

    kind: Kind
    activation: str
    tensors: Mapping[str, NDArray[np.float32]]
    clip: float = _CLIP
    """Normalised observations are clipped to ± this."""
    notes: str = "{}"
    """JSON: what a recording says of its behaviour."""

    def layers(self) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Weight and bias of the hidden layers, in order."""
        count = sum(name.startswith("layers.") and name.endswith(".weight") for name in self.tensors)
        return [(self.tensors[f"layers.{i}.weight"], self.tensors[f"layers.{i}.bias"]) for i in range(count)]

    def normalised(self, mean: NDArray[Any], variance: NDArray[Any], clip: float, epsilon: float) -> Actor:
        """This actor behind `VecNormalize`, whose statistics these are."""
        std = np.sqrt(np.asarray(variance, np.float64) + epsilon)
        both = {"mean": np.asarray(mean, np.float32), "std": std.astype(np.float32)}
        return replace(self, tensors={**self.tensors, **both}, clip=float(clip))


def from_sb3(weights: Mapping[str, NDArray[np.float32]], activation: str | None, source: str) -> Actor:
    """Parameters of a Stable-Baselines3 policy, by their names -> its actor.

    `activation`: a name of `ACTIVATIONS`; None is the algorithm's default. `LamoError` for a policy of another kind.
    """
    kinds: list[tuple[Kind, str, str, tuple[str, ...], str]] = [  # kind, layers, head, what else there is, activation
        ("gaussian", "mlp_extractor.policy_net.", "action_net", ("mlp_extractor.value_net.", "value_net."), "Tanh"),
        ("squashed", "actor.latent_pi.", "actor.mu", ("critic.", "critic_target."), "ReLU"),
        ("tanh", "actor.mu.", "", ("actor_target.", "critic.", "critic_target."), "ReLU"),
        ("greedy", "q_net.q_net.", "", ("q_net_target.",), "ReLU"),
    ]
    for kind, prefix, head, others, default in kinds:
        index = sorted({int(part) for name in weights if name.startswith(prefix)
                        and (part := name.removeprefix(prefix).split(".")[0]).isdigit()})  # fmt: skip
        parts = [f"{prefix}{i}" for i in index]
        if head == "" and parts:
            head = parts.pop()
        if f"{head}.weight" not in weights:
            continue
        names = {f"{part}.{kind_}" for part in [*parts, head] for kind_ in ("weight", "bias")}
        spread = {"gaussian": {"log_std"}, "squashed": {"actor.log_std.weight", "actor.log_std.bias"}}.get(kind, set())
        odd = [name for name in weights if name not in names | spread and not name.startswith(others)]
        if odd or not names <= set(weights):
            break
        tensors = {
            f"{ours}.{kind_}": weights[f"{theirs}.{kind_}"]
            for ours, theirs in [*((f"layers.{i}", part) for i, part in enumerate(parts)), ("head", head)]
            for kind_ in ("weight", "bias")
        }
        tensors |= {name.removeprefix("actor."): weights[name] for name in spread if name in weights}
        real: Kind = "softmax" if kind == "gaussian" and "log_std" not in weights else kind
        return _checked(Actor(real, activation or default, tensors), source)
    known = {"action_net.", "mlp_extractor.", "value_net.", "log_std", "actor.", "critic", "q_net"}
    odd = [name for name in weights if not name.startswith(tuple(known)) or "features_extractor" in name]
    raise LamoError(
        f"{source}: not the MlpPolicy of PPO, A2C, SAC, TD3, DDPG or DQN ({(odd or list(weights) or ['empty'])[0]}); "
        "lamo reads only these"
    )


def _checked(actor: Actor, source: str) -> Actor:
    """The actor, whose parts fit each other; else `LamoError`."""
    layers = [*actor.layers(), (actor.tensors["head.weight"], actor.tensors["head.bias"])]
    chained = all(w.ndim == 2 and b.shape == w.shape[:1] for w, b in layers) and all(
        a.shape[0] == b.shape[1] for (a, _), (b, _) in itertools.pairwise(layers)
    )
    if not chained:
        raise LamoError(f"{source}: the shapes of its layers do not fit each other")
    actions, hidden, inputs = layers[-1][0].shape[0], layers[-1][0].shape[1], layers[0][0].shape[1]
    wanted = {
        "gaussian": {"log_std": (actions,)},
        "squashed": {"log_std.weight": (actions, hidden), "log_std.bias": (actions,)},
    }.get(actor.kind, {})
    if "mean" in actor.tensors:
        wanted |= {"mean": (inputs,), "std": (inputs,)}
    wrong = [name for name, shape in wanted.items() if name not in actor.tensors or actor.tensors[name].shape != shape]
    if any(name.startswith("log_std") for name in wrong):
        raise LamoError(f"{source}: was trained with state-dependent exploration (gSDE), which lamo does not read")
    if wrong:
        raise LamoError(f"{source}: is normalised for other observations than it takes")
    if actor.activation not in ACTIVATIONS:
        raise LamoError(f"{source}: its activation is {actor.activation}; lamo reads {', '.join(ACTIVATIONS)}")
    if not all(np.isfinite(value).all() for value in actor.tensors.values()):
        raise LamoError(f"{source}: holds weights that are not finite; its training has diverged")
    return actor


class ActorBehaviour:
    """An actor in the environments of `pool`, acting stochastically where it is stochastic. `LamoError` where it does
    not fit them.
    """

    def __init__(self, actor: Actor, pool: EnvPool, source: str = "the policy") -> None:
        layers = [*actor.layers(), (actor.tensors["head.weight"], actor.tensors["head.bias"])]
        inputs, outputs = layers[0][0].shape[1], len(layers[-1][1])
        discrete = actor.kind in ("softmax", "greedy")
        if (inputs, outputs, discrete) != (pool.observation_dim, pool.action_dim, pool.discrete):
            raise LamoError(
                f"{source}: its policy maps {inputs} observation values to {outputs}{' discrete' * discrete} action "
                f"values, but {pool.env_id} has {pool.observation_dim} and {pool.action_dim}"
                f"{' discrete' * pool.discrete}; give the environment it was trained on"
            )
        self._kind, self._clip = actor.kind, actor.clip
        self._activation = ACTIVATIONS[actor.activation]
        self._t = {name: torch.from_numpy(np.array(value, np.float32)) for name, value in actor.tensors.items()}
        self._count = len(actor.layers())
        self._low = self._half = np.zeros(0)
        if actor.kind in ("squashed", "tanh"):
            if pool.action_low is None or pool.action_high is None or not np.isfinite(pool.action_high).all():
                raise LamoError(f"{source}: {pool.env_id} has no bounds of actions, which its policy needs")
            low, high = pool.action_low.astype(np.float64), pool.action_high.astype(np.float64)
            self._low, self._half = low, (high - low) / 2

    def reset(self, generators: Sequence[np.random.Generator]) -> None:
        self._generators = generators

    def act(
        self, observations: NDArray[np.float32], rewards: NDArray[np.float64] | None, rows: NDArray[np.int64]
    ) -> NDArray[Any]:
        output, log_std = self.outputs(observations)
        if self._kind == "greedy":
            self.log_probs = np.zeros(len(rows))  # certain
            return np.argmax(output, axis=1)
        if self._kind == "softmax":  # Gumbel's trick: argmax of logits plus noise draws from the softmax
            noise = np.stack([self._generators[row].gumbel(size=output.shape[1]) for row in rows])
            chosen = np.argmax(output + noise, axis=1)
            logits = output.astype(np.float64) - output.max(axis=1, keepdims=True)
            self.choice_log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
            self.log_probs = self.choice_log_probs[np.arange(len(rows)), chosen]
            return chosen
        if self._kind == "tanh":
            return self._low + self._half * (np.tanh(output.astype(np.float64)) + 1)
        noise = np.stack([self._generators[row].standard_normal(output.shape[1], np.float32) for row in rows])
        drawn = output + np.exp(log_std) * noise
        if self._kind == "gaussian":
            return drawn
        # The density after tanh, from before it, where it does not vanish in rounding (SAC, arXiv 1801.01290, appendix
        # C): log(1 - tanh² u) = 2 (log 2 - u - softplus(-2 u)).
        u, z = drawn.astype(np.float64), noise.astype(np.float64)
        plain = -(z**2) / 2 - log_std - np.log(2 * np.pi) / 2
        squash = 2 * (np.log(2) - u - np.logaddexp(0, -2 * u)) + np.log(self._half)
        self.log_probs = (plain - squash).sum(axis=1)
        return self._low + self._half * (np.tanh(u) + 1)

    def outputs(self, observations: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(n, S) -> the head (n, A), and the log of the standard deviation, (A,) or (n, A), of a Gaussian."""
        t = self._t
        with torch.inference_mode():
            hidden = torch.from_numpy(np.asarray(observations, np.float32))
            if "mean" in t:
                hidden = ((hidden - t["mean"]) / t["std"]).clamp(-self._clip, self._clip)
            for i in range(self._count):
                hidden = self._activation(functional.linear(hidden, t[f"layers.{i}.weight"], t[f"layers.{i}.bias"]))
            head = functional.linear(hidden, t["head.weight"], t["head.bias"])
            log_std = t.get("log_std", torch.zeros(0))
            if "log_std.weight" in t:
                log_std = functional.linear(hidden, t["log_std.weight"], t["log_std.bias"]).clamp(*_LOG_STD)
            return head.numpy(), log_std.numpy()


def save_actor(actor: Actor) -> bytes:
    """The actor as a safetensors file."""
    from safetensors.numpy import save

    about = {"kind": actor.kind, "activation": actor.activation, "clip": actor.clip, "notes": actor.notes}
    tensors = {name: np.ascontiguousarray(value) for name, value in actor.tensors.items()}
    return save(tensors, {"actor": json.dumps(about)})  # one key: safetensors keeps several in no order


def load_actor(data: bytes, source: str) -> Actor:
    """`save_actor` undone. `LamoError` for what it did not write."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(data)
        size = int.from_bytes(data[:8], "little")  # safetensors' header is JSON, after its own length
        about = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["actor"])
        kind, activation, clip, notes = (about[key] for key in ("kind", "activation", "clip", "notes"))
        actor = Actor(
            kind, activation, {name: value.astype(np.float32) for name, value in tensors.items()}, float(clip), notes
        )
        if kind not in get_args(Kind) or not isinstance(json.loads(notes), dict):
            raise ValueError(f"a {kind} actor")
        return _checked(actor, source)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LamoError(f"{source}: damaged ({error}); remove what was recorded and begin again") from error
