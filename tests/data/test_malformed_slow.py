"""Thousands of malformed files for each reader: one line comes of it or a sound dataset, in little time and memory."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from malformed import READERS, malformed, read

EXAMPLES = 2_500


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_thousands_of_malformed_files(reader: str, tmp_path: Path):
    came: Counter[str] = Counter()

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), derandomize=False, database=None)
    @given(data=st.data())
    def harm(data: st.DataObject) -> None:
        came[read(*data.draw(malformed(reader)), tmp_path)] += 1

    harm()
    assert sum(came.values()) >= 2_000
    assert came["refused"] >= 500, came  # harm that nobody notices would test nothing
