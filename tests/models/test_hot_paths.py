"""Speed held by counts, which are exact where times are noisy: products, kernels, memory, forwards, Python calls."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from counts import Counts

from lamo.algorithms.sequence import SequenceLearner
from lamo.data.windows import Windows
from lamo.evaluate import EnvPool, rollout
from lamo.models.sequence import DecisionModel

VOCABULARY = 1009  # a number that is nothing else's
KERNELS = 24  # of one more chunk of a hidden layer, forward and backward


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """benchmarks/common.py: the formula of the floor is the one that the step is held to."""
    path = Path(__file__).parents[2] / "benchmarks" / "common.py"
    spec = importlib.util.spec_from_file_location("benchmark_common", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["benchmark_common"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shape(bench: ModuleType) -> Any:
    return bench.Shape(3, 32, 2, context=4, batch=6, rank=4, observations=5, actions=3, vocabulary=VOCABULARY)


@pytest.fixture(scope="module")
def make(bench: ModuleType, shape: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., SequenceLearner]:
    folder = tmp_path_factory.mktemp("lm")
    bench.write_shape(shape, folder)
    text = bench.write_text(folder)

    def learner(changed: Any = shape, reads: bool = False, **settings: Any) -> SequenceLearner:
        episodes = bench.some_episodes(4, 20, shape)
        return bench.learner(changed, episodes, folder, "cpu", text if reads else None, **settings)

    return learner


def counted_step(learner: SequenceLearner) -> Counts:
    """The second step: AdamW makes its moments in the first."""
    batches = learner.batches(np.random.default_rng(0))
    learner.update(next(batches))
    batch = next(batches)
    with Counts() as counts:
        learner.update(batch)
    return counts


@pytest.mark.parametrize("changes", [{}, {"context": 7, "batch": 3, "rank": 2}], ids=str)
def test_products_of_a_step_are_those_of_the_formula(
    bench: ModuleType, shape: Any, make: Callable[..., SequenceLearner], changes: dict[str, int]
) -> None:
    """The frozen forward, input gradients, the adapters; no weight gradient of a frozen matrix, and the last block for
    state tokens alone. Not one product more."""
    changed = replace(shape, **changes)
    assert counted_step(make(changed)).flops == bench.step_flops(changed)


def test_products_of_a_step_with_text(bench: ModuleType, shape: Any, make: Callable[..., SequenceLearner]) -> None:
    """Text of blocks below the length from which attention is fused: whole scores, so twice the causal half."""
    blocks, tokens = 3, 40
    counts = counted_step(make(reads=True, text_batch=blocks, text_block=tokens))
    attention = shape.layers * 6 * 2 * blocks * tokens * tokens * shape.width
    assert counts.flops == bench.step_flops(shape, (blocks, tokens)) + attention // 2


def test_no_logits_of_a_whole_batch_and_none_at_all_without_text(
    shape: Any, make: Callable[..., SequenceLearner]
) -> None:
    def rows(counts: Counts) -> int:
        sizes = [int(np.prod(s)) // VOCABULARY for s in counts.shapes if VOCABULARY in s[-1:]]
        return max(sizes, default=0)

    tokens = 12 * 128
    assert 0 < rows(counted_step(make(reads=True, text_batch=12, text_block=128))) < tokens
    assert rows(counted_step(make())) == 0


def test_kernels_and_fresh_memory_of_a_step(shape: Any, make: Callable[..., SequenceLearner]) -> None:
    """Where the hidden layer is one chunk the kernels are the same for twice the windows; the memory that they add is a
    bounded number of activations."""
    small, large = (counted_step(make(replace(shape, batch=batch))) for batch in (24, 48))  # both have padded windows
    assert small.calls == large.calls < 700
    tokens = 24 * (3 * shape.context - 1)
    unit = 4 * shape.layers * tokens * shape.width  # one float32 (tokens, width) for each layer
    assert large.fresh_bytes - small.fresh_bytes < 90 * unit


@pytest.mark.parametrize("rows", [128, 200])
def test_kernels_of_a_step_grow_with_the_chunks_of_the_hidden_layer(
    shape: Any, make: Callable[..., SequenceLearner], monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """On a processor the hidden layer of the MLP passes in as many rows as its cache holds, and each further chunk adds
    the same few kernels; nothing else depends on the batch."""
    whole = counted_step(make(replace(shape, batch=24))).calls
    monkeypatch.setattr("lamo.models.fast.CACHED_ELEMENTS", rows * 4 * shape.width)
    for batch in (24, 48):
        tokens, states = batch * (3 * shape.context - 1), batch * shape.context  # the last block is for states alone
        chunks = [-(-tokens // rows)] * (shape.layers - 1) + [-(-states // rows)]
        # and three where it is split at all: a view, and room for the parts of GELU's slope, into which the first goes
        more = sum(KERNELS * (count - 1) + 3 * (count > 1) for count in chunks)
        assert counted_step(make(replace(shape, batch=batch))).calls == whole + more


@pytest.fixture
def still(shape: Any) -> Iterator[str]:
    """The id of an environment in which nothing happens, for ever."""

    class Still(gymnasium.Env[Any, Any]):
        observation_space = gymnasium.spaces.Box(-1.0, 1.0, (shape.observations,), np.float32)
        action_space = gymnasium.spaces.Box(-1.0, 1.0, (shape.actions,), np.float32)

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
            return np.zeros(shape.observations, np.float32), {}

        def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            return np.zeros(shape.observations, np.float32), 0.0, False, False, {}

    gymnasium.register("Still-v0", entry_point=lambda **_: Still())
    yield "Still-v0"
    del gymnasium.registry["Still-v0"]


def test_one_forward_per_step_of_an_evaluation(
    shape: Any, make: Callable[..., SequenceLearner], still: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the number of episodes; in the first K steps of the new tokens alone, then of whole windows."""
    heads: list[int] = []
    windows: list[int] = []
    whole = DecisionModel.forward

    def forward(self: DecisionModel, *context: Any, **options: Any) -> Any:
        windows.append(len(context[0]))
        return whole(self, *context, **options)

    monkeypatch.setattr(DecisionModel, "forward", forward)
    learner = make()
    learner.model.head.register_forward_hook(lambda _, inputs, __: heads.append(len(inputs[0])))
    with EnvPool(still) as pool:
        rollout(learner.policy(), still, [1.0, 2.0], 3, 0, horizon=shape.context + 2, pool=pool)
    assert heads == [6] * (shape.context + 2)
    assert windows == [6, 6]


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("beyond", [-1, 3])
def test_products_of_an_evaluation_are_those_of_the_formula(
    bench: ModuleType,
    shape: Any,
    make: Callable[..., SequenceLearner],
    still: str,
    monkeypatch: pytest.MonkeyPatch,
    beyond: int,
    cached: bool,
) -> None:
    """Before the window slides, and after; where the cache would be too large, windows that grow."""
    if not cached:
        monkeypatch.setattr("lamo.algorithms.sequence_policy.LARGEST_WINDOW_CACHE", 0)
    steps = shape.context + beyond
    with EnvPool(still) as pool, Counts() as counts:
        rollout(make().policy(), still, [1.0], 3, 0, horizon=steps, pool=pool)
    assert counts.flops == 3 * bench.episode_flops(shape, steps, cached)


def test_an_action_of_the_newest_token_is_less_than_a_window(
    bench: ModuleType, shape: Any, make: Callable[..., SequenceLearner]
) -> None:
    """Acting computes the formula's products; banded, those of three new tokens, for ever."""
    flops = {}
    for name, settings in {"exact": {}, "banded": {"span": shape.context}}.items():
        policy = make(**settings).policy()
        policy.reset(1, np.ones(1))
        for _ in range(shape.context + 3):
            with Counts() as counts:
                policy.act(np.zeros((1, shape.observations)), np.zeros(1))
        flops[name] = counts.flops
    exact, banded = bench.action_flops(shape), bench.action_flops(shape, 3)
    assert flops["exact"] == exact
    assert banded <= flops["banded"] < 1.2 * banded  # the ring holds one step more than the span
    assert flops["banded"] < flops["exact"] / 2


def test_python_calls_of_a_batch_of_windows_do_not_depend_on_its_size(bench: ModuleType, shape: Any) -> None:
    windows = Windows(bench.some_episodes(4, 50, shape), 4)

    def calls(batch: int) -> int:
        count = 0

        def watch(frame: Any, event: str, argument: Any) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        rng = np.random.default_rng(0)
        before = sys.getprofile()
        sys.setprofile(watch)
        try:
            windows.sample(rng, batch)
        finally:
            sys.setprofile(before)
        return count

    calls(8)
    assert calls(8) == calls(512) < 100


def test_a_second_run_in_the_pack_adds_no_kernel_to_the_blocks(
    shape: Any, make: Callable[..., SequenceLearner]
) -> None:
    """S runs go through the frozen blocks as one batch: their kernels there are those of one."""

    def kernels(count: int) -> int:
        learners = [make(lm_seed=0) for _ in range(count)]
        assert SequenceLearner.pack(learners) is None
        model, others = learners[0].model.backbone, [learner.model.backbone for learner in learners[1:]]
        model.train()
        tokens = torch.randn(6 * count, 11, shape.width)
        with Counts() as counts:
            model(tokens, None, slice(1, None, 3), others=others)
        return counts.calls

    one, two, four = (kernels(count) for count in (1, 2, 4))
    assert two - one < 12 * shape.layers  # the adapters are stacked
    assert four - two < 6 * shape.layers
