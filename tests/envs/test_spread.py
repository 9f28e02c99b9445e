"""Environments in processes: the same numbers as in one, and one line where something goes wrong."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from lamo.cli import main
from lamo.envs import spread
from lamo.envs.pool import EnvPool
from lamo.envs.spread import SpreadPool, open_pool
from lamo.errors import LamoError
from lamo.evaluate import rollout


class Slips(gymnasium.Env):
    """Ends after as many steps as its seed says; slips on its third step where the action says so."""

    observation_space = spaces.Dict(goal=spaces.Box(-1, 1, (2,)), seen=spaces.Box(-1, 1, (3,)))
    action_space = spaces.Discrete(3, start=5)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.left = 3 + int(self.np_random.integers(6))
        return self._see(), {}

    def step(self, action: int) -> Any:
        if action == 7:
            raise ZeroDivisionError("slipped")
        self.left -= 1
        return self._see(), float(action) + self.np_random.normal(), self.left == 0, False, {}

    def _see(self) -> dict[str, np.ndarray]:
        return {"goal": self.np_random.random(2, np.float32), "seen": self.np_random.random(3, np.float32)}


gymnasium.register("LamoSlips-v0", entry_point=Slips, max_episode_steps=20)


class Chooses:
    default_target = None

    def __init__(self, choice: int) -> None:
        self.choice = choice

    def reset(self, n: int = 1, targets: Any = None) -> None:
        self.steps = 0

    def act(self, observations: Any, rewards: Any = None, rows: Any = None) -> Any:
        self.steps += 1
        last = self.choice and self.steps == 3
        return np.where(last, self.choice, observations[:, 0] > 0.5)


def test_processes_change_no_number() -> None:
    told = [
        rollout(Chooses(0), "LamoSlips-v0", [None], 7, seed=0, obs_keys=["seen"], workers=workers)
        for workers in (1, 2, 3)
    ]
    assert told[0] == told[1] == told[2]
    assert len({record["length"] for record in told[0]}) > 2  # rows dropped out


def test_a_pool_in_processes_is_as_one_in_this() -> None:
    rng = np.random.default_rng(0)
    with EnvPool("Hopper-v5") as one, SpreadPool("Hopper-v5", 2) as two:
        seeds, some = [3, 1, 4, 1, 5], np.array([0, 2, 4])
        np.testing.assert_array_equal(one.reset(seeds), two.reset(seeds))
        for rows in (np.arange(5), some, some, np.array([2])):  # at the end one process has nothing to do
            actions = rng.uniform(-2, 2, (len(rows), 3)).astype(np.float32)
            for mine, theirs in zip(one.step(rows, actions), two.step(rows, actions), strict=True):
                np.testing.assert_array_equal(mine, theirs)
                assert mine.dtype == theirs.dtype
        with pytest.raises(LamoError, match="not finite"):
            two.step(some, np.full((3, 3), np.nan))
        np.testing.assert_array_equal(one.reset(seeds[:2]), two.reset(seeds[:2]))


def test_what_goes_wrong_in_a_process() -> None:
    with pytest.raises(RuntimeError, match=r"in a worker process:(.|\n)*ZeroDivisionError: slipped"):
        rollout(Chooses(2), "LamoSlips-v0", [None], 4, seed=0, workers=2)
    with SpreadPool("LamoSlips-v0", 2) as pool:
        pool.reset([0, 1])
        victim = pool._crew[1]._process
        for number in (signal.SIGTERM, signal.SIGINT):  # what a whole job is sent; the parent alone decides
            os.kill(victim.pid, number)
        assert len(pool.step(np.arange(2), np.zeros(2, np.int64))[0]) == 2
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        with pytest.raises(LamoError, match=r"a worker process died \(signal 9\).*fewer --workers"):
            pool.step(np.arange(2), np.zeros(2, np.int64))
    with pytest.raises(LamoError, match="--workers 0 must be at least 1"):
        open_pool("LamoSlips-v0", 3, workers=0)
    with pytest.raises(LamoError, match="unknown environment"):
        open_pool("LamoSlip-v0", 3, workers=2)


def test_processes_are_started_where_they_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread, "usable_cores", lambda: 2)
    with open_pool("CartPole-v1", 20, workers=None) as pool:
        assert type(pool) is EnvPool
    monkeypatch.setattr(spread, "_WORTH", 0.0)
    with open_pool("CartPole-v1", 20, workers=None) as pool:
        assert isinstance(pool, SpreadPool) and len(pool._crew) == 2
    for name, rows, cores in (("CartPole-v1", 1, 2), ("CartPole-v1", 20, 1)):
        monkeypatch.setattr(spread, "usable_cores", lambda cores=cores: cores)
        with open_pool(name, rows, workers=None) as pool:
            assert type(pool) is EnvPool
    monkeypatch.setattr(spread, "usable_cores", lambda: 2)
    gymnasium.register("LamoHere-v0", entry_point=lambda: gymnasium.make("CartPole-v1"), max_episode_steps=5)
    with open_pool("LamoHere-v0", 4, workers=None) as pool:  # no other process can be told of it
        assert type(pool) is EnvPool
    with pytest.raises(LamoError, match="--workers 1"):
        open_pool("LamoHere-v0", 4, workers=2)


def test_by_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--preset", "bc", "--task", "reacher2d-medium", "--ratio", "0.05", "--steps", "4"]
    words += ["--eval-episodes", "3", "--quiet"]
    for workers in "12":
        assert main(["train", *words, "--workers", workers, "--out", str(tmp_path / workers)]) == 0
    one, two = (tmp_path / name / "episodes.jsonl" for name in "12")
    assert one.read_bytes() == two.read_bytes()
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "1"), "--episodes", "3", "--workers", "2", "--quiet", "--json"]) == 0
    played = [record["return"] for record in json.loads(capsys.readouterr().out)["records"]]
    assert played == [json.loads(line)["return"] for line in one.read_text().splitlines()]
    assert main(["evaluate", str(tmp_path / "1"), "--workers", "0"]) == 2
    assert "--workers 0 must be at least 1" in capsys.readouterr().err


def test_no_process_is_left() -> None:
    pool = open_pool("CartPole-v1", 4, workers=2)
    assert isinstance(pool, SpreadPool)
    processes = [worker._process for worker in pool._crew]
    pool.reset([1, 2, 3])
    pool.close()
    deadline = time.time() + 5
    while any(process.is_alive() for process in processes) and time.time() < deadline:
        time.sleep(0.05)
    assert not any(process.is_alive() for process in processes)


def test_a_key_that_is_not_there_is_one_line_with_processes_too() -> None:
    for workers in (1, 2):
        with pytest.raises(LamoError, match="LamoSlips-v0 has no observation key 'nope'"):
            open_pool("LamoSlips-v0", 4, workers=workers, obs_keys=["nope"])
