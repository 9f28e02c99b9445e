"""What a person watches while a run goes on: a bar on standard error, and TensorBoard."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lamo.errors import LamoError

PLAIN_EVERY = 30.0  # seconds between lines where standard error is no terminal
BAR_EVERY = 0.1  # seconds between looks at the loss where it is one


class Bar:
    """Loss, steps per second and time left on standard error: a bar on a terminal, else a line every half a minute."""

    def __init__(self, what: str, total: int, done: int, *, quiet: bool) -> None:
        self.total, self.done, self.quiet = total, done, quiet
        self.what, self.bar = what, None
        self.loss: Any = None
        self.began, self.first, self.said = time.perf_counter(), done, time.perf_counter()
        if not quiet and sys.stderr.isatty():
            from tqdm import tqdm

            form = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} steps, {rate_fmt}, {remaining} left{postfix}"
            self.bar = tqdm(total=total, initial=done, desc=what, unit=" steps", dynamic_ncols=True, bar_format=form)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def step(self, loss: Any) -> None:
        """One gradient step was done; the loss shown is a running mean. A loss that a GPU is still making stays there
        until it is shown."""
        self.done += 1
        if self.quiet:
            return
        self.loss = loss if self.loss is None else 0.98 * self.loss + 0.02 * loss
        due = time.perf_counter() - self.said >= (PLAIN_EVERY if self.bar is None else BAR_EVERY)
        if due:
            self.said = time.perf_counter()
        if self.bar is not None:
            if due:
                self.bar.set_postfix_str(f"loss {float(self.loss):.4g}", refresh=False)
            self.bar.update(1)
        elif due:
            rate = (self.done - self.first) / (self.said - self.began)
            left = time.strftime("%H:%M:%S", time.gmtime((self.total - self.done) / rate))
            self.say(f"step {self.done} of {self.total}, loss {float(self.loss):.4g}, {rate:.3g} steps/s, {left} left")

    def say(self, text: str, what: str | None = None) -> None:
        """A line above the bar about `what` (by default what the bar is of); nothing when quiet."""
        if self.quiet:
            return
        line = f"{what or self.what}: {text}"
        if self.bar is not None:
            self.bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)


class Board:
    """Forwards numbers to TensorBoard files in `run/tensorboard` if `on`. JSON Lines stays the record."""

    def __init__(self, run: Path, on: bool) -> None:
        self.writer: Any = None
        if not on:
            return
        if importlib.util.find_spec("tensorboard") is None:
            raise LamoError("--tensorboard needs a package that is not installed: pip install tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(run / "tensorboard"))

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            self.writer.close()

    def row(self, prefix: str, step: int, values: Mapping[str, Any]) -> None:
        """Each number in `values` under `prefix/name`."""
        if self.writer is None:
            return
        for name, value in values.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                self.writer.add_scalar(f"{prefix}/{name}", value, step)
