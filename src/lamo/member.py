"""One run in the training loop: its learner, its random states, its place, and what it writes into its folder.

A checkpoint holds all that the next step depends on: the learner's state, torch's and the batches' random states, and
`Position`. So a run that was killed and resumed makes the same steps as one that was not, bit for bit on a CPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from lamo.algorithms.late import LateRow
from lamo.config import Experiment
from lamo.errors import LamoError, warn
from lamo.evaluate import rollout, summarise, trace
from lamo.prepare import Setup
from lamo.progress import Bar, Board
from lamo.replay import holdout_errors
from lamo.runs import HOLDOUT_ERROR, Run
from lamo.signals import Signals, Stopped

Rows = list[dict[str, Any]]

BATCH_STREAM = 1  # the batches' generator is seeded with (seed, this), the choice of episodes with seed alone


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


class Member:
    """A run that is being trained. `random`: torch's random state to be saved, None for the one of the moment;
    `workers`: processes that hold an evaluation's environments, None for as many as pay.
    """

    def __init__(self, run: Run, experiment: Experiment, setup: Setup, learner: Any, workers: int | None = 1) -> None:
        self.run, self.experiment, self.setup, self.learner = run, experiment, setup, learner
        self.workers = workers
        if hasattr(learner, "late"):
            learner.late = reads_late(setup.device)
        self.told: tuple[Mapping[str, float], int] | None = None  # metrics still to be read, and their step
        self.rng = np.random.default_rng((experiment.seed, BATCH_STREAM))
        self.at = Position()
        self.random: torch.Tensor | None = None

    def begin(self, board: Board) -> None:
        """Go to the newest checkpoint, or to the start; measure what is measured before the first step."""
        self.board, self.at = board, self._restore()
        self.began, self.saved = time.perf_counter() - self.at.seconds, self.at.step
        if self.at.step == 0 and (perplexity := self._perplexity()) is not None:
            self.at.perplexity = [perplexity]
            self.run.log({"step": 0, "perplexity": perplexity})
        self.batches = self.learner.batches(self.rng)

    def due(self, bar: Bar, stop: Signals) -> None:
        """Evaluate and save where it is time to. A run resumed here finds what it has still to do."""
        at, experiment, last = self.at, self.experiment, self.experiment.steps
        measured = experiment.eval_episodes > 0 or self.setup.held_out is not None
        due = measured and _due(at.step, experiment.eval_every, last)
        if due and at.evaluated != at.step and not stop.caught:
            self._settle()
            found = self._evaluate(stop)
            if found is not None:
                self._keep(*found)
                self._tell(bar, *found)
        if stop.caught or _due(at.step, experiment.checkpoint_every, last):
            self.save()

    def took(self, row: Mapping[str, float], seconds: float) -> None:
        """A gradient step was done, with these metrics, in these seconds; or a GPU is at it, and the step before is
        done."""
        at, steps = self.at, self.experiment.steps
        at.busy += seconds
        self._settle()
        at.step += 1
        self.told = row, at.step
        logs = _due(at.step, self.experiment.log_every, steps)
        if logs or not isinstance(row, LateRow):
            self._settle()
        if logs:
            means, rate = at.take(row)
            if at.step == steps and at.perplexity:
                means["perplexity"] = self._perplexity() or math.nan
                at.perplexity = [at.perplexity[0], means["perplexity"]]
            self.run.log({"step": at.step, **means})
            passed = time.perf_counter() - self.began
            self.run.timing({"step": at.step, "seconds": passed, "steps_per_second": rate})
            self.board.row("train", at.step, {**means, "steps_per_second": rate})

    def finish(self, stop: Signals) -> None:
        """policy/, rollout.json and, last, summary.json. Raises `Stopped` where a signal was caught meanwhile."""
        run, at, experiment, learner = self.run, self.at, self.experiment, self.learner
        final, errors = None, [row[HOLDOUT_ERROR] for row in run.read_metrics() if HOLDOUT_ERROR in row]
        run.save_policy(*learner.export())
        if experiment.eval_episodes:
            final = summarise([row for row in run.read_episodes() if row["step"] == at.step])
            with self._undisturbed():
                env, target = self.setup.task.env, final["best_target"]
                run.save_rollout(trace(learner.policy(), env, target, experiment.seed, **self._played_with))
        chosen = self._choose_target(stop) if experiment.auto_target else None
        run.save_summary(
            {
                **learner.summary(),
                "steps": at.step,
                "auto_target": chosen,
                "perplexity": dict(zip(("before", "after"), at.perplexity, strict=True)) if at.perplexity else None,
                "final": final,
                HOLDOUT_ERROR: errors[-1] if errors else None,
                "seconds": time.perf_counter() - self.began,
                "finished": True,
            }
        )

    def _choose_target(self, stop: Signals) -> dict[str, Any] | None:
        """The return target that the training data believe in, played beside the others; all of it in auto_target.json.

        Returns it without the episodes' records; None, with a warning, where the data believe in none.
        """
        from lamo.selection.targets import choose_target

        setup, experiment, policy = self.setup, self.experiment, self.learner.policy()
        with self._undisturbed():
            try:
                data, choices, seed = setup.episodes, setup.spec.choices, experiment.seed
                choice = choose_target(policy, data, choices=choices, seed=seed, progress=stop.check)
            except LamoError as error:
                warn(f"{self.run.path}: no return target is chosen, auto_target is null: {error}")
                return None
            rows: Rows = []
            if experiment.eval_episodes:
                task, asked = setup.task, [choice["target"]]
                count, seed = experiment.eval_episodes, experiment.seed
                rows = rollout(
                    policy, task.env, asked, count, seed, task.score,
                    workers=self.workers, progress=stop.check, **self._played_with,
                )  # fmt: skip
        choice["evaluation"] = summarise(rows)["targets"][0] if rows else None
        self.run.save_auto_target({**choice, "records": rows})
        return choice

    def _settle(self) -> None:
        """Take what was told of the newest step into the sums, if that has still to be done; waits for the step."""
        if self.told is None:
            return
        (row, step), self.told = self.told, None
        if isinstance(row, LateRow):
            arrival, row = row.arrival, row.read()
            self.at.busy += arrival.seconds
        self._check_finite(row, step)
        self.at.add(row)

    def _check_finite(self, row: Mapping[str, float], step: int) -> None:
        for name, value in row.items():
            if not math.isfinite(value):
                last = self.run.last_checkpoint()
                kept = f"the last good checkpoint is of step {last}" if last else "there is no checkpoint yet"
                hint = "lower the learning rate or look at the data"
                raise LamoError(f"{self.run.path}: {name} is {value} at step {step}; {kept}; {hint}")

    def save(self) -> None:
        """A checkpoint of this step, if there is none yet."""
        if self.at.step == self.saved:
            return
        self._settle()
        self.at.seconds, self.saved = time.perf_counter() - self.began, self.at.step
        device = self.setup.device
        tensors = {f"learner.{name}": tensor for name, tensor in self.learner.state_dict().items()}
        tensors["random.cpu"] = torch.get_rng_state() if self.random is None else self.random
        if device.startswith("cuda"):
            tensors["random.cuda"] = torch.cuda.get_rng_state(device)
        state = {"position": asdict(self.at), "batches": self.rng.bit_generator.state}
        self.run.save_checkpoint(self.at.step, tensors, state)

    def _restore(self) -> Position:
        """Load the newest whole checkpoint into learner and generators, and cut the logs back to it."""
        found, device = self.run.load_checkpoint(), self.setup.device
        if found is None:
            self.run.rewind(-1)
            return Position()
        _, tensors, state = found
        at = Position(**state["position"])
        own = "learner."
        mine = {name[len(own) :]: value for name, value in tensors.items() if name.startswith(own)}
        self.learner.load_state_dict(mine)
        if self.random is None:
            torch.set_rng_state(tensors["random.cpu"])
        else:
            self.random = tensors["random.cpu"]
        if device.startswith("cuda") and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"], device)
        self.rng.bit_generator.state = state["batches"]
        self.run.rewind(at.step, evaluated=at.evaluated)
        return at

    def _undisturbed(self) -> AbstractContextManager[None]:
        """Whatever is drawn inside leaves torch's random state as it was."""
        device = self.setup.device
        return torch.random.fork_rng(devices=[device] if device.startswith("cuda") else [])

    @property
    def _played_with(self) -> dict[str, Any]:
        """What `rollout` and `trace` have to know of the data."""
        spec = self.setup.spec
        return {"obs_keys": spec.obs_keys, "default_horizon": spec.horizon}

    def _perplexity(self) -> float | None:
        """The learner's perplexity on held-out text; None where it has no such notion, or no text."""
        if not hasattr(self.learner, "perplexity"):
            return None
        with self._undisturbed():
            return self.learner.perplexity()

    def _evaluate(self, stop: Signals) -> tuple[Rows, float | None] | None:
        """(records of the episodes played, error on the episodes held out); None if a signal cut it short."""
        experiment, setup, rows, error = self.experiment, self.setup, [], None
        try:
            with self._undisturbed():
                if setup.held_out is not None:
                    error = float(holdout_errors(self.learner.policy(), setup.held_out, stop.check).mean())
                if experiment.eval_episodes:
                    rows = rollout(
                        self.learner.policy(),
                        setup.task.env,
                        setup.task.targets or (None,),
                        experiment.eval_episodes,
                        experiment.seed,
                        setup.task.score,
                        progress=stop.check,
                        workers=self.workers,
                        **self._played_with,
                    )
        except Stopped:
            return None
        return rows, error

    def _keep(self, rows: Rows, error: float | None) -> None:
        step = self.at.step
        self.run.episodes({"step": step, **row} for row in rows)
        if error is not None:
            self.run.log({"step": step, HOLDOUT_ERROR: error})
        self.at.evaluated = step

    def _tell(self, bar: Bar, rows: Rows, error: float | None) -> None:
        step, parts = self.at.step, []
        if error is not None:
            parts.append(f"held-out action error {error:.4g}")
            self.board.row("holdout", step, {"action_error": error})
        for row in summarise(rows)["targets"] if rows else ():
            name = "default" if row["target"] is None else f"{row['target']:g}"
            score = "" if row["score_mean"] is None else f" (score {row['score_mean']:.1f})"
            parts.append(f"target {name}: return {row['return_mean']:.4g} ± {row['return_std']:.2g}{score}")
            self.board.row(f"evaluation/target {name}", step, row)
        bar.say(f"step {step}, {', '.join(parts)}", what=self.run.path.name)


def reads_late(device: str) -> bool:
    """Whether metrics are read one step late: on a GPU, which then has the next step to do while they are."""
    return device.startswith("cuda")


def _due(step: int, every: int, last: int) -> bool:
    """At multiples of `every` (0: none) and at the last step; never before the first."""
    return step == last or (step > 0 and every > 0 and step % every == 0)
