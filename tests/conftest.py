"""What every test has: no network, one thread, a headless matplotlib, a cache of its own, and a seeded generator."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before the first import of torch, transformers or matplotlib, which read these once. Child processes inherit them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "Agg"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # models here are tiny: more threads cost more than they bring

import numpy as np
import pytest


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


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection to another machine fails the test at once, not after a timeout where there is no network."""
    connect, local = socket.socket.connect, ("127.0.0.1", "::1", "localhost")

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family == socket.AF_UNIX or (isinstance(address, tuple) and address[0] in local):
            return connect(self, address)
        raise OSError(f"tests have no network; something tried to reach {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
