"""`.pkl` lists of trajectories, as the Decision Transformer and LaMo repositories keep them.

    [{"observations": (T, S), "next_observations": (T, S), "actions": (T, A), "rewards": (T,), "terminals": (T,)}, …]

Each dict is one episode, whatever its flags say. It terminated where the last of `terminals` is set; it was truncated
where the last of `timeouts` is, a key these files mostly lack: then the episode is marked unfinished.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lamo.data.episodes import Episodes
from lamo.data.sources.episodic import Part, gather, need
from lamo.data.sources.flat import TERMINALS, TIMEOUTS, flat_episodes, state_width
from lamo.data.sources.options import ReadOptions
from lamo.data.sources.pickles import PickledArray, read_pickle
from lamo.errors import LamoError


class _Trajectory:
    """One dict of the list. Lists of numbers do as well as arrays."""

    def __init__(self, content: dict[Any, Any], number: int) -> None:
        self.content, self.id, self.label = content, number, f"trajectory {number}"

    def get(self, key: str) -> Any:
        names = next((names for names in (TERMINALS, TIMEOUTS) if names[0] == key), (key,))
        value = next((self.content[name] for name in names if name in self.content), None)
        return value if value is None or isinstance(value, PickledArray) else _as_array(value)

    def keys(self) -> list[str]:
        return [str(key) for key in self.content]


def _as_array(value: Any) -> np.ndarray:
    """A list of numbers, or of equally long rows (lists or arrays), as one array; what is neither has type object."""
    rows = (
        [_as_array(row[:]) if isinstance(row, PickledArray) else row for row in value]
        if isinstance(value, list)
        else value
    )
    try:
        return np.asarray(rows)
    except ValueError:
        return np.empty(len(value), object)


def read_trajectories(path: Path, source: str, options: ReadOptions) -> Episodes:
    """A pickled list of trajectories (or one dict of flat arrays in D4RL's layout) -> Episodes; nothing is executed.

    Raises `LamoError` for a pickle with code in it (naming it), one that is not whole, a key missing, arrays of
    different lengths, no step, or a value that is not finite.
    """
    metadata: dict[str, Any] = {
        "source": source,
        "format": "trajectories",
        "env": None,
        "action_low": None,
        "action_high": None,
    }
    try:
        file = path.open("rb")
    except OSError as error:
        raise LamoError(f"{source}: cannot be opened ({error.strerror})") from error
    with file:
        content = read_pickle(file, source)
        if isinstance(content, PickledArray):
            content = content.items
        if isinstance(content, dict):
            columns = {str(key): value for key, value in content.items() if isinstance(value, PickledArray)}
            return flat_episodes(columns, source, metadata, options).validate()
        if not isinstance(content, list | tuple) or not all(isinstance(item, dict) for item in content):
            raise LamoError(f"{source}: is not a list of trajectories, each a dict of arrays")
        if not content:
            raise LamoError(f"{source}: holds no trajectories; an offline dataset needs at least one transition")
        trajectories = [_Trajectory(item, number) for number, item in enumerate(content)]
        first = need(trajectories[0], "observations", source)
        parts = [Part("observations", state_width(first.shape, first.dtype, source))]
        return gather(lambda: trajectories, parts, (TERMINALS[0], TIMEOUTS[0]), source, metadata, options)
