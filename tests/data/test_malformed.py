"""Malformed files, a few for each reader; `test_malformed_slow.py` takes thousands."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from malformed import READERS, malformed, read

from lamo.data import SOURCES


def test_every_reader_is_tried():
    assert set(READERS) == set(SOURCES)


@pytest.mark.parametrize("reader", READERS)
def test_the_files_are_sound_before_they_are_harmed(reader, tmp_path):
    for arrays, write, options in READERS[reader]:
        assert read(write(arrays), options, tmp_path) == "read"


@pytest.mark.parametrize("reader", READERS)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_malformed_files_are_refused_or_read(reader: str, data: st.DataObject, tmp_path: Path):
    read(*data.draw(malformed(reader)), tmp_path)
