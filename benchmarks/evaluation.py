"""Evaluation: environment steps per second of 40 episodes at once, against one environment at a time.

    python benchmarks/evaluation.py                   # Hopper, exact windows of 20 steps, 6 layers × 256
    python benchmarks/evaluation.py --size tiny       # the embedded language model
    python benchmarks/evaluation.py --env Reacher2d-v0 --context 5
    python benchmarks/evaluation.py --env FrankaKitchen-v1 --size tiny --workers 2     # environments in two processes

Against the reference (one environment, the whole window through transformers' modules), against our own policy given
one episode at a time, and against the floor. The policy is untrained: what it does is of no account here, how long it
takes is. So that it does not fall over after ten steps, a Hopper's fall does not end an episode here. Both ways run in
turn, in one process, with the environments already open.

Figures are of whole episodes, as long as the environment lets them be. Ours has two speeds: the first K steps go
through the key/value cache, from then on every step computes a whole window. On a processor K + 40 steps are played,
both speeds are measured, and the time of a whole episode is put together from them; the floor counts the same products.
On a GPU whole episodes are played. With `--workers` the aims judge what the processes do together.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from common import (
    QUICK,
    SMALL,
    Row,
    Shape,
    episode_flops,
    learner,
    now,
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
SLIDING = 40  # steps that are played on a processor once the window has begun to slide


@dataclass(frozen=True)
class Pace:
    """Seconds of one environment step of one episode, while the window of `context` steps grows and once it slides."""

    context: int
    growing: float
    sliding: float

    def speed(self, length: int) -> float:
        """Environment steps per second over whole episodes of so many steps."""
        first = min(length, self.context)
        return length / (first * self.growing + (length - first) * self.sliding)


def pace(act, pool: EnvPool, episodes: int, context: int, horizon: int) -> Pace:
    """Of so many episodes at once, played for `horizon` steps."""
    marks = [now()]
    records = rollout(
        act, pool.env_id, [40.0], episodes, 0, horizon=horizon, pool=pool, progress=lambda *_: marks.append(now())
    )
    lengths = np.array([record["length"] for record in records])
    turn = marks[min(context, len(marks) - 1)]
    growing, sliding = int(np.minimum(lengths, context).sum()), int(np.maximum(lengths - context, 0).sum())
    return Pace(context, (turn - marks[0]) / growing, (marks[-1] - turn) / max(sliding, 1))


def reference_speed(reference: ReferenceLearner, pool: EnvPool, episodes: int, horizon: int) -> float:
    """Environment steps per second of the reference, in one environment. Its every step is a whole window."""
    steps = []
    seconds = timed(lambda: steps.extend(reference.play(pool.envs[0], seed, horizon) for seed in range(episodes)))
    return sum(steps) / seconds


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
            parser.add_argument("--workers", type=int, default=1, help="processes that hold the environments"),
            parser.add_argument("--length", type=int, help="steps of an episode; by default the environment's limit"),
            parser.add_argument("--sliding", type=int, help="steps played after the first K; by default "
                                f"{SLIDING} on a processor, all on a GPU"),
        ),
    )  # fmt: skip
    if chosen.workers > 1 and chosen.clock == "cpu":
        raise SystemExit("--clock cpu sees no processor seconds of --workers; time them with --clock wall")
    if chosen.quick:
        chosen.episodes, chosen.single, chosen.rounds, chosen.sliding, chosen.context = 4, 1, 1, 3, 5
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
        length = chosen.length or pool.max_episode_steps or 1000
        sliding = chosen.sliding or (SLIDING if chosen.device == "cpu" else length)
        k, horizon = shape.context, min(length, shape.context + sliding)
        crews = {"one process": pool}
        if chosen.workers > 1:
            crews["workers"] = SpreadPool(chosen.env, chosen.workers, **upright)
        for crew in crews.values():
            pace(act, crew, chosen.episodes, k, min(length, k + 2))  # opens the environments, warms the kernels
        reference_speed(reference, pool, 1, 5)
        paces: dict[str, list[Pace]] = {name: [] for name in (*crews, "alone")}
        theirs = []
        for _ in range(chosen.rounds):
            for name, crew in crews.items():
                paces[name].append(pace(act, crew, chosen.episodes, k, horizon))
            theirs.append(reference_speed(reference, pool, chosen.single, horizon))
            single = [pace(act, pool, 1, k, horizon) for _ in range(chosen.single)]
            paces["alone"].append(
                Pace(
                    k,
                    *(
                        statistics.mean(values)
                        for values in zip(*((p.growing, p.sliding) for p in single), strict=True)
                    ),
                )
            )
        if chosen.workers > 1:
            crews["workers"].close()
        act.reset(chosen.episodes)
        cached = act.cache is not None
    speeds = {name: [each.speed(length) for each in column] for name, column in paces.items()} | {"reference": theirs}
    judged = "workers" if chosen.workers > 1 else "one process"
    middle = {name: statistics.median(column) for name, column in speeds.items()}
    ours = middle[judged]
    what = f"evaluation, {chosen.episodes} episodes of {length}, {chosen.env}, exact windows of {k}, {shape.name}"
    if chosen.workers > 1:
        what += f", environments in {chosen.workers} processes"

    def against(name: str) -> float:
        return statistics.median(a / b for a, b in zip(speeds[judged], speeds[name], strict=True))

    def told(name: str) -> str:
        return f"{ours:.0f} against {middle[name]:.0f} steps/s"

    growing, slides = (
        1e3 * chosen.episodes * statistics.median(getattr(each, phase) for each in paces[judged])
        for phase in ("growing", "sliding")
    )
    floor = rate(shape.width, chosen.device) * length / episode_flops(shape, length, cached)
    ratio, played = against("reference"), f"{horizon} of {length} steps played"
    rows = [
        Row(what, f"≥ {AIM:g} × the reference, one at a time", f"{ratio:.2f} ×", told("reference"), ratio >= AIM),
        Row(what, "–", f"{against('alone'):.2f} × ours, one at a time", told("alone"), None),
        Row(what, "–", f"{floor / ours:.2f} × floor", f"the floor is {floor:.0f} steps/s", None),
        Row(what, "–", f"{growing:.3g} ms a step of all while the window grows, {slides:.3g} ms once it slides",
            played, None),
    ]  # fmt: skip
    if chosen.workers > 1:
        rows.append(Row(what, "–", f"{against('one process'):.2f} × in one", told("one process"), None))
    if chosen.device != "cpu":
        rows.append(
            Row(what, f"≥ {ON_THE_DEVICE} steps/s on 16 cores", f"{ours:.0f} steps/s", "", ours >= ON_THE_DEVICE)
        )
    tell(rows, chosen)


if __name__ == "__main__":
    main()
