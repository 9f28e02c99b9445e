"""LeRobot datasets, versions 2 and 3: a folder of Parquet files and what describes them. Cameras are passed over.

    meta/info.json                                version, features and their shapes, frames per second, data_path
    meta/episodes.jsonl                           v2: one line per episode, {"episode_index": 0, "length": 98, …}
    data/chunk-000/episode_000000.parquet         v2: a file per episode
    meta/episodes/chunk-000/file-000.parquet      v3: one row per episode: its length and the file it lies in
    data/chunk-000/file-000.parquet               v3: episodes end to end

What is read are `observation.state` (and `observation.environment_state`), `action`, `next.reward` and `next.done`,
unless `columns` says otherwise.
Source: huggingface/lerobot, `datasets/utils.py`, codebase versions 2.0, 2.1 and 3.0.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lamo.data.episodes import Episodes
from lamo.data.sources.arrow import import_pyarrow, numbers
from lamo.data.sources.cells import gather_rows
from lamo.data.sources.columns import FILE, Columns, map_columns
from lamo.data.sources.flat import check_bomb, check_fits
from lamo.data.sources.folders import inside, read_object
from lamo.data.sources.notes import CARRIED, PARTS, read_notes
from lamo.data.sources.options import ReadOptions, listed
from lamo.data.sources.row_blocks import table_episodes
from lamo.data.sources.rows import episodes_of_rows
from lamo.data.sources.tables import describe, open_table
from lamo.errors import LamoError, warn

INFO = Path("meta") / "info.json"
OWN = Path("meta") / "lamo.parquet"
"""What lamo leaves in a dataset that it writes: numbers of episodes, what was seen last, notes."""
_PATHS = {
    2: "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    3: "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
}
_CAMERAS = ("video", "image")
_FIELD = re.compile(r"\{(\w+)(?::0?([1-9])d)?\}")


def read_lerobot(path: Path, source: str, options: ReadOptions) -> Episodes:
    """A LeRobot folder -> Episodes; its number of frames per second and names of features land in `metadata`.

    Raises `LamoError` for another version, a file that is missing or outside the folder, features without state, action
    or (unless `options.reward` is "none") reward, and rows that are not what `meta` says of them.
    """
    (episodes,) = lerobot_blocks(path, source, options, None)
    return episodes


def lerobot_blocks(path: Path, source: str, options: ReadOptions, size: int | None) -> Iterator[Episodes]:
    """The same in blocks of about `size` bytes, None: in one. Rows that may have to be sorted are in one."""
    import_pyarrow(source, "is a LeRobot dataset")
    info = read_object(path / INFO, path, source)
    version = re.fullmatch(r"v?([23])(\.\d+)*", str(info.get("codebase_version")))
    if version is None:
        raise LamoError(
            f"{source}: LeRobot version {str(info.get('codebase_version'))[:40]!r} is not read; versions 2 and 3 are, "
            "and lerobot's scripts convert older ones"
        )
    features = _features(info, source)
    columns = map_columns(options.columns, list(features), source, reward=options.reward is None)
    if options.reward == "none":
        columns = replace(columns, reward=None)
    if columns.episode in (None, FILE):
        raise LamoError(f"{source}: features have no episode_index, which says where episodes begin")
    _tell_unused(columns, features, source)
    lengths, files = _episodes_v2(path, info, source) if version[1] == "2" else _episodes_v3(path, info, source)
    held = size is None or columns.may_sort
    tables = [
        open_table(file, "parquet", columns.names(), f"{source}/{name}", held=held) for name, file in files.items()
    ]
    if any("string" in str(table.schema.field(str(columns.episode)).type) for table in tables):
        raise LamoError(f"{source}: column {columns.episode!r} holds text; LeRobot's episodes are numbered")
    stored = sum(file.stat().st_size for file in files.values())
    described = {key: info[key] for key in ("robot_type", "fps", "codebase_version") if _is_plain(info.get(key))}
    metadata: dict[str, Any] = {
        "source": source,
        "format": "lerobot",
        "env": None,
        "action_low": None,
        "action_high": None,
        "attributes": described,
        "columns": describe(columns),
    }
    own = _own(path, lengths, source)
    if "obs" in columns.said:  # of other columns it says nothing
        own = replace(own, final=None)
    carried = (*CARRIED, *(() if "obs" in columns.said else PARTS))
    metadata |= {key: own.notes[key] for key in carried if key in own.notes}
    if options.actions is None and "actions" in own.notes:
        options = replace(options, actions=own.notes["actions"])
    if size is None or held:
        rows = gather_rows(tables, columns, source, stored)
        found = iter([episodes_of_rows(rows, source, metadata, options, per_file=False, may_sort=columns.may_sort)])
    else:
        found = table_episodes(tables, columns, source, stored, metadata, options, size)
    there: dict[int, int] = {}
    for episodes in found:
        sizes = {"obs": episodes.observations.shape[1], "action": math.prod(episodes.actions.shape[1:])}
        for role, count in sizes.items():
            wanted = sum(math.prod(features[name]) for name in getattr(columns, role))
            if count != wanted:
                raise LamoError(
                    f"{source}: {listed(getattr(columns, role))} have {count} numbers, info.json says {wanted}"
                )
        there |= dict(zip(episodes.ids.tolist(), episodes.lengths.tolist(), strict=True))
        yield own.given_to(episodes)
    _check_lengths(there, lengths, source)


@dataclass(frozen=True)
class _Own:
    """What lamo left: (E,) numbers, (E, S) last observations; None where nothing is."""

    notes: dict[str, Any]
    ids: np.ndarray | None = None
    final: np.ndarray | None = None

    def given_to(self, episodes: Episodes) -> Episodes:
        """The episodes, which are numbered from 0 on, with what is known of them."""
        if self.ids is None:
            return episodes
        final = None if self.final is None else self.final[episodes.ids]
        if final is not None and np.isnan(final).all():
            final = None
        return replace(episodes, ids=self.ids[episodes.ids], final_observations=final).validate()


def _own(path: Path, lengths: dict[int, int], source: str) -> _Own:
    if not (path / OWN).is_file():
        return _Own({})
    name = f"{source}/{OWN.as_posix()}"
    columns = ["episode_index", "length", "id"]
    file = inside(path / OWN, path, source)
    table = open_table(file, "parquet", columns, name)
    last = "final_observation" in table.schema.names
    table = open_table(file, "parquet", [*columns, "final_observation"], name) if last else table
    found: dict[str, list[np.ndarray]] = {key: [] for key in (*columns, "final_observation")}
    check_bomb(8 * table.rows * len(columns), file.stat().st_size, name)
    for batch in table.batches:
        for key in found if last else columns:
            found[key].append(numbers(batch[key], f"{name}: column {key!r}"))
    values = {key: np.concatenate(each) for key, each in found.items() if each}
    if not values or any(values[key].dtype.kind not in "iu" or values[key].ndim != 1 for key in columns):
        raise LamoError(f"{name}: {listed(columns)} must be whole numbers; remove the file")
    if dict(zip(values["episode_index"].tolist(), values["length"].tolist(), strict=True)) != lengths:
        warn(f"{name} is of other episodes than those that are there; it is passed over")
        return _Own({})
    ids, final = values["id"].astype(np.int64), values.get("final_observation")
    if set(lengths) != set(range(len(lengths))) or len(np.unique(ids)) < len(ids):
        raise LamoError(f"{name} numbers two episodes alike, or not from 0 on; remove the file")
    if final is not None:
        with np.errstate(over="ignore"):  # what is too large for float32 becomes inf, which `validate` reports
            final = np.asarray(final, np.float32).reshape(len(ids), -1)
    return _Own(read_notes((table.schema.metadata or {}).get(b"lamo"), name), ids, final)


def _is_plain(value: Any) -> bool:
    return (isinstance(value, int | float) and math.isfinite(value)) or (isinstance(value, str) and len(value) < 1000)


def _features(info: dict[str, Any], source: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what is in the Parquet files; cameras are not."""
    out: dict[str, tuple[int, ...]] = {}
    try:
        for name, feature in dict(info["features"]).items():
            if feature["dtype"] not in _CAMERAS:
                out[name] = tuple(feature["shape"])
                if not all(type(size) is int and 0 <= size < 1 << 32 for size in out[name]):
                    raise ValueError(f"shape of {name}")
    except (KeyError, TypeError, ValueError) as error:
        raise LamoError(f"{source}: info.json does not say type and shape of each feature ({error!r})") from error
    return out


def _tell_unused(columns: Columns, features: dict[str, tuple[int, ...]], source: str) -> None:
    if "obs" in columns.said:
        return
    others = [name for name in features if name.startswith("observation.") and name not in columns.obs]
    if others:
        warn(f"{source}: observations are {listed(columns.obs)}; {listed(others)} are left out (see --columns obs=…)")


def _check_lengths(found: dict[int, int], lengths: dict[int, int], source: str) -> None:
    if found == lengths:
        return
    number = min({*found, *lengths}, key=lambda n: (found.get(n) == lengths.get(n), n))
    raise LamoError(
        f"{source}: episode {number} has {found.get(number, 0)} rows in data, but meta says {lengths.get(number, 0)}; "
        "copy the whole folder again"
    )


def _episodes_v2(path: Path, info: dict[str, Any], source: str) -> tuple[dict[int, int], dict[str, Path]]:
    """Lengths by episode, and the files by name, from `meta/episodes.jsonl`."""
    listing = inside(path / "meta" / "episodes.jsonl", path, source)
    chunk = info.get("chunks_size", 1000)
    if type(chunk) is not int or chunk < 1:
        raise LamoError(f"{source}: info.json: chunks_size must be a whole number from 1 on")
    lengths: dict[int, int] = {}
    try:
        check_fits(4 * listing.stat().st_size, f"{source}/episodes.jsonl")
        for line in listing.read_text(encoding="utf-8").splitlines():
            if line.strip():
                row = json.loads(line)
                _note(lengths, row["episode_index"], row["length"], source)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise LamoError(f"{source}: meta/episodes.jsonl is not readable ({error!r})") from error
    places = [{"episode_chunk": number // chunk, "episode_index": number} for number in lengths]
    return lengths, _files(path, info, 2, places, source)


def _episodes_v3(path: Path, info: dict[str, Any], source: str) -> tuple[dict[int, int], dict[str, Path]]:
    """Lengths by episode, and the files by name, from the tables under `meta/episodes`."""
    names = ("episode_index", "length", "data/chunk_index", "data/file_index")
    listings = sorted((path / "meta" / "episodes").glob("*/*.parquet"))
    if not listings:
        raise LamoError(f"{source}: meta/episodes holds no Parquet file; copy the whole folder again")
    lengths: dict[int, int] = {}
    places: dict[tuple[int, int], dict[str, int]] = {}
    for listing in listings:
        name = f"{source}/{listing.relative_to(path)}"
        table = open_table(inside(listing, path, source), "parquet", names, name)
        check_bomb(32 * table.rows, listing.stat().st_size, name)
        for batch in table.batches:
            values = [numbers(batch[column], f"{name}: column {column!r}") for column in names]
            if any(value.dtype.kind not in "iu" or value.ndim != 1 for value in values):
                raise LamoError(f"{name}: {listed(names)} must be whole numbers")
            for number, length, chunk, file in zip(*(value.tolist() for value in values), strict=True):
                _note(lengths, number, length, source)
                places[chunk, file] = {"chunk_index": chunk, "file_index": file}
    return lengths, _files(path, info, 3, [places[key] for key in sorted(places)], source)


def _note(lengths: dict[int, int], number: Any, length: Any, source: str) -> None:
    if type(number) is not int or type(length) is not int or not 0 <= number < 1 << 62 or length < 1:
        raise LamoError(f"{source}: meta says episode {number!r:.40} has length {length!r:.40}")
    if number in lengths:
        raise LamoError(f"{source}: meta lists episode {number} twice")
    lengths[number] = length


def _files(
    path: Path, info: dict[str, Any], version: int, places: list[dict[str, int]], source: str
) -> dict[str, Path]:
    """The Parquet files by their names, each inside the folder and there. `data_path` is a template of others: only
    plain numbers are put into it.
    """
    template = info.get("data_path", _PATHS[version])
    fields = {name for name, _ in _FIELD.findall(_PATHS[version])}
    if not isinstance(template, str) or not {name for name, _ in _FIELD.findall(template)} <= fields:
        raise LamoError(f"{source}: info.json: data_path must be a path with {listed(sorted(fields))} in it")
    if re.search(r"[{}]", _FIELD.sub("", template)):
        raise LamoError(f"{source}: info.json: data_path {template[:80]!r} has braces that mean nothing")
    out: dict[str, Path] = {}
    for place in places:
        name = _FIELD.sub(lambda match, place=place: f"{place[match[1]]:0{match[2] or 1}d}", template)
        if name in out:
            raise LamoError(f"{source}: info.json: data_path {template[:80]!r} gives several files one name, {name!r}")
        out[name] = inside(path / name, path, source)
        if not out[name].is_file():
            raise LamoError(f"{source}: {name} is missing; copy the whole folder again")
    if not out:
        raise LamoError(f"{source}: meta lists no episodes; an offline dataset needs at least one transition")
    return out
