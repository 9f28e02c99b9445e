"""Synthetic run folders: everything that a report reads, with known numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

RunMaker = Callable[..., Path]
"""The fixture `make_run`: a name and the arguments of make_run_folder -> the folder."""


def arm_trace(seed: int = 0, target: float | None = 76.0, steps: int = 60) -> dict[str, Any]:
    """A two-link arm that swings towards a goal, as `lamo.evaluate.trace` writes it."""
    rng = np.random.default_rng(seed)
    goal = rng.uniform(0.4, 0.7, 2)
    angles = np.cumsum(rng.normal(0.02, 0.03, (steps + 1, 2)), axis=0)
    elbow = 0.6 * np.stack([np.cos(angles[:, 0]), np.sin(angles[:, 0])], axis=1)
    tip = elbow + 0.45 * np.stack([np.cos(angles.sum(1)), np.sin(angles.sum(1))], axis=1)
    frames = [
        [[0.0, 0.0, *e], [*e, *t], [*t, *t], [*goal, *goal]] for e, t in zip(elbow.tolist(), tip.tolist(), strict=True)
    ]
    rewards = (np.abs(tip[1:] - goal).sum(1) < 0.5).astype(float).tolist()
    return {
        "env": "lamo/Reacher2d-v0",
        "target": target,
        "return": sum(rewards),
        "fps": 20,
        "view": "xy",
        "segments": [
            {"radius": 0.04, "colour": None},
            {"radius": 0.04, "colour": None},
            {"radius": 0.05, "colour": "#149a74"},
            {"radius": 0.06, "colour": [0.85, 0.2, 0.2, 1.0]},
        ],
        "frames": frames,
        "rewards": rewards,
    }


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def write_rows(path: Path, rows: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def episode_rows(
    steps: Sequence[int], targets: Sequence[float | None], episodes: int, value: Callable[[int, float | None, int], Any]
) -> list[dict[str, Any]]:
    """Rows of episodes.jsonl; `value(step, target, episode)` is return and score (None: no score)."""
    rows = []
    for step in steps:
        for target in targets:
            for episode in range(episodes):
                got = value(step, target, episode)
                returned, score = got if isinstance(got, tuple) else (got, got)
                rows.append(
                    {
                        "step": step,
                        "target": target,
                        "episode": episode,
                        "seed": 1_000_000_000 + episode,
                        "return": returned,
                        "score": score,
                        "length": 100,
                        "terminated": False,
                    }
                )
    return rows


def make_run_folder(
    path: Path,
    preset: str = "lamo",
    seed: int = 0,
    level: float = 20.0,
    steps: int = 10_000,
    every: int = 1_000,
    targets: Sequence[float | None] = (76.0, 40.0),
    episodes: int = 5,
    task: str = "reacher2d-medium",
    value: Callable[[int, float | None, int], Any] | None = None,
    finished: bool = True,
    rollout: bool = True,
    pace: float = 40.0,
    config: dict[str, Any] | None = None,
    published: dict[str, Any] | None = None,
) -> Path:
    """One run: scores rise from 0 to about `level`, unless `value` gives each episode's return (and score).

    `published`: what its preset and task say of settings that tasks differ in, None for a folder that does not say.
    """
    rng = np.random.default_rng([seed, len(preset)])
    path.mkdir(parents=True)

    def noisy(step: int, target: float | None, episode: int) -> float:
        bonus = 0.0 if target == targets[0] else -0.2 * level
        return float(max(0.0, (level + bonus) * (1 - np.exp(-3 * step / steps)) + rng.normal(0, 0.12 * level)))

    write_json(
        path / "config.json",
        {
            "preset": preset,
            "task": task,
            "dataset": task,
            "env": "lamo/Reacher2d-v0",
            "ratio": 0.1,
            "seed": seed,
            "steps": steps,
            "eval_every": every,
            "eval_episodes": episodes,
            "batch_size": 64,
            "targets": list(targets),
            "device": "cpu",
            "algorithm": {"name": "sequence", "lm": "tiny", "adapt": "full" if preset == "dt" else "lora"},
            **(config or {}),
        },
    )
    write_json(
        path / "provenance.json",
        {
            "versions": {"lamo": "0.1.0", "torch": "2.13.0", "python": "3.11.9"},
            "git": "0123abc",
            "machine": {"cpu": "a CPU", "cores": 2, "memory": "8 GiB"},
            "dataset": {
                "source": task,
                "digest": "ab" * 32,
                "episodes": 120,
                "steps": 12_000,
                "ids": list(range(120)),
                "return_mean": 40.0 + seed,
                "return_max": 88.0,
                "score_mean": 40.0 + seed,
            },
            "command": f"lamo train --preset {preset} --task {task} --seed {seed}",
            "task": {"name": task, "env": "lamo/Reacher2d-v0", "score_range": [0, 100], "horizon": 100},
            **({} if published is None else {"published": published}),
        },
    )
    logged = range(100, steps + 1, 100)
    losses = [{"step": s, "loss": 0.3 * float(np.exp(-2 * s / steps)) + 0.05 + 0.01 * rng.random()} for s in logged]
    write_rows(path / "metrics.jsonl", [{**row, "action_loss": row["loss"], "learning_rate": 1e-4} for row in losses])
    write_rows(path / "timing.jsonl", [{"step": s, "seconds": s / pace, "steps_per_second": pace} for s in logged])
    write_rows(path / "episodes.jsonl", episode_rows(range(every, steps + 1, every), targets, episodes, value or noisy))
    if finished:
        summary = {
            "parameters": {"total": 12_400_000, "frozen": 12_000_000, "trainable": 400_000, "lora_share": 0.0047},
            "perplexity": {"before": 31.2, "after": 33.9} if preset != "dt" else None,
            "final": {},
            "finished": True,
            "seconds": steps / pace,
        }
        write_json(path / "summary.json", summary)
        if rollout:
            write_json(path / "rollout.json", arm_trace(seed, targets[0]))
    return path
