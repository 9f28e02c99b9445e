"""Ctrl-C and SIGTERM: noted first, obeyed where the work can be left in order."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupted(KeyboardInterrupt):
    """Work was asked to stop (Ctrl-C or SIGTERM) and has saved its state. `exit_code` is 130 or 143."""

    def __init__(self, step: int, resume: str, signum: int) -> None:
        super().__init__(f"stopped at step {step}, its state is saved; go on with: {resume}")
        self.exit_code = 128 + signum


class Terminated(KeyboardInterrupt):
    """SIGTERM, as an exception: what is half-written goes away on its way out."""

    exit_code = 128 + signal.SIGTERM


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM raises `Terminated`, as Ctrl-C raises `KeyboardInterrupt`; only where nobody else has a say."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Stopped(Exception):
    """Raised inside an evaluation to leave it."""


class Signals:
    """While it is entered, the first Ctrl-C or SIGTERM is only noted in `caught`; a second one stops at once."""

    def __init__(self, quiet: bool) -> None:
        self.caught, self.quiet = 0, quiet
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._catch) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self.caught:
            raise KeyboardInterrupt
        self.caught = number
        if not self.quiet:
            text = "\nlamo: stopping after this step; once more stops at once, without saving"
            print(text, file=sys.stderr, flush=True)

    def check(self, *_: Any) -> None:
        """Raise `Stopped` if a signal was caught."""
        if self.caught:
            raise Stopped
