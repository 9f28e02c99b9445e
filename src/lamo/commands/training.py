"""`lamo train`."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from lamo.commands import answer, auto_target_lines, parse, score_lines, stdout_kept_clean
from lamo.config import Experiment, flag
from lamo.errors import LamoError
from lamo.runs import check_named


@dataclass
class Train:
    """Train a policy. A flag beats the --config file, that beats the preset, and that the task's published settings.

    The options below are those of the chosen --preset and --task, with their defaults.
    """

    experiment: Experiment
    out: Path | None = None
    """Folder of the new run; it must not hold another."""
    seeds: tuple[int, ...] = ()
    """Train a run for each of these seeds into OUT-s0, OUT-s1, …: over one frozen language model as one batched
    computation where the preset allows it, else one after the other. On a processor it saves memory, not time: runs of
    their own, one per core, are as fast or faster."""
    config: Path | None = None
    """Take the settings from this JSON file, such as the config.json of a run."""
    resume: tuple[Path, ...] = ()
    """Go on with the run in this folder, from its newest checkpoint; several that are equally far go on together, as
    --seeds began them. Only --steps, --device, --workers and --tensorboard may be given with it."""
    workers: int | None = None
    """Processes that hold the environments of an evaluation; by default one, or where these are slow one for each core,
    at most 16. What is measured does not depend on it."""
    tensorboard: bool = False
    """Also write TensorBoard files, into the run's folder tensorboard/."""
    quiet: bool = False
    """No progress."""
    json: bool = False
    """Print the run's summary as one JSON object."""


def train_verb(argv: list[str]) -> int:
    """`lamo train`."""
    base = _base_experiment(argv)
    options = parse(Train, "train", argv, Train(base))
    with stdout_kept_clean(options.json):
        from lamo import train as training

        command = shlex.join(["lamo", "train", *argv])
        watch: dict[str, Any] = {name: getattr(options, name) for name in ("quiet", "tensorboard", "workers")}
        if options.resume:
            runs = training.resume_together(options.resume, **_resume_changes(argv, base, options), **watch)
        elif options.out is None:
            raise LamoError("give --out DIR, the folder of the new run (or --resume DIR to go on with one)")
        elif options.seeds:
            if _given(argv, "seed"):
                raise LamoError("--seed is of one run, --seeds of several; drop one of them")
            runs = training.train_together(*_of_seeds(options), command=command, **watch)
        else:
            runs = [training.train(options.experiment, options.out, command=command, **watch)]
    told = [{"run": str(run.path), **(run.summary() or {})} for run in runs]
    text = "\n".join(describe_run(run.path, run.config, summary) for run, summary in zip(runs, told, strict=True))
    several = len(options.seeds or options.resume[1:]) > 0
    return answer({"runs": told} if several else told[0], options.json, lambda: text)


def _of_seeds(options: Train) -> tuple[list[Experiment], list[Path]]:
    """The experiment once for each of --seeds, and their folders."""
    assert options.out is not None
    if len(set(options.seeds)) < len(options.seeds):
        raise LamoError(f"--seeds {' '.join(map(str, options.seeds))} names a seed twice; give each once")
    check_named(options.out)
    outs = [options.out.with_name(f"{options.out.name}-s{seed}") for seed in options.seeds]
    return [options.experiment.but(seed=seed) for seed in options.seeds], outs


def _given(argv: list[str], name: str) -> bool:
    return any(word == f"--{name}" or word.startswith(f"--{name}=") for word in argv)


def _base_experiment(argv: list[str]) -> Experiment:
    """What the flags are laid over: the run of --resume, the file of --config, or defaults of --preset and --task."""
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("preset", "task", "config"):
        peek.add_argument(f"--{name}", nargs="?")
    for name in ("resume", "seeds"):
        peek.add_argument(f"--{name}", nargs="*")
    given, _ = peek.parse_known_args(argv)
    for name, what in (("resume", "folders of runs"), ("seeds", "whole numbers")):
        if getattr(given, name) == []:
            raise LamoError(f"--{name} needs one or more {what}")
    named = {name: getattr(given, name) for name in ("preset", "task") if getattr(given, name) is not None}
    if given.resume is not None:
        from lamo.runs import Run

        if given.config is not None:
            raise LamoError("--resume takes the settings of the run itself; drop --config")
        path = given.resume[0]
        return Experiment.of_run(Run.open(path).config, str(Path(path) / "config.json"))
    if given.config is not None:
        return Experiment.read(given.config).but(**named)
    return Experiment(**named)


def _resume_changes(argv: list[str], base: Experiment, options: Train) -> dict[str, Any]:
    """--steps and --device where they are given. Any other change is an error that names its flag."""
    if options.seeds:
        raise LamoError("--resume goes on with runs and their own seeds; drop --seeds")
    if options.out is not None:
        raise LamoError(f"--resume writes into {options.resume[0]} itself; drop --out")
    new, free = options.experiment, ("steps", "device")
    for old_part, new_part in ((base, new), (base.algorithm, new.algorithm)):
        for field in fields(old_part):
            value = getattr(new_part, field.name)
            if field.name not in (*free, "algorithm") and value != getattr(old_part, field.name):
                raise LamoError(
                    f"{flag(field.name)} cannot change in a run that goes on; start a new one with --config"
                )
    return {name: getattr(new, name) for name in free if _given(argv, name)}


def describe_run(path: Path, config: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """A finished run in a few lines."""
    data = config.get("task") or config.get("dataset")
    data = " + ".join(data) if isinstance(data, list) else data
    lines = [f"{path}: {config['preset']} on {data}, {summary['steps']} steps in {summary['seconds'] / 60:.1f} min"]
    if counts := summary.get("parameters"):
        lora = counts.get("lora_share")
        share = "" if lora is None else f", LoRA {100 * lora:.2f} % of the LM"
        lines.append(
            f"  parameters     {counts['total']:,}: {counts['frozen']:,} frozen, {counts['trainable']:,} trained{share}"
        )
    if summary.get("perplexity"):
        lines.append("  perplexity     {before:.2f} before, {after:.2f} after".format(**summary["perplexity"]))
    if summary.get("holdout_action_error") is not None:
        lines.append(f"  held-out action error {summary['holdout_action_error']:.4g}")
    lines += score_lines(summary["final"]) if summary.get("final") else []
    lines += auto_target_lines(summary)
    return "\n".join([*lines, f"  see it with: lamo report {path} --out report"])
