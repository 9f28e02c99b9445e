"""Time of one gradient step (LoRA 16, batch 64 × 20 steps) as a ratio to the references and to the floor.

    python benchmarks/step.py                 6 layers × 256, without and with the language loss
    python benchmarks/step.py --size gpt2     GPT-2 (124 M)

References: benchmarks/reference.py. All are timed in turn. On a GPU (`--device cuda`) our step is replayed as one CUDA
graph; what the recording brings stands beside it. For GPT-2 there follows what 100 000 such steps with all evaluations
would take: nobody waits for it, it is put together from the measured step and one measured evaluation.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import (
    GPT2,
    QUICK,
    SMALL,
    TEXT_BATCH,
    TEXT_BLOCK,
    K,
    Row,
    at_least,
    at_most,
    floor_dtype,
    in_turn,
    learner,
    options,
    rate,
    some_episodes,
    step_flops,
    tell,
    timed,
    within,
    write_shape,
    write_text,
)  # fmt: skip
from reference import ReferenceLearner

from lamo.algorithms.sequence_step import WARM_UP
from lamo.config import Experiment
from lamo.envs.spread import open_pool
from lamo.evaluate import rollout
from lamo.policy import Policy
from lamo.workers import usable_cores

AIMS = {"gpt2": {"B": 6.0, "A": None, "floor": 2.0}, "small": {"B": 5.0, "A": 12.0, "floor": 2.5}}
WITH_TEXT = 4.0
MILLISECONDS = 4.0, 9.0  # of a step of GPT-2 on a GPU, without text and with it
STEPS, MINUTES, TARGETS = 100_000, 10, 2  # of a whole run there; as many targets as HalfCheetah's tasks have


def evaluation_seconds(policy: Policy, env: str = "HalfCheetah-v5") -> float:
    """Of one evaluation as `lamo train` does it, whole episodes for each target, environments in all cores."""
    targets, episodes = [1000.0] * TARGETS, Experiment.eval_episodes
    pool = open_pool(env, TARGETS * episodes, workers=usable_cores())
    try:
        rollout(policy, env, targets, episodes, 0, horizon=K + 2, pool=pool)  # opens and warms
        return timed(lambda: rollout(policy, env, targets, episodes, 0, pool=pool))
    finally:
        pool.close()


def whole_run(step: float, evaluation: float) -> Row:
    """A row for a run, extrapolated from the seconds of a step and of an evaluation."""
    times = STEPS // Experiment.eval_every
    minutes = (STEPS * step + times * evaluation) / 60
    what = (
        f"run of {STEPS:,} steps, GPT-2, no language loss, with {times} evaluations of {Experiment.eval_episodes} "
        f"episodes for each of {TARGETS} targets: extrapolated"
    )
    told = f"{1e3 * step:.2f} ms a step, {evaluation:.3g} s an evaluation"
    return Row(what, f"≤ {MINUTES} min on an H200", f"{minutes:.1f} min", told, minutes <= MINUTES)


def main() -> None:
    chosen = options(
        __doc__,
        lambda parser: (
            parser.add_argument("--size", choices=AIMS, default="small"),
            parser.add_argument("--repeats", type=int, help="rounds; by default 5, and 2 for gpt2"),
        ),
    )
    shape = QUICK if chosen.quick else GPT2 if chosen.size == "gpt2" else SMALL
    big, device = shape is GPT2, chosen.device
    repeats = chosen.repeats or (2 if big and device == "cpu" else 5)
    episodes = some_episodes(shape=shape)
    size = (shape.layers, shape.width, shape.heads, shape.context, shape.batch)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shape(shape, folder)
        recorded = device != "cpu"
        ours = learner(shape, episodes, folder, device, cuda_graph=recorded)
        reading = learner(shape, episodes, folder, device, write_text(folder), cuda_graph=recorded)
        plain = learner(shape, episodes, folder, device) if recorded else None
    both = [(each, each.batches(np.random.default_rng(0))) for each in (ours, reading)]
    contenders: dict[str, Callable[[], object]] = {
        "ours": lambda: both[0][0].update(next(both[0][1])),
        "ours with text": lambda: both[1][0].update(next(both[1][1])),
        "A": ReferenceLearner(episodes, *size, vocabulary=shape.vocabulary, device=device).step,
        "B": ReferenceLearner(episodes, *size, text=False, vocabulary=shape.vocabulary, device=device).step,
    }
    if plain is not None:
        batches = plain.batches(np.random.default_rng(0))
        contenders["launched"] = lambda: plain.update(next(batches))
    # on a GPU the first steps are made as usual, and one is recorded
    warm = WARM_UP + 2 if recorded else 0 if big else 1
    seconds = in_turn(contenders, repeats, device, warm=warm)
    speed = rate(shape.width, device)
    text = (TEXT_BATCH, TEXT_BLOCK)
    floor, floor_text = step_flops(shape) / speed, step_flops(shape, text) / speed
    aims, mine, dtype = AIMS[chosen.size], seconds["ours"], str(floor_dtype(device)).removeprefix("torch.")
    what = f"gradient step, {shape.name}, no language loss"
    rows = [at_least(what, aims["B"] or 0, "reference B", mine, seconds["B"])]
    if aims["A"]:
        rows.append(at_least(what, aims["A"], "reference A", mine, seconds["A"]))
    else:
        rows.append(Row(what, "–", f"{seconds['A'] / mine:.2f} × reference A", "", None))
    rows.append(at_most(what, aims["floor"] or 0, f"floor ({dtype}, {speed / 1e9:.0f} GFLOP/s)", mine, floor))
    if recorded:
        rows.append(Row(what, "–", f"{seconds['launched'] / mine:.2f} × launched by Python", "one CUDA graph", None))
    if recorded and big:
        rows.append(within(what, MILLISECONDS[0], mine))
        rows.append(whole_run(mine, evaluation_seconds(ours.policy())))
    what = f"gradient step, {shape.name}, λ 0.1"
    rows.append(at_least(what, WITH_TEXT, "reference A", seconds["ours with text"], seconds["A"]))
    if recorded and big:
        rows.append(within(what, MILLISECONDS[1], seconds["ours with text"]))
    rows.append(Row(what, "–", f"{seconds['ours with text'] / floor_text:.2f} × floor", "", None))
    tell(rows, chosen)


if __name__ == "__main__":
    main()
