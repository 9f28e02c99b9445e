"""Windows of episodes that lie on the device whole: a batch is cut there, and no data are copied at a step."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lamo.algorithms.sequence_losses import DeviceBatch
from lamo.data.actions import Scaling
from lamo.data.windows import Windows

FREE_SHARE = 0.5  # of a device's free memory that episodes may take


class ResidentWindows:
    """What `windows` would cut of the same steps, to the last bit; actions scaled, `chunk` of them to be predicted."""

    def __init__(self, windows: Windows, scaling: Scaling | None, chunk: int, device: torch.device) -> None:
        observations, actions, returns_to_go = windows.prepared()
        if scaling is not None:
            actions = scaling.to_unit(actions)
        arrays = observations, actions, returns_to_go, windows.episodes.offsets
        self.observations, self.actions, self.returns_to_go, self.offsets = (
            torch.from_numpy(array).to(device) for array in arrays
        )
        self.columns = torch.arange(windows.context, device=device)
        self.ahead = torch.arange(chunk, device=device)

    @staticmethod
    def fit(windows: Windows, device: torch.device) -> bool:
        """Whether the episodes should lie there: on a GPU with room for them, if they are in memory at all."""
        episodes = windows.episodes
        if device.type != "cuda" or episodes.mapped:
            return False
        free, _ = torch.cuda.mem_get_info(device)
        return episodes.steps * episodes.step_bytes <= FREE_SHARE * free

    def share(self, other: ResidentWindows) -> None:
        """Give up what `other` holds as well, and read its copy."""
        for name in ("observations", "actions", "returns_to_go", "offsets"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine.dtype == theirs.dtype and torch.equal(mine, theirs):
                setattr(self, name, theirs)

    def at(self, steps: np.ndarray, text: Tensor | None = None) -> DeviceBatch:
        """The windows that begin at these rows (B,) int64: the only thing that is copied."""
        first = torch.from_numpy(steps).to(self.offsets.device, non_blocking=True)[:, None]  # (B, 1)
        after = torch.searchsorted(self.offsets, first, right=True)
        start, end = self.offsets[after - 1], self.offsets[after]  # of the episode each lies in
        padding = (first + len(self.columns) - end).clamp_min(0)
        rows = first - padding + self.columns  # (B, K)
        mask = rows >= first
        rows = rows.maximum(first)
        returns_to_go, observations, actions, timesteps = (
            values.masked_fill_(~mask.view(*mask.shape, *(1,) * (values.ndim - 2)), 0)
            for values in (self.returns_to_go[rows], self.observations[rows], self.actions[rows], rows - start)
        )
        wanted, real = actions, mask
        if len(self.ahead) > 1:
            ahead = rows[..., None] + self.ahead  # (B, K, n)
            real = (ahead < end[..., None]) & mask[..., None]
            wanted = self.actions[ahead.minimum(end[..., None] - 1)]
        return DeviceBatch(returns_to_go, observations, actions, timesteps, mask, wanted, real, text, padded=True)
