"""LeRobot datasets, written in version 3.0.

    meta/info.json                                 features and their shapes, frames per second, counts
    meta/stats.json                                least, largest, mean and deviation of each feature
    meta/tasks.parquet                             one task: the environment's name
    meta/episodes/chunk-000/file-000.parquet       a row per episode: length, place, statistics
    data/chunk-000/file-000.parquet                steps, a row group per episode, files of about 100 MB
    meta/lamo.parquet                              a row per episode: its number in the source, what was seen last

The last is lamo's own, which LeRobot passes over: its layout has no place for what was seen after the last action, and
numbers episodes from 0 on. Source: huggingface/lerobot 0.4, `datasets/utils.py`, `datasets/lerobot_dataset.py`.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from lamo.data.episodes import Episodes
from lamo.data.sources.arrow import import_pyarrow
from lamo.data.sources.beside import new_folder
from lamo.data.sources.lerobot import OWN
from lamo.data.sources.minari_writer import BLOCK_BYTES
from lamo.data.sources.notes import notes_text
from lamo.errors import warn

FPS = 30
"""Frames per second where nobody says."""
FILE_BYTES, PER_CHUNK = 100 << 20, 1000
_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_SCALARS = {
    "next.reward": "float32",
    "next.done": "bool",
    "next.truncated": "bool",
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
Stats = dict[str, dict[str, np.ndarray]]


def write_lerobot(episodes: Episodes, path: str | Path, fps: float | None = None) -> Path:
    """Write a dataset's folder beside `path`, then rename it into place; return the path.

    `fps`: steps per second, from which the timestamps are made; by default what a LeRobot source said, else 30, with a
    warning. Equal data give equal bytes with one version of pyarrow, whose number is in its files. Raises `LamoError`
    where nothing can be written, or pyarrow is not installed.
    """
    path = Path(path)
    pa = import_pyarrow(path.name, "is a LeRobot dataset")
    attributes = episodes.metadata.get("attributes") or {}
    if fps is None:
        fps = attributes.get("fps")
        if not isinstance(fps, int | float) or fps <= 0:
            warn(f"{path.name}: nothing says how many steps are a second; {FPS} is written (see --fps)")
            fps = FPS
    if episodes.log_probs is not None:
        warn(f"{path.name}: LeRobot has no place for log-probabilities of actions; they are left out")
    features = _features(episodes)
    with new_folder(path) as place:
        (place / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
        whole = _write_steps(pa, episodes, place, features, fps)
        _write_own(pa, episodes, place)
        task = str(episodes.metadata.get("env") or "unknown")
        _write_tasks(pa, place, task)
        robot = attributes.get("robot_type")
        info = {
            "codebase_version": "v3.0",
            "robot_type": robot if isinstance(robot, str) else None,
            "total_episodes": len(episodes),
            "total_frames": episodes.steps,
            "total_tasks": 1,
            "chunks_size": PER_CHUNK,
            "data_files_size_in_mb": FILE_BYTES >> 20,
            "video_files_size_in_mb": 200,
            "fps": int(fps) if fps == int(fps) else fps,
            "splits": {"train": f"0:{len(episodes)}"},
            "data_path": _DATA,
            "video_path": None,
            "features": features,
        }
        stats = {name: {key: value.tolist() for key, value in each.items()} for name, each in whole.items()}
        for name, value in (("info", info), ("stats", stats)):
            (place / "meta" / f"{name}.json").write_text(json.dumps(value, indent=4), encoding="utf-8")
    return path


def _features(episodes: Episodes) -> dict[str, dict[str, Any]]:
    kind = "float32" if episodes.action_kind == "continuous" else "int64"
    action = 1 if episodes.discrete else episodes.actions.shape[1]
    return {
        "observation.state": {"dtype": "float32", "shape": [episodes.observations.shape[1]], "names": None},
        "action": {"dtype": kind, "shape": [action], "names": None},
        **{name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in _SCALARS.items()},
    }


def _write_steps(pa: Any, episodes: Episodes, place: Path, features: dict[str, Any], fps: float) -> Stats:
    """The files of steps and the table of episodes; return the statistics of all."""
    import pyarrow.parquet as parquet

    task = str(episodes.metadata.get("env") or "unknown")
    file = number = index = filled = 0
    total: Stats = {}
    with ExitStack() as listing:
        writer: Any = None
        listed: Any = None
        try:
            for block in episodes.blocks(BLOCK_BYTES):
                rows: list[dict[str, Any]] = []
                for e in range(len(block)):
                    values = _values(block, e, number, index, fps)
                    table = pa.table({name: _column(pa, values[name], features[name]) for name in features})
                    if writer is not None and filled + table.nbytes > FILE_BYTES:
                        writer.close()
                        writer, file, filled = None, file + 1, 0
                    chunk, within = divmod(file, PER_CHUNK)
                    if writer is None:
                        name = place / _DATA.format(chunk_index=chunk, file_index=within)
                        name.parent.mkdir(parents=True, exist_ok=True)
                        writer = parquet.ParquetWriter(name, table.schema)
                    writer.write_table(table)
                    stats = {name: _stats(value) for name, value in values.items()}
                    total = _pooled(total, stats)
                    steps = table.num_rows
                    rows.append(_row(number, steps, index, chunk, within, task, stats))
                    number, index, filled = number + 1, index + steps, filled + table.nbytes
                table = pa.Table.from_pylist(rows)
                if listed is None:
                    name = place / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
                    listed = listing.enter_context(parquet.ParquetWriter(name, table.schema))
                listed.write_table(table)
        finally:
            if writer is not None:
                writer.close()
    return total


def _values(block: Episodes, e: int, number: int, index: int, fps: float) -> dict[str, np.ndarray]:
    """The columns of one episode."""
    start, end = map(int, block.offsets[e : e + 2])
    steps = np.arange(end - start)
    last = steps == end - start - 1
    return {
        "observation.state": block.observations[start:end],
        "action": block.actions[start:end],
        "next.reward": block.rewards[start:end],
        "next.done": last & block.terminated[e],
        "next.truncated": last & block.truncated[e],
        "timestamp": (steps / fps).astype(np.float32),
        "frame_index": steps,
        "episode_index": np.full(len(steps), number),
        "index": steps + index,
        "task_index": np.zeros(len(steps), np.int64),
    }


def _column(pa: Any, values: np.ndarray, feature: dict[str, Any]) -> Any:
    """A feature of shape (1,) is a column of numbers, others are lists of one length."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), pa.type_for_alias(feature["dtype"]))
    size = feature["shape"][0]
    return flat if size == 1 else pa.FixedSizeListArray.from_arrays(flat, size)


def _stats(values: np.ndarray) -> dict[str, np.ndarray]:
    rows = values.reshape(len(values), -1).astype(np.float64)
    figures = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
    return {**figures, "count": np.array([len(rows)])}


def _pooled(one: Stats, two: Stats) -> Stats:
    """Statistics of both together (Chan, Golub and LeVeque 1983); `one` may be none."""
    out: Stats = {}
    for name, b in two.items():
        a = one.get(name, b)
        if name not in one:
            out[name] = b
            continue
        count = a["count"] + b["count"]
        mean = a["mean"] + (b["mean"] - a["mean"]) * (b["count"] / count)
        squares = sum(each["count"] * (each["std"] ** 2 + (each["mean"] - mean) ** 2) for each in (a, b))
        low, high = np.minimum(a["min"], b["min"]), np.maximum(a["max"], b["max"])
        out[name] = {"min": low, "max": high, "mean": mean, "std": np.sqrt(squares / count), "count": count}
    return out


def _row(number: int, steps: int, index: int, chunk: int, file: int, task: str, stats: Stats) -> dict[str, Any]:
    return {
        "episode_index": number,
        "tasks": [task],
        "length": steps,
        "data/chunk_index": chunk,
        "data/file_index": file,
        "dataset_from_index": index,
        "dataset_to_index": index + steps,
        **{f"stats/{name}/{key}": value.tolist() for name, each in stats.items() for key, value in each.items()},
        "meta/episodes/chunk_index": 0,
        "meta/episodes/file_index": 0,
    }


def _write_own(pa: Any, episodes: Episodes, place: Path) -> None:
    """What only lamo reads."""
    import pyarrow.parquet as parquet

    columns = {"episode_index": np.arange(len(episodes)), "length": episodes.lengths, "id": episodes.ids}
    table = {name: pa.array(value) for name, value in columns.items()}
    if episodes.final_observations is not None:
        width = episodes.observations.shape[1]
        flat = pa.array(np.ascontiguousarray(episodes.final_observations).reshape(-1))
        table["final_observation"] = pa.FixedSizeListArray.from_arrays(flat, width)
    whole = pa.table(table).replace_schema_metadata({b"lamo": notes_text(episodes, parts=True).encode()})
    parquet.write_table(whole, place / OWN)


def _write_tasks(pa: Any, place: Path, task: str) -> None:
    """A table whose index, as pandas has it, is the task."""
    import pyarrow.parquet as parquet

    described = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
        for name, kind, numpy in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    ]
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": described, "pandas_version": "2.2.0"}
    table = pa.table({"task_index": pa.array([0]), "task": pa.array([task])})
    parquet.write_table(
        table.replace_schema_metadata({b"pandas": json.dumps(pandas).encode()}), place / "meta" / "tasks.parquet"
    )
