"""Metrics of a gradient step that a GPU is still making: read when they have arrived, and not waited for before."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class Arrival:
    """Numbers (n,) on their way to the host, while their device goes on working."""

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers.to("cpu", non_blocking=True)
        self.seconds = 0.0  # that `read` waited
        self.copied: torch.cuda.Event | None = None
        if numbers.is_cuda:
            self.copied = torch.cuda.Event()
            self.copied.record(torch.cuda.current_stream(numbers.device))

    def read(self) -> list[float]:
        """The numbers, once all that the device was asked for before them is done."""
        if self.copied is not None:
            start = time.perf_counter()
            self.copied.synchronize()
            self.seconds, self.copied = time.perf_counter() - start, None
        return self.numbers.tolist()


class LateRow(dict[str, Any]):
    """A row of metrics: () each on the device and safe from later steps, what the host knows as it is."""

    def __init__(self, names: Iterable[str], numbers: Tensor, known: Mapping[str, float], arrival: Arrival, at: int):
        super().__init__(zip(names, numbers.unbind(), strict=True))
        self.names, self.arrival, self.at = list(self), arrival, at
        self.update(known)

    def read(self) -> dict[str, float]:
        """The same in numbers; waits for them."""
        mine = self.arrival.read()[self.at : self.at + len(self.names)]
        return {**self, **dict(zip(self.names, mine, strict=True))}


def late_rows(values: Sequence[Mapping[str, Tensor]], known: Sequence[Mapping[str, float]]) -> list[LateRow]:
    """Rows of S runs that made a step together: of each its metrics, () on the device, and those known on the host.

    They arrive in one copy. It keeps nothing of `values`, which a replayed step writes over.
    """
    numbers = torch.stack([number for value in values for number in value.values()])
    arrival, rows, at = Arrival(numbers), [], 0
    for value, own in zip(values, known, strict=True):
        rows.append(LateRow(value, numbers[at : at + len(value)], own, arrival, at))
        at += len(value)
    return rows
