"""Blocks recorded in processes of their own. Whole blocks go to a worker and come back; nothing is exchanged at every
step, so the cores are busy with environments and behaviour alone.

A pipe per worker and no shared queue: when the parent dies, however it dies, each worker's pipe ends and it leaves.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import gymnasium

from lamo.collecting.record import Block
from lamo.collecting.request import Recorder, Request
from lamo.envs import register
from lamo.errors import LamoError

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_LOOK_UP = 0.2  # seconds after which `check` is asked again


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_workers(
    count: int,
    request: Request,
    trained: bytes | None,
    blocks: Sequence[range],
    check: Callable[[], object] = lambda: None,
) -> Generator[Block, None, None]:
    """Record the blocks in `count` processes and yield them as they are done, in any order.

    `check` is called several times a second; what it raises stops the workers. Raises `LamoError` where a worker does,
    where one dies, and for an environment that another process cannot be told of.
    """
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    spec = _transferable_spec(request.family.env)
    left = list(reversed(blocks))
    busy: dict[Connection, Any] = {}
    try:
        with _environment(dict.fromkeys(_ONE_THREAD, "1")):
            for _ in range(min(count, len(blocks))):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs, request, trained, spec), daemon=True)
                process.start()
                theirs.close()
                ours.send(left.pop())
                busy[ours] = process
        while busy:
            check()
            for ready in wait(list(busy), timeout=_LOOK_UP):
                assert isinstance(ready, Connection)
                yield _received(ready, busy[ready])
                if left:
                    ready.send(left.pop())
                else:
                    ready.close()
                    busy.pop(ready).join()
    finally:
        for pipe, process in busy.items():
            pipe.close()
            process.terminate()
        for process in busy.values():
            process.join()


def _received(pipe: Connection, process: Any) -> Block:
    try:
        answer = pipe.recv()
    except (EOFError, ConnectionResetError):
        process.join()
        reason = f"signal {-process.exitcode}" if (process.exitcode or 0) < 0 else f"exit code {process.exitcode}"
        raise LamoError(
            f"a worker process died ({reason}), maybe for want of memory; try fewer --workers, or 1"
        ) from None
    if isinstance(answer, Block):
        return answer
    if isinstance(answer, LamoError):
        raise answer
    raise RuntimeError(f"in a worker process:\n{answer}")


def _work(pipe: Connection, request: Request, trained: bytes | None, spec: Any) -> None:
    """A worker's life. Ctrl-C reaches every process of a terminal; here the parent alone decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent has gone
        try:
            register()
            if spec is not None and spec.id not in gymnasium.registry:
                gymnasium.registry[spec.id] = spec
            with Recorder(request, trained) as recorder:
                while True:
                    pipe.send(recorder.block(pipe.recv()))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except LamoError as error:
            pipe.send(error)
        except Exception:
            pipe.send(traceback.format_exc())


def _transferable_spec(env_id: str) -> Any:
    """What Gymnasium knows of an environment; a fresh process has not run the code that registered it."""
    register()
    spec = gymnasium.registry.get(env_id)
    try:
        pickle.dumps(spec)
    except Exception as error:  # pickle raises whatever it meets
        raise LamoError(
            f"{env_id} is registered with something that no other process can be told ({error}); give --workers 1"
        ) from error
    return spec


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
