"""`--targets auto`: which return to ask a return-conditioned policy for, chosen from logged data alone.

The rule. Candidates are the median, the upper quartile, the 0.9 quantile and the best of the logged returns, and two
beyond the best, by a quarter and by a half of the distance from the median to it. A critic of the *behaviour* is fitted
on the log: Q(s, a), what was earned after action a, with the behaviour's own next actions, so that it never has to
guess what it has not seen (one-step evaluation, Brandfonbrener et al. 2021). The episodes are dealt into folds, and
each fold is judged by a critic that was fitted on the others. For each candidate R the policy is asked, along the
logged histories, what it would do if it were to earn R; the mean of Q(s, π_R(s)) over all steps is R's predicted value.
The choice is the *highest* candidate whose predicted value is within one standard error (of the difference, paired over
episodes) of the best predicted value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from lamo.data.episodes import Episodes
from lamo.errors import LamoError
from lamo.policy import Policy
from lamo.replay import replay
from lamo.selection.bootstrap import Bootstrap
from lamo.selection.fqe import CriticSettings, fit, next_logged
from lamo.selection.pool import within

QUANTILES = (0.5, 0.75, 0.9, 1.0)
BEYOND = (0.25, 0.5)
JUDGED_STEPS = 20_000  # steps at which every candidate is asked what it would do
FITTED_STEPS = 100_000
POOL_STREAM, FOLD_STREAM, JUDGED_STREAM, DRAW_STREAM = range(10, 14)  # generators are seeded with (seed, stream)


def candidates(returns: np.ndarray) -> list[float]:
    """The returns to try for a log with these returns (E,): rising, three digits each, none twice."""
    best, middle = float(returns.max()), float(np.median(returns))
    found = [float(np.quantile(returns, q)) for q in QUANTILES] + [best + b * (best - middle) for b in BEYOND]
    return sorted({float(f"{value:.3g}") for value in found})


def check_choosable(episodes: Episodes) -> None:
    """Raise `LamoError` for episodes from which no target can be chosen: a single one, and such as say nothing of what
    came after a step.
    """
    if len(episodes) < 2:
        raise LamoError("--targets auto: one episode cannot be judged by a critic that has not seen it; give a return")
    if not ((episodes.lengths > 1) | episodes.terminated).any():
        raise LamoError(
            f"--targets auto: {episodes.source} holds single steps that a time limit cut off, and no critic can learn "
            "from them; give a return"
        )


def choose_target(
    policy: Policy,
    episodes: Episodes,
    *,
    settings: CriticSettings | None = None,
    choices: Sequence[int] = (),
    seed: int = 0,
    progress: Callable[..., object] | None = None,
) -> dict[str, Any]:
    """The rule above for `policy` and the episodes that it was trained on. `progress` is called now and then.

    Returns a JSON-able {"target", "candidates": [{"target", "value", "below_best", "standard_error", "believed"}, …],
    "episodes", "steps" (at which values are means), "seed", "critic": its settings}. `settings.members` is the number
    of folds, 2 or more and at most one per episode. Raises `LamoError` for a policy that has no return target, and for
    what `check_choosable` refuses.
    """
    if policy.default_target is None:
        raise LamoError("--targets auto: this policy is not asked for a return, so there is none to choose; drop auto")
    check_choosable(episodes)
    settings = settings or CriticSettings()
    if settings.members < 2:
        raise LamoError(
            "--targets auto: each fold is judged by a critic of the others; settings.members must be 2 or more"
        )
    asked = candidates(episodes.returns)
    episodes = episodes.select(within(episodes, FITTED_STEPS, np.random.default_rng((seed, POOL_STREAM))))
    folds = min(settings.members, len(episodes))
    fold = np.random.default_rng((seed, FOLD_STREAM)).permutation(len(episodes)) % folds  # (E,)
    actions, known = next_logged(episodes)
    pools = [np.flatnonzero(fold != i) for i in range(folds)]
    critics = fit(episodes, actions, pools, settings, seed, known=known, choices=choices, progress=progress)

    chosen = within(episodes, JUDGED_STEPS, np.random.default_rng((seed, JUDGED_STREAM)))
    judged, owner = episodes.select(chosen), np.repeat(fold[chosen], episodes.lengths[chosen])  # (N,): unseen by whom
    sums = np.empty((len(judged), len(asked)))
    for i, target in enumerate(asked):
        if progress:
            progress()
        answers = replay(policy, judged, np.full(len(judged), target)).actions
        values = critics(judged.observations, answers)[owner, np.arange(judged.steps)]
        sums[:, i] = np.add.reduceat(values, judged.offsets[:-1])
    return _choice(asked, sums, judged, settings, seed)


def _choice(
    asked: list[float], sums: np.ndarray, judged: Episodes, settings: CriticSettings, seed: int
) -> dict[str, Any]:
    """From each candidate's summed values in each episode (E, C) to the choice."""
    means = sums.sum(axis=0) / judged.steps
    best = int(means.argmax())
    drawn = Bootstrap(len(judged), (seed, DRAW_STREAM)).sums(np.column_stack([sums, judged.lengths]))  # (B, C + 1)
    below = (drawn[:, best : best + 1] - drawn[:, :-1]) / drawn[:, -1:]
    error = below.std(axis=0)
    believed = means[best] - means <= error
    return {
        "target": asked[int(np.flatnonzero(believed).max())],
        "candidates": [
            {
                "target": target,
                "value": float(means[i]),
                "below_best": float(means[best] - means[i]),
                "standard_error": float(error[i]),
                "believed": bool(believed[i]),
            }
            for i, target in enumerate(asked)
        ],
        "episodes": len(judged),
        "steps": judged.steps,
        "seed": seed,
        "critic": asdict(settings),
    }
