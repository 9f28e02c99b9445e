"""The one loop. It never asks which algorithm it runs: what varies is a learner (`lamo.algorithms` lists its methods).

One run or several at once: runs that share a frozen language model go through it as one batch (`train_together`).
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lamo.algorithms import PRESETS, get_algorithm
from lamo.config import Experiment, Spec, read_dataclass
from lamo.data.episodes import Episodes
from lamo.errors import LamoError, warn
from lamo.member import Member
from lamo.prepare import READ_BY, Setup, asked_for, prepare, read
from lamo.progress import Bar, Board
from lamo.provenance import provenance
from lamo.runs import Run, check_free
from lamo.selection.targets import check_choosable
from lamo.signals import Interrupted, Signals, Stopped
from lamo.workers import check_workers

DATA_FIELDS = ("dataset", *READ_BY)  # what decides which episodes `read` gives


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
    check_workers(workers)
    member = _create(experiment, out, *_build(experiment), command, workers)
    _announce(member, quiet)
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
    check_workers(workers)
    for out in outs:
        check_free(out)
    if len({experiment.steps for experiment in experiments}) > 1:
        raise LamoError("runs that train together must have equal --steps")
    first, loaded = experiments[0], None
    if all(getattr(experiment, name) == getattr(first, name) for experiment in experiments for name in DATA_FIELDS):
        loaded = read(first)
    built = []
    for experiment in experiments:
        built.append((*_build(experiment, loaded), torch.get_rng_state()))
        why_not = _pack([learner for _, learner, _ in built])
        if why_not is not None:
            del built
            watch: dict[str, Any] = {"quiet": quiet, "tensorboard": tensorboard, "workers": workers, "command": command}
            each = [partial(train, one, out, **watch) for one, out in zip(experiments, outs, strict=True)]
            left = [f"begin --seeds {one.seed} too, into {out}" for one, out in zip(experiments, outs, strict=True)]
            return _one_by_one(why_not, each, left)
    members = []
    for experiment, out, (setup, learner, random) in zip(experiments, outs, built, strict=True):
        members.append(_create(experiment, out, setup, learner, command, workers))
        members[-1].random = random
    _announce(members[0], quiet)
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
    watch: dict[str, Any] = {"quiet": quiet, "tensorboard": tensorboard, "workers": workers}
    return resume_together([path], steps=steps, device=device, **watch)[0]


def resume_together(
    paths: Sequence[str | Path],
    *,
    steps: int | None = None,
    device: str | None = None,
    quiet: bool = False,
    tensorboard: bool = False,
    workers: int | None = 1,
) -> list[Run]:
    """Go on with several runs, as `train_together` trains them: as one batch if they are equally far and can share a
    model, otherwise one after the other, with a warning that says why. Errors as `resume`.
    """
    check_workers(workers)
    runs = [Run.open(path) for path in paths]
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise LamoError("--resume names a run twice; give each once")
    begun = [(run, experiment) for run in runs if (experiment := _to_do(run, steps)) is not None]
    first = begun[0][1] if begun else None
    shared = all(getattr(each, name) == getattr(first, name) for _, each in begun for name in DATA_FIELDS)
    loaded = read(first) if first is not None and shared and len(begun) > 1 else None
    members, why_not = [], None
    if len({(run.last_checkpoint(), experiment.steps) for run, experiment in begun}) > 1:
        why_not = "they are not equally far"
    for run, experiment in begun if why_not is None else []:
        setup, learner = _reopened(run, replace(experiment, device=device) if device else experiment, loaded)
        members.append(Member(run, experiment, setup, learner, workers))
        if len(begun) > 1:
            members[-1].random = torch.get_rng_state()
            why_not = why_not or _pack([member.learner for member in members])
    watch: dict[str, Any] = {"quiet": quiet, "tensorboard": tensorboard}
    if why_not is not None:
        del members
        watch |= {"steps": steps, "device": device, "workers": workers}
        each = [partial(resume, run.path, **watch) for run, _ in begun]
        _one_by_one(why_not, each, [shlex.join(["lamo", "train", "--resume", str(run.path)]) for run, _ in begun])
        return runs
    if members:
        _fit(members, **watch)
    return runs


def _to_do(run: Run, steps: int | None) -> Experiment | None:
    """What a run is to become; None, with a warning, where it has done all of it."""
    experiment = Experiment.of_run(run.config, str(run.path / "config.json"))
    if steps is not None:
        if steps < (run.last_checkpoint() or 0):
            raise LamoError(f"--steps {steps}: {run.path} has done {run.last_checkpoint()} steps already; give more")
        experiment = replace(experiment, steps=steps)
    if (summary := run.summary()) is not None and summary["steps"] == experiment.steps:
        warn(f"{run.path} has finished its {experiment.steps} steps; give --steps to go further")
        return None
    return experiment


def _reopened(run: Run, experiment: Experiment, loaded: Episodes | None) -> tuple[Setup, Any]:
    """Data and learner of a run that goes on. Raises `LamoError` where the data are not those of its start."""
    path, known = run.path, run.provenance.get("dataset")
    if not isinstance(known, dict) or "digest" not in known:
        raise LamoError(f"{path}/provenance.json: damaged (it has no dataset.digest); start over with --config")
    spec = read_dataclass(Spec, run.provenance.get("spec"), f"{path}/provenance.json: spec")
    setup, learner = _build(experiment, loaded, spec)
    held_out = known.get("holdout") or {}
    now = None if setup.held_out is None else setup.held_out.digest()
    if (setup.episodes.digest(), now) != (known["digest"], held_out.get("digest")):
        raise LamoError(
            f"{path}: {experiment.dataset_name} is not the data that the run began with; put the old file back"
        )
    return setup, learner


def _pack(learners: Sequence[Any]) -> str | None:
    """Let learners share one frozen model; None, or why they cannot."""
    if len({type(learner) for learner in learners}) > 1:
        return "their methods differ"
    pack = getattr(type(learners[0]), "pack", None)
    return pack(learners) if pack else "its learner trains alone"


def _create(
    experiment: Experiment, out: str | Path, setup: Setup, learner: Any, command: str | None, workers: int | None
) -> Member:
    notes = provenance(setup.episodes, setup.task, setup.device, command, setup.held_out)
    notes |= {"published": experiment.published, "spec": asdict(setup.spec), "model": learner.summary()}
    run = Run.create(out, experiment.to_json(), notes)
    return Member(run, experiment, setup, learner, workers)


def _announce(member: Member, quiet: bool) -> None:
    """One line on standard error: what the policy will be asked for, where no task's row says it."""
    line = asked_for(member.experiment, member.setup.task)
    if line is not None and not quiet:
        print(f"lamo: {line}", file=sys.stderr, flush=True)


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
    if known is None and experiment.auto_target:  # a run that goes on finishes, with a warning
        if learner.policy().default_target is None:
            raise LamoError(f"--targets auto: a policy of {experiment.preset} is not asked for a return; drop auto")
        check_choosable(setup.episodes)
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
        if len({member.at.step for member in members}) > 1:  # the newest checkpoint of one may be damaged
            told = ", ".join(f"{member.run.path} at {member.at.step}" for member in members)
            raise LamoError(f"the newest whole checkpoints are not equally far: {told}; resume the runs one by one")
        for member in members:
            if member.experiment.to_json() != member.run.config:
                member.run.save_config(member.experiment.to_json())
        stop = stack.enter_context(Signals(quiet))
        name = paths[0].name if len(paths) == 1 else f"{paths[0].name} … {paths[-1].name}"
        with Bar(name, steps, first.at.step, quiet=quiet) as bar:
            while True:
                _each(members, partial(Member.due, bar=bar, stop=stop))  # at this step; then the next step
                if stop.caught:
                    raise Interrupted(first.at.step, _go_on(members), stop.caught)
                if first.at.step == steps:
                    break
                start = time.perf_counter()
                rows = update([next(member.batches) for member in members])
                _each(members, partial(Member.took, seconds=time.perf_counter() - start), rows)
                bar.step(sum(row["loss"] for row in rows) / len(rows))
        try:
            for member in members:
                stop.check()
                member.finish(stop)
            stop.check()
        except Stopped:
            raise Interrupted(first.at.step, _go_on(members), stop.caught) from None


def _one_by_one(why: str, each: Sequence[Callable[[], Run]], how: Sequence[str]) -> list[Run]:
    """Runs that cannot share a model. Whatever stops one says which are left, and `how` to go on with each."""
    warn(f"one after the other, not as one batch: {why}")
    done: list[Run] = []
    for begin in each:
        try:
            done.append(begin())
        except (LamoError, Interrupted) as stopped:
            left = how[len(done) + 1 :]
            stopped.args = ("; then ".join([str(stopped), *left]),)
            raise
    return done


def _each(members: Sequence[Member], do: Callable[..., None], *given: Sequence[Any]) -> None:
    """`do` for every run, with what is given for it. If one cannot go on, the others are saved before its error is
    raised."""
    well, fault = [], None
    for member, *own in zip(members, *given, strict=True):
        try:
            do(member, *own)
            well.append(member)
        except LamoError as error:
            fault = fault or error
    if fault is None:
        return
    for member in well:
        member.save()
    told = f"; the others are saved, go on without it: {_go_on(well)}" if well else ""
    raise LamoError(f"{fault}{told}")


def _go_on(members: Sequence[Member]) -> str:
    return shlex.join(["lamo", "train", "--resume", *(str(member.run.path) for member in members)])


def _update(members: Sequence[Member]) -> Callable[[list[Any]], list[dict[str, float]]]:
    """Batches, one for each member -> their metrics."""
    learners = [member.learner for member in members]
    if len(learners) == 1:
        return lambda batches: [learners[0].update(batches[0])]
    return lambda batches: type(learners[0]).update_together(learners, batches)
