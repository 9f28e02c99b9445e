"""Where the text of the language loss comes from: files, a Hugging Face dataset, the LM itself; and the cache."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lamo.errors import LamoError
from lamo.models import text as module
from lamo.models.pretrained import load_language_model
from lamo.models.text import corpus_tokens, sample_self

TEXT = "the arm reaches the target and the target moves away from the arm. " * 40


def test_text_files_are_cut_into_training_and_held_out(small_lm: Path, tmp_path: Path) -> None:
    lm, tokenizer = load_language_model(str(small_lm))
    (tmp_path / "a.txt").write_text(TEXT)
    train, held = corpus_tokens([str(tmp_path / "a.txt")], lm, tokenizer, 32)
    ids = tokenizer.encode(TEXT).ids
    assert np.concatenate([train, held]).tolist() == ids
    assert len(held) >= 33


def test_a_dataset_folder_in_the_hubs_format(small_lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "books"
    folder.mkdir()
    (folder / "train.jsonl").write_text("\n".join(json.dumps({"text": TEXT}) for _ in range(2)) + "\n")
    lm, tokenizer = load_language_model(str(small_lm))
    train, held = corpus_tokens([str(folder)], lm, tokenizer, 32)
    assert len(train) + len(held) == len(tokenizer.encode(TEXT + "\n\n" + TEXT).ids)
    (folder / "train.jsonl").write_text(json.dumps({"words": "none"}) + "\n")
    with pytest.raises(LamoError, match=r"no column `text` \(it has words\)"):
        corpus_tokens([str(folder)], lm, tokenizer, 32)


@pytest.mark.parametrize(
    ("name", "words"), [("no-such-dataset", "--corpus no-such-dataset"), ("missing.txt", "no such file")]
)
def test_an_unknown_corpus_is_one_line(name: str, words: str, small_lm: Path) -> None:
    lm, tokenizer = load_language_model(str(small_lm))
    with pytest.raises(LamoError, match=words) as caught:
        corpus_tokens([name], lm, tokenizer, 32)
    assert "\n" not in str(caught.value)


def test_too_little_text_is_refused(small_lm: Path, tmp_path: Path) -> None:
    lm, tokenizer = load_language_model(str(small_lm))
    (tmp_path / "a.txt").write_text("a few words")
    with pytest.raises(LamoError, match="too few"):
        corpus_tokens([str(tmp_path / "a.txt")], lm, tokenizer, 32)


def test_self_is_sampled_once_and_cached(small_lm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, tokenizer = load_language_model(str(small_lm))
    monkeypatch.setattr(module, "SELF_TOKENS", 2048)
    first = corpus_tokens(("self",), lm, tokenizer, 16)
    monkeypatch.setattr(module, "sample_self", lambda *a: pytest.fail("sampled again"))
    again = corpus_tokens(("self",), lm, tokenizer, 16)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_self_is_written_on_the_device_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the LM comes back. `meta` is a device that is no processor."""
    import torch

    class Writer(torch.nn.Module):
        config = SimpleNamespace(bos_token_id=0)

        def __init__(self) -> None:
            super().__init__()
            self.words = torch.nn.Embedding(4, 2)

        def get_input_embeddings(self) -> torch.nn.Embedding:
            return self.words

        def to(self, device: torch.device) -> Writer:
            went.append(device.type)
            return self

        def generate(self, ids: torch.Tensor, max_new_tokens: int, **_: object) -> torch.Tensor:
            assert (ids.device.type, went) == ("meta", ["meta"])
            assert not self.training
            return torch.zeros(len(ids), 1 + max_new_tokens, dtype=torch.long)

    went: list[str] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    train, held = corpus_tokens(("self",), Writer(), None, 32, torch.device("meta"))
    assert len(train) + len(held) == module.SELF_TOKENS
    assert went == ["meta", "cpu"]


def test_self_is_text_that_the_lm_finds_likely(small_lm: Path) -> None:
    """Its cross-entropy is the LM's own entropy, below that of uniform tokens."""
    import torch

    lm, _ = load_language_model(str(small_lm))
    with torch.no_grad():
        for p in lm.parameters():
            p.mul_(3)  # a random LM is nearly uniform; a sharper one is not
    ids = sample_self(lm, 32, tokens=2048)
    assert ids.shape == (2048,)
    blocks = torch.from_numpy(ids.astype(np.int64)).reshape(-1, 32)
    uniform = torch.randint(0, lm.config.vocab_size, blocks.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        losses = [float(lm(b, labels=b).loss) for b in (blocks, uniform)]
    assert losses[0] < losses[1] - 0.5
