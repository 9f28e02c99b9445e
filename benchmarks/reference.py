"""The reference that our times are ratios of: the published method, plainly, as its released code does a step.

Written by us from the paper's description (arXiv 2310.20587): GPT-2 in float32 with eager attention, LoRA beside the
fused query/key/value projection, windows built one sample at a time in Python, one environment at a time, and
(reference A) a text forward of 2 × 1 024 tokens at every step, used or not. Reference B is the same without the text
forward.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from lamo.data.episodes import Episodes

TEXT_BATCH, TEXT_BLOCK = 2, 1024


class LoRA(nn.Module):
    """y = W x + (α / r) B A dropout(x), beside a frozen GPT-2 projection."""

    def __init__(self, base: nn.Module, d_in: int, d_out: int, rank: int = 16, alpha: float = 32.0) -> None:
        super().__init__()
        self.base, self.scale, self.dropout = base, alpha / rank, nn.Dropout(0.1)
        self.a = nn.Parameter(torch.randn(d_in, rank) / rank)
        self.b = nn.Parameter(torch.zeros(rank, d_out))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.dropout(x) @ self.a @ self.b * self.scale


class MLPEmbedding(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(inputs, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return h + self.second(F.gelu(h))


class ReferenceLearner(nn.Module):
    """One LaMo learner, as in 2023. `text`: reference A (True) or B (False)."""

    def __init__(
        self,
        episodes: Episodes,
        layers: int,
        width: int,
        heads: int,
        context: int = 20,
        batch: int = 64,
        text: bool = True,
        vocabulary: int = 50_257,
        device: str = "cpu",
    ) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.device = torch.device(device)
        self.episodes, self.context, self.batch, self.text, self.vocabulary = episodes, context, batch, text, vocabulary
        config = GPT2Config(
            n_layer=layers,
            n_embd=width,
            n_head=heads,
            vocab_size=vocabulary,
            bos_token_id=0,
            eos_token_id=0,
            attn_implementation="eager",
        )
        config.loss_type = "ForCausalLM"
        self.lm = GPT2LMHeadModel(config).requires_grad_(False)
        for block in self.lm.transformer.h:
            block.attn.c_attn = LoRA(block.attn.c_attn, width, 3 * width)
        s, a = episodes.observations.shape[1], episodes.actions.shape[1]
        self.embed_return, self.embed_observation = MLPEmbedding(1, width), MLPEmbedding(s, width)
        self.embed_action, self.embed_timestep = MLPEmbedding(a, width), nn.Embedding(1024, width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, a))
        self.to(self.device)
        self.optimizer = torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=1e-4, eps=1e-6)
        self.rng = np.random.default_rng(0)
        self.mean, self.std = episodes.observations.mean(0), episodes.observations.std(0) + 1e-6

    def windows(self) -> list[Tensor]:
        """A batch, one sample after another, as the released code builds it."""
        episodes, k = self.episodes, self.context
        rows = [[] for _ in range(5)]
        chances = episodes.lengths / episodes.lengths.sum()
        for e in self.rng.choice(len(episodes), size=self.batch, p=chances):
            lo, hi = int(episodes.offsets[e]), int(episodes.offsets[e + 1])
            begin = int(self.rng.integers(lo, hi))
            end = min(begin + k, hi)
            pad = k - (end - begin)
            rewards = episodes.rewards[begin:hi].astype(np.float64)
            to_go = np.cumsum(rewards[::-1])[::-1][: end - begin] / 1000.0
            observations = (episodes.observations[begin:end] - self.mean) / self.std
            rows[0].append(np.concatenate([np.zeros(pad), to_go]))
            rows[1].append(np.concatenate([np.zeros((pad, observations.shape[1])), observations]))
            rows[2].append(np.concatenate([np.zeros((pad, episodes.actions.shape[1])), episodes.actions[begin:end]]))
            rows[3].append(np.concatenate([np.zeros(pad), np.arange(begin - lo, end - lo)]))
            rows[4].append(np.concatenate([np.zeros(pad), np.ones(end - begin)]))
        kinds = (torch.float32, torch.float32, torch.float32, torch.long, torch.long)
        return [torch.from_numpy(np.stack(r)).to(self.device, kind) for r, kind in zip(rows, kinds, strict=True)]

    def forward(self, to_go: Tensor, observations: Tensor, actions: Tensor, timesteps: Tensor, mask: Tensor) -> Tensor:
        time = self.embed_timestep(timesteps)
        streams = (
            self.embed_return(to_go[..., None]),
            self.embed_observation(observations),
            self.embed_action(actions),
        )
        tokens = torch.stack([stream + time for stream in streams], dim=2)  # (B, K, 3, width)
        tokens = self.norm(tokens.flatten(1, 2))
        hidden = self.lm.transformer(
            inputs_embeds=tokens, attention_mask=mask.repeat_interleave(3, 1)
        ).last_hidden_state
        return self.head(hidden[:, 1::3])

    def step(self) -> float:
        """One gradient step."""
        self.train()
        batch = self.windows()
        predicted = self(*batch)
        mask = batch[4] > 0
        loss = F.mse_loss(predicted[mask], batch[2][mask])
        if self.text:
            ids = self.rng.integers(0, self.vocabulary, size=(TEXT_BATCH, TEXT_BLOCK))
            ids = torch.from_numpy(ids).to(self.device)
            loss = loss + 0.0 * self.lm(ids, labels=ids).loss  # as shipped: computed, then multiplied by zero
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters(), 0.25)
        self.optimizer.step()
        return loss.item()

    @torch.no_grad()
    def act(self, to_go: list[float], observations: list[np.ndarray], actions: list[np.ndarray]) -> np.ndarray:
        """The action (A,) after a history of t steps, whose newest has no action yet: the whole window of K steps,
        padded on the left, through everything."""
        self.eval()
        k, t = self.context, len(observations)
        real = min(k, t)
        pad = k - real
        observed = (np.stack(observations[-real:]) - self.mean) / self.std
        acted = np.stack([*actions[t - real :], np.zeros(self.episodes.actions.shape[1])])
        columns = (
            (np.concatenate([np.zeros(pad), np.asarray(to_go[-real:]) / 1000.0]), torch.float32),
            (np.concatenate([np.zeros((pad, observed.shape[1])), observed]), torch.float32),
            (np.concatenate([np.zeros((pad, acted.shape[1])), acted]), torch.float32),
            (np.concatenate([np.zeros(pad), np.arange(t - real, t)]), torch.long),
            (np.concatenate([np.zeros(pad), np.ones(real)]), torch.long),
        )
        batch = [torch.from_numpy(column)[None].to(self.device, kind) for column, kind in columns]
        return self(*batch)[0, -1].cpu().numpy()

    def play(self, env: Any, seed: int, horizon: int, target: float = 1000.0) -> int:
        """One episode in one environment -> its steps."""
        observation, _ = env.reset(seed=seed)
        to_go, observations, actions = [target], [observation], []
        for step in range(horizon):
            action = self.act(to_go, observations, actions)
            observation, reward, terminated, truncated, _ = env.step(np.clip(action, -1, 1))
            if terminated or truncated:
                return step + 1
            actions.append(action)
            to_go.append(to_go[-1] - float(reward))
            observations.append(observation)
        return horizon
