"""A disk that fills up while a dataset is written is one line, and leaves nothing, in every format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lamo.data.sources.arrays import write_npz
from lamo.data.sources.d4rl import write_d4rl
from lamo.data.sources.lerobot_writer import write_lerobot
from lamo.data.sources.minari_writer import write_minari
from lamo.data.sources.robomimic_writer import write_robomimic
from lamo.data.sources.tables import write_table
from lamo.data.store_writer import write_store
from lamo.errors import LamoError

WRITERS = {
    "a.npz": write_npz,
    "a.csv": write_table,
    "a.parquet": write_table,
    "a.lamo": write_store,
    "a.hdf5": write_d4rl,
    "minari": write_minari,
    "robomimic.hdf5": write_robomimic,
    "lerobot": write_lerobot,
}


@pytest.mark.parametrize("name", WRITERS)
def test_one_line_and_nothing_left(make_episodes, tmp_path: Path, full_disk, name: str) -> None:
    """HDF5's library ends the process when it closes a file of which a write has failed."""
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    episodes = make_episodes([40] * 100, metadata={"env": "Toy-v0"})
    WRITERS[name](episodes, tmp_path / name)
    whole = tmp_path / name
    size = max(path.stat().st_size for path in ([whole] if whole.is_file() else whole.rglob("*")) if path.is_file())
    for room in (np.array([0.01, 0.3, 0.6, 0.9]) * size).astype(int):
        path = tmp_path / "full" / name
        with full_disk(int(room)), pytest.raises(LamoError, match=rf"cannot write .*{path.name}"):
            WRITERS[name](episodes, path)
        assert not path.parent.exists() or not list(path.parent.iterdir())
