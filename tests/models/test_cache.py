"""Acting with remembered keys and values equals computing everything again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from lamo.algorithms.sequence_policy import SequencePolicy
from lamo.algorithms.settings import SequenceSettings
from lamo.config import Spec
from lamo.data.episodes import Statistics
from lamo.errors import LamoError
from lamo.models.sequence import DecisionModel

K, S, A = 4, 3, 2


def policy(kind: str = "continuous", **settings: Any) -> SequencePolicy:
    torch.manual_seed(0)
    lm = GPT2LMHeadModel(
        GPT2Config(n_layer=3, n_head=2, n_embd=16, vocab_size=20, n_positions=64, bos_token_id=0, eos_token_id=0)
    )
    spec = Spec(S, A, "discrete" if kind == "discrete" else "continuous", None, None, 100, 10.0, (5.0,))
    chosen = SequenceSettings(context=K, **settings)
    model = DecisionModel(lm, chosen, spec)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            if "lora_B" in name:
                p.normal_(std=0.3)
    return SequencePolicy(model, chosen, spec, Statistics(np.zeros(S, np.float32), np.ones(S, np.float32)))


def play(chosen: SequencePolicy, n: int, plan: list[np.ndarray | None], seed: int = 0) -> list[np.ndarray]:
    """Actions at each call; `plan` says which rows advance."""
    rng = np.random.default_rng(seed)
    chosen.reset(n, rng.normal(size=n))
    actions = []
    for rows in plan:
        m = n if rows is None else len(rows)
        actions.append(chosen.act(rng.normal(size=(m, S)), rng.normal(size=m), rows))
    return actions


def in_full(chosen: SequencePolicy, n: int, plan: list[np.ndarray | None], seed: int = 0) -> list[np.ndarray]:
    """The same by one forward over the whole episode so far, with attention banded by a mask: nothing remembered."""
    rng = np.random.default_rng(seed)
    to_go = rng.normal(size=n)
    history: list[dict[str, list[Any]]] = [{"r": [], "s": [], "a": []} for _ in range(n)]
    actions = []
    for rows in plan:
        some = np.arange(n) if rows is None else rows
        observations, rewards = rng.normal(size=(len(some), S)), rng.normal(size=len(some))
        answers = []
        for i, row in enumerate(some):
            to_go[row] -= rewards[i]
            past = history[row]
            past["r"].append(to_go[row] / 10.0)
            past["s"].append(observations[i])
            past["a"].append(np.zeros(A))
            r, s, a = (torch.tensor(np.asarray(past[k]), dtype=torch.float32)[None] for k in "rsa")
            with torch.no_grad():
                answer = chosen.model.eval()(r, s, a, torch.arange(len(past["r"]))[None])[0, -1].numpy()
            past["a"][-1] = answer
            answers.append(answer)
        actions.append(np.stack(answers))
    return actions


PLANS = {
    "together": [None] * 13,
    "some end": [None] * 3 + [np.array([0, 2, 3])] * 3 + [np.array([2])] * 5,
    "apart": [np.array([0, 1]), np.array([2]), None, np.array([1, 3]), np.array([3, 1]), None, np.array([2, 0]), None],
}


@pytest.mark.parametrize("plan", PLANS)
def test_banded_actions_equal_a_forward_over_the_whole_episode(plan: str) -> None:
    chosen = policy(span=2, lora_form="separate")
    for ours, full in zip(play(chosen, 4, PLANS[plan]), in_full(chosen, 4, PLANS[plan]), strict=True):
        np.testing.assert_allclose(ours, full, atol=2e-5)


@pytest.mark.parametrize("plan", PLANS)
def test_windows_act_alike_with_and_without_a_cache(plan: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = policy()
    with_cache = play(chosen, 4, PLANS[plan])
    monkeypatch.setattr("lamo.algorithms.sequence_policy.LARGEST_WINDOW_CACHE", 0)
    for ours, plain in zip(with_cache, play(chosen, 4, PLANS[plan]), strict=True):
        np.testing.assert_allclose(ours, plain, atol=2e-5)
    library = policy(blocks="library")
    for ours, plain in zip(with_cache, play(library, 4, PLANS[plan]), strict=True):
        np.testing.assert_allclose(ours, plain, atol=2e-5)


def test_a_banded_action_computes_three_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hot path by counts: rows that go through the first block's projection at each step."""
    from lamo.models import cache

    seen: list[int] = []
    real = cache.project
    monkeypatch.setattr(cache, "project", lambda block, x, *rest: (seen.append(len(x)), real(block, x, *rest))[1])
    play(policy(span=2), 1, [None] * 6)
    assert seen == [2] * 3 + [3] * 15


def test_choices_are_remembered_too() -> None:
    chosen = policy("discrete", span=3)
    actions = play(chosen, 2, [None] * 8)
    assert all(a.dtype.kind == "i" and a.shape == (2,) for a in actions)


def test_what_was_executed_enters_the_memory() -> None:
    told, untold = policy(span=2), policy(span=2)
    for chosen in (told, untold):
        chosen.reset(1)
        chosen.act(np.zeros(S))
    told.executed(np.full((1, A), 0.9))
    assert np.abs(told.act(np.zeros(S), 0.0) - untold.act(np.zeros(S), 0.0)).max() > 1e-4


@pytest.mark.parametrize("settings", [{"span": 5}, {"span": 0}, {"span": 2, "positions": "on"}])
def test_a_band_that_cannot_be(settings: dict[str, Any]) -> None:
    with pytest.raises(LamoError, match="--span"):
        policy(**settings)


@pytest.mark.parametrize("settings", [{"blocks": "library"}, {"attention": "sdpa"}])
def test_a_band_needs_the_fast_blocks(settings: dict[str, Any]) -> None:
    """Which is said before anything trains."""
    with pytest.raises(LamoError, match="--span needs the fast blocks"):
        policy(span=2, **settings)
