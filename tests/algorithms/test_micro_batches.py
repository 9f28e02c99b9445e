"""A batch that passes through the model in parts: the same step, in the memory of a part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_contract import episodes, learner

from lamo.algorithms.sequence_losses import behaviour_losses, parts
from lamo.models import backbone
from lamo.models.dropout import Masks

STILL = {"dropout": 0.0, "lora_dropout": 0.0}


@pytest.mark.parametrize(
    ("preset", "kind", "changes"),
    [
        ("lamo", "continuous", STILL),
        ("lamo", "discrete", STILL),
        ("lamo", "continuous", {**STILL, "chunk": 3}),
        ("lamo", "continuous", {**STILL, "blocks": "library"}),
        ("wiki-rl", "continuous", {"dropout": 0.0}),
        ("dt", "several", {"dropout": 0.0}),
    ],
    ids=str,
)
def test_parts_make_the_same_step(preset: str, kind: str, changes: dict[str, Any], small_lm: Path) -> None:
    made = learner(preset, small_lm, kind)
    whole, split = (
        type(made)(replace(made.settings, micro_batch=size, **changes), made.spec, episodes(kind), batch_size=16)
        for size in (None, 5)
    )
    batch = next(whole.batches(np.random.default_rng(0)))
    assert not batch.windows.mask.all()  # parts have different numbers of real actions
    expected, found = whole.update(batch), split.update(batch)
    assert found == pytest.approx(expected, rel=1e-4)
    pairs = zip(whole.model.named_parameters(), split.model.parameters(), strict=True)
    compared = [
        torch.testing.assert_close(
            theirs.grad, mine.grad, rtol=1e-3, atol=1e-6, msg=lambda told, name=name: name + told
        )
        for (name, mine), theirs in pairs
        if mine.grad is not None and theirs.grad is not None
    ]
    assert len(compared) > 10


@given(st.integers(1, 300), st.integers(1, 400))
def test_every_row_once_in_parts_that_fit(count: int, size: int) -> None:
    found = parts(count, size)
    assert [row for rows in found for row in range(count)[rows]] == list(range(count))
    lengths = [rows.stop - rows.start for rows in found]
    assert max(lengths) <= size
    assert set(lengths[:-1]) <= {lengths[0]}
    assert len(found) <= 2 * -(-count // size)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_rule_knows_what_a_part_keeps(checkpointing: bool, small_lm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What autograd is given to keep, on weights that are there anyway not counted."""
    limit = 1 << 17
    monkeypatch.setattr(backbone, "KEPT_BYTES", limit)
    agent = learner("lamo-random", small_lm, gradient_checkpointing=checkpointing)
    batch = next(agent.batches(np.random.default_rng(0)))
    first, *_ = parts(16, agent.micro_batch)
    assert 1 <= first.stop < 16
    own = {p.data_ptr() for p in agent.model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    agent.model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = behaviour_losses([agent], [agent.on_device(batch)], first, Masks([0], 0, agent.device))
    per_row = sum(kept.values()) / first.stop
    assert len(losses) == 1
    share = agent.micro_batch * per_row / limit
    assert share < 0.9 if checkpointing else 0.6 < share < 1.2
