"""A pool whose environments live in several processes. What comes out is what one process would give, bit for bit."""

from __future__ import annotations

import contextlib
import functools
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from lamo.envs import register
from lamo.envs.pool import EnvPool
from lamo.errors import LamoError
from lamo.workers import Worker, check_workers, usable_cores

MOST = 16  # processes, unless more are asked for
_WORTH = 15.0  # seconds in environments for which processes are worth their start
_PROBE = 10  # steps by which an environment's speed is told


def open_pool(
    env_id: str,
    rows: int,
    horizon: int | None = None,
    *,
    workers: int | None = 1,
    obs_keys: Sequence[str] | None = None,
) -> EnvPool:
    """A pool for `rows` environments, in `workers` processes; None: as many as pay for episodes of `horizon` steps (by
    default the environment's own limit). Raises `LamoError` as `EnvPool`, and for a number below 1.
    """
    check_workers(workers)
    if workers is None:
        workers = _that_pay(env_id, rows, horizon)
    count = min(workers, rows)
    return SpreadPool(env_id, count, obs_keys=obs_keys) if count > 1 else EnvPool(env_id, obs_keys=obs_keys)


def _that_pay(env_id: str, rows: int, horizon: int | None) -> int:
    """One process, or where the environments alone take long one for each core."""
    if usable_cores() == 1 or rows == 1:
        return 1
    with contextlib.suppress(LamoError):  # what is wrong is told by the pool itself
        transferable(env_id)
        each, limit = _speed(env_id)
        if each * rows * (horizon or limit or 0) > _WORTH:
            return min(usable_cores(), MOST)
    return 1


@functools.cache
def _speed(env_id: str) -> tuple[float, int | None]:
    """(seconds of a step, the environment's own limit of steps), measured in an environment that is then closed."""
    with EnvPool(env_id) as probe:
        probe.reset([0])
        still = np.zeros((1, *([] if probe.discrete else [probe.action_dim])), np.float32)
        start = time.perf_counter()
        for _ in range(_PROBE):
            probe.step(np.zeros(1, np.int64), still)
        return (time.perf_counter() - start) / _PROBE, probe.max_episode_steps


class SpreadPool(EnvPool):
    """`EnvPool` in `workers` processes: environment i lives in process i mod `workers`."""

    def __init__(self, env_id: str, workers: int, *, obs_keys: Sequence[str] | None = None, **kwargs: Any) -> None:
        self._crew: list[Worker] = []  # first, for what fails in EnvPool closes this pool
        super().__init__(env_id, obs_keys=obs_keys, **kwargs)  # its one environment says what all are like
        try:
            spec = transferable(env_id)
            self._crew += [Worker(_stage, env_id, spec, obs_keys, kwargs) for _ in range(workers)]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the processes; the pool cannot be used afterwards."""
        for worker in self._crew:
            worker.close()
        self._crew = []
        super().close()

    def reset(self, seeds: Sequence[int]) -> NDArray[np.float32]:
        """As `EnvPool.reset`."""
        place = np.arange(len(seeds)) % len(self._crew)
        (observations,) = self._ask(
            place, lambda mine: ("reset", [int(seeds[i]) for i in np.flatnonzero(mine).tolist()])
        )
        return observations

    def step(
        self, rows: NDArray[np.int64], actions: NDArray[Any]
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
        """As `EnvPool.step`."""
        count, actions = len(self._crew), self.clip(actions)
        observations, rewards, terminated, truncated = self._ask(
            rows % count, lambda mine: ("step", rows[mine] // count, actions[mine])
        )
        return observations, rewards, terminated, truncated

    def _ask(self, place: NDArray[np.int64], request: Callable[[NDArray[np.bool_]], Any]) -> list[NDArray[Any]]:
        """Send each process its share of the rows, by `place`, and put their answers together in the rows' order."""
        shares = [(worker, place == i) for i, worker in enumerate(self._crew) if (place == i).any()]
        for worker, mine in shares:
            worker.send(request(mine))
        whole: list[NDArray[Any]] = []
        for worker, mine in shares:
            answer = worker.receive()
            whole = whole or [np.empty((len(place), *part.shape[1:]), part.dtype) for part in answer]
            for out, part in zip(whole, answer, strict=True):
                out[mine] = part
        return whole


@contextlib.contextmanager
def _stage(
    env_id: str, spec: Any, obs_keys: Sequence[str] | None, kwargs: dict[str, Any]
) -> Iterator[Callable[[tuple[Any, ...]], tuple[NDArray[Any], ...]]]:
    """In a process: an ordinary pool, which is told what to do."""
    adopt(spec)
    with EnvPool(env_id, obs_keys=obs_keys, **kwargs) as pool:

        def answer(request: tuple[Any, ...]) -> tuple[NDArray[Any], ...]:
            verb, *arguments = request
            return pool.step(*arguments) if verb == "step" else (pool.reset(*arguments),)

        yield answer


def transferable(env_id: str) -> Any:
    """What Gymnasium knows of an environment, for a process that has not run the code that registered it; see `adopt`.

    Raises `LamoError` where it cannot be told.
    """
    register()
    spec = gymnasium.registry.get(env_id)
    try:
        pickle.dumps(spec)
    except Exception as error:  # pickle raises whatever it meets
        raise LamoError(
            f"{env_id} is registered with something that no other process can be told ({error}); give --workers 1"
        ) from error
    return spec


def adopt(spec: Any) -> None:
    """Register what `transferable` told of, in this process."""
    register()
    if spec is not None and spec.id not in gymnasium.registry:
        gymnasium.registry[spec.id] = spec
