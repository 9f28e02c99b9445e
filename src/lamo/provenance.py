"""What a run was made from: versions, commit, machine, data. Written once, into provenance.json."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from lamo.data.episodes import Episodes
from lamo.data.relabel import relabellings
from lamo.tasks import Task

_LEARNING = ("lamo", "torch", "transformers", "peft", "tokenizers", "safetensors")
PACKAGES = (*_LEARNING, "numpy", "gymnasium", "mujoco", "minari")


def provenance(
    episodes: Episodes, task: Task, device: str, command: str | None, held_out: Episodes | None = None
) -> dict[str, Any]:
    """All of it but the model, JSON-able. `episodes` are those that are trained on, `held_out` those that are not."""
    returns = episodes.returns
    scores = [task.score(float(value)) for value in returns]
    return {
        "versions": versions(),
        "commit": commit(),
        "machine": machine(),
        "device": device,
        "command": command,
        "dataset": {
            "source": episodes.source,
            "cache": episodes.metadata.get("cache"),
            **_episodes(episodes),
            "parts_of_env": episodes.metadata.get("parts_of_env"),
            "history": episodes.metadata.get("history", []),
            "relabelled": relabellings(episodes.metadata),
            "holdout": None if held_out is None else _episodes(held_out),
            "return_mean": float(returns.mean()),
            "return_max": float(returns.max()),
            "score_mean": None if None in scores else sum(s for s in scores if s is not None) / len(scores),
        },
        "task": {
            "name": task.name,
            "description": task.description,
            "env": task.env,
            "score_range": task.score_range,
            "horizon": task.horizon,
            "return_scale": task.return_scale,
            "targets": task.targets,
        },
    }


def _episodes(episodes: Episodes) -> dict[str, Any]:
    return {
        "digest": episodes.digest(),
        "episodes": len(episodes),
        "steps": episodes.steps,
        "ids": episodes.ids.tolist(),
    }


def versions() -> dict[str, str | None]:
    """Python's version and those of the packages that figures depend on; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def commit() -> str | None:
    """The git commit of this source tree, with `+changes` if a tracked file differs; None outside its repository."""
    here = Path(__file__).resolve()
    try:

        def git(*words: str) -> str:
            command = ["git", "-C", str(here.parent), *words]
            return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

        git("ls-files", "--error-unmatch", here.name)  # a site-packages inside somebody's repository is not ours
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def machine() -> dict[str, Any]:
    """The processor's name, cores this process may use, memory in GiB, system."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        memory = None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu_name(),
        "cores": cores,
        "memory_gib": None if memory is None else round(memory, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
