"""What every test has: no network, one thread, a headless matplotlib, a cache of its own, and a seeded generator."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

# Before the first import of torch, transformers or matplotlib, which read these once. Child processes inherit them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # models here are tiny: more threads cost more than they bring

import numpy as np
import pytest
from hypothesis import settings

# A busy machine is no failure, and a test that fails does so again.
settings.register_profile("lamo", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("lamo")


@pytest.fixture
def rng() -> np.random.Generator:
    """A numpy generator that is the same in every test."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Sampled texts and datasets are cached in a folder that ends with the tests, not in the user's."""
    folder = tmp_path_factory.mktemp("cache")
    names = {"XDG_CACHE_HOME": folder, "MINARI_DATASETS_PATH": folder / "minari", "MPLCONFIGDIR": folder / "matplotlib"}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update({name: str(path) for name, path in names.items()})
    yield folder
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture
def full_disk() -> Callable[[int], AbstractContextManager[None]]:
    """`with full_disk(room)`: no file grows beyond `room` bytes; the system answers as it does when a disk is full."""
    resource = pytest.importorskip("resource")

    @contextmanager
    def full(room: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return full


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection to another machine fails the test at once, not after a timeout where there is no network."""
    connect, local = socket.socket.connect, ("127.0.0.1", "::1", "localhost")

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family == socket.AF_UNIX or (isinstance(address, tuple) and address[0] in local):
            return connect(self, address)
        raise OSError(f"tests have no network; something tried to reach {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="session")
def small_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `save_pretrained` leaves it: a two-layer GPT-2 that has learned sentences of ten words, and its
    tokenizer. Copy it to damage it."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("small-lm")
    words = ["reach", "the", "target", "with", "two", "links", "and", "a", "small", "torque"]
    text = " ".join(np.random.default_rng(0).choice(words, size=2000))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([text], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)
    size = {"vocab_size": tokenizer.get_vocab_size(), "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        lm = GPT2LMHeadModel(GPT2Config(**size, bos_token_id=0, eos_token_id=0))
        optimizer = torch.optim.AdamW(lm.parameters(), lr=1e-2)
        blocks = torch.tensor(tokenizer.encode(text).ids).unfold(0, 32, 32)  # (n, 32)
        for step in range(60):
            loss = lm(input_ids=blocks[step % 8 :: 8], labels=blocks[step % 8 :: 8]).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    lm.save_pretrained(folder)
    return folder
