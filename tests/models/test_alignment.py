"""Wiki-RL's alignment term: its centres, its value, its weight, and what it does to a model."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lamo.algorithms import get_algorithm, preset_settings
from lamo.algorithms.settings import SequenceSettings
from lamo.config import Spec
from lamo.data.episodes import Episodes
from lamo.errors import LamoError
from lamo.models.alignment import alignment, alignment_weight, word_centres


class Words:
    """A language model as far as its word embeddings go."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.table = nn.Embedding.from_pretrained(weight)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.table


def bundles(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Three directions, and 60 words of any length near them."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.eye(8)[:3]
    words = directions.repeat(20, 1) + 0.01 * torch.randn(60, 8, generator=generator)
    return directions, words * (0.1 + 5 * torch.rand(60, 1, generator=generator))


def test_centres_are_the_directions_of_the_words() -> None:
    directions, words = bundles()
    centres = word_centres(Words(words), "bundles-0", 3)
    assert centres.dtype == torch.float32
    torch.testing.assert_close(centres.norm(dim=1), torch.ones(3))
    assert (directions @ centres.T).amax(1).min() > 0.999


def test_centres_are_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _, words = bundles(1)
    first = word_centres(Words(words), "bundles-1", 3)
    monkeypatch.setattr("lamo.models.alignment._cluster", lambda *_: pytest.fail("clustered again"))
    torch.testing.assert_close(word_centres(Words(words), "bundles-1", 3), first, rtol=0, atol=0)


def test_no_more_centres_than_words() -> None:
    assert word_centres(Words(torch.eye(8)[:5]), "five", 1000).shape == (5, 8)


def test_without_scikit_learn_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(LamoError, match=r"lamo\[baselines\]"):
        word_centres(Words(bundles()[1]), "without", 3)


def test_the_value_is_the_mean_of_the_largest_cosines() -> None:
    tokens, centres = torch.randn(2, 3, 4), torch.nn.functional.normalize(torch.randn(5, 4), dim=-1)
    mask = torch.tensor([[False, True, True], [True, True, False]])
    largest = [
        max(float(torch.cosine_similarity(tokens[b, t], centre, dim=0)) for centre in centres)
        for b in range(2)
        for t in range(3)
        if mask[b, t]
    ]
    assert float(alignment(tokens, centres, mask)) == pytest.approx(np.mean(largest), abs=1e-6)
    assert float(alignment(3 * tokens, centres)) == pytest.approx(float(alignment(tokens, centres)), abs=1e-6)


def test_the_weight_falls_on_a_logistic_curve() -> None:
    """1 / (1 + exp(-((5000 - x) / 500 - 5))), as released."""
    for step in (0, 1000, 2500, 4000, 5000, 9000):
        assert alignment_weight(step, 5000) == pytest.approx(1 / (1 + np.exp(-((5000 - step) / 500 - 5))))
    assert alignment_weight(2500, 5000) == 0.5 and alignment_weight(7500, 15_000) == 0.5
    assert alignment_weight(10_000, 5000) == 0.0


def learner(lm: Path, **changes: Any) -> Any:
    rng = np.random.default_rng(0)
    data = Episodes(
        observations=rng.normal(size=(40, 3)).astype(np.float32),
        actions=rng.uniform(-1, 1, (40, 2)).astype(np.float32),
        rewards=rng.random(40).astype(np.float32),
        offsets=np.arange(0, 41, 10),
        terminated=np.zeros(4, bool),
        truncated=np.ones(4, bool),
        ids=np.arange(4),
    )
    name, settings = preset_settings("wiki-rl", lm=str(lm), context=3, text_block=32, cosine_centres=8, warmup_steps=1)
    settings = replace(settings, learning_rate=3e-3, **changes)
    task = Spec(3, 2, "continuous", (-1.0, -1.0), (1.0, 1.0), 10, 1.0, (5.0,))
    return get_algorithm(name)(settings, task, data, batch_size=8, seed=0)


def test_tokens_are_drawn_towards_words(small_lm: Path) -> None:
    _, settings = preset_settings("wiki-rl")
    assert (settings.adapt, settings.embedding, settings.cosine_weight) == ("full", "linear", 0.1)
    agent = learner(small_lm, cosine_weight=10.0, cosine_steps=1000)
    batches = agent.batches(np.random.default_rng(0))
    cosines = [agent.update(next(batches))["cosine"] for _ in range(40)]
    assert np.mean(cosines[-5:]) > np.mean(cosines[:5]) + 0.05


def test_the_term_is_not_computed_after_its_end(small_lm: Path) -> None:
    agent = learner(small_lm, cosine_steps=2)
    batches = agent.batches(np.random.default_rng(0))
    assert ["cosine" in agent.update(next(batches)) for _ in range(6)] == [True] * 4 + [False] * 2


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"cosine_weight": -0.1}, "--cosine-weight"),
        ({"cosine_steps": 0}, "--cosine-steps"),
        ({"cosine_centres": 0}, "--cosine-centres"),
        (
            {"initialise": "scratch", "adapt": "full", "language_weight": 0.0, "cosine_weight": 0.1},
            "scratch has no words",
        ),
    ],
)
def test_settings_that_cannot_be(values: dict, words: str) -> None:
    with pytest.raises(LamoError, match=words):
        SequenceSettings(**values)
