"""`lamo select`: policies in the order of what logged data says they are worth, with intervals over episodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from lamo.config import check_targets
from lamo.data.episodes import Episodes
from lamo.data.inspect import pays_alike
from lamo.errors import LamoError
from lamo.policy import Policy, load_policy
from lamo.replay import holdout_errors, replay
from lamo.selection.bootstrap import LEVEL, RESAMPLES, Bootstrap, finite, interval
from lamo.selection.fqe import CriticSettings, bootstrap_pools, discounted, first_values, fit, next_answers, next_logged
from lamo.selection.importance import LARGEST, log_likelihood, memory, weighted_return
from lamo.selection.pool import Entrant, Pool, gather, within

Method = Literal["fqe", "importance", "holdout"]
METHODS: tuple[Method, ...] = ("fqe", "importance", "holdout")
FEW = 10.0  # episodes that an estimate by importance rests on, below which its rank is said to say nothing
# generators are seeded with (seed, stream)
POOL_STREAM, CRITIC_STREAM, MEMBER_STREAM, DRAW_STREAM, HOLDOUT_STREAM = range(5)


@dataclass(frozen=True)
class SelectSettings(CriticSettings):
    """How policies are ranked."""

    max_steps: int = 100_000
    """Logged steps that fitted Q evaluation and importance sampling read at most: beyond it, whole episodes chosen at
    random. The held-out error reads every episode that no run was trained on."""
    epsilon: float = 0.1
    """Importance sampling of choices: share of uniformly random ones that is added to the policy, in each component."""
    sigma: float = 0.5
    """Importance sampling of vectors: deviation of the Gaussian noise that is added to the policy, in standard
    deviations of the logged actions."""
    seed: int = 0
    """Seed of critics, of the choice of episodes, and of the bootstrap."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_steps < 1:
            raise LamoError(f"--max-steps {self.max_steps} must be at least 1")
        if not 0 <= self.epsilon <= 1:
            raise LamoError(f"--epsilon {self.epsilon} lies outside [0, 1]")
        if not 0 < self.sigma < float("inf"):
            raise LamoError(f"--sigma {self.sigma} must be a positive number")
        if self.seed < 0:
            raise LamoError(f"--seed {self.seed} must be at least 0")


class _Draws(NamedTuple):
    """What every policy shares, so that they are compared in pairs."""

    pools: list[np.ndarray]  # the episodes of each critic
    episodes: Bootstrap
    members: np.ndarray  # (B,): which critic each draw asks


def select(
    runs: Sequence[str | Path],
    *,
    methods: Sequence[Method] | None = None,
    targets: Sequence[float] | None = None,
    dataset: str | Path | None = None,
    beside: Sequence[str | Path] = (),
    settings: SelectSettings | None = None,
    device: str = "cpu",
    progress: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    """Rank the policies of finished runs by their own logged data; no environment is made.

    A return-conditioned run enters once per return target (`targets`, by default those of the run). `methods`: by
    default all that the data allows, with a note for each that it does not; named ones that it does not allow are
    errors. `dataset` says where the data lies now, if it has moved. `beside`: runs that are not ranked, but whose data
    counts like that of those that are, so that a long ranking can be made run by run. Returns a JSON-able dict:
    {"data", "settings", "ranked_by", "policies": [one per policy, the best first], "behaviour", "notes"}; the values of
    fqe and importance are discounted returns. "behaviour" is what the logged episodes earned themselves, and under
    "fqe" the value of the policy that acted in them, which goes on where a time limit cut them as those of policies do
    (None without fqe). Equal arguments give equal numbers. Raises `LamoError` for what `gather`
    refuses.
    """
    settings = settings or SelectSettings()
    if targets is not None:
        check_targets(targets)
    if not runs:
        raise LamoError("no run to choose from: give one run folder or more")
    pool = gather([*runs, *beside], dataset)
    ranked = {Path(run).resolve() for run in runs}
    asking = [one for one in pool.entrants if one.path.resolve() in ranked and one.experiment.conditioned]
    if targets is not None and not asking:
        raise LamoError("--targets: no policy of these runs is asked for a return; drop it")
    rng = np.random.default_rng((settings.seed, POOL_STREAM))
    episodes = pool.episodes.select(within(pool.episodes, settings.max_steps, rng))
    wanted, notes = _methods(methods, pool, episodes)
    if len(episodes) < len(pool.episodes):
        but = "; the held-out error reads all that no run was trained on" if "holdout" in wanted else ""
        notes.append(
            f"{len(episodes)} of {len(pool.episodes)} episodes are read (--max-steps {settings.max_steps}){but}."
        )
    if len(episodes) < 2:
        raise LamoError(f"{pool.dataset}: one episode says nothing about chance; policies are ranked on 2 or more")
    draws = _draw(episodes, settings)
    unseen = pool.unseen if "holdout" in wanted else None
    redraw = None if unseen is None else Bootstrap(len(unseen), (settings.seed, HOLDOUT_STREAM))
    rows: list[dict[str, Any]] = []
    drawn: list[dict[Method, np.ndarray]] = []
    for entrant in pool.entrants:
        if entrant.path.resolve() not in ranked:
            continue
        policy = load_policy(entrant.path, device)
        error = None if unseen is None or redraw is None else _held_out(policy, unseen, redraw)
        asked = (None,) if policy.default_target is None else tuple(targets or entrant.spec.targets)
        for target in asked:
            row = _row(entrant, target)
            if progress:
                progress(f"{row['policy']}: policy {len(rows) + 1}")
            found = _values(policy, target, entrant, episodes, wanted, settings, draws)
            found |= {} if error is None else {"holdout": error}
            rows.append({**row, **{method: numbers for method, (numbers, _) in found.items()}})
            drawn.append({method: values for method, (_, values) in found.items()})
    for method in wanted:
        _give_ranks(rows, method, [values[method] for values in drawn])
    if "importance" in wanted:
        first = min(rows, key=lambda row: row["importance"]["rank"])
        if (size := first["importance"]["effective_size"]) < FEW:
            notes.append(
                f"By importance-weighted returns {first['policy']} comes first, on an effective sample of {size:.1f} "
                "episodes: too few to go by."
            )
    rows.sort(key=lambda row: (row[wanted[0]]["rank"], row["policy"]))
    earned = discounted(episodes, settings.discount)[episodes.offsets[:-1]]
    behaviour = interval(float(earned.mean()), draws.episodes.means(earned[:, None])[:, 0])
    valued = None
    if "fqe" in wanted:
        if progress:
            progress("the data's own policy")
        valued = _behaviour_value(episodes, pool.entrants[0].spec.choices, settings, draws)
    return {
        "format": 1,
        "data": {
            "dataset": pool.dataset,
            "digest": pool.digest,
            "episodes": len(episodes),
            "steps": episodes.steps,
            "held_out_episodes": 0 if pool.unseen is None else len(pool.unseen),
        },
        "settings": {**asdict(settings), "level": LEVEL, "resamples": RESAMPLES},
        "ranked_by": wanted[0],
        "methods": list(wanted),
        "policies": rows,
        "behaviour": {**behaviour, "fqe": valued},
        "notes": notes,
    }


def _methods(asked: Sequence[Method] | None, pool: Pool, episodes: Episodes) -> tuple[tuple[Method, ...], list[str]]:
    """The methods to use on `episodes` of the pool, in the order of METHODS, and a note for each that cannot be."""
    source = pool.episodes.source
    missing: dict[Method, str] = {}
    if pays_alike(pool.episodes):
        alike = f"every reward of {source} is {pool.episodes.rewards[0]:g}, whatever was done"
        missing |= {"fqe": f"no fitted Q evaluation: {alike}", "importance": f"no importance-weighted returns: {alike}"}
    elif pool.episodes.log_probs is None:
        missing["importance"] = (
            f"no importance-weighted returns: {source} does not hold the log-probabilities of its actions "
            "(behaviour_log_prob, or infos/action_log_probs)"
        )
    elif (size := memory(episodes)) > LARGEST:
        missing["importance"] = (
            f"no importance-weighted returns: {len(episodes)} episodes, the longest of {episodes.lengths.max()} steps, "
            f"would take {size / 2**30:.1f} GiB of memory (give a smaller --max-steps, or --method without importance)"
        )
    if pool.unseen is None:
        missing["holdout"] = (
            "no held-out action error: there is no episode that none of the runs was trained on "
            "(train with --holdout 0.1)"
        )
    for name in asked or ():
        if name in missing:
            raise LamoError(f"--method {name}: {missing[name]}")
    if len(missing) == len(METHODS):
        raise LamoError(f"nothing to choose by: {'; '.join(missing.values())}")
    chosen: list[Method] = [name for name in METHODS if (name in asked if asked else name not in missing)]
    return tuple(chosen), [f"{text[0].upper()}{text[1:]}." for text in missing.values()] if not asked else []


def _draw(episodes: Episodes, settings: SelectSettings) -> _Draws:
    pools = bootstrap_pools(len(episodes), settings.members, np.random.default_rng((settings.seed, CRITIC_STREAM)))
    bootstrap = Bootstrap(len(episodes), (settings.seed, DRAW_STREAM))
    members = np.random.default_rng((settings.seed, MEMBER_STREAM)).integers(settings.members, size=RESAMPLES)
    return _Draws(pools, bootstrap, members)


def _row(entrant: Entrant, target: float | None) -> dict[str, Any]:
    experiment = entrant.experiment
    name = str(entrant.path) if target is None else f"{entrant.path}, target {target:g}"
    keys = ("preset", "seed", "steps", "ratio")
    return {
        "policy": name,
        "run": str(entrant.path),
        "target": target,
        **{key: getattr(experiment, key) for key in keys},
    }


Found = dict[Method, tuple[dict[str, Any], np.ndarray]]
"""Method -> (numbers for the table, value for each bootstrap draw (B,))."""


def _values(
    policy: Policy,
    target: float | None,
    entrant: Entrant,
    episodes: Episodes,
    wanted: Sequence[Method],
    settings: SelectSettings,
    draws: _Draws,
) -> Found:
    """What one policy is worth by fitted Q evaluation and by importance sampling."""
    found: Found = {}
    if not {"fqe", "importance"} & set(wanted):
        return found
    choices = entrant.spec.choices
    replayed = replay(policy, episodes, None if target is None else np.full(len(episodes), target))
    if "fqe" in wanted:
        answers = next_answers(episodes, replayed)
        critics = fit(episodes, answers, draws.pools, settings, settings.seed, choices=choices)
        values = first_values(critics, episodes, replayed.actions)  # (members, E)
        drawn = _drawn(values, draws)
        numbers = interval(float(values.mean()), drawn)
        found["fqe"] = {**numbers, "members": [finite(value) for value in values.mean(axis=1).tolist()]}, drawn
    if "importance" in wanted:
        likely = log_likelihood(
            replayed.actions, episodes.actions, epsilon=settings.epsilon, sigma=settings.sigma, choices=choices
        )
        weighted = weighted_return(episodes, likely, settings.discount, draws.episodes)
        numbers = interval(weighted.value, weighted.resampled)
        found["importance"] = {**numbers, "effective_size": weighted.effective_size}, weighted.resampled
    return found


def _behaviour_value(
    episodes: Episodes, choices: Sequence[int], settings: SelectSettings, draws: _Draws
) -> dict[str, Any] | None:
    """What the policy that acted in the log is worth by fitted Q evaluation. None where too few steps say what it did
    next.
    """
    answers, known = next_logged(episodes)
    try:
        critics = fit(episodes, answers, draws.pools, settings, settings.seed, known=known, choices=choices)
    except LamoError:
        return None
    values = first_values(critics, episodes, episodes.actions)  # (members, E)
    return interval(float(values.mean()), _drawn(values, draws))


def _drawn(values: np.ndarray, draws: _Draws) -> np.ndarray:
    """(members, E) -> (B,): the mean over the episodes of each draw by the critic that it asks."""
    return draws.episodes.means(values.T)[np.arange(RESAMPLES), draws.members]


def _held_out(policy: Policy, unseen: Episodes, bootstrap: Bootstrap) -> tuple[dict[str, Any], np.ndarray]:
    """Error on the episodes that no run was trained on, per step."""
    errors = holdout_errors(policy, unseen)
    sums = np.stack([np.add.reduceat(errors, unseen.offsets[:-1]), unseen.lengths], axis=1)  # (E, 2)
    drawn = bootstrap.sums(sums)
    drawn = drawn[:, 0] / drawn[:, 1]
    return interval(float(errors.mean()), drawn), drawn


def _give_ranks(rows: list[dict[str, Any]], method: Method, drawn: Sequence[np.ndarray]) -> None:
    """Rank 1 for the best; equal ones share the better rank, and without an estimate a policy comes last.

    "best" is the share of bootstrap draws, the same for all, in which the policy comes first (ties share).
    """
    sign = 1.0 if method == "holdout" else -1.0
    found = [row[method]["estimate"] for row in rows]
    keys = np.array([np.inf if value is None else sign * value for value in found])
    table = np.where(np.isfinite(drawn), sign * np.stack(drawn), np.inf)  # (policies, B), smaller is better
    first = table == table.min(axis=0)
    best = (first / first.sum(axis=0)).mean(axis=1)
    for row, key, share in zip(rows, keys, best, strict=True):
        row[method] = {**row[method], "rank": 1 + int((keys < key).sum()), "best": float(share)}
