"""What a GPU is given, held to on a processor: windows cut where the data lie, and a step that waits for nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_contract import episodes, learner
from torch.utils._python_dispatch import TorchDispatchMode

from lamo.algorithms.late import Arrival
from lamo.algorithms.resident import ResidentWindows
from lamo.algorithms.sequence import SequenceLearner
from lamo.algorithms.sequence_step import gradient_step
from lamo.errors import LamoError
from lamo.models.dropout import Masks

CPU = torch.device("cpu")

STEPS = [
    ("lamo", "continuous", {"dropout": 0.1}),
    ("lamo", "discrete", {}),
    ("lamo-random", "continuous", {"chunk": 3}),
    ("lamo-random", "continuous", {"span": 3}),
    ("dt", "multidiscrete", {}),
]


@pytest.mark.parametrize(("preset", "kind", "changes"), STEPS, ids=str)
def test_a_step_on_resident_data_is_the_step(preset: str, kind: str, changes: dict[str, Any], small_lm: Path) -> None:
    pair: list[SequenceLearner] = [learner(preset, small_lm, kind, **changes) for _ in range(2)]
    made = pair[1]
    made.resident = ResidentWindows(made.windows, made.rescaling, made.settings.chunk, CPU)
    streams = [each.batches(np.random.default_rng(0)) for each in pair]
    for _ in range(3):
        batches = [next(stream) for stream in streams]
        assert batches[1].windows is None
        expected, found = (each.update(batch) for each, batch in zip(pair, batches, strict=True))
        assert found == pytest.approx(expected, rel=1e-4)
    for (name, mine), theirs in zip(pair[0].model.named_parameters(), made.model.parameters(), strict=True):
        torch.testing.assert_close(theirs, mine, rtol=1e-3, atol=1e-5, msg=lambda told, name=name: name + told)


class NothingWaits(TorchDispatchMode):
    """Refuses what makes the host wait for a GPU, or gives a tensor whose size depends on data: neither can be
    recorded."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_", "_unsafe_index") else ()
        chosen = any(isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in indices)
        if chosen or name in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique_dim", "_unique2"):
            raise AssertionError(f"{func} waits")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("preset", "kind", "changes"), STEPS, ids=str)
def test_a_gradient_step_waits_for_nothing(preset: str, kind: str, changes: dict[str, Any], small_lm: Path) -> None:
    agent: SequenceLearner = learner(preset, small_lm, kind, **changes)
    resident = ResidentWindows(agent.windows, agent.rescaling, agent.settings.chunk, CPU)
    drawn = next(agent.batches(np.random.default_rng(0)))
    text = None if drawn.text is None else torch.from_numpy(drawn.text)
    agent.update(drawn)  # moments are made in the first step
    masks = Masks([0], 1, CPU)
    with NothingWaits():
        batch = resident.at(drawn.steps, text)
        (values,) = gradient_step([agent], [batch], masks)
    assert set(values) >= {"loss", "action_loss", "gradient_norm"}
    with pytest.raises(AssertionError, match="waits"), NothingWaits():
        float(values["loss"])


def test_an_update_whose_numbers_are_read_late_waits_for_nothing(
    small_lm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for its own and not for those of the step before; once read they are those that it would have waited for."""
    exact, agent = (learner("lamo", small_lm) for _ in range(2))
    agent.late = True
    batches = agent.batches(np.random.default_rng(0))
    first, second = next(batches), next(batches)
    rows = [agent.update(first)]
    with monkeypatch.context() as patched, NothingWaits():
        patched.setattr(Arrival, "read", lambda self: pytest.fail("waits"))
        rows.append(agent.update(second))
    assert all(isinstance(row["loss"], torch.Tensor) for row in rows)
    assert [row.read() for row in rows] == [exact.update(first), exact.update(second)]
    assert [list(row.read()) for row in rows] == [list(row) for row in rows]


def test_a_pack_holds_equal_data_once(small_lm: Path) -> None:
    """And reads from them what each would read from its own."""
    other = replace(episodes(), observations=episodes().observations ** 3)
    pack: list[SequenceLearner] = [
        learner("lamo", small_lm, seed=seed, data=data) for seed, data in enumerate((None, None, other))
    ]
    for each in pack:
        each.resident = ResidentWindows(each.windows, each.rescaling, each.settings.chunk, CPU)
    drawn = [next(each.batches(np.random.default_rng(0))) for each in pack]
    before = [each.on_device(batch) for each, batch in zip(pack, drawn, strict=True)]
    for _ in range(2):  # a pack grows by one at a time
        assert SequenceLearner.pack(pack) is None
    held = [each.resident for each in pack if each.resident is not None]
    for name in ("observations", "actions", "returns_to_go", "offsets"):
        assert getattr(held[1], name) is getattr(held[0], name)
    assert held[2].observations is not held[0].observations
    assert held[2].actions is held[0].actions
    for each, batch, expected in zip(pack, drawn, before, strict=True):
        for ours, theirs in zip(each.on_device(batch).tensors, expected.tensors, strict=True):
            assert torch.equal(ours, theirs)


def test_masks_begun_again_are_those_of_the_step() -> None:
    masks = Masks([3, 4], 0, CPU)
    first = masks.draw(0.5, 40, 10)
    masks.begin(7)
    again, fresh = masks.draw(0.5, 40, 10), Masks([3, 4], 7, CPU).draw(0.5, 40, 10)
    assert first and again and fresh
    assert torch.equal(again.mask, fresh.mask)
    assert not torch.equal(again.mask, first.mask)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "--cuda-graph: the device is cpu, and a CUDA graph needs a GPU; drop it"),
        ({"gradient_checkpointing": True}, "--cuda-graph does not go with --gradient-checkpointing"),
        ({"cosine_weight": 0.1}, "--cuda-graph does not go with --cosine-weight"),
    ],
)
def test_what_cannot_be_recorded_is_refused(changes: dict[str, Any], message: str, small_lm: Path) -> None:
    with pytest.raises(LamoError, match=message):
        learner("lamo", small_lm, cuda_graph=True, **changes)
