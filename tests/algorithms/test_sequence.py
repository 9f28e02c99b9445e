"""What is particular to the sequence learner: the loss, the language loss, learning rates, the return still to be
earned."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_contract import HORIZON, episodes, learner, spec, train

from lamo.algorithms import get_algorithm, preset_settings
from lamo.algorithms.sequence_losses import action_loss
from lamo.algorithms.settings import SequenceSettings
from lamo.config import Experiment
from lamo.errors import LamoError
from lamo.models import backbone
from lamo.policy import POLICY_FORMAT, load_policy, save_policy_files


def test_loss_counts_real_steps_only() -> None:
    predicted, actions = torch.randn(2, 3, 2), torch.randn(2, 3, 2)
    mask = torch.tensor([[False, True, True], [True, True, True]])
    loss, _ = action_loss(predicted, actions, mask)
    rows = [(predicted[b, t] - actions[b, t]) ** 2 for b in range(2) for t in range(3) if mask[b, t]]
    torch.testing.assert_close(loss, torch.stack(rows).mean())


def test_no_text_is_read_when_lambda_is_zero(small_lm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = learner("lamo", small_lm, language_weight=0.0)
    monkeypatch.setattr(agent.model.backbone, "text_loss", lambda ids: pytest.fail("text forward with λ = 0"))
    assert "language_loss" not in train(agent, 1)[0]
    assert next(agent.batches(np.random.default_rng(0))).text is None


def test_language_loss_acts_on_the_language(small_lm: Path, tmp_path: Path) -> None:
    """The test's LM knows nothing, so what the loss can do is teach: adapters read a text and predict it better."""
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("the arm reaches the target and the target moves away from the arm. " * 40)
    plain = learner("lamo", small_lm, language_weight=10.0, corpus=(str(corpus),), lm_learning_rate=1e-3)
    unit = replace(plain.spec, action_low=(-1.0, -1.0), action_high=(1.0, 1.0))
    agent = type(plain)(plain.settings, unit, episodes(), batch_size=16, seed=0)
    before = agent.perplexity()
    log = [row["language_loss"] for row in train(agent, 40)]
    assert agent.perplexity() < 0.9 * before
    assert np.mean(log[-10:]) < np.mean(log[:10])


def test_adapters_have_a_learning_rate_of_their_own(small_lm: Path) -> None:
    agent = learner("lamo-random", small_lm, lm_learning_rate=1e-5)
    rates = {id(p): g["peak"] for g in agent.optimizer.param_groups for p in g["params"]}
    for name, p in agent.model.named_parameters():
        if p.requires_grad:
            assert rates[id(p)] == (1e-5 if "lora_" in name else 3e-3), name


def test_a_checkpoint_that_learned_actions_in_another_box_is_refused(small_lm: Path) -> None:
    agent = learner("dt", small_lm)  # its bounds are not [-1, 1]
    state = agent.state_dict()
    agent.load_state_dict(state)
    for box in (None, state.pop("action_box") * 2):
        with pytest.raises(LamoError, match="another box"):
            agent.load_state_dict(state if box is None else {**state, "action_box": box})


def test_return_to_go_falls_by_the_reward(small_lm: Path) -> None:
    policy = learner("dt", small_lm).policy()
    policy.reset(2, np.asarray([8.0, 4.0]))
    policy.act(np.zeros((2, 3)))
    policy.act(np.zeros((2, 3)), np.asarray([1.0, 3.0]))
    np.testing.assert_allclose(policy.to_go, [7.0, 1.0])
    np.testing.assert_allclose(policy.returns_to_go[:, -2:], [[0.8, 0.7], [0.4, 0.1]])


def test_acting_equals_the_training_forward(small_lm: Path) -> None:
    """One whole episode fed step by step gives the actions that one forward over the last K steps gives."""
    agent = learner("lamo-random", small_lm)
    agent.spec = spec()
    data, k = episodes(), agent.settings.context
    policy = agent.policy()
    n = int(data.lengths[0])
    policy.reset(1, np.asarray([float(data.returns_to_go[0])]))
    acted = []
    for t in range(n):
        acted.append(policy.act(data.observations[t], None if t == 0 else data.rewards[t - 1]))
        lo = max(0, t - k + 1)
        stats = agent.statistics
        observations = torch.from_numpy((data.observations[lo : t + 1] - stats.mean) / stats.std)[None]
        past = (  # scaled, as the model sees and gives them
            np.concatenate([np.stack(acted[lo:t]) / np.float32(0.9), np.zeros((1, 2), np.float32)])
            if t > lo
            else np.zeros((1, 2), np.float32)
        )
        with torch.no_grad():
            want = agent.model(
                torch.from_numpy(data.returns_to_go[lo : t + 1].astype(np.float32) / 10)[None],
                observations,
                torch.from_numpy(past)[None].float(),
                torch.arange(lo, t + 1)[None],
            )[0, -1].numpy()
        np.testing.assert_allclose(acted[-1], 0.9 * np.clip(want, -1, 1), atol=1e-5)
    assert n <= HORIZON


def test_published_dt_shape() -> None:
    _, settings = preset_settings("dt")
    assert (settings.layers, settings.heads, settings.width, settings.weight_decay) == (3, 1, 128, 1e-4)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"initialise": "scratch"}, "--adapt full"),
        ({"corpus": ("none",)}, "--language-weight 0"),
        ({"adapt": "frozen"}, "--language-weight 0"),
        ({"context": 0}, "--context 0"),
        ({"dropout": 1.0}, "--dropout"),
        ({"learning_rate": 0.0}, "--learning-rate"),
    ],
)
def test_settings_refuse_contradictions(values: dict, words: str) -> None:
    with pytest.raises(LamoError, match=words):
        SequenceSettings(**values)


def test_unknown_names_are_one_line() -> None:
    with pytest.raises(LamoError, match="did you mean lamo"):
        preset_settings("lamoo")
    with pytest.raises(LamoError, match="known: sequence"):
        get_algorithm("nothing")


def test_it_is_set_to_train_only_where_something_set_it_to_act(small_lm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To set it is a walk through hundreds of modules. A language model is loaded as one that acts."""
    agent = learner("lamo", small_lm, blocks="library")
    set_to: list[bool] = []
    before = type(agent.model).train
    monkeypatch.setattr(
        type(agent.model), "train", lambda self, mode=True: (set_to.append(mode), before(self, mode))[1]
    )
    assert all(module.training for module in agent.model.modules())
    train(agent, 2)
    assert set_to == []
    policy = agent.policy()
    policy.reset(1)
    policy.act(np.zeros((1, 3)))
    assert set_to == [False]
    train(agent, 2)
    assert set_to == [False, True]
    assert all(module.training for module in agent.model.modules())


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("preset", ["lamo", "dt"])
def test_a_policy_acts_in_the_format_that_it_was_trained_in(
    preset: str, fast: bool, small_lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine that would have chosen the other: a frozen base, and the products of what trains in full."""
    monkeypatch.setattr(backbone, "has_fast_bfloat16", lambda: fast)
    agent = learner(preset, small_lm)
    train(agent, 3)
    tensors, metadata = agent.export()
    save_policy_files(tmp_path / "policy", tensors, metadata)
    trained = agent.policy()
    monkeypatch.setattr(backbone, "has_fast_bfloat16", lambda: not fast)
    loaded: Any = load_policy(tmp_path)
    kinds = {True: torch.bfloat16, False: torch.float32}
    for name in ("product_dtype", "base_dtype", "autocast", "fast"):
        assert getattr(loaded.model.backbone, name) == getattr(agent.model.backbone, name)
    assert loaded.model.backbone.product_dtype == kinds[fast]
    for (name, mine), theirs in zip(loaded.model.named_parameters(), agent.model.parameters(), strict=True):
        assert mine.dtype == theirs.dtype, name
    observations = np.random.default_rng(0).standard_normal((3, 4, 3))
    for policy in (trained, loaded):
        policy.reset(4)
    for step, seen in enumerate(observations):
        actions = [policy.act(seen, np.zeros(4) if step else None) for policy in (trained, loaded)]
        np.testing.assert_allclose(actions[1], actions[0], atol=1e-6)

    def read(changed: dict[str, Any]) -> Any:
        (tmp_path / "policy" / "policy.json").write_text(json.dumps({"format": POLICY_FORMAT, **changed}))
        return load_policy(tmp_path)

    written_before = {name: value for name, value in metadata.items() if name != "product_dtype"}
    assert read(written_before).model.backbone.product_dtype == kinds[not fast]
    with pytest.raises(LamoError, match="policy.json does not fit this lamo: 'float8'"):
        read({**metadata, "product_dtype": "float8"})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize(
    "name",
    [
        "dropout",
        "lora_dropout",
        "learning_rate",
        "lm_learning_rate",
        "clip",
        "language_weight",
        "cosine_weight",
        "weight_decay",
    ],
)
@pytest.mark.parametrize("preset", ["lamo", "wiki-rl", "dt"])
def test_settings_that_are_no_finite_numbers(preset: str, name: str, value: float) -> None:
    with pytest.raises(LamoError, match=f"--{name.replace('_', '-')} {value} must "):
        Experiment.of(preset, **{name: value})
