"""A recording in pieces: by several processes, stopped and gone on with; always the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import toy
from lamo.cli import main
from lamo.collecting import collect as collecting
from lamo.collecting.collect import collect
from lamo.collecting.partial import Memory, Partial, opened
from lamo.collecting.record import Block, record_block
from lamo.collecting.request import Request
from lamo.collecting.workers import in_workers
from lamo.data.sources import load_episodes
from lamo.envs.pool import EnvPool
from lamo.errors import LamoError

COLLECT = [sys.executable, "-m", "lamo", "data", "collect"]


def test_workers_change_nothing(tmp_path: Path) -> None:
    for workers in (1, 2):
        out = tmp_path / str(workers) / "cart.hdf5"
        collect("CartPole-v1", 11, out, policy="random", envs=2, workers=workers)
        assert sorted(path.name for path in out.parent.iterdir()) == ["cart.hdf5"]
    one, two = (tmp_path / name / "cart.hdf5" for name in "12")
    assert one.read_bytes() == two.read_bytes()
    assert collect("CartPole-v1", 11, policy="random", envs=2).digest() == load_episodes(one).digest()


def test_the_kitchen_operator_in_workers(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium_robotics")
    found = [
        collect("kitchen-mixed", 3, policy="operator", horizon=20, envs=1, workers=workers, seed=2)
        for workers in (1, 2)
    ]
    assert found[0].digest() == found[1].digest()
    assert found[0].metadata["attributes"] == found[1].metadata["attributes"]
    assert found[0].metadata["attributes"]["subtasks_intended"] == 12


def test_what_goes_wrong_in_a_worker_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LamoError, match=r"registered with something that no other process can be told .*--workers 1"):
        gymnasium.register("LamoLambda-v0", entry_point=lambda: gymnasium.make("CartPole-v1"), max_episode_steps=5)
        collect("LamoLambda-v0", 40, policy="random", workers=2)
    request = Request("CartPole-v1", 2, "random", horizon=3)
    with pytest.raises(LamoError, match="the scripted operator works in the kitchen alone"):
        list(in_workers(1, Request("CartPole-v1", 1, "operator"), None, [range(1)]))
    monkeypatch.setattr("lamo.workers._work", _dying)
    with pytest.raises(LamoError, match=r"a worker process died \(exit code 3\)"):
        list(in_workers(1, request, None, [range(1)]))


def _dying(*_: object) -> None:
    os._exit(3)


def test_workers_are_started_where_they_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def here(count, request, trained, blocks, check):
        asked.append((count, len(blocks)))
        with EnvPool("CartPole-v1") as pool:
            for numbers in blocks:
                yield record_block(pool, collecting.Recorder(request).behaviour, numbers, 0, 5)

    monkeypatch.setattr(collecting, "in_workers", here)
    monkeypatch.setattr(collecting, "usable_cores", lambda: 3)
    collect("CartPole-v1", 8, policy="random", envs=2, horizon=5, workers=None)
    assert asked == [], "this is done sooner than a process is started"
    monkeypatch.setattr(collecting, "_WORTH", 0.0)
    collect("CartPole-v1", 8, policy="random", envs=2, horizon=5, workers=None)
    assert asked == [(3, 3)], "one block was measured here"
    monkeypatch.setattr(collecting, "usable_cores", lambda: 1)
    collect("CartPole-v1", 8, policy="random", envs=2, horizon=5, workers=None)
    assert len(asked) == 1


def stopped_after(blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the power fail once so many blocks are kept."""
    put = Partial.put

    def once(self: Partial, block: Block) -> None:
        put(self, block)
        if block.first // block.count + 1 >= blocks:
            raise ConnectionAbortedError("no power")

    monkeypatch.setattr(Partial, "put", once)


def test_a_stopped_recording_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = {"policy": "random", "seed": 3, "envs": 2, "horizon": 9}
    whole, out = tmp_path / "whole" / "a.hdf5", tmp_path / "a.hdf5"
    collect("CartPole-v1", 10, whole, **request)
    with monkeypatch.context() as patched:
        stopped_after(2, patched)
        with pytest.raises(ConnectionAbortedError):
            collect("CartPole-v1", 10, out, **request)
    partial = tmp_path / "a.hdf5.partial"
    assert sorted(path.name for path in partial.iterdir()) == [
        "block-0000000.npz",
        "block-0000002.npz",
        "request.json",
    ]
    for changed, said in (
        ({"seed": 4}, "with --seed 3, not 4"),
        ({"horizon": None}, "with --horizon 9, not null"),
        ({"epsilon": 0.1}, "with --epsilon 0.0, not 0.1"),
        ({"policy": "train:return=1"}, "with --policy random, not train:return=1"),
    ):
        with pytest.raises(LamoError, match=f"{partial} holds an unfinished recording {said}; give that command"):
            collect("CartPole-v1", 10, out, **request | changed)
    with pytest.raises(LamoError, match="with --episodes 10, not 11"):
        collect("CartPole-v1", 11, out, **request)
    kept = json.loads((partial / "request.json").read_text())
    (partial / "request.json").write_text(json.dumps(kept | {"versions": kept["versions"] | {"mujoco": "2.1"}}))
    with pytest.raises(LamoError, match="with mujoco 2.1, not 3"):
        collect("CartPole-v1", 10, out, **request)
    (partial / "request.json").write_text(json.dumps(kept))
    (partial / "block-0000002.npz").write_bytes((partial / "block-0000002.npz").read_bytes()[:-40])
    told: list[str] = []
    collect("CartPole-v1", 10, out, **request, progress=told.append)
    assert told[0] == f"going on with what is in {partial}" and not partial.exists()
    assert out.read_bytes() == whole.read_bytes()


def test_two_processes_do_not_record_into_one_file(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with opened(tmp_path / "a.hdf5", {"seed": 0}) as partial:
        with (
            pytest.raises(LamoError, match="another process is recording into it"),
            opened(tmp_path / "a.hdf5", {"seed": 0}),
        ):
            pass
        assert partial.path.exists()
    assert not partial.path.exists(), "nothing was kept in it"


def test_what_is_no_partial_recording_is_left_alone(tmp_path: Path) -> None:
    for name, message in (("request.json", "damaged"), ("diary.txt", "is no recording of lamo")):
        folder = tmp_path / name / "a.hdf5.partial"
        folder.mkdir(parents=True)
        (folder / name).write_text("precious")
        with pytest.raises(LamoError, match=message):
            collect("CartPole-v1", 1, tmp_path / name / "a.hdf5", policy="random")
        assert (folder / name).read_text() == "precious"
    (tmp_path / "b.hdf5.partial").write_text("precious")
    with pytest.raises(LamoError, match="is in the way"):
        collect("CartPole-v1", 1, tmp_path / "b.hdf5", policy="random")


def slow(out: Path, *more: str) -> list[str]:
    """A command that records for some seconds."""
    words = ["--task", "Pendulum-v1", "--policy", "random", "--episodes", "100", "--envs", "1", "--out", str(out)]
    return [*COLLECT, *words, *more]


def kept(out: Path) -> int:
    return len(list(out.with_name(f"{out.name}.partial").glob("block-*.npz")))


@pytest.mark.parametrize(
    ("number", "workers", "code"),
    [
        (signal.SIGKILL, "2", -9),
        (signal.SIGTERM, "1", 143),
        pytest.param(signal.SIGINT, "2", 130, marks=pytest.mark.slow),
    ],
)
def test_a_killed_command_goes_on(tmp_path: Path, number: int, workers: str, code: int) -> None:
    out = tmp_path / "a.hdf5"
    process = subprocess.Popen(
        slow(out, "--workers", workers), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while kept(out) < 2 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == code, said
    before = kept(out)
    assert 2 <= before < 100 and not out.exists()
    if number != signal.SIGKILL:
        assert said.splitlines()[-1] == (
            f"lamo: stopped; what is finished is kept in {out}.partial; the same command goes on from there"
        )
    again = slow(out, "--workers", "2" if workers == "1" else "1", "--json", "--quiet")
    done = subprocess.run(again, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["episodes"] == 100 and [path.name for path in tmp_path.iterdir()] == ["a.hdf5"]
    assert load_episodes(out).digest() == whole_digest()


_WHOLE: list[str] = []


def whole_digest() -> str:
    """Of what `slow` records when nothing happens to it."""
    if not _WHOLE:
        _WHOLE.append(collect("Pendulum-v1", 100, policy="random", envs=1).digest())
    return _WHOLE[0]


def test_a_run_is_recorded_with_its_target_and_noise(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    data, run = str(toy.write_dataset(tmp_path / "toy.hdf5")), tmp_path / "run"
    argv = [
        "train",
        "--preset",
        "dt",
        "--dataset",
        data,
        "--env",
        toy.ENV,
        "--out",
        str(run),
        "--steps",
        "2",
        "--quiet",
    ]
    assert main([*argv, "--eval-episodes", "0"]) == 0
    plain = collect(toy.ENV, 2, policy=str(run))
    asked = collect(toy.ENV, 2, policy=str(run), target=5.0)
    noisy = collect(toy.ENV, 5, policy=str(run), target=5.0, noise=0.3, envs=2)
    assert noisy.digest() == collect(toy.ENV, 5, policy=str(run), target=5.0, noise=0.3, envs=2).digest()
    notes = noisy.metadata["attributes"]
    assert (notes["target"], notes["noise"]) == (5.0, 0.3) and "--target 5 --noise 0.3" in notes["command"]
    assert isinstance(plain.metadata["attributes"]["target"], float) and plain.digest() != noisy.digest()
    digests = {each.metadata["attributes"]["policy_digest"] for each in (plain, asked, noisy)}
    assert len(digests) == 1 and len(digests.pop()) == 64
    with pytest.raises(LamoError, match="give the environment it was trained for"):
        collect("CartPole-v1", 1, policy=str(run))


@pytest.mark.slow
def test_the_policy_of_a_run_in_workers(tmp_path: Path) -> None:
    run = tmp_path / "run"
    argv = ["train", "--preset", "dt", "--task", "reacher2d-medium", "--out", str(run), "--steps", "2", "--quiet"]
    assert main([*argv, "--eval-episodes", "0", "--device", "cpu"]) == 0
    one, two = (collect("reacher2d", 40, policy=str(run), noise=0.2, envs=8, workers=workers) for workers in (1, 2))
    assert one.digest() == two.digest()


# ------------------------------------------------------------------------------------------------------- properties


@st.composite
def blocks(draw) -> list[Block]:
    """Blocks that follow one another, some of them empty, at least one not."""
    counts = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    seed, discrete, logged = draw(st.integers(0, 999)), draw(st.booleans()), draw(st.booleans())
    rng, found, first = np.random.default_rng(seed), [], 0
    for index, count in enumerate(counts):
        kept = int(rng.integers(index == 0, count + 1))
        lengths = rng.integers(1, 5, kept)
        steps = int(lengths.sum())
        episodes = None
        if kept:
            from lamo.data import Episodes

            ended = rng.random(kept) < 0.5
            episodes = Episodes(
                observations=rng.normal(size=(steps, 2)).astype(np.float32),
                actions=rng.integers(3, size=steps) if discrete else rng.normal(size=(steps, 2)).astype(np.float32),
                rewards=rng.normal(size=steps).astype(np.float32),
                offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
                terminated=ended,
                truncated=~ended,
                ids=np.sort(first + rng.permutation(count)[:kept]).astype(np.int64),
                final_observations=rng.normal(size=(kept, 2)).astype(np.float32),
                log_probs=-rng.random(steps).astype(np.float32) if logged else None,
            )
        found.append(Block(first, count, episodes, {"counted": int(rng.integers(9))}))
        first += count
    return found


@settings(max_examples=40, deadline=None)
@given(found=blocks())
def test_blocks_come_back_as_they_were_put(found: list[Block], tmp_path_factory: pytest.TempPathFactory) -> None:
    out = tmp_path_factory.mktemp("blocks") / "a.hdf5"
    memory = Memory()
    with opened(out, {}) as partial:
        for block in found:
            partial.put(block)
            memory.put(block)
        for block in found:
            numbers = range(block.first, block.first + block.count)
            again, kept = Partial(partial.path), memory.episodes(numbers)
            told, wanted = again.summary(numbers), memory.summary(numbers)
            assert told is not None and wanted is not None
            assert np.array_equal(told.returns, wanted.returns) and (told.steps, told.notes) == (
                wanted.steps,
                wanted.notes,
            )
            read = again.episodes(numbers)
            assert (read is None) == (kept is None)
            if read is not None and kept is not None:
                assert read.digest() == kept.digest() and np.array_equal(read.ids, kept.ids)
                assert (read.log_probs is None) == (kept.log_probs is None)
                assert kept.log_probs is None or np.array_equal(read.log_probs, kept.log_probs)


@settings(max_examples=60, deadline=None)
@given(found=blocks(), cut=st.floats(0, 1), where=st.floats(0, 1), value=st.integers(0, 255))
def test_a_damaged_block_is_none_or_itself(
    found: list[Block], cut: float, where: float, value: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with opened(tmp_path_factory.mktemp("blocks") / "a.hdf5", {}) as partial:
        partial.put(found[0])
        file = next(partial.path.glob("block-*"))
        data = bytearray(file.read_bytes())
        data[int(where * (len(data) - 1))] = value
        file.write_bytes(data[: int(cut * len(data)) + 1])
        told = Partial(partial.path).summary(range(found[0].first, found[0].first + found[0].count))
        assert told is None or (told.steps >= 0 and len(told.returns) <= 4)
