"""Datasets that other libraries wrote, in environments that exist: one command inspects, one command trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import gymnasium
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as parquet
import pytest
from gymnasium import spaces

from lamo.cli import main
from lamo.data import load_episodes
from lamo.runs import Run

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import minari
    from minari.data_collector import EpisodeBuffer

PENDULUM, GOALS = "Pendulum-v1", "LamoGoalOf3-v0"
EPISODES, STEPS = 5, 12
SMALL = ["--preset", "dt", "--layers", "1", "--width", "16", "--context", "4", "--batch-size", "8", "--steps", "3"]
SMALL += ["--eval-episodes", "1", "--device", "cpu"]
Log = list[dict[str, Any]]


class Goal(gymnasium.Env):
    """A point that is to come near a goal; observations as Gymnasium-Robotics has them."""

    observation_space = spaces.Dict(
        {
            "observation": spaces.Box(-9, 9, (3,), np.float64),
            "desired_goal": spaces.Box(-9, 9, (3,), np.float64),
            "mode": spaces.Discrete(2),
        }
    )
    action_space = spaces.Box(-1, 1, (3,), np.float32)

    def _observe(self) -> dict[str, Any]:
        return {"observation": self.at.copy(), "desired_goal": self.goal.copy(), "mode": int(self.at[0] > 0)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict]:
        super().reset(seed=seed)
        self.at, self.goal = self.np_random.uniform(-1, 1, (2, 3))
        return self._observe(), {}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict]:
        self.at = np.clip(self.at + 0.2 * np.asarray(action, np.float64), -9, 9)
        return self._observe(), float(np.linalg.norm(self.at - self.goal) < 0.5), False, False, {}


@pytest.fixture(autouse=True, scope="module")
def registered():
    gymnasium.register(GOALS, entry_point="test_one_command:Goal", max_episode_steps=10)
    yield
    del gymnasium.registry[GOALS]


def record(name: str) -> Log:
    """Episodes of random actions, recorded with Gymnasium alone."""
    log = []
    with gymnasium.make(name) as env:
        env.action_space.seed(0)
        for number in range(EPISODES):
            seen, actions, rewards, ends = [env.reset(seed=number)[0]], [], [], []
            for step in range(STEPS):
                actions.append(env.action_space.sample())
                observation, reward, terminated, truncated, _ = env.step(actions[-1])
                seen.append(observation)
                rewards.append(float(reward))
                ends.append((terminated, truncated or step == STEPS - 1))
                if any(ends[-1]):
                    break
            log.append({"observations": seen, "actions": actions, "rewards": rewards, "ends": ends})
    return log


def frame(log: Log) -> pd.DataFrame:
    """A robot's log: a row per step, with names that nobody knows."""
    rows = [
        {"run": f"take {number}", "t": 0.05 * step, "cos": o[0], "sin": o[1], "speed": o[2], "torque": a[0], "score": r}
        for number, each in enumerate(log)
        for step, (o, a, r) in enumerate(zip(each["observations"], each["actions"], each["rewards"], strict=False))
    ]
    return pd.DataFrame(rows)


MAPPING = ["--columns", "obs=cos,s.*d|sin", "action=torque", "reward=score", "episode=run", "time=t"]


def by_pandas(log: Log, folder: Path) -> list[str]:
    frame(log).to_parquet(folder / "log.parquet", index=False)
    return [str(folder / "log.parquet"), *MAPPING, "--env", PENDULUM]


def by_pandas_csv(log: Log, folder: Path) -> list[str]:
    """A file per run, whose rows are in the wrong order."""
    for name, part in frame(log).groupby("run"):
        (folder / "runs").mkdir(exist_ok=True)
        part.sort_values("speed").to_csv(folder / "runs" / f"{name}.csv", index=False)
    return [str(folder / "runs"), *MAPPING, "--env", PENDULUM]


def by_pyarrow(log: Log, folder: Path) -> list[str]:
    """Lists in a column, float64, names that are known; zstd, and several row groups."""
    parts = [(np.array(e["observations"][:-1]), np.array(e["actions"]), e["rewards"]) for e in log]
    table = pa.table(
        {
            "episode": np.repeat(range(len(log)), [len(r) for *_, r in parts]),
            "step": np.concatenate([range(len(r)) for *_, r in parts]),
            "observation": pa.array(np.concatenate([o for o, *_ in parts]).astype(np.float64).tolist()),
            "action": pa.array(np.concatenate([a for _, a, _ in parts]).tolist()),
            "reward": np.concatenate([r for *_, r in parts]),
            "terminated": np.concatenate([[end for end, _ in e["ends"]] for e in log]),
            "truncated": np.concatenate([[end for _, end in e["ends"]] for e in log]),
        }
    )
    parquet.write_table(table, folder / "log.parquet", compression="zstd", row_group_size=10)
    return [str(folder / "log.parquet"), "--env", PENDULUM]


def by_minari(log: Log, folder: Path, env: str = PENDULUM, storage: str = "hdf5") -> list[str]:
    """Named by its id; the environment is the one that the dataset names."""
    buffers = [
        EpisodeBuffer(
            id=number,
            observations=_columns(each["observations"]),
            actions=each["actions"],
            rewards=each["rewards"],
            terminations=[end for end, _ in each["ends"]],
            truncations=[end for _, end in each["ends"]],
            infos={"success": [False] * len(each["observations"])},
        )
        for number, each in enumerate(log)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it would like an author and a link
        minari.create_dataset_from_buffers("mine/random-v0", buffers, env=env, data_format=storage)
    return ["mine/random-v0"]


def _columns(values: list[Any]) -> Any:
    return {key: [value[key] for value in values] for key in values[0]} if isinstance(values[0], dict) else values


def by_lerobot(log: Log, folder: Path, version: str) -> list[str]:
    """The files that `LeRobotDataset` writes, camera and statistics aside: columns through `datasets`, as it does."""
    root, number = folder / "pendulum", {"v2.1": 2, "v3.0": 3}[version]
    wide = {"observation.state": 3, "action": 1}
    single = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64"}
    single |= {"task_index": "int64", "next.reward": "float32", "next.done": "bool"}
    kinds: dict[str, Any] = {name: {"dtype": kind, "shape": [1], "names": None} for name, kind in single.items()}
    kinds |= {name: {"dtype": "float32", "shape": [size], "names": ["n"] * size} for name, size in wide.items()}
    features = datasets.Features(
        {name: datasets.Value(kind) for name, kind in single.items()}
        | {"observation.state": datasets.Sequence(datasets.Value("float32"), 3), "action": datasets.Value("float32")}
    )
    total = 0
    (root / "meta").mkdir(parents=True)
    episodes, tables = [], []
    for index, each in enumerate(log):
        count = len(each["rewards"])
        columns = {
            "timestamp": [step / 20 for step in range(count)],
            "frame_index": list(range(count)),
            "episode_index": [index] * count,
            "index": list(range(total, total + count)),
            "task_index": [0] * count,
            "next.reward": each["rewards"],
            "next.done": [step == count - 1 for step in range(count)],
            "observation.state": [list(map(float, o)) for o in each["observations"][:-1]],
            "action": [float(a[0]) for a in each["actions"]],
        }
        tables.append(datasets.Dataset.from_dict(columns, features=features, split="train"))
        episodes.append({"episode_index": index, "tasks": ["swing up"], "length": count})
        if number == 3:
            place = {"data/chunk_index": 0, "data/file_index": 0, "meta/episodes/chunk_index": 0}
            episodes[-1] |= {**place, "dataset_from_index": total, "dataset_to_index": total + count}
            episodes[-1]["stats/action/mean"] = [0.0]
        total += count
    chunk = root / "data" / "chunk-000"
    chunk.mkdir(parents=True)
    if number == 2:
        for index, each in enumerate(tables):
            each.to_parquet(chunk / f"episode_{index:06d}.parquet")
        lines = "".join(json.dumps(each) + "\n" for each in episodes)
        (root / "meta" / "episodes.jsonl").write_text(lines)
        (root / "meta" / "tasks.jsonl").write_text('{"task_index": 0, "task": "swing up"}\n')
    else:
        with parquet.ParquetWriter(chunk / "file-000.parquet", tables[0].features.arrow_schema) as writer:
            for each in tables:
                writer.write_table(each.with_format("arrow")[:])
        (root / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
        parquet.write_table(pa.Table.from_pylist(episodes), root / "meta/episodes/chunk-000/file-000.parquet")
        pd.DataFrame({"task_index": [0]}, index=["swing up"]).to_parquet(root / "meta" / "tasks.parquet")
    (root / "meta" / "stats.json").write_text('{"action": {"mean": [0.0], "std": [NaN]}}')
    template = {
        2: "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        3: "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    }
    info = {
        "codebase_version": version, "robot_type": None, "total_episodes": len(log), "total_frames": total,
        "total_tasks": 1, "chunks_size": 1000, "fps": 20, "splits": {"train": f"0:{len(log)}"},
        "data_path": template[number], "video_path": None, "features": kinds,
    }  # fmt: skip
    (root / "meta" / "info.json").write_text(json.dumps(info, indent=4))
    return [str(root), "--env", PENDULUM]


def by_h5py(log: Log, folder: Path) -> list[str]:
    """robomimic's layout, of a Gymnasium environment."""
    with h5py.File(folder / "demo.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": PENDULUM, "env_type": 2, "env_kwargs": {}})
        for number, each in enumerate(log):
            demo = data.create_group(f"demo_{number}")
            seen = np.array(each["observations"], np.float64)
            demo.create_dataset("obs/state", data=seen[:-1], compression="gzip")
            demo.create_dataset("next_obs/state", data=seen[1:], compression="gzip")
            demo["actions"], demo["rewards"] = np.array(each["actions"], np.float64), each["rewards"]
            demo["dones"] = np.zeros(len(each["rewards"]), np.int64)
    return [str(folder / "demo.hdf5")]


WRITERS: dict[str, Callable[[Log, Path], list[str]]] = {
    "pandas parquet": by_pandas,
    "pandas csv": by_pandas_csv,
    "pyarrow parquet": by_pyarrow,
    "minari hdf5": by_minari,
    "minari arrow": lambda log, folder: by_minari(log, folder, storage="arrow"),
    "lerobot 2.1": lambda log, folder: by_lerobot(log, folder, "v2.1"),
    "lerobot 3.0": lambda log, folder: by_lerobot(log, folder, "v3.0"),
    "robomimic": by_h5py,
}


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))


def inspected(source: str, options: list[str], capsys: Any) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["data", "inspect", source, *options, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def trained(source: str, options: list[str], run: Path) -> list[dict[str, Any]]:
    """Records of the evaluation's episodes."""
    options = [*options, "--quiet", "--json"]
    assert main(["train", "--dataset", source, *options, *SMALL, "--out", str(run)]) == 0
    records = [json.loads(line) for line in (run / "episodes.jsonl").read_text().splitlines()]
    assert Run.open(run).summary is not None and all(np.isfinite(record["return"]) for record in records)
    return records


@pytest.mark.parametrize("writer", WRITERS)
def test_one_command_trains(writer, tmp_path, capsys):
    log = record(PENDULUM)
    source, *options = WRITERS[writer](log, tmp_path)
    report = inspected(source, options, capsys)
    assert (report["episodes"], report["steps"], report["observation_dim"]) == (EPISODES, EPISODES * STEPS, 3)
    assert report["return_mean"] == pytest.approx(np.mean([sum(each["rewards"]) for each in log]), rel=1e-5)
    assert not [line for line in report["problems"] if PENDULUM in line]
    records = trained(source, options, tmp_path / "run")
    assert {record["length"] for record in records} == {200}


@pytest.mark.parametrize("storage", ["hdf5", "arrow"])
def test_observations_that_are_dicts(storage, tmp_path, capsys):
    log = record(GOALS)
    source = by_minari(log, tmp_path, GOALS, storage)[0]
    episodes = load_episodes(source)
    expected = [spaces.flatten(Goal.observation_space, o) for each in log for o in each["observations"][:-1]]
    np.testing.assert_array_equal(episodes.observations, np.array(expected, np.float32))
    for keys, width in ([], 8), (["--obs-keys", "observation", "desired_goal"], 6):
        report = inspected(source, [*keys, "--env", GOALS], capsys)
        assert (report["observation_dim"], report["steps"]) == (width, 10 * EPISODES)
        assert not [line for line in report["problems"] if GOALS in line]
        records = trained(source, keys, tmp_path / f"run{width}")
        assert {record["length"] for record in records} == {10}


@pytest.mark.slow
@pytest.mark.parametrize("writer", ["pandas parquet", "minari hdf5", "lerobot 3.0"])
def test_the_shell_says_the_same(writer, tmp_path):
    """The command as a user types it, in a process of its own."""
    source, *options = WRITERS[writer](record(PENDULUM), tmp_path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for command in (["data", "inspect", source, *options], ["train", "--dataset", source, *options, *SMALL]):
        out = ["--out", "run", "--json"] if command[0] == "train" else ["--json"]
        done = subprocess.run(
            [sys.executable, "-m", "lamo", *command, *out],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        assert isinstance(json.loads(done.stdout), dict)
    assert (tmp_path / "run" / "policy" / "policy.safetensors").exists()
