"""A learner, an environment and a dataset so small that a run takes a second: the loop sees no difference."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from lamo.algorithms import ALGORITHMS, PRESETS, Algorithm
from lamo.config import Spec
from lamo.data.episodes import Episodes
from lamo.data.sources.d4rl import write_d4rl

ENV = "LamoToy-v0"


class ToyEnv(gymnasium.Env):
    """A point (3 numbers) pushed by an action (2 numbers); the reward is 1 near the origin; 10 steps."""

    observation_space = gymnasium.spaces.Box(-10.0, 10.0, (3,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.at = self.np_random.uniform(-1, 1, 3).astype(np.float32)
        return self.at.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.at[:2] += 0.3 * np.asarray(action, np.float32)
        return self.at.copy(), float(np.abs(self.at).sum() < 1), False, False, {}


@dataclass(frozen=True)
class ToySettings:
    """Settings of the toy."""

    learning_rate: float = 0.01
    """Adam's learning rate."""
    context: int = 1
    """Read from a task's row; no effect."""
    explode_at: int = 0
    """Gradient step at which the loss is NaN; 0 for never."""
    sleep: float = 0.0
    """Seconds that each step lasts longer."""
    text: bool = True
    """Whether there is a perplexity."""


class ToyLearner:
    """A network with dropout, so that torch's random state matters, trained to imitate."""

    name = "toy"

    def __init__(
        self,
        settings: ToySettings,
        spec: Spec,
        episodes: Episodes,
        *,
        device: str,
        batch_size: int,
        seed: int,
        steps: int,
    ) -> None:
        self.settings, self.spec, self.episodes, self.batch_size = settings, spec, episodes, batch_size
        self.net = network(spec)
        self.optimizer = torch.optim.Adam(self.net.parameters(), settings.learning_rate)
        self.steps = 0

    def batches(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        while True:
            yield rng.integers(self.episodes.steps, size=self.batch_size)

    def update(self, batch: np.ndarray) -> dict[str, float]:
        self.net.train()
        if self.settings.sleep:
            time.sleep(self.settings.sleep)
        x, y = (torch.from_numpy(a[batch]) for a in (self.episodes.observations, self.episodes.actions))
        loss = (self.net(x) - y).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.steps += 1
        value = math.nan if self.steps == self.settings.explode_at else float(loss.detach())
        return {"loss": value, "learning_rate": self.settings.learning_rate * self.steps}

    def perplexity(self) -> float | None:
        return float(torch.rand(())) + 2 if self.settings.text else None

    def policy(self) -> ToyPolicy:
        return ToyPolicy(self.net, self.spec)

    def state_dict(self) -> dict[str, torch.Tensor]:
        state = {f"net.{k}": v for k, v in self.net.state_dict().items()} | {"steps": torch.tensor(self.steps)}
        for i, values in self.optimizer.state_dict()["state"].items():
            state |= {f"adam.{i}.{k}": v for k, v in values.items()}
        return state

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.net.load_state_dict({k[4:]: v for k, v in state.items() if k.startswith("net.")})
        moments: dict[int, dict] = {}
        for key, value in state.items():
            if key.startswith("adam."):
                _, i, name = key.split(".")
                moments.setdefault(int(i), {})[name] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self.steps = int(state["steps"])

    def export(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return self.net.state_dict(), {"algorithm": "toy", "spec": asdict(self.spec)}

    def summary(self) -> dict[str, Any]:
        count = sum(p.numel() for p in self.net.parameters())
        return {"parameters": {"total": count, "frozen": 0, "trainable": count, "lora_share": None}}

    @staticmethod
    def load_policy(tensors: dict[str, torch.Tensor], metadata: dict[str, Any], device: str = "cpu") -> ToyPolicy:
        spec = Spec(**{k: tuple(v) if isinstance(v, list) else v for k, v in metadata["spec"].items()})
        net = network(spec)
        net.load_state_dict(tensors)
        return ToyPolicy(net, spec)


def network(spec: Spec) -> torch.nn.Sequential:
    """(B, S) -> (B, A)."""
    return torch.nn.Sequential(
        torch.nn.Linear(spec.observation_dim, 8),
        torch.nn.Tanh(),
        torch.nn.Dropout(0.2),
        torch.nn.Linear(8, spec.action_dim),
    )


class ToyPolicy:
    """Acts on the newest observation. It draws random numbers, as a careless policy might."""

    def __init__(self, net: torch.nn.Module, spec: Spec) -> None:
        self.net, self.default_target = net, spec.targets[0]

    def reset(self, n: int = 1, targets: np.ndarray | None = None) -> None:
        pass

    @torch.no_grad()
    def act(self, observations: Any, rewards: Any = None, rows: np.ndarray | None = None) -> np.ndarray:
        self.net.eval()
        torch.rand(3)
        return self.net(torch.as_tensor(np.asarray(observations, np.float32))).numpy()


def write_dataset(path: Path, episodes: int = 12, env: str | None = ENV, seed: int = 0) -> Path:
    """Episodes of 10 steps whose actions point to the origin, in D4RL's layout."""
    rng = np.random.default_rng(seed)
    observations = rng.uniform(-1, 1, (episodes * 10, 3)).astype(np.float32)
    data = Episodes(
        observations=observations,
        actions=np.clip(-observations[:, :2], -1, 1),
        rewards=(np.abs(observations).sum(1) < 1.5).astype(np.float32),
        offsets=np.arange(episodes + 1, dtype=np.int64) * 10,
        terminated=np.zeros(episodes, bool),
        truncated=np.ones(episodes, bool),
        ids=np.arange(episodes, dtype=np.int64),
    )
    return write_d4rl(data, path, {"env_id": env} if env else None)


ALGORITHMS["toy"] = Algorithm("toy:ToyLearner", ToySettings)
PRESETS["toy"] = ("toy", {}, "a toy")
PRESETS["toy-fast"] = ("toy", {"learning_rate": 0.1}, "a toy in a hurry")
if ENV not in gymnasium.registry:
    gymnasium.register(ENV, entry_point="toy:ToyEnv", max_episode_steps=10)

if __name__ == "__main__":  # `lamo` with the toy in its tables
    import sys

    from lamo.cli import main

    sys.exit(main())
