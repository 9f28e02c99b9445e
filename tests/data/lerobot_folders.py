"""LeRobot datasets as its documentation describes them, written with pyarrow alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

from lamo.data import Episodes


def write_lerobot(
    episodes: Episodes,
    folder: Path,
    version: int = 3,
    *,
    per_file: int = 2,
    reward: bool = True,
    camera: bool = True,
    ends: bool = True,
    info: dict[str, Any] | None = None,
) -> Path:
    """Version 2.1 (a file per episode) or 3.0 (`per_file` episodes per file), with a camera that nobody reads."""
    width = episodes.observations.shape[1]
    features: dict[str, dict[str, Any]] = {
        "observation.state": {"dtype": "float32", "shape": [width], "names": [f"joint_{i}" for i in range(width)]},
        "action": {"dtype": "int64", "shape": [1], "names": None}
        if episodes.discrete
        else {"dtype": "float32", "shape": [episodes.actions.shape[1]], "names": None},
    }
    if camera:
        features["observation.images.wrist"] = {"dtype": "video", "shape": [48, 64, 3], "names": None}
    scalars = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64"}
    scalars |= {"task_index": "int64", **({"next.reward": "float32"} if reward else {})}
    scalars |= {"next.done": "bool", "next.truncated": "bool"} if ends else {}
    features |= {name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in scalars.items()}
    template = {
        2: "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        3: "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    }[version]
    described = {
        "codebase_version": {2: "v2.1", 3: "v3.0"}[version],
        "robot_type": "so100",
        "total_episodes": len(episodes),
        "total_frames": episodes.steps,
        "total_tasks": 1,
        "chunks_size": 3,
        "fps": 30,
        "splits": {"train": f"0:{len(episodes)}"},
        "data_path": template,
        "features": features,
    }
    (folder / "meta").mkdir(parents=True)
    (folder / "meta" / "info.json").write_text(json.dumps({**described, **(info or {})}, indent=4))
    rows = []
    for number in range(len(episodes)):
        chunk, file = (number // 3, number) if version == 2 else (0, number // per_file)
        rows.append({"number": number, "chunk": chunk, "file": file, "length": int(episodes.lengths[number])})
    _write_data(episodes, folder, version, rows, features)
    if version == 2:
        lines = [{"episode_index": r["number"], "tasks": ["reach"], "length": r["length"]} for r in rows]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "meta" / "episodes.jsonl").write_text(text)
    else:
        table = pa.table(
            {
                "episode_index": [r["number"] for r in rows],
                "tasks": [["reach"] for _ in rows],
                "length": [r["length"] for r in rows],
                "data/chunk_index": [r["chunk"] for r in rows],
                "data/file_index": [r["file"] for r in rows],
                "dataset_from_index": episodes.offsets[:-1],
                "dataset_to_index": episodes.offsets[1:],
            }
        )
        path = folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
        path.parent.mkdir(parents=True)
        parquet.write_table(table, path)
    return folder


def _write_data(episodes: Episodes, folder: Path, version: int, rows: list[dict], features: dict) -> None:
    files: dict[Path, list[pa.Table]] = {}
    for row in rows:
        number, start, stop = row["number"], *map(int, episodes.offsets[row["number"] : row["number"] + 2])
        steps = np.arange(stop - start)
        last = steps == stop - start - 1
        columns: dict[str, Any] = {
            "observation.state": _lists(episodes.observations[start:stop]),
            "action": episodes.actions[start:stop] if episodes.discrete else _lists(episodes.actions[start:stop]),
            "timestamp": (steps / 30).astype(np.float32),
            "frame_index": steps,
            "episode_index": np.full(len(steps), number),
            "index": np.arange(start, stop),
            "task_index": np.zeros(len(steps), np.int64),
            "next.reward": episodes.rewards[start:stop],
            "next.done": last & episodes.terminated[number],
            "next.truncated": last & episodes.truncated[number],
        }
        table = pa.table({name: value for name, value in columns.items() if name in features})
        name = f"episode_{number:06d}" if version == 2 else f"file-{row['file']:03d}"
        files.setdefault(folder / "data" / f"chunk-{row['chunk']:03d}" / f"{name}.parquet", []).append(table)
    for path, tables in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with parquet.ParquetWriter(path, tables[0].schema) as writer:  # a row group per episode, as LeRobot writes them
            for table in tables:
                writer.write_table(table)


def _lists(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
