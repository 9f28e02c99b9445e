"""One learner for imitation and the value-based methods, and the policy that it makes.

The methods are modules of their own (`METHODS`); what they share is here: transitions, units, state, files, acting.
The mathematics is written out (`losses.py`) and not taken from a library: see docs/baselines.md for what was measured,
and tests/algorithms/test_torchrl.py, where TorchRL's losses are the reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lamo.algorithms import ALGORITHMS
from lamo.algorithms.bc import BC
from lamo.algorithms.bcq import BCQ, ChoiceBCQ
from lamo.algorithms.cql import CQL, ChoiceCQL
from lamo.algorithms.deployed import MISFIT, Deployed, observed
from lamo.algorithms.iql import IQL
from lamo.algorithms.method import Batch, Chunks, Method, cosine
from lamo.algorithms.nfq import NFQ
from lamo.algorithms.td3bc import TD3BC
from lamo.config import Spec
from lamo.data.actions import KIND_WORDS, Scaling, action_scaling, off_the_bounds
from lamo.data.episodes import Episodes, Statistics
from lamo.data.transitions import ChunkBatch, TransitionBatch, Transitions, best_episodes, return_range_scale
from lamo.errors import LamoError, warn
from lamo.models.choices import likeliest
from lamo.models.cpu import keep_freed_memory

METHODS: dict[str, dict[str, type[Method]]] = {
    # algorithm: {kind of actions: its method}
    "bc": {"continuous": BC, "discrete": BC, "multidiscrete": BC},
    "iql": {"continuous": IQL, "discrete": IQL, "multidiscrete": IQL},
    "cql": {"continuous": CQL, "discrete": ChoiceCQL},
    "td3bc": {"continuous": TD3BC},
    "bcq": {"continuous": BCQ, "discrete": ChoiceBCQ},
    "nfq": {"discrete": NFQ},
}
STD_MARGIN = np.float32(1e-3)  # added to each deviation, as TD3+BC and CORL do: a nearly constant number stays small


def method_for(name: str, kind: str) -> type[Method]:
    """The class for an algorithm and a kind of actions. Raises `LamoError`, which names others, where there is none."""
    of_kind = METHODS[name]
    if kind not in of_kind:
        others = [other for other, kinds in METHODS.items() if kind in kinds]
        known = " or ".join(KIND_WORDS[each] for each in of_kind)
        raise LamoError(
            f"{name} is for actions that are {known}, but those of this data are {KIND_WORDS[kind]}; "
            f"use {', '.join(others[:-1])} or {others[-1]}"
        )
    return of_kind[kind]


class Baseline:
    """Trains a `Method` on transitions of `episodes`. See `lamo.algorithms` for the protocol."""

    def __init__(
        self,
        settings: Any,
        spec: Spec,
        episodes: Episodes,
        *,
        device: str = "cpu",
        batch_size: int = 256,
        seed: int = 0,
        steps: int = 100_000,
    ) -> None:
        keep_freed_memory()
        self.name = next(name for name in METHODS if ALGORITHMS[name].settings is type(settings))
        self.settings, self.spec, self.device, self.batch_size = settings, spec, torch.device(device), batch_size
        kind = method_for(self.name, spec.action_kind)
        if getattr(settings, "top_fraction", 1.0) < 1:
            episodes = best_episodes(episodes, settings.top_fraction)
        mean, std = episodes.statistics()
        self.statistics = Statistics(mean, std + STD_MARGIN)
        scaling = getattr(settings, "reward_scaling", "none")
        self.reward_scale = return_range_scale(episodes, spec.horizon) if scaling == "return-range" else 1.0
        self.transitions = Transitions(
            episodes,
            self.statistics,
            reward_scale=self.reward_scale,
            reward_shift=-1.0 if scaling == "minus-one" else 0.0,
            following=kind.following,
        )
        if self.transitions.count == 1:
            raise LamoError(
                f"{episodes.source}: one transition is all that {self.name} can learn from (of {episodes.steps} "
                "steps); give more of the data"
            )
        self.scaling: Scaling | None = None
        if spec.action_kind == "continuous":
            self.scaling = action_scaling(spec.action_low, spec.action_high, episodes.extremes("actions"))
        torch.manual_seed(seed)
        self.model = kind(settings, spec, steps).to(self.device)
        self.steps = 0

    def batches(self, rng: np.random.Generator) -> Iterator[TransitionBatch | ChunkBatch]:
        """An endless stream, all of it drawn with `rng`."""
        chunk, margin = getattr(self.settings, "chunk", 1), getattr(self.settings, "bound_margin", 0.0)
        while True:
            if chunk > 1:
                batch = self.transitions.sample_chunks(rng, self.batch_size, chunk)
            else:
                batch = self.transitions.sample(rng, self.batch_size)
            if self.scaling is not None:
                actions = self.scaling.to_unit(batch.actions)
                if margin > 0:
                    actions = off_the_bounds(actions, margin, rng)
                batch = batch._replace(actions=actions)
            yield batch

    def update(self, batch: TransitionBatch | ChunkBatch) -> dict[str, float]:
        """One gradient step of the method."""
        if not self.model.actor.training:  # a policy of this learner has acted
            self.model.train()
        kind = Chunks if isinstance(batch, ChunkBatch) else Batch
        tensors = kind(*(torch.from_numpy(array).to(self.device) for array in batch))
        values = self.model.update(tensors, self.steps)
        self.steps += 1
        numbers = torch.stack([value.detach() for value in values.values()]).tolist()  # one wait for the device
        return dict(zip(values, numbers, strict=True)) | {"learning_rate": self.model.optimizer.param_groups[0]["lr"]}

    def policy(self) -> BaselinePolicy:
        """A policy that acts with this learner's actor, whatever its weights are at that moment."""
        return BaselinePolicy(self.model.actor, self.settings, self.spec, self.statistics, self.scaling)

    def state_dict(self) -> dict[str, Tensor]:
        """Weights (targets among them), optimiser moments and the step: with the config, all that goes on."""
        state = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for i, values in self.model.optimizer.state_dict()["state"].items():
            state |= {f"optimizer.{i}.{name}": torch.as_tensor(value) for name, value in values.items()}
        return state | {"steps": torch.tensor(self.steps), "total_steps": torch.tensor(self.model.total_steps)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state_dict`. Raises `LamoError` if the state is of another model, and warns where a learning
        rate that falls over the run leaps because the run has another length now.
        """
        own = self.model.state_dict()
        given = {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
        if given.keys() != own.keys() or any(given[name].shape != own[name].shape for name in own):
            raise LamoError("the checkpoint is of another model than the config describes; was the config changed?")
        self.model.load_state_dict(given)
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            if key.startswith("optimizer."):
                _, i, field = key.split(".", 2)
                moments.setdefault(int(i), {})[field] = value
        self.model.optimizer.load_state_dict({**self.model.optimizer.state_dict(), "state": moments})
        self.steps = int(state["steps"])
        before, now = int(state.get("total_steps", self.model.total_steps)), self.model.total_steps
        if before != now and getattr(self.settings, "actor_schedule", "constant") == "cosine":
            was, becomes = (self.settings.actor_learning_rate * cosine(self.steps, total) for total in (before, now))
            warn(
                f"the policy's learning rate falls to 0 along a cosine over the run, which was {before} steps and is "
                f"now {now}: it leaps from {was:.1e} to {becomes:.1e} at step {self.steps}, not as in a run of "
                f"{now} steps from the start"
            )

    def summary(self) -> dict[str, Any]:
        """Parameter counts (target networks are frozen), transitions, and the factor on rewards."""
        total = sum(p.numel() for p in self.model.parameters())
        trainable = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        return {
            "parameters": {"total": total, "frozen": total - trainable, "trainable": trainable, "lora_share": None},
            "transitions": self.transitions.count,
            "reward_scale": self.reward_scale,
        }

    def export(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What acting needs: the actor's weights; settings, spec, statistics and bounds as JSON."""
        of = Deployed(self.settings, self.spec, self.statistics, self.scaling)
        return self.model.actor.state_dict(), of.to_json(self.name)

    @staticmethod
    def load_policy(tensors: dict[str, Tensor], metadata: dict[str, Any], device: str = "cpu") -> BaselinePolicy:
        """The inverse of `export`. Raises `LamoError` for files that do not fit together."""
        try:
            settings, spec, statistics, scaling = Deployed.of_json(metadata)
            if spec.action_kind == "continuous" and scaling is None:
                raise ValueError("action_bounds are missing")
            with torch.random.fork_rng(devices=[]):
                actor = method_for(metadata["algorithm"], spec.action_kind).make_actor(settings, spec)
        except (KeyError, TypeError, ValueError) as error:
            raise LamoError(f"{MISFIT}: {error}; copy the whole policy folder again") from None
        own = actor.state_dict()
        if own.keys() != tensors.keys() or any(own[k].shape != tensors[k].shape for k in own):
            raise LamoError("policy.safetensors does not fit policy.json; copy the whole policy folder again")
        actor.load_state_dict(tensors)
        return BaselinePolicy(actor.to(device), settings, spec, statistics, scaling)


class BaselinePolicy:
    """Acts on the newest observation alone; there is no return to ask it for. What it predicted at once (chunks) it
    executes, without looking, before it predicts again."""

    default_target: float | None = None

    def __init__(
        self, actor: nn.Module, settings: Any, spec: Spec, statistics: Statistics, scaling: Scaling | None
    ) -> None:
        self.actor, self.spec, self.scaling = actor, spec, scaling
        self.chunk = getattr(settings, "chunk", 1)
        self.execute = self.chunk if getattr(settings, "execute", None) is None else settings.execute
        self.device = next(actor.parameters()).device
        self.mean, self.std = statistics
        self.n = 0

    def reset(self, n: int = 1, targets: np.ndarray | None = None) -> None:
        """Begin `n` episodes. Raises `LamoError` for targets: this policy cannot be asked for a return."""
        if targets is not None:
            raise LamoError("this policy does not take return targets; leave them out")
        self.n = n
        self.steps = np.zeros(n, np.int64)  # steps taken
        shape = () if self.spec.action_kind == "discrete" else (self.spec.action_dim,)
        self.plan = np.zeros((n, self.chunk, *shape), np.int64 if self.spec.choices else np.float32)

    @torch.inference_mode()
    def act(self, observations: Any, rewards: Any = None, rows: np.ndarray | None = None) -> np.ndarray:
        """See `lamo.policy.Policy`; `rewards` are not looked at."""
        observations, rows, single = observed(observations, rows, self.n, self.spec.observation_dim)
        if self.actor.training:
            self.actor.eval()
        place = self.steps[rows] % self.execute  # within the chunk that is being executed
        deciding = np.flatnonzero(place == 0)
        if len(deciding):
            self.plan[rows[deciding]] = self._predict(observations[deciding])
        self.steps[rows] += 1
        actions = self.plan[rows, place]
        return actions[0] if single else actions

    def _predict(self, observations: np.ndarray) -> np.ndarray:
        """(m, S) -> chunks (m, n, A) within the bounds, (m, n) or (m, n, A) choices."""
        output = self.actor(torch.from_numpy((observations - self.mean) / self.std).to(self.device))
        output = output.view(len(observations), self.chunk, -1)
        if self.spec.choices:
            return likeliest(output, self.spec.choices, self.spec.action_kind == "discrete").cpu().numpy()
        assert self.scaling is not None
        return self.scaling.from_unit(output.cpu().numpy())
