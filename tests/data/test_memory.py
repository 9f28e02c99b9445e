"""Reading holds a dataset once, not twice; numpy's allocations are what tracemalloc counts."""

from __future__ import annotations

import pickle
import tracemalloc

import h5py
import numpy as np
import pytest

from lamo.data import Windows, load_episodes


@pytest.mark.parametrize("kind", ["hdf5", "chunked.hdf5", "wide.hdf5", "npz", "packed.npz", "pkl", "minari.hdf5"])
def test_peak_of_reading(make_episodes, flat_arrays, tmp_path, request, monkeypatch, kind):
    monkeypatch.setenv("LAMO_CACHE", "off")  # a packed copy is written by blocks of 32 MiB, more than all there is here
    made = make_episodes([1000] * 100, width=17, actions=6)
    path, arrays = tmp_path / f"data.{kind}", flat_arrays(made)
    arrays["next_observations"] = np.roll(arrays["observations"], -1, axis=0)
    if kind == "npz":
        np.savez(path, **arrays)
    elif kind == "packed.npz":
        np.savez_compressed(path, **arrays)
    elif kind == "pkl":
        parts = {key: np.split(value, 100) for key, value in arrays.items()}
        path.write_bytes(pickle.dumps([{key: parts[key][e] for key in parts} for e in range(100)]))
    elif kind == "minari.hdf5":
        with h5py.File(path, "w") as file:
            for e in range(100):
                span = slice(1000 * e, 1000 * (e + 1))
                for key, name in {"terminals": "terminations", "timeouts": "truncations"}.items():
                    file[f"episode_{e}/{name}"] = arrays[key][span]
                for key in ("observations", "actions", "rewards"):
                    file[f"episode_{e}/{key}"] = arrays[key][span].astype(np.float64)
    else:
        with h5py.File(path, "w") as file:
            for key, value in arrays.items():
                wide = kind == "wide.hdf5" and value.dtype == np.float32
                options = {"chunks": True, "compression": 1} if kind == "chunked.hdf5" else {}
                file.create_dataset(key, data=value.astype(np.float64) if wide else value, **options)
    size = sum(array.nbytes for array in (made.observations, made.actions, made.rewards))
    del made, arrays
    tracemalloc.start()
    request.addfinalizer(tracemalloc.stop)
    episodes = load_episodes(path)
    _, peak = tracemalloc.get_traced_memory()
    assert episodes.steps == 100_000
    assert peak < 1.35 * size  # blocks of 16 384 rows are a sixth of these; of a large dataset they are nothing
    tracemalloc.reset_peak()
    episodes.statistics(), episodes.digest(), episodes.validate()
    windows = Windows(episodes, 20)
    windows.sample(np.random.default_rng(0), 64)
    _, peak = tracemalloc.get_traced_memory()
    assert peak < 1.8 * size  # returns-to-go, in float64 and scaled, and a block
