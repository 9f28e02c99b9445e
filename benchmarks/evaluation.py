"""Evaluation: environment steps per second of 40 episodes at once, against one environment at a time.

    python benchmarks/evaluation.py                   # Hopper, exact windows of 20 steps, 6 layers × 256
    python benchmarks/evaluation.py --size tiny       # the embedded language model
    python benchmarks/evaluation.py --env Reacher2d-v0 --context 5
    python benchmarks/evaluation.py --env FrankaKitchen-v1 --size tiny --workers 2     # and with them in two processes

Against the reference (one environment, the whole window through transformers' modules), against our own policy given
one episode at a time, and against the floor. The policy is untrained: what it does is of no account here, how long it
takes is. So that it does not fall over after ten steps, a Hopper's fall does not end an episode here. Both ways run in
turn, in one process, with the environments already open.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from common import (
    QUICK,
    SMALL,
    Row,
    Shape,
    action_flops,
    learner,
    options,
    rate,
    some_episodes,
    tell,
    timed,
    write_shape,
)
from reference import ReferenceLearner

from lamo.envs.spread import SpreadPool
from lamo.evaluate import EnvPool, rollout

AIM, ON_THE_DEVICE = 10.0, 20_000


def speed(act, pool: EnvPool, episodes: int, parallel: int, horizon: int) -> float:
    """Environment steps per second of one rollout."""
    records = []
    seconds = timed(
        lambda: records.extend(
            rollout(act, pool.env_id, [40.0], episodes, 0, max_parallel=parallel, horizon=horizon, pool=pool)
        )
    )
    return sum(record["length"] for record in records) / seconds


def reference_speed(reference: ReferenceLearner, pool: EnvPool, episodes: int, horizon: int) -> float:
    """The same of the reference, in one environment."""
    steps = []
    seconds = timed(lambda: steps.extend(reference.play(pool.envs[0], seed, horizon) for seed in range(episodes)))
    return sum(steps) / seconds


def open_crew(env: str, workers: int, changes: dict[str, bool]) -> EnvPool:
    return SpreadPool(env, workers, **changes) if workers > 1 else EnvPool(env, **changes)


def main() -> None:
    chosen = options(
        __doc__,
        lambda parser: (
            parser.add_argument("--env", default="Hopper-v5", help="Gymnasium id"),
            parser.add_argument("--size", choices=("small", "tiny"), default="small"),
            parser.add_argument("--context", type=int, default=20, help="steps that the policy sees"),
            parser.add_argument("--episodes", type=int, default=40, help="episodes at once"),
            parser.add_argument("--single", type=int, default=2, help="episodes timed one at a time"),
            parser.add_argument("--rounds", type=int, default=3, help="times that each way is timed"),
            parser.add_argument("--workers", type=int, default=1, help="also with environments in so many processes"),
            parser.add_argument("--horizon", type=int, default=60, help="steps of an episode"),
        ),
    )
    if chosen.quick:
        chosen.episodes, chosen.single, chosen.rounds, chosen.horizon, chosen.context = 4, 1, 1, 8, 5
    upright = {"terminate_when_unhealthy": False} if chosen.env.startswith(("Hopper", "Walker2d", "Ant")) else {}
    with tempfile.TemporaryDirectory() as folder, EnvPool(chosen.env, **upright) as pool:
        base = Shape(4, 128, 2) if chosen.size == "tiny" else QUICK if chosen.quick else SMALL
        sizes = {"observations": pool.observation_dim, "actions": pool.action_dim, "vocabulary": 100}
        shape = replace(base, context=chosen.context, **sizes)
        write_shape(shape, Path(folder))
        episodes = some_episodes(2, 100, shape)
        act = learner(shape, episodes, Path(folder), chosen.device).policy()
        reference = ReferenceLearner(
            episodes, shape.layers, shape.width, shape.heads, shape.context, vocabulary=100, device=chosen.device
        )
        speed(act, pool, chosen.episodes, chosen.episodes, 5)  # opens the environments, warms the kernels
        reference_speed(reference, pool, 1, 5)
        crew = open_crew(chosen.env, chosen.workers, upright)
        speed(act, crew, chosen.episodes, chosen.episodes, 5)
        rounds, spread = [], []
        for _ in range(chosen.rounds):
            spread.append(speed(act, crew, chosen.episodes, chosen.episodes, chosen.horizon))
            rounds.append(
                (
                    speed(act, pool, chosen.episodes, chosen.episodes, chosen.horizon),
                    reference_speed(reference, pool, chosen.single, chosen.horizon),
                    speed(act, pool, chosen.single, 1, chosen.horizon),
                )
            )
        crew.close()
    ours, theirs, alone = (statistics.median(column) for column in zip(*rounds, strict=True))
    floor = rate(shape.width, chosen.device) / action_flops(shape)  # steps per second if products were all
    what = f"evaluation, {chosen.episodes} episodes, {chosen.env}, exact windows of {shape.context}, {shape.name}"
    ratio = statistics.median(a / b for a, b, _ in rounds)
    rows = [
        Row(
            what, f"≥ {AIM:g} × the reference, one at a time", f"{ratio:.2f} ×",
            f"{ours:.0f} against {theirs:.0f} steps/s", ratio >= AIM,
        ),
        Row(what, "–", f"{statistics.median(a / c for a, _, c in rounds):.2f} × ours, one at a time",
            f"{ours:.0f} against {alone:.0f} steps/s", None),
        Row(what, "–", f"{floor / ours:.2f} × floor of full windows", f"the floor is {floor:.0f} steps/s", None),
    ]  # fmt: skip
    if chosen.workers > 1:
        ratio = statistics.median(a / b for a, (b, _, _) in zip(spread, rounds, strict=True))
        rows.append(Row(f"{what}, environments in {chosen.workers} processes", "–", f"{ratio:.2f} × in one",
                        f"{statistics.median(spread):.0f} against {ours:.0f} steps/s", None))  # fmt: skip
    if chosen.device != "cpu":
        aim = f"≥ {ON_THE_DEVICE} environment steps/s"
        rows.append(Row(what, aim, f"{ours:.0f} steps/s", "", ours >= ON_THE_DEVICE))
    tell(rows, chosen)


if __name__ == "__main__":
    main()
