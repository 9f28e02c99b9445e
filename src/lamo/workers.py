"""Processes that answer: what is sent to one comes back as an answer, or as the error that it ran into.

A pipe per process and no shared queue: when the parent dies, however it dies, each pipe ends and its process leaves.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from typing import Any

from lamo.errors import LamoError

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_workers(workers: int | None) -> None:
    """Raise `LamoError` for a number of processes below 1; None, as many as pay, is well."""
    if workers is not None and workers < 1:
        raise LamoError(f"--workers {workers} must be at least 1")


class Worker:
    """A process of one thread in which `serve(*arguments)` is entered; its value maps what is sent to the answer.

    All of it is pickled on the way. Ctrl-C and SIGTERM do not end the process: its parent decides. What is wrong in it
    is told by `receive`, after which the process has ended.
    """

    def __init__(self, serve: Callable[..., AbstractContextManager[Callable[[Any], Any]]], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, serve, arguments), daemon=True)
        with _environment(dict.fromkeys(_ONE_THREAD, "1")):
            self._process.start()
        theirs.close()

    def send(self, request: Any) -> None:
        """Ask; the answer is for `receive`. `self.pipe` can be waited on."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # `receive` says why
            self.pipe.send(request)

    def receive(self) -> Any:
        """The next answer. Raises `LamoError` where the process did, or has died; `RuntimeError` for other errors."""
        try:
            whole, answer = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            code = self._process.exitcode or 0
            reason = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise LamoError(
                f"a worker process died ({reason}), maybe for want of memory; try fewer --workers, or 1"
            ) from None
        if whole:
            return answer
        raise answer if isinstance(answer, LamoError) else RuntimeError(f"in a worker process:\n{answer}")

    def close(self, *, wait: bool = False) -> None:
        """End the process, or with `wait` let it end by itself."""
        self.pipe.close()
        if not wait:
            self._process.kill()
        self._process.join()


def _work(pipe: Connection, serve: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """A worker's life. Ctrl-C reaches every process of a terminal, a cluster's SIGTERM every process of a job; here the
    parent alone decides: it has a state to save, and may need the answer that is under way for it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent has gone
        try:
            with serve(*arguments) as answer:
                while True:
                    pipe.send((True, answer(pipe.recv())))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except LamoError as error:
            pipe.send((False, error))
        except Exception:
            pipe.send((False, traceback.format_exc()))


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Environment variables for the processes started inside, set back afterwards."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
