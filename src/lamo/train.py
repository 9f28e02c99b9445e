"""The one loop. It never asks which algorithm it runs: what varies is a learner (`lamo.algorithms` lists its methods).

A checkpoint holds all that the next step depends on: the learner's state, torch's and the batches' random states, and
`Position`. So a run that was killed and resumed makes the same steps as one that was not, bit for bit on a CPU.
"""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from lamo.algorithms import PRESETS, get_algorithm
from lamo.config import Experiment
from lamo.errors import LamoError, warn
from lamo.evaluate import rollout, summarise, trace
from lamo.prepare import Setup, prepare
from lamo.progress import Bar, Board
from lamo.provenance import provenance
from lamo.replay import holdout_errors
from lamo.runs import HOLDOUT_ERROR, Run, check_free

Rows = list[dict[str, Any]]

BATCH_STREAM = 1  # the batches' generator is seeded with (seed, this), the choice of episodes with seed alone


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop (Ctrl-C or SIGTERM) and has saved its state. `exit_code` is 130 or 143."""

    def __init__(self, step: int, path: Path, signum: int) -> None:
        super().__init__(f"stopped at step {step}, its state is saved; go on with: lamo train --resume {path}")
        self.exit_code = 128 + signum


@dataclass
class Position:
    """Where a run is: what a checkpoint says besides tensors and the batches' random state."""

    step: int = 0
    """Gradient steps done."""
    evaluated: int = 0
    """Step of the last evaluation."""
    seconds: float = 0.0
    """Wall time since the start, summed over resumes."""
    perplexity: list[float] = field(default_factory=list)
    """Perplexity before the first step and after the last one, where the learner has such a notion."""
    sums: dict[str, list[float]] = field(default_factory=dict)
    """Metric -> [sum, count] since the last row of metrics.jsonl."""
    busy: float = 0.0
    """Seconds in gradient steps since that row."""

    def add(self, row: Mapping[str, float]) -> None:
        """Take the metrics of one step into the sums."""
        for name, value in row.items():
            entry = self.sums.setdefault(name, [0.0, 0])
            entry[0] += value
            entry[1] += 1

    def take(self, row: Mapping[str, float]) -> tuple[dict[str, float], float]:
        """(means since the last take, steps per second); starts anew. The learning rate is that of the newest `row`."""
        means = {name: total / count for name, (total, count) in self.sums.items()}
        means |= {"learning_rate": row["learning_rate"]} if "learning_rate" in row else {}
        rate = self.sums["loss"][1] / self.busy
        self.sums, self.busy = {}, 0.0
        return means, rate


def train(
    experiment: Experiment,
    out: str | Path,
    *,
    quiet: bool = False,
    tensorboard: bool = False,
    command: str | None = None,
) -> Run:
    """Train from the start into a new run folder `out`. Nothing is written before data and model are in order.

    Raises `LamoError` for bad input and for a loss that is not finite, `Interrupted` after Ctrl-C or SIGTERM.
    """
    check_free(out)
    setup, learner = _build(experiment)
    notes = provenance(setup.episodes, setup.task, setup.device, command, setup.held_out)
    run = Run.create(out, experiment.to_json(), {**notes, "spec": asdict(setup.spec), "model": learner.summary()})
    return _fit(run, experiment, setup, learner, quiet, tensorboard)


def resume(
    path: str | Path,
    *,
    steps: int | None = None,
    device: str | None = None,
    quiet: bool = False,
    tensorboard: bool = False,
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
    setup, learner = _build(replace(experiment, device=device) if device else experiment)
    known = run.provenance.get("dataset")
    if not isinstance(known, dict) or "digest" not in known:
        raise LamoError(f"{path}/provenance.json: damaged (it has no dataset.digest); start over with --config")
    held_out = known.get("holdout") or {}
    now = None if setup.held_out is None else setup.held_out.digest()
    if (setup.episodes.digest(), now) != (known["digest"], held_out.get("digest")):
        raise LamoError(f"{path}: {experiment.dataset} is not the data that the run began with; put the old file back")
    if experiment.to_json() != run.config:
        run.save_config(experiment.to_json())
    return _fit(run, experiment, setup, learner, quiet, tensorboard)


def _build(experiment: Experiment) -> tuple[Setup, Any]:
    setup = prepare(experiment)
    torch.manual_seed(experiment.seed)
    learner = get_algorithm(PRESETS[experiment.preset][0])(
        experiment.algorithm,
        setup.spec,
        setup.episodes,
        device=setup.device,
        batch_size=experiment.batch_size,
        seed=experiment.seed,
    )
    return setup, learner


def _fit(run: Run, experiment: Experiment, setup: Setup, learner: Any, quiet: bool, tensorboard: bool) -> Run:
    """Steps, rows, evaluations and checkpoints up to `experiment.steps`, then what a finished run leaves."""
    rng, steps = np.random.default_rng((experiment.seed, BATCH_STREAM)), experiment.steps
    with run.locked(), Board(run.path, tensorboard) as board, _Signals(quiet) as stop:
        at = _restore(run, setup.device, learner, rng)
        began, saved = time.perf_counter() - at.seconds, at.step
        if at.step == 0 and (perplexity := _perplexity(learner, setup.device)) is not None:
            at.perplexity = [perplexity]
            run.log({"step": 0, "perplexity": perplexity})
        batches = learner.batches(rng)
        with Bar(run.path.name, steps, at.step, quiet=quiet) as bar:
            while True:
                # First what is due at this step, then the next step: a run resumed here finds what it has still to do.
                measured = experiment.eval_episodes > 0 or setup.held_out is not None
                due = measured and _due(at.step, experiment.eval_every, steps)
                if due and at.evaluated != at.step and not stop.caught:
                    found = _evaluate(learner, experiment, setup, stop)
                    if found is not None:
                        _keep(run, at, *found)
                        _tell(bar, board, at.step, *found)
                if at.step != saved and (stop.caught or _due(at.step, experiment.checkpoint_every, steps)):
                    at.seconds, saved = time.perf_counter() - began, at.step
                    _save(run, at, setup.device, learner, rng)
                if stop.caught:
                    raise Interrupted(at.step, run.path, stop.caught)
                if at.step == steps:
                    break

                start = time.perf_counter()
                row = learner.update(next(batches))
                at.busy += time.perf_counter() - start
                at.step += 1
                _check_finite(row, at.step, run)
                at.add(row)
                bar.step(row["loss"])
                if _due(at.step, experiment.log_every, steps):
                    means, rate = at.take(row)
                    if at.step == steps and at.perplexity:
                        means["perplexity"] = _perplexity(learner, setup.device) or math.nan
                        at.perplexity = [at.perplexity[0], means["perplexity"]]
                    run.log({"step": at.step, **means})
                    run.timing({"step": at.step, "seconds": time.perf_counter() - began, "steps_per_second": rate})
                    board.row("train", at.step, {**means, "steps_per_second": rate})
        _finish(run, setup, experiment, learner, at, time.perf_counter() - began)
    return run


def _due(step: int, every: int, last: int) -> bool:
    """At multiples of `every` (0: none) and at the last step; never before the first."""
    return step == last or (step > 0 and every > 0 and step % every == 0)


def _check_finite(row: Mapping[str, float], step: int, run: Run) -> None:
    for name, value in row.items():
        if not math.isfinite(value):
            last = run.last_checkpoint()
            kept = f"the last good checkpoint is of step {last}" if last else "there is no checkpoint yet"
            hint = "lower --learning-rate or look at the data"
            raise LamoError(f"{run.path}: {name} is {value} at step {step}; {kept}; {hint}")


# -------------------------------------------------------------------------------------------------------- checkpoints


def _save(run: Run, at: Position, device: str, learner: Any, rng: np.random.Generator) -> None:
    tensors = {f"learner.{name}": tensor for name, tensor in learner.state_dict().items()}
    tensors["random.cpu"] = torch.get_rng_state()
    if device.startswith("cuda"):
        tensors["random.cuda"] = torch.cuda.get_rng_state(device)
    run.save_checkpoint(at.step, tensors, {"position": asdict(at), "batches": rng.bit_generator.state})


def _restore(run: Run, device: str, learner: Any, rng: np.random.Generator) -> Position:
    """Load the newest whole checkpoint into learner and generators, and cut the logs back to it."""
    found = run.load_checkpoint()
    if found is None:
        run.rewind(-1)
        return Position()
    _, tensors, state = found
    at = Position(**state["position"])
    own = "learner."
    learner.load_state_dict({name[len(own) :]: value for name, value in tensors.items() if name.startswith(own)})
    torch.set_rng_state(tensors["random.cpu"])
    if device.startswith("cuda") and "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"], device)
    rng.bit_generator.state = state["batches"]
    run.rewind(at.step, evaluated=at.evaluated)
    return at


# --------------------------------------------------------------------------------------------------------- evaluation


def _undisturbed(device: str) -> AbstractContextManager[None]:
    """Whatever is drawn inside leaves torch's random state as it was."""
    return torch.random.fork_rng(devices=[device] if device.startswith("cuda") else [])


def _perplexity(learner: Any, device: str) -> float | None:
    """The learner's perplexity on held-out text; None where it has no such notion, or no text."""
    if not hasattr(learner, "perplexity"):
        return None
    with _undisturbed(device):
        return learner.perplexity()


def _evaluate(learner: Any, experiment: Experiment, setup: Setup, stop: _Signals) -> tuple[Rows, float | None] | None:
    """(records of the episodes that were played, error on the episodes held out); None if a signal cut it short."""
    task, rows, error = setup.task, [], None
    try:
        with _undisturbed(setup.device):
            if setup.held_out is not None:
                error = float(holdout_errors(learner.policy(), setup.held_out, stop.check).mean())
            if experiment.eval_episodes:
                rows = rollout(
                    learner.policy(),
                    task.env,
                    task.targets,
                    experiment.eval_episodes,
                    experiment.seed,
                    task.score,
                    progress=stop.check,
                    obs_keys=setup.spec.obs_keys,
                )
    except _Stopped:
        return None
    return rows, error


def _keep(run: Run, at: Position, rows: Rows, error: float | None) -> None:
    run.episodes({"step": at.step, **row} for row in rows)
    if error is not None:
        run.log({"step": at.step, HOLDOUT_ERROR: error})
    at.evaluated = at.step


def _tell(bar: Bar, board: Board, step: int, rows: Rows, error: float | None) -> None:
    parts = []
    if error is not None:
        parts.append(f"held-out action error {error:.4g}")
        board.row("holdout", step, {"action_error": error})
    for row in summarise(rows)["targets"] if rows else ():
        name = "default" if row["target"] is None else f"{row['target']:g}"
        score = "" if row["score_mean"] is None else f" (score {row['score_mean']:.1f})"
        parts.append(f"target {name}: return {row['return_mean']:.4g} ± {row['return_std']:.2g}{score}")
        board.row(f"evaluation/target {name}", step, row)
    bar.say(f"step {step}, {', '.join(parts)}")


def _finish(run: Run, setup: Setup, experiment: Experiment, learner: Any, at: Position, seconds: float) -> None:
    """policy/, rollout.json and, last, summary.json."""
    final, errors = None, [row[HOLDOUT_ERROR] for row in run.read_metrics() if HOLDOUT_ERROR in row]
    run.save_policy(*learner.export())
    if experiment.eval_episodes:
        final = summarise([row for row in run.read_episodes() if row["step"] == at.step])
        with _undisturbed(setup.device):
            played = trace(
                learner.policy(),
                setup.task.env,
                final["best_target"],
                experiment.seed,
                obs_keys=setup.spec.obs_keys,
            )
            run.save_rollout(played)
    run.save_summary(
        {
            **learner.summary(),
            "steps": at.step,
            "perplexity": dict(zip(("before", "after"), at.perplexity, strict=True)) if at.perplexity else None,
            "final": final,
            HOLDOUT_ERROR: errors[-1] if errors else None,
            "seconds": seconds,
            "finished": True,
        }
    )


# ------------------------------------------------------------------------------------------------------------ signals


class _Stopped(Exception):
    """Raised inside an evaluation to leave it."""


class _Signals:
    """While it is entered, the first Ctrl-C or SIGTERM is only noted in `caught`; a second one stops at once."""

    def __init__(self, quiet: bool) -> None:
        self.caught, self.quiet = 0, quiet
        self.before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._catch) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self.caught:
            raise KeyboardInterrupt
        self.caught = number
        if not self.quiet:
            text = "\nlamo: stopping after this step; once more stops at once, without saving"
            print(text, file=sys.stderr, flush=True)

    def check(self, *_: Any) -> None:
        """Raise `_Stopped` if a signal was caught."""
        if self.caught:
            raise _Stopped
