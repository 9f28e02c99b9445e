"""Language pretraining: an ordinary Hugging Face folder comes out; a stopped run goes on to the same weights;
figures are exact."""

from __future__ import annotations

import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from lamo import pretrain as module
from lamo.errors import LamoError
from lamo.language import evaluate_lm, negative_log_likelihood
from lamo.models.muon import orthogonalise
from lamo.pretrain import PretrainSettings, learning_rate_factor, pretrain
from lamo.signals import Interrupted

SETTINGS = PretrainSettings(
    vocabulary=300,
    width=32,
    layers=1,
    heads=2,
    context=32,
    passes=1.0,
    batch_size=8,
    holdout=0.1,
    eval_every=10,
    checkpoint_every=4,
    device="cpu",
)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    phrases = ["reach the target", "with two links", "and a small torque"]  # words follow each other, phrases do not
    path = tmp_path / "corpus.txt"
    path.write_text(" ".join(rng.choice(phrases, size=1400)) + "\n")
    return path


def test_writes_a_hugging_face_folder_that_has_learned(corpus: Path, tmp_path: Path) -> None:
    result = pretrain([corpus], tmp_path / "lm", replace(SETTINGS, passes=6.0), quiet=True)
    assert result["bits_per_byte"] < 1.0  # uniform bytes would be 8
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "lm")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "lm")
    text = "reach the target  with\ttwo links — é"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert 257 < model.config.vocab_size == len(tokenizer) <= 300
    assert not (tmp_path / "lm.training").exists()
    measured = evaluate_lm(str(tmp_path / "lm"), [corpus], device="cpu", references=True)
    assert measured["bits_per_byte"] < measured["unigram_bits_per_byte"]
    assert measured["perplexity"] == pytest.approx(
        2 ** (measured["bits_per_byte"] * measured["bytes"] / measured["tokens"])
    )


def test_a_stopped_run_goes_on_to_the_same_weights(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain([corpus], tmp_path / "whole", SETTINGS, quiet=True)

    class Stop(Exception):
        pass

    real, calls = module.learning_rate_factor, []

    def stop_at_step_six(*arguments: float) -> float:
        calls.append(arguments)
        if len(calls) == 7:
            raise Stop
        return real(*arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(module, "learning_rate_factor", stop_at_step_six)
    with pytest.raises(Stop):
        pretrain([corpus], tmp_path / "stopped", SETTINGS, quiet=True)
    monkeypatch.undo()
    with pytest.raises(LamoError, match="--resume"):
        pretrain([corpus], tmp_path / "stopped", SETTINGS, quiet=True)
    pretrain([corpus], tmp_path / "stopped", SETTINGS, resume=True, quiet=True)
    a, b = (AutoModelForCausalLM.from_pretrained(tmp_path / n).state_dict() for n in ("whole", "stopped"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_signal_saves_and_leaves(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretrain([corpus], tmp_path / "whole", SETTINGS, quiet=True)
    real, calls = module.learning_rate_factor, []

    def sigterm_at_step_six(*arguments: float) -> float:
        calls.append(arguments)
        if len(calls) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(module, "learning_rate_factor", sigterm_at_step_six)
    with pytest.raises(Interrupted, match="step 6.*--resume") as caught:
        pretrain([corpus], tmp_path / "stopped", SETTINGS, quiet=True)
    assert caught.value.exit_code == 143
    monkeypatch.undo()
    pretrain([corpus], tmp_path / "stopped", SETTINGS, resume=True, quiet=True)
    a, b = (AutoModelForCausalLM.from_pretrained(tmp_path / n).state_dict() for n in ("whole", "stopped"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_resume_with_other_settings_is_refused(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "build_model", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pretrain([corpus], tmp_path / "lm", SETTINGS, quiet=True)
    with pytest.raises(LamoError, match="other settings"):
        pretrain([corpus], tmp_path / "lm", PretrainSettings(width=64), resume=True, quiet=True)


def test_every_token_is_scored_once_whatever_the_stride() -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(
        GPT2Config(vocab_size=20, n_positions=8, n_embd=16, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0)
    ).eval()
    ids = np.random.default_rng(0).integers(0, 20, size=21)
    for stride in (1, 3, 8):
        by_hand = 0.0
        sequence = np.concatenate([[0], ids])
        begin = 0
        done = 0
        while done < len(ids):
            end = min(begin + 8, len(ids))
            with torch.no_grad():
                logits = model(torch.from_numpy(sequence[begin:end])[None]).logits[0]
            nll = -logits.log_softmax(-1)[torch.arange(end - begin), torch.from_numpy(ids[begin:end])]
            by_hand += float(nll[done - begin :].sum())
            done, begin = end, begin + stride
        assert negative_log_likelihood(model, ids, 8, stride, batch=2) == pytest.approx(by_hand, rel=1e-5)


def test_orthogonalise_makes_singular_values_about_one() -> None:
    for shape in ((8, 8), (8, 32), (32, 8)):
        matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0))
        values = torch.linalg.svdvals(orthogonalise(matrix))
        assert values.max() < 1.3
        assert values.min() > 0.3


def test_learning_rate_rises_stays_and_falls() -> None:
    factors = [learning_rate_factor(s, 100, 10, 0.5) for s in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[10:50] == [1.0] * 40
    assert factors[-1] == pytest.approx(1 / 50)
    assert math.isclose(factors[75], 0.5)


def test_bad_requests_leave_nothing(corpus: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "x").write_text("mine")
    short = tmp_path / "short.txt"
    short.write_text("too short")
    for paths, out, words in (
        ([corpus], full, "not empty"),
        ([tmp_path / "none.txt"], tmp_path / "a", "no such file"),
        ([short], tmp_path / "b" / "c", "tokens"),
    ):
        before = sorted(p.name for p in tmp_path.iterdir())
        with pytest.raises(LamoError, match=words):
            pretrain(paths, out, SETTINGS, quiet=True)
        assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "values",
    [
        {"width": 33},
        {"vocabulary": 100},
        {"holdout": 0.6},
        {"passes": 0.0},
        {"passes": math.nan},
        {"layers": 0},
        {"heads": 0},
        {"seed": -1},
        {"warmup": -1},
        {"decay": -0.1},
        {"learning_rate": math.nan},
        {"matrix_learning_rate": -1.0},
    ],
)
def test_settings_refuse_contradictions(values: dict) -> None:
    with pytest.raises(LamoError):
        PretrainSettings(**values)
