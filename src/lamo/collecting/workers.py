"""Blocks recorded in processes of their own. Whole blocks go to a worker and come back; nothing is exchanged at every
step, so the cores are busy with environments and behaviour alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing.connection import wait
from typing import Any

from lamo.collecting.record import Block
from lamo.collecting.request import Recorder, Request
from lamo.envs.spread import adopt, transferable
from lamo.workers import Worker

_LOOK_UP = 0.2  # seconds after which `check` is asked again


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
    spec = transferable(request.family.env)
    left = list(reversed(blocks))
    busy: dict[Any, Worker] = {}
    try:
        for _ in range(min(count, len(blocks))):
            worker = Worker(_recording, request, trained, spec)
            busy[worker.pipe] = worker
            worker.send(left.pop())
        while busy:
            check()
            for ready in wait(list(busy), timeout=_LOOK_UP):
                yield busy[ready].receive()
                if left:
                    busy[ready].send(left.pop())
                else:
                    busy.pop(ready).close(wait=True)
    finally:
        for worker in busy.values():
            worker.close()


@contextlib.contextmanager
def _recording(request: Request, trained: bytes | None, spec: Any) -> Iterator[Callable[[range], Block]]:
    adopt(spec)
    with Recorder(request, trained) as recorder:
        yield recorder.block
