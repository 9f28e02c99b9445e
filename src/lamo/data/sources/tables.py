"""CSV and Parquet: a file, or a folder of them, one row per step; `columns` says which column is what.

run,t,x,y,vx,ux,r        --columns obs=x,y,vx action=ux reward=r episode=run time=t
0,0.00,0.1,0.0,0.3,-1,0
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lamo.data.episodes import BLOCK, Episodes
from lamo.data.sources.arrow import import_pyarrow, open_parquet, reading
from lamo.data.sources.beside import new_file
from lamo.data.sources.cells import Table, gather_rows
from lamo.data.sources.columns import FILE, Columns, map_columns
from lamo.data.sources.flat import check_fits
from lamo.data.sources.folders import inside, natural
from lamo.data.sources.notes import CARRIED, notes_text, read_notes
from lamo.data.sources.options import ReadOptions, listed
from lamo.data.sources.row_blocks import table_episodes
from lamo.data.sources.rows import episodes_of_rows
from lamo.errors import LamoError, warn

SUFFIXES = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".pq": "parquet"}
_NOTES = b"lamo"  # where `write_table` leaves what columns cannot say, in a Parquet file's metadata
_WRITTEN = 1 << 25  # bytes of steps that become a row group


def table_files(folder: Path) -> list[Path]:
    """The tables right inside a folder, `run_2` before `run_10`; hidden files and those that begin with `_` are not."""
    return sorted(
        (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] not in "._"),
        key=lambda path: natural(path.name),
    )


def read_tables(path: Path, source: str, options: ReadOptions) -> Episodes:
    """A `.csv`, `.tsv` or `.parquet` file, or a folder of files of one of these formats -> Episodes.

    Columns of numbers, or of equally long lists of numbers. Raises `LamoError` for columns that are neither mapped nor
    known, missing or empty values, rows that are no episodes (see `rows.py`), and what pyarrow cannot read.
    """
    (episodes,) = table_blocks(path, source, options, None)
    return episodes


def table_blocks(path: Path, source: str, options: ReadOptions, size: int | None) -> Iterator[Episodes]:
    """The same in blocks of about `size` bytes, None: in one. Rows that may have to be sorted are in one."""
    import_pyarrow(source, "is a table")
    paths = table_files(path) if path.is_dir() else [path]
    kinds = {SUFFIXES[each.suffix.lower()] for each in paths}
    if len(kinds) != 1:
        raise LamoError(f"{source}: holds both CSV and Parquet files; give a folder of one kind, or a file")
    kind = kinds.pop()
    names = [f"{source}/{each.name}" if path.is_dir() else source for each in paths]
    files = [inside(each, path, source) if path.is_dir() else each for each in paths]
    present = _header(files[0], kind, names[0])
    columns = map_columns(options.columns, present, names[0], reward=options.reward is None)
    if options.reward == "none":
        columns = replace(columns, reward=None)
    held = size is None or columns.may_sort
    tables = [open_table(file, kind, columns.names(), name, held=held) for file, name in zip(files, names, strict=True)]
    metadata: dict[str, Any] = {
        "source": source,
        "format": kind,
        "env": None,
        "action_low": None,
        "action_high": None,
        "attributes": {},
        "columns": describe(columns),
    }
    notes = read_notes((tables[0].schema.metadata or {}).get(_NOTES), names[0]) if kind == "parquet" else {}
    metadata |= {key: notes[key] for key in CARRIED if key in notes}
    if options.actions is None and "actions" in notes:
        options = replace(options, actions=notes["actions"])
    stored = sum(file.stat().st_size for file in files) if kind == "parquet" else None
    if size is not None and not held:
        yield from table_episodes(tables, columns, source, stored, metadata, options, size)
        return
    rows = gather_rows(tables, columns, source, stored)
    yield episodes_of_rows(rows, source, metadata, options, per_file=columns.episode == FILE, may_sort=columns.may_sort)


def describe(columns: Columns) -> dict[str, Any]:
    """Which column was read as what, for the metadata."""
    roles = {"obs": list(columns.obs), "action": list(columns.action)}
    single = {role: getattr(columns, role) for role in ("reward", "episode", "time", "terminated", "truncated")}
    return roles | {role: name for role, name in single.items() if name is not None}


def _header(path: Path, kind: str, name: str) -> list[str]:
    """The names of a file's columns."""
    if kind == "parquet":
        return list(_parquet_head(path, name)[1].names)
    import pyarrow.csv as csv

    with reading(name, "not readable as CSV"), csv.open_csv(path, parse_options=_parsing(path)) as reader:
        present = list(reader.schema.names)
    for mark, word in ((";", "semicolons"), ("\t", "tabs")):
        if len(present) == 1 and mark in present[0]:
            raise LamoError(f"{name}: columns are separated by {word}; save it with commas (.csv) or with tabs (.tsv)")
    return present


def _parsing(path: Path) -> Any:
    import pyarrow.csv as csv

    return csv.ParseOptions(delimiter="\t" if path.suffix.lower() == ".tsv" else ",")


def _parquet_head(path: Path, name: str) -> tuple[int, Any]:
    """How many rows a file says it holds, and its schema."""
    import pyarrow.parquet as parquet

    with reading(name, "not a whole Parquet file"), parquet.ParquetFile(path) as file:
        return file.metadata.num_rows, file.schema_arrow


def open_table(path: Path, kind: str, wanted: Sequence[str], name: str, *, held: bool = True) -> Table:
    """A file with these columns; CSV is read, Parquet when its batches are asked for, all to be `held` or not.

    Raises `LamoError` where a column is missing or there twice.
    """
    rows, schema = _parquet_head(path, name) if kind == "parquet" else (0, None)
    present = list(schema.names) if schema is not None else _header(path, kind, name)
    for column in wanted:
        if (count := present.count(column)) != 1:
            what = "is missing" if count == 0 else f"is there {count} times"
            raise LamoError(f"{name}: column {column!r} {what}; the columns are {listed(present)}")
    if kind == "parquet":
        if rows < 0:
            raise LamoError(f"{name}: says it holds {rows} rows; copy or download it again")
        return Table(name, rows, schema, _parquet_batches(path, list(wanted), name, held))
    return _open_csv(path, list(wanted), name)


def _open_csv(path: Path, wanted: list[str], name: str) -> Table:
    """A CSV file, walked through twice: once for its number of rows and the types that hold for all of them.

    Types are taken from its first MiB. Where a later row does not fit them, columns of whole numbers that have a
    fraction later are numbers with fractions. Where that is not it (names after numbers, true after 1), the file is
    read whole instead, from which pyarrow finds types that do; that takes several times the memory.
    """
    import pyarrow as pa
    import pyarrow.csv as csv

    def stream(types: Any = None) -> Any:
        convert = csv.ConvertOptions(include_columns=wanted, column_types=types)
        return csv.open_csv(path, parse_options=_parsing(path), convert_options=convert)

    def batches(schema: Any) -> Iterator[Any]:
        with reading(name, "not readable as CSV"), stream(schema) as reader:
            yield from reader

    def counted(types: Any = None) -> Table:
        with stream(types) as reader:
            return Table(name, sum(batch.num_rows for batch in reader), reader.schema, batches(reader.schema))

    with reading(name, "not readable as CSV"):
        with suppress(pa.ArrowInvalid):
            return counted()
        try:
            return counted(_with_fractions(stream))
        except pa.ArrowInvalid:  # the reading of the whole file says whether it is torn
            check_fits(8 * path.stat().st_size, name)  # `0,` are two bytes, their number has eight, and a copy four
            convert = csv.ConvertOptions(include_columns=wanted)
            table = csv.read_csv(path, parse_options=_parsing(path), convert_options=convert)
    return Table(name, table.num_rows, table.schema, iter(table.to_batches(max_chunksize=BLOCK)))


def _with_fractions(stream: Callable[[Any], Any]) -> Any:
    """The types of the first MiB, but for columns of whole numbers there that are not everywhere."""
    import pyarrow as pa
    import pyarrow.compute as pc

    with stream(None) as reader:
        schema = reader.schema
    whole = {field.name for field in schema if pa.types.is_integer(field.type)}
    others = set()
    with stream({column: pa.string() for column in whole}) as reader:
        for batch in reader:
            for column in whole - others:
                try:
                    pc.call_function("utf8_trim_whitespace", [batch[column]]).cast(pa.int64())
                except pa.ArrowInvalid:
                    others.add(column)
    return pa.schema([(field.name, pa.float64() if field.name in others else field.type) for field in schema])


def _parquet_batches(path: Path, wanted: list[str], name: str, held: bool) -> Iterator[Any]:
    # opened when it is its turn: there may be more files than a process may open
    with open_parquet(path, wanted, name, held=held) as file:
        with reading(name, "not a whole Parquet file"):
            # `columns` takes what begins with a name as well, so the names are chosen again
            batches = iter(file.iter_batches(batch_size=BLOCK, columns=wanted, use_threads=False))
        while True:
            with reading(name, "not a whole Parquet file"):
                batch = next(batches, None)
                if batch is None:
                    return
                batch.validate(full=True)
                batch = batch.select(wanted)
            yield batch


def write_table(episodes: Episodes, path: str | Path) -> Path:
    """Write a `.csv`, `.tsv` or `.parquet` table beside `path`, then rename it into place; return the path.

    Columns, all of which are known when it is read: `episode`, `step`, `obs_0` …, `action_0` … (discrete: `action`),
    `reward`, `terminated`, `truncated`. What was seen after the last actions has no row there, log-probabilities have
    no column: they are left out, with a warning. Raises `LamoError` where the file cannot be written, or for another
    suffix.
    """
    path = Path(path)
    pa = import_pyarrow(path.name, "is a table")
    import pyarrow.csv as csv
    import pyarrow.parquet as parquet

    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise LamoError(f"{path}: tables are written as {', '.join(SUFFIXES)}")
    if episodes.final_observations is not None:
        warn(f"{path.name}: a table has no place for what was seen after the last action of an episode; it is left out")
    if episodes.log_probs is not None:
        warn(f"{path.name}: a table has no place for log-probabilities of actions; they are left out")
    schema = _table_of(pa, episodes.select([0])).schema.with_metadata({_NOTES: notes_text(episodes)})
    with new_file(path) as beside:
        if kind == "parquet":
            opened = parquet.ParquetWriter(beside, schema)
        else:
            tabs = "\t" if path.suffix.lower() == ".tsv" else ","
            opened = csv.CSVWriter(
                beside, schema, write_options=csv.WriteOptions(delimiter=tabs, quoting_style="needed")
            )
        with opened as writer:
            for block in episodes.blocks(_WRITTEN):
                writer.write_table(_table_of(pa, block).replace_schema_metadata(schema.metadata))
    return path


def _table_of(pa: Any, episodes: Episodes) -> Any:
    """A row per step, as `write_table` writes them."""
    last = episodes.offsets[1:] - 1
    ends = {"terminated": np.zeros(episodes.steps, bool), "truncated": np.zeros(episodes.steps, bool)}
    for name, flags in ends.items():
        flags[last] = getattr(episodes, name)
    step = np.arange(episodes.steps) - np.repeat(episodes.offsets[:-1], episodes.lengths)
    actions = {"action": episodes.actions}
    if episodes.actions.ndim == 2:
        actions = {f"action_{i}": episodes.actions[:, i] for i in range(episodes.actions.shape[1])}
    return pa.table(
        {
            "episode": np.repeat(episodes.ids, episodes.lengths),
            "step": step,
            **{f"obs_{i}": episodes.observations[:, i] for i in range(episodes.observations.shape[1])},
            **actions,
            "reward": episodes.rewards,
            **ends,
        }
    )
