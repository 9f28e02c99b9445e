"""How long a dataset takes to load, and how fast windows come from a store on disk.

    OMP_NUM_THREADS=1 python benchmarks/loading.py --clock cpu

1 M steps (17 numbers per observation, 6 per action) in Minari's layout, an HDF5 group per episode, each array in chunks
as Minari's writer makes them. The reference is the same bytes read flat: the same arrays end to end in one HDF5 file
without chunks, read by h5py into memory, without any check; beside it, the grouped file read by h5py with nothing else
done. Twice: from the system's cache, where a disk's speed is in none, and, by the wall's clock, after the system was
told to forget both files, as if neither had been read since the machine started.

Windows are drawn from a packed store, mapped, against the same episodes in memory; from four stores as one dataset as
well. Batches of 64 windows of 20 steps, interleaved.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from common import BATCH, K, Row, at_least, at_most, in_turn, options, some_episodes, tell

from lamo.data import Episodes, Windows, load_episodes
from lamo.data.store_writer import write_store


def write_minari(episodes: Episodes, path: Path) -> None:
    """Minari's layout and types: an observation more than actions, float64 rewards, arrays that can grow."""
    spans = zip(episodes.offsets[:-1].tolist(), episodes.offsets[1:].tolist(), strict=True)
    with h5py.File(path, "w", track_order=True) as file:
        for number, (start, end) in enumerate(spans):
            group = file.create_group(f"episode_{number}")
            seen = episodes.observations[start:end].astype(np.float64)
            arrays = {
                "observations": np.concatenate([seen, seen[-1:]]),
                "actions": episodes.actions[start:end],
                "rewards": episodes.rewards[start:end].astype(np.float64),
                "terminations": np.zeros(end - start, bool),
                "truncations": np.arange(end - start) == end - start - 1,
            }
            for key, array in arrays.items():
                group.create_dataset(key, data=array, chunks=True, maxshape=(None, *array.shape[1:]))


def write_flat(grouped: Path, path: Path) -> None:
    """The arrays of all groups end to end."""
    with h5py.File(grouped) as old, h5py.File(path, "w") as new:
        names = sorted(old, key=lambda name: int(name.split("_")[1]))
        for key in old[names[0]]:
            new[key] = np.concatenate([old[name][key][()] for name in names])


def read_flat(path: Path) -> list[np.ndarray]:
    with h5py.File(path) as file:
        return [file[key][()] for key in file]


def read_groups(path: Path) -> list[np.ndarray]:
    with h5py.File(path) as file:
        return [array[()] for group in file.values() for array in group.values()]


def forget(path: Path) -> None:
    """Have the system drop what it keeps of a file in memory."""
    with path.open("rb") as file:
        os.fsync(file.fileno())  # what is not written yet stays
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def from_disk(work: Callable[[], object], path: Path) -> Callable[[], object]:
    def forgotten() -> object:
        forget(path)
        return work()

    return forgotten


def in_memory(episodes: Episodes) -> list[np.ndarray]:
    """Every byte of the steps, copied from where it lies."""
    arrays = (episodes.observations, episodes.actions, episodes.rewards, episodes.returns_to_go)
    return [np.array(array) for array in arrays]


def main() -> None:
    chosen = options(
        __doc__,
        lambda parser: (
            parser.add_argument("--steps", type=int, default=1_000_000, help="steps in the log"),
            parser.add_argument("--rounds", type=int, default=5, help="rounds; each times every way"),
        ),
    )
    if chosen.quick:
        chosen.steps, chosen.rounds = 200_000, 2
    episodes = some_episodes(chosen.steps // 1000, 1000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        grouped, flat = folder / "minari.hdf5", folder / "flat.hdf5"
        write_minari(episodes, grouped)
        write_flat(grouped, flat)

        def plain() -> Episodes:
            os.environ["LAMO_CACHE"] = "off"
            return load_episodes(grouped)

        def first() -> Episodes:
            shutil.rmtree(folder / "cache", ignore_errors=True)
            os.environ["LAMO_CACHE"] = str(folder / "cache")
            return load_episodes(grouped)

        def cached() -> list[np.ndarray]:
            os.environ["LAMO_CACHE"] = str(folder / "cache")
            return in_memory(load_episodes(grouped))

        ways = {
            "flat": lambda: read_flat(flat),
            "h5py": lambda: read_groups(grouped),
            "plain": plain,
            "first": first,
            "cached": cached,
        }
        times = in_turn(ways, chosen.rounds)
        what = f"{chosen.steps:,} steps in Minari's layout, loaded"
        rows = [
            at_most(f"{what}, no copy kept", 3, "the same bytes flat", times["plain"], times["flat"]),
            at_most(f"{what} and kept as a packed copy", 3, "the same bytes flat", times["first"], times["flat"]),
            Row(
                f"{what}, against h5py alone reading the same file", "–",
                f"{times['plain'] / times['h5py']:.2f} × h5py's time",
                f"{times['plain']:.3g} against {times['h5py']:.3g} s", None,
            ),
            at_most(
                f"{what} from that copy, all of it into memory", 1.2, "the same bytes flat", times["cached"],
                times["flat"],
            ),
        ]  # fmt: skip
        if chosen.clock == "wall" and hasattr(os, "posix_fadvise"):
            disk = {key: from_disk(ways[key], flat if key == "flat" else grouped) for key in ("flat", "plain", "first")}
            times = in_turn(disk, chosen.rounds)
            what += ", from the disk"
            rows += [
                at_most(f"{what}, no copy kept", 3, "the same bytes flat", times["plain"], times["flat"]),
                at_most(f"{what} and kept as a packed copy", 3, "the same bytes flat", times["first"], times["flat"]),
            ]
        write_store(episodes, folder / "whole.lamo")
        count = len(episodes) // 4
        for part in range(4):
            write_store(episodes.select(range(part * count, (part + 1) * count)), folder / "parts" / f"{part}.lamo")
        sets = {
            "memory": episodes,
            "store": load_episodes(folder / "whole.lamo"),
            "stores": load_episodes(folder / "parts"),
        }
        rng = np.random.default_rng(0)
        windows = {key: Windows(each, K, return_scale=1000.0) for key, each in sets.items()}
        for mine, theirs in zip(
            *(windows[key].sample(np.random.default_rng(1), BATCH) for key in ("store", "memory")), strict=True
        ):
            np.testing.assert_array_equal(mine, theirs)  # the same work, or the ratio means nothing
        for each in sets.values():
            in_memory(each)  # every page has been looked at
        batches = 20 if chosen.quick else 500
        times = in_turn(
            {key: lambda w=each: [w.sample(rng, BATCH) for _ in range(batches)] for key, each in windows.items()},
            3 * chosen.rounds,
        )
        each = {key: seconds / batches for key, seconds in times.items()}
        what = f"{BATCH} windows of {K} from"
        rows.append(at_least(f"{what} a store", 0.8, "the rate in memory", each["store"], each["memory"]))
        told = f"{1e3 * each['stores']:.3g} against {1e3 * each['memory']:.3g} ms"
        ratio = f"{each['memory'] / each['stores']:.2f} × the rate in memory"
        rows.append(Row(f"{what} four stores as one dataset", "–", ratio, told, None))
        del sets, windows
    tell(rows, chosen)


if __name__ == "__main__":
    main()
