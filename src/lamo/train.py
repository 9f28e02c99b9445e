"""The one loop. It never asks which algorithm it runs: what varies is a learner (`lamo.algorithms` lists its methods).

One run or several at once: runs that share a frozen language model go through it as one batch (`train_together`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from lamo.algorithms import PRESETS, get_algorithm
from lamo.config import Experiment, Spec, read_dataclass
from lamo.data.episodes import Episodes
from lamo.errors import LamoError, warn
from lamo.member import Member
from lamo.prepare import Setup, prepare, read
from lamo.progress import Bar, Board
from lamo.provenance import provenance
from lamo.runs import Run, check_free
from lamo.signals import Interrupted, Signals

DATA_FIELDS = ("dataset", "columns", "obs_keys", "actions", "reward")  # what decides which episodes `read` gives


def train(
    experiment: Experiment,
    out: str | Path,
    *,
    quiet: bool = False,
    tensorboard: bool = False,
    workers: int | None = 1,
    command: str | None = None,
) -> Run:
    """Train from the start into a new run folder `out`. Nothing is written before data and model are in order.

    `workers`: processes that hold the environments of an evaluation, which do not change it; None: as many as pay.
    Raises `LamoError` for bad input and for a loss that is not finite, `Interrupted` after Ctrl-C or SIGTERM.
    """
    check_free(out)
    member = _create(experiment, out, *_build(experiment), command, workers)
    _fit([member], quiet, tensorboard)
    return member.run


def train_together(
    experiments: Sequence[Experiment],
    outs: Sequence[str | Path],
    *,
    quiet: bool = False,
    tensorboard: bool = False,
    workers: int | None = 1,
    command: str | None = None,
) -> list[Run]:
    """Train several runs over one frozen language model, in one process and as one batched computation.

    They may differ in seed, ratio, targets and learning rates (whatever does not change a shape); each is an ordinary
    run folder, equal to what `train` makes alone up to the order of float32 sums. Runs that cannot share a model (a
    Transformer trained in full, random weights of different seeds) are trained one after the other, with a warning that
    says why. Errors as `train`.
    """
    for out in outs:
        check_free(out)
    if len({experiment.steps for experiment in experiments}) > 1:
        raise LamoError("runs that train together must have equal --steps")
    first, loaded = experiments[0], None
    if all(getattr(experiment, name) == getattr(first, name) for experiment in experiments for name in DATA_FIELDS):
        loaded = read(first)
    learner_class = get_algorithm(PRESETS[first.preset][0])
    pack = getattr(learner_class, "pack", None)
    built = []
    for experiment in experiments:
        built.append((*_build(experiment, loaded), torch.get_rng_state()))
        why_not = pack([learner for _, learner, _ in built]) if pack else "its learner trains alone"
        if why_not is not None:
            del built
            warn(f"one after the other, not as one batch: {why_not}")
            watch: dict[str, Any] = {"quiet": quiet, "tensorboard": tensorboard, "workers": workers, "command": command}
            return [train(experiment, out, **watch) for experiment, out in zip(experiments, outs, strict=True)]
    members = []
    for experiment, out, (setup, learner, random) in zip(experiments, outs, built, strict=True):
        members.append(_create(experiment, out, setup, learner, command, workers))
        members[-1].random = random
    _fit(members, quiet, tensorboard)
    return [member.run for member in members]


def resume(
    path: str | Path,
    *,
    steps: int | None = None,
    device: str | None = None,
    quiet: bool = False,
    tensorboard: bool = False,
    workers: int | None = 1,
) -> Run:
    """Go on with the run in `path` from its newest checkpoint, or from its config if it has none yet.

    `steps` makes it longer. A run that has finished is returned as it is. Raises `LamoError` for no run,
    data that changed since, and fewer steps than are done.
    """
    run = Run.open(path)
    experiment = Experiment.from_json(run.config, str(Path(path) / "config.json"))
    if steps is not None:
        if steps < (run.last_checkpoint() or 0):
            raise LamoError(f"--steps {steps}: {path} has done {run.last_checkpoint()} steps already; give more")
        experiment = replace(experiment, steps=steps)
    if (summary := run.summary()) is not None and summary["steps"] == experiment.steps:
        warn(f"{path} has finished its {experiment.steps} steps; give --steps to go further")
        return run
    known = run.provenance.get("dataset")
    if not isinstance(known, dict) or "digest" not in known:
        raise LamoError(f"{path}/provenance.json: damaged (it has no dataset.digest); start over with --config")
    spec = read_dataclass(Spec, run.provenance.get("spec"), f"{path}/provenance.json: spec")
    setup, learner = _build(replace(experiment, device=device) if device else experiment, known=spec)
    held_out = known.get("holdout") or {}
    now = None if setup.held_out is None else setup.held_out.digest()
    if (setup.episodes.digest(), now) != (known["digest"], held_out.get("digest")):
        raise LamoError(
            f"{path}: {experiment.dataset_name} is not the data that the run began with; put the old file back"
        )
    if experiment.to_json() != run.config:
        run.save_config(experiment.to_json())
    _fit([Member(run, experiment, setup, learner, workers)], quiet, tensorboard)
    return run


def _create(
    experiment: Experiment, out: str | Path, setup: Setup, learner: Any, command: str | None, workers: int | None
) -> Member:
    if experiment.auto_target and learner.policy().default_target is None:
        raise LamoError(f"--targets auto: a policy of {experiment.preset} is not asked for a return; drop auto")
    notes = provenance(setup.episodes, setup.task, setup.device, command, setup.held_out)
    notes |= {"published": experiment.published, "spec": asdict(setup.spec), "model": learner.summary()}
    run = Run.create(out, experiment.to_json(), notes)
    return Member(run, experiment, setup, learner, workers)


def _build(experiment: Experiment, loaded: Episodes | None = None, known: Spec | None = None) -> tuple[Setup, Any]:
    setup = prepare(experiment, loaded, known)
    torch.manual_seed(experiment.seed)
    learner = get_algorithm(PRESETS[experiment.preset][0])(
        experiment.algorithm,
        setup.spec,
        setup.episodes,
        device=setup.device,
        batch_size=experiment.batch_size,
        seed=experiment.seed,
        steps=experiment.steps,
    )
    return setup, learner


def _fit(members: Sequence[Member], quiet: bool, tensorboard: bool) -> None:
    """Steps, rows, evaluations and checkpoints up to the last step, then what finished runs leave."""
    first = members[0]
    steps, paths = first.experiment.steps, [member.run.path for member in members]
    update = _update(members)
    with ExitStack() as stack:
        for member in members:
            stack.enter_context(member.run.locked())
            member.begin(stack.enter_context(Board(member.run.path, tensorboard)))
        stop = stack.enter_context(Signals(quiet))
        name = paths[0].name if len(paths) == 1 else f"{paths[0].name} … {paths[-1].name}"
        with Bar(name, steps, first.at.step, quiet=quiet) as bar:
            while True:
                for member in members:  # first what is due at this step, then the next step
                    member.due(bar, stop)
                if stop.caught:
                    raise Interrupted(
                        first.at.step, " && ".join(f"lamo train --resume {path}" for path in paths), stop.caught
                    )
                if first.at.step == steps:
                    break
                start = time.perf_counter()
                rows = update([next(member.batches) for member in members])
                seconds = time.perf_counter() - start
                for member, row in zip(members, rows, strict=True):
                    member.took(row, seconds)
                bar.step(sum(row["loss"] for row in rows) / len(rows))
        for member in members:
            member.finish()


def _update(members: Sequence[Member]) -> Callable[[list[Any]], list[dict[str, float]]]:
    """Batches, one for each member -> their metrics."""
    learners = [member.learner for member in members]
    if len(learners) == 1:
        return lambda batches: [learners[0].update(batches[0])]
    return lambda batches: type(learners[0]).update_together(learners, batches)
