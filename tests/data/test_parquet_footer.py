"""The footer's own counts: those that pyarrow gives, and an error for whatever is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamo.data.sources import load_episodes
from lamo.data.sources.parquet_footer import Chunk, chunks
from lamo.errors import LamoError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

COLUMNS = {
    "n": st.integers(-5, 5),
    "x": st.floats(allow_nan=False),
    "text": st.text(max_size=20),
    "yes": st.booleans(),
    "many": st.lists(st.floats(0, 1), max_size=5),
    "inner": st.fixed_dictionaries({"a": st.integers(0, 3), "b": st.lists(st.integers(0, 3), max_size=3)}),
}


def told(path: Path) -> list[Chunk]:
    about = parquet.read_metadata(path)
    found = [
        about.row_group(g).column(n) for g in range(about.num_row_groups) for n in range(about.row_group(g).num_columns)
    ]
    return [Chunk(each.path_in_schema, each.num_values, each.total_uncompressed_size) for each in found]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_it_says_what_pyarrow_says(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(sorted(COLUMNS)), unique=True, min_size=1))
    rows = data.draw(st.lists(st.fixed_dictionaries({name: COLUMNS[name] for name in names}), max_size=40))
    table = pa.Table.from_pylist(rows) if rows else pa.table({"n": pa.array([], pa.int64())})
    table = table.replace_schema_metadata({"what": "x" * data.draw(st.integers(0, 300))})
    path = tmp_path_factory.mktemp("footer") / "a.parquet"
    options = {
        "row_group_size": data.draw(st.integers(1, 50)),
        "compression": data.draw(st.sampled_from(["none", "gzip"])),
        "write_statistics": data.draw(st.booleans()),
        "write_page_index": data.draw(st.booleans()),
    }
    parquet.write_table(table, path, **options)
    assert chunks(path) == told(path)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_is_in_a_footer_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("footer") / "a.parquet"
    parquet.write_table(pa.table({"a": [1.0, 2.0], "b": [[1, 2], [3]]}), path)
    whole = bytearray(path.read_bytes())
    size = int.from_bytes(whole[-8:-4], "little")
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(len(whole) - 8 - size, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.sampled_from([len(whole), len(whole) - 1, 9, 3, 0]))])
    try:
        assert all(isinstance(each.values, int) and isinstance(each.size, int) for each in chunks(path))
    except ValueError as error:
        assert str(error)


def test_a_footer_that_ends_pyarrow_is_one_line(tmp_path: Path) -> None:
    """Counts of nesting levels that do not fit the schema: pyarrow's accessor (26.0.1) ends the process, at a byte of
    each column."""
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({name: [0.5, 1.5] for name in ("obs_0", "action_0", "reward", "episode")}), path)
    whole = path.read_bytes()
    size = int.from_bytes(whole[-8:-4], "little")
    said = set()
    for place in range(len(whole) - 8 - size, len(whole) - 8 - size + 100):  # the schema comes first
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            load_episodes(path)
        except LamoError as error:
            said.add(str(error))
    assert said and not any("\n" in each for each in said)
