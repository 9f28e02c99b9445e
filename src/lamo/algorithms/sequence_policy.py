"""Acting with a decision model: context and return-to-go of many episodes at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lamo.algorithms.deployed import observed
from lamo.algorithms.settings import SequenceSettings
from lamo.config import Spec
from lamo.data.actions import Scaling
from lamo.data.episodes import Statistics
from lamo.errors import LamoError
from lamo.models.cache import KeyValueCache, advance
from lamo.models.choices import likeliest
from lamo.models.sequence import DecisionModel

CONTEXT = ("returns_to_go", "observations", "actions", "timesteps")  # in the order in which the model takes them
LARGEST_WINDOW_CACHE = 64 << 20  # bytes; without a band a cache serves only the first K steps of an episode


class SequencePolicy:
    """Acts on the last K steps of each episode and on the return still to be earned (DT, algorithm 1)."""

    def __init__(
        self,
        model: DecisionModel,
        settings: SequenceSettings,
        spec: Spec,
        statistics: Statistics,
        scaling: Scaling | None = None,  # of continuous actions; None: they are as the environment has them
    ) -> None:
        self.model, self.settings, self.spec = model, settings, spec
        self.device = model.norm.weight.device
        self.mean = torch.from_numpy(statistics.mean).to(self.device)
        self.std = torch.from_numpy(statistics.std).to(self.device)
        self.default_target: float | None = spec.targets[0] if spec.targets else None
        self.scaling = None if scaling is None or scaling.identity else scaling
        self.execute = settings.chunk if settings.execute is None else settings.execute
        self.low = None if spec.action_low is None else np.asarray(spec.action_low, np.float32)
        self.high = None if spec.action_high is None else np.asarray(spec.action_high, np.float32)
        self.n = 0
        self.cache: KeyValueCache | None = None
        self.span = settings.span

    def reset(self, n: int = 1, targets: np.ndarray | None = None) -> None:
        """Forget all context. `targets` (n,) in units of the environment's reward; None is the run's first target."""
        if targets is None:
            if self.default_target is None:
                raise LamoError("this policy has no default return target; give targets to reset")
            targets = np.full(n, self.default_target)
        targets = np.asarray(targets, np.float64)
        if targets.shape != (n,) or not np.isfinite(targets).all():
            raise LamoError(f"reset needs {n} finite targets, got shape {targets.shape}")
        k, spec, device = self.settings.context, self.spec, self.device
        self.n = n
        self.to_go = targets.copy()  # (n,) float64, unscaled
        self.steps = np.zeros(n, np.int64)  # steps taken
        self.returns_to_go = torch.zeros(n, k, device=device)
        self.observations = torch.zeros(n, k, spec.observation_dim, device=device)
        shape = () if spec.action_kind == "discrete" else (spec.action_dim,)
        kind = torch.long if spec.choices else torch.float32
        self.actions = torch.zeros((n, k, *shape), device=device, dtype=kind)  # vectors scaled to [-1, 1]
        self.plan = torch.zeros((n, self.settings.chunk, *shape), device=device, dtype=kind)  # not yet all executed
        self.timesteps = torch.zeros(n, k, dtype=torch.long, device=device)
        backbone = self.model.backbone
        # with position embeddings of its own a token is no longer the same at another place in the window
        lm, kept = backbone.lm.base_model, backbone.fast and backbone.zero_position is not None
        self.cache = None
        # Within a chunk nothing is predicted, so that nothing need be computed; a band needs every token in its turn.
        kept = kept and (self.span is not None or self.execute == 1)
        if kept and (self.span is not None or KeyValueCache.size(lm, n, k) <= LARGEST_WINDOW_CACHE):
            self.cache = KeyValueCache(lm, n, k, self.span)

    @torch.inference_mode()
    def act(self, observations: Any, rewards: Any = None, rows: np.ndarray | None = None) -> np.ndarray:
        """See `lamo.policy.Policy`. Context holds the newest K steps at its right end, as training windows do."""
        observations, rows, single = observed(observations, rows, self.n, self.spec.observation_dim)
        everyone = len(rows) == self.n and bool((rows == np.arange(self.n)).all())
        if rewards is not None:
            self.to_go[rows] -= np.asarray(rewards, np.float64).reshape(-1)
        returns_to_go = torch.from_numpy((self.to_go[rows] / self.spec.return_scale).astype(np.float32))
        new = {
            "returns_to_go": returns_to_go.to(self.device),
            "observations": (torch.from_numpy(observations).to(self.device) - self.mean) / self.std,
            "timesteps": torch.from_numpy(self.steps[rows]).to(self.device),
        }
        if self.model.training:  # to set it walks through all modules: a fifth of a small action
            self.model.eval()
        if self.cache is not None and self.span is None and self.steps[rows].max() >= self.settings.context:
            self.cache = None  # the window slides from here on: every token's past changes
        place = self.steps[rows] % self.execute  # within the chunk that is being executed
        deciding = np.flatnonzero(place == 0)
        index = torch.from_numpy(deciding).to(self.device)
        predicted = None if self.cache is None else self._by_cache(rows, new)[index]
        context = self._slide(rows if not everyone else None, new)
        if len(deciding):
            if predicted is None:
                fresh = len(deciding) == len(rows)
                part = context if fresh else {name: buffer[index] for name, buffer in context.items()}
                predicted = self._by_window(rows[deciding], part)
            self.plan[torch.from_numpy(rows[deciding]).to(self.device)] = self._actions(predicted)
        chosen = self.plan[torch.from_numpy(rows).to(self.device), torch.from_numpy(place).to(self.device)]
        actions = chosen.cpu().numpy()
        if self.scaling is not None:
            actions = self.scaling.from_unit(actions)
        context["actions"][:, -1] = chosen
        self._keep(rows if not everyone else None, context)
        self.steps[rows] += 1
        return actions[0] if single else actions

    def _actions(self, predicted: Tensor) -> Tensor:
        """The model's outputs (m, n · outputs) -> chunks (m, n, A) within the bounds, (m, n) or (m, n, A) choices."""
        predicted = predicted.view(len(predicted), self.settings.chunk, -1)
        if self.spec.choices:
            return likeliest(predicted, self.spec.choices, self.spec.action_kind == "discrete")
        if self.scaling is not None:
            return predicted.clamp(-1, 1)
        if self.low is None or self.high is None:
            return predicted
        low, high = (torch.from_numpy(bound).to(self.device) for bound in (self.low, self.high))
        return predicted.clamp(low, high)

    def _slide(self, rows: np.ndarray | None, new: dict[str, Tensor]) -> dict[str, Tensor]:
        """The context of `rows` (None: all) with the `new` step at its right end; its action is not known yet."""
        context = {}
        for name in CONTEXT:
            buffer = getattr(self, name)
            part = torch.roll(buffer if rows is None else buffer[torch.from_numpy(rows).to(self.device)], -1, dims=1)
            part[:, -1] = new.get(name, 0)
            context[name] = part
        return context

    def _keep(self, rows: np.ndarray | None, context: dict[str, Tensor]) -> None:
        for name, part in context.items():
            if rows is None:
                setattr(self, name, part)
            else:
                getattr(self, name)[torch.from_numpy(rows).to(self.device)] = part

    def _by_window(self, rows: np.ndarray, context: dict[str, Tensor]) -> Tensor:
        """Predictions (n, A) from whole windows, as in training.

        Episodes of one batch may be of different age: as many steps as the oldest has, the younger masked on the left.
        """
        age = np.minimum(self.steps[rows] + 1, self.settings.context)
        length = int(age.max())
        mask = None
        if (age < length).any():
            mask = torch.from_numpy(np.arange(length) >= length - age[:, None]).to(self.device)
        return self.model(*(context[name][:, -length:] for name in CONTEXT), mask, newest=True)[:, -1]

    def _by_cache(self, rows: np.ndarray, new: dict[str, Tensor]) -> Tensor:
        """Predictions (n, A) from the new tokens alone; keys and values of the others are remembered."""
        fresh = self.steps[rows] == 0
        if fresh.any() and not fresh.all():  # some have no previous action: in two parts
            predicted = None
            for part in (np.flatnonzero(fresh), np.flatnonzero(~fresh)):
                index = torch.from_numpy(part).to(self.device)
                some = self._by_cache(rows[part], {name: value[index] for name, value in new.items()})
                predicted = some.new_empty(len(rows), some.shape[1]) if predicted is None else predicted
                predicted[index] = some
            assert predicted is not None
            return predicted
        assert self.cache is not None
        self.cache.gather(rows)
        action, steps = None, self.steps[rows, None] + np.zeros((1, 2), np.int64)
        if not fresh.any():
            action = self.actions[torch.from_numpy(rows).to(self.device), -1]
            steps = np.concatenate([steps[:, :1] - 1, steps], axis=1)
        backbone = self.model.backbone
        tokens = self.model.step_tokens(action, *(new[name] for name in ("returns_to_go", "observations", "timesteps")))
        hidden = advance(backbone.lm.base_model, tokens.to(backbone.base_dtype), steps, self.cache)
        return self.model.head(hidden.float())

    @torch.inference_mode()
    def executed(self, actions: np.ndarray, rows: np.ndarray | None = None) -> None:
        """See `lamo.policy.RemembersActions`. The newest action is the last of the context; what is left of a chunk is
        executed all the same."""
        index = torch.arange(self.n) if rows is None else torch.from_numpy(np.asarray(rows))
        done = np.asarray(actions) if self.scaling is None else self.scaling.to_unit(np.asarray(actions, np.float32))
        self.actions[index.to(self.device), -1] = torch.from_numpy(done).to(self.actions)
