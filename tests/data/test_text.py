"""Text: what is read, what is refused, and blocks that never lose or repeat a token within a pass."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamo.data import text
from lamo.errors import LamoError


def test_plain_and_gzipped_text_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("héllo\n", encoding="utf-8")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress("héllo\n".encode()))
    assert text.read_text([tmp_path / "a.txt"]) == text.read_text([tmp_path / "a.txt.gz"]) == "héllo\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"\xff\xfe\x00", "not text"),
        (b"abc\x00def", "NUL"),
        (gzip.compress(b"hello" * 1000)[:20], "damaged gzip"),
        (gzip.compress(b"\xff\xfa"), "not text"),
    ],
)
def test_what_is_not_text_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_bytes(content)
    with pytest.raises(LamoError, match=words) as caught:
        text.read_text([path])
    assert str(path) in str(caught.value)


@given(st.text(alphabet="ab \n", max_size=200), st.integers(1, 20))
@settings(max_examples=50, deadline=None)
def test_pieces_join_to_the_text(string: str, size: int) -> None:
    assert "".join(text.pieces(string, size)) == string


@given(st.integers(2, 300), st.integers(1, 20), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_a_pass_never_reads_a_token_twice(n: int, length: int, number: int) -> None:
    ids = np.arange(n)
    starts = text.epoch_blocks(ids, length, number, seed=0)
    read = (starts[:, None] + np.arange(length)).ravel()
    assert len(np.unique(read)) == len(read)
    assert n < length or len(starts) >= (n - length) // length
    assert read.size == 0 or read.max() < n


def test_random_blocks_are_consecutive_and_seeded() -> None:
    ids = np.arange(100, dtype=np.uint16)
    a, b = (text.random_blocks(ids, 7, 5, np.random.default_rng(1)) for _ in range(2))
    assert np.array_equal(a, b)
    assert np.array_equal(np.diff(a), np.ones((5, 6)))
    with pytest.raises(LamoError, match="fewer than one block"):
        text.random_blocks(ids, 101, 1, np.random.default_rng(1))


def test_references() -> None:
    ids = np.asarray([0, 1, 0, 1])
    assert text.unigram_bits_per_byte(ids, ids, 2, 4) == pytest.approx(1.0)
    assert text.gzip_bits_per_byte("a" * 10_000) < 0.1
