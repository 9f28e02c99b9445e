"""`lamo data inspect` and `lamo data collect`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from lamo.commands import answer, parse, stdout_kept_clean
from lamo.data.sources.options import ReadOptions


@dataclass
class Inspect:
    """What is in a dataset, and what looks wrong with it."""

    source: Positional[str]
    """A file (.hdf5, .npz, .pkl, .csv, .parquet), a folder, a store (.lamo; every byte of it is checked), a Minari id
    or an embedded name."""
    options: ReadOptions = field(default_factory=ReadOptions)
    env: str | None = None
    """Compare sizes and bounds with this environment, a Gymnasium id; by default the one that the dataset names."""
    html: Path | None = None
    """Also draw it, into this .html file: returns, lengths, actions, observations and three episodes, on one page that
    opens offline.
    """
    json: bool = False
    """Print one JSON object: episodes, steps, return_mean, return_max, …"""


def inspect_verb(argv: list[str]) -> int:
    """`lamo data inspect`."""
    options = parse(Inspect, "data inspect", argv)
    with stdout_kept_clean(options.json):
        from lamo.data.inspect import action_bounds, inspect, render
        from lamo.data.sources import load_episodes
        from lamo.data.store import verify_source

        if options.html is not None:
            from lamo.report.dataset import check_page

            check_page(options.html)
        read = options.options
        episodes = load_episodes(
            options.source, columns=read.columns, obs_keys=read.obs_keys, actions=read.actions, reward=read.reward
        )
        verify_source(options.source)
        if options.env is None:
            result, bounds = inspect(episodes), action_bounds(episodes)
        else:
            from lamo.envs.pool import EnvPool

            with EnvPool(options.env, obs_keys=read.obs_keys) as pool:
                result, bounds = inspect(episodes, pool), action_bounds(episodes, pool)
        if options.html is not None:
            from lamo.data.portrait import portrait
            from lamo.report.dataset import write_dataset_page

            print(write_dataset_page(result, portrait(episodes, bounds), options.html), file=sys.stderr)
    return answer(result, options.json, lambda: render(result))


LOOKED_THROUGH = 1 << 30
"""Bytes of recorded arrays up to which they are read again and inspected."""


@dataclass
class Collect:
    """Record episodes of a behaviour policy and write them as HDF5 in D4RL's layout."""

    task: str
    """What to record: `reacher2d`, a task's name, or a Gymnasium id; or several of them, with commas between."""
    out: Path
    """The .hdf5 file to write, which must not exist; for several tasks a folder, in which each gets NAME.hdf5."""
    episodes: int = 1000
    """Episodes to record."""
    policy: str = "train:medium"
    """`random`; `train:SKILL` (Stable-Baselines3, stopped at that skill: medium, expert or return=NUMBER; also
    `train:medium,steps=300000,algorithm=ppo`); `sb3:FILE.zip` (PPO, A2C, SAC, TD3, DDPG, DQN); the kitchen's scripted
    `operator`, or `operator:noise=0.1,aim=0.01,mistakes=0.2,slowest=0.8,plan=microwave+kettle`; or a run folder.
    """
    target: float | None = None
    """The return that the policy of a run is asked for; by default its own."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise on actions, where the range of each number counts as -1 to 1."""
    epsilon: float = 0.0
    """Probability with which a step's action is uniformly random instead."""
    seed: int = 0
    """Seed of behaviour and of the episodes' starts."""
    horizon: int | None = None
    """Steps after which an episode is cut; by default the environment's own limit."""
    envs: int = 16
    """Episodes stepped together in each process."""
    workers: int | None = None
    """Processes; by default as many as pay: one, or where much is left to record one for each core, at most 8. What is
    recorded does not depend on it."""
    quiet: bool = False
    """No progress."""
    json: bool = False
    """Print what was recorded, as `lamo data inspect --json` does; of more than 1 GiB returns and sizes alone."""


def collect_verb(argv: list[str]) -> int:
    """`lamo data collect`."""
    options = parse(Collect, "data collect", argv)

    def say(line: str) -> None:
        if not options.quiet:
            print(line, file=sys.stderr, flush=True)

    with stdout_kept_clean(options.json):
        from lamo.collecting.collect import collect_file, destinations, is_whole, writable
        from lamo.collecting.request import Request
        from lamo.data.inspect import inspect, render
        from lamo.data.sources import load_episodes

        jobs = [
            (
                Request(
                    task, options.episodes, options.policy, options.seed, options.horizon,
                    options.target, options.noise, options.epsilon, options.envs,
                ),
                out,
            )
            for task, out in destinations(options.task, options.out)
        ]  # fmt: skip
        # Several tasks are gone on with after a stop: those that are whole by this very command are not begun again.
        done = [len(jobs) > 1 and is_whole(request, out) for request, out in jobs]
        left = [job for job, whole in zip(jobs, done, strict=True) if not whole] or jobs
        for _, out in left:
            writable(out)
        results = []
        for request, out in jobs:
            if (request, out) in left:
                found = collect_file(request, out, workers=options.workers, progress=None if options.quiet else say)
                if found.bytes > LOOKED_THROUGH:
                    results.append({"out": str(out), **found.brief(), "problems": None})
                    continue
            else:
                say(f"{out} is whole already")
            results.append({"out": str(out), **inspect(load_episodes(out))})

    def text(result: dict[str, Any]) -> str:
        if result["problems"] is not None:
            return f"{render(result)}\n{result['out']}"
        return (
            f"{result['out']}: {result['episodes']:,} episodes, {result['steps']:,} steps, return "
            f"{result['return_mean']:.2f} ± {result['return_std']:.2f}; too large to be looked through unasked"
        )

    whole = results[0] if len(results) == 1 else {"datasets": results}
    return answer(whole, options.json, lambda: "\n".join(map(text, results)))
