"""Memory and time of reading a log in each format: the dataset should be in memory about once.

    python benchmarks/reading.py [--quick]

1 M steps (1 000 episodes, 17 + 6 numbers; `--quick`: a tenth) as h5py, numpy, pyarrow and Python write them. Each is
read in a process of its own; memory is how much its anonymous resident memory rises, sampled every 5 ms (Linux only),
less the bytes of the arrays that come of it. The seconds are the processor's, of one reading.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as parquet
from common import ACTIONS, OBSERVATIONS, Row, at_most, options, tell

from lamo.data import load_episodes

LENGTH = 1000
BEYOND = 150  # MiB that buffers of columns, coded pages and libraries may take, whatever the size of the log
Arrays = dict[str, np.ndarray]


def some_arrays(steps: int) -> Arrays:
    rng = np.random.default_rng(0)
    return {
        "observations": rng.normal(size=(steps, OBSERVATIONS)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (steps, ACTIONS)).astype(np.float32),
        "rewards": rng.normal(size=steps).astype(np.float32),
        "terminals": np.zeros(steps, bool),
        "timeouts": np.arange(steps) % LENGTH == LENGTH - 1,
    }


def flat(path: Path, arrays: Arrays) -> None:
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            file.create_dataset(key, data=value, compression="gzip", compression_opts=1)


def pickled(path: Path, arrays: Arrays) -> None:
    parts = {key: np.split(value, len(value) // LENGTH) for key, value in arrays.items()}
    episodes = range(len(parts["rewards"]))
    path.write_bytes(pickle.dumps([{key: parts[key][e] for key in parts} for e in episodes]))


def minari(path: Path, arrays: Arrays) -> None:
    """Chunked float64, and one observation more than steps, as Minari has them."""
    names = {"actions": "actions", "rewards": "rewards", "terminals": "terminations", "timeouts": "truncations"}
    with h5py.File(path, "w") as file:
        for e, start in enumerate(range(0, len(arrays["rewards"]), LENGTH)):
            seen = arrays["observations"][start : start + LENGTH]
            group = file.create_group(f"episode_{e}")
            group.create_dataset("observations", data=np.concatenate([seen, seen[:1]]), dtype="f8", chunks=True)
            for key, name in names.items():
                group.create_dataset(name, data=arrays[key][start : start + LENGTH], chunks=True)


def lists(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])


def minari_arrow(path: Path, arrays: Arrays) -> None:
    (path / "data").mkdir(parents=True)
    (path / "data" / "metadata.json").write_text(json.dumps({"data_format": "arrow"}))
    for e, start in enumerate(range(0, len(arrays["rewards"]), LENGTH)):
        rows = [*range(start, start + LENGTH), start]
        names = {"terminals": "terminations", "timeouts": "truncations"}
        part = {names.get(key, key): value[rows] for key, value in arrays.items()}
        table = pa.table({key: lists(value) if value.ndim == 2 else value for key, value in part.items()})
        (path / "data" / str(e)).mkdir()
        file = path / "data" / str(e) / "part-0.arrow"
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)


def tabled(arrays: Arrays, wide: bool) -> pa.Table:
    """Columns that are known by their names: one per number (`wide`), or lists."""
    steps = np.arange(len(arrays["rewards"]))
    columns = {"episode": steps // LENGTH, "step": steps % LENGTH}
    for key, name in (("observations", "obs"), ("actions", "action")):
        values = arrays[key]
        columns |= {f"{name}_{i}": values[:, i] for i in range(values.shape[1])} if wide else {name: lists(values)}
    ends = {"reward": "rewards", "terminated": "terminals", "truncated": "timeouts"}
    return pa.table(columns | {name: arrays[key] for name, key in ends.items()})


FORMATS: dict[str, Callable[[Path, Arrays], object]] = {
    "D4RL.hdf5": flat,
    "plain.npz": lambda path, arrays: np.savez(path, **arrays),
    "packed.npz": lambda path, arrays: np.savez_compressed(path, **arrays),
    "trajectories.pkl": pickled,
    "Minari.hdf5": minari,
    "Minari, Arrow": minari_arrow,
    "columns.parquet": lambda path, arrays: parquet.write_table(tabled(arrays, True), path),
    "lists.parquet": lambda path, arrays: parquet.write_table(tabled(arrays, False), path),
    "columns.csv": lambda path, arrays: pyarrow.csv.write_csv(tabled(arrays, True), path),
}


def anonymous() -> float:
    """MiB of this process that are no file's."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def read(path: str) -> dict[str, float]:
    """MiB at the peak and of the result, and processor seconds."""
    before, peak, going = anonymous(), 0.0, True

    def watch() -> None:
        nonlocal peak
        while going:
            peak = max(peak, anonymous())
            time.sleep(0.005)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start = time.process_time()
    os.environ["LAMO_CACHE"] = "off"  # the file is to be read, and no packed copy of it
    episodes = load_episodes(path)
    seconds = time.process_time() - start
    going = False
    watcher.join()
    arrays = (episodes.observations, episodes.actions, episodes.rewards)
    return {"peak": peak - before, "size": sum(array.nbytes for array in arrays) / 2**20, "seconds": seconds}


def main() -> None:
    if sys.argv[1:2] == ["--read"]:
        print(json.dumps(read(sys.argv[2])))
        return
    chosen = options(__doc__)
    arrays = some_arrays(100_000 if chosen.quick else 1_000_000)
    rows: list[Row] = []
    for name, write in FORMATS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            write(path, arrays)
            command = [sys.executable, __file__, "--read", str(path)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        what = f"memory of reading {name} beyond its {found['size']:.0f} MiB, {found['seconds']:.2f} s"
        rows.append(at_most(what, 1, f"{BEYOND} MiB", found["peak"] - found["size"], BEYOND, "MiB"))
    tell(rows, chosen)


if __name__ == "__main__":
    main()
