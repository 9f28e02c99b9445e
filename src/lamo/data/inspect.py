"""What is in a dataset, and what looks wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from lamo.data.episodes import BLOCK, STD_FLOOR, Episodes
from lamo.data.relabel import warning

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
BINS = 20
_SATURATED = 0.2  # a larger share of actions at their bound hides what the behaviour wanted
_LISTED = 8


def inspect(episodes: Episodes, env: Any = None) -> dict[str, Any]:
    """Describe a dataset; the result is JSON-able.

    `env` is anything with Gymnasium's `observation_space` and `action_space` (an environment or a vector's single
    spaces): then sizes and bounds are compared with it; without it the bounds that the source recorded are used, if
    any. Returns and lengths are per episode, in the rewards' unit and in steps. `notes` says what reading and
    relabelling changed, `problems` what looks wrong: lists of sentences, empty mostly. `history` is by which commands
    the data were made.
    """
    returns, lengths = episodes.returns, episodes.lengths
    low, high, std = _ranges(episodes)
    counts, edges = _histogram(returns)
    report: dict[str, Any] = {
        "source": episodes.source,
        "format": episodes.metadata.get("format"),
        "env": episodes.metadata.get("env"),
        "episodes": len(episodes),
        "steps": episodes.steps,
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
        "return_min": float(returns.min()),
        "return_max": float(returns.max()),
        "return_quantiles": {
            f"{q:g}": float(v) for q, v in zip(QUANTILES, np.quantile(returns, QUANTILES), strict=True)
        },
        "return_histogram": {"counts": counts.tolist(), "edges": edges.tolist()},
        "length_mean": float(lengths.mean()),
        "length_min": int(lengths.min()),
        "length_max": int(lengths.max()),
        "reward_min": float(episodes.extremes("rewards").low),
        "reward_max": float(episodes.extremes("rewards").high),
        "reward_nonzero": sum(int(np.count_nonzero(block)) for block in _blocks(episodes.rewards)) / episodes.steps,
        "observation_dim": int(episodes.observations.shape[1]),
        "observation_low": low.tolist(),
        "observation_high": high.tolist(),
        **_actions(episodes),
        "ended": {
            "terminated": int(np.count_nonzero(episodes.terminated)),
            "truncated": int(np.count_nonzero(episodes.truncated & ~episodes.terminated)),
            "unfinished": int(np.count_nonzero(episodes.unfinished)),
        },
        "final_observations": episodes.final_observations is not None,
        "digest": episodes.digest(),
    }
    said = warning(episodes.metadata)
    report["notes"] = [*episodes.metadata.get("notes", []), *([said] if said else [])]
    if "cache" in episodes.metadata:
        report["notes"].append(f"read from the packed copy in {episodes.metadata['cache']}")
    report["history"] = list(episodes.metadata.get("history", []))
    report["problems"] = [
        *_observation_problems(episodes, low, high, std, env),
        *_action_problems(episodes, env),
        *_episode_problems(episodes),
    ]
    return report


def holds_whole_vectors(episodes: Episodes) -> bool:
    """Whether actions are vectors, and yet could be choices: whole numbers from 0 on, and no others."""
    if episodes.action_kind != "continuous" or (episodes.extremes("actions").low < 0).any():
        return False
    return all(bool((block == np.trunc(block)).all()) for block in _blocks(episodes.actions))


def pays_alike(episodes: Episodes) -> bool:
    """Whether all rewards are equal and tell nothing: where the environment ends episodes, equal rewards that are not 0
    pay for living longer, or for ending sooner.
    """
    low, high = map(float, episodes.extremes("rewards"))
    return low == high and (low == 0 or not bool(episodes.terminated.any()))


def outside_bounds(episodes: Episodes, low: Any, high: Any) -> int:
    """How many steps have an action outside [low, high] in some dimension (discrete: outside low … high)."""
    low, high = np.asarray(low, np.float64).reshape(-1), np.asarray(high, np.float64).reshape(-1)
    count = 0
    for start in range(0, episodes.steps, BLOCK):
        block = episodes.actions[start : start + BLOCK].reshape(-1, len(low))
        # a bound of 0.4 written as float32 is no violation
        lowest, highest = (end + sign * 1e-6 * np.maximum(1, np.abs(end)) for end, sign in ((low, -1), (high, 1)))
        count += int(np.count_nonzero(((block < lowest) | (block > highest)).any(axis=1)))
    return count


def action_bounds(episodes: Episodes, env: Any = None) -> tuple[np.ndarray, np.ndarray] | None:
    """Lowest and highest action of the environment, or as the source recorded them; None where neither says."""
    space: Any = getattr(env, "action_space", None)
    if hasattr(space, "low"):
        return np.ravel(space.low), np.ravel(space.high)
    if hasattr(space, "n"):
        # choices are counted from 0, whatever the space's start; MultiBinary's are of two
        size, most = (int(np.prod(space.shape)), 1) if space.shape else (1, int(space.n) - 1)
        return np.zeros(size), np.full(size, most)
    if hasattr(space, "nvec"):
        return np.zeros(space.nvec.size), np.ravel(space.nvec) - 1
    low, high = episodes.metadata.get("action_low"), episodes.metadata.get("action_high")
    if low is not None and high is not None:
        return np.asarray(low), np.asarray(high)
    said = episodes.metadata.get("action_choices" if episodes.discrete else "action_nvec")
    if said is not None and episodes.choices:
        return np.zeros(np.size(said)), np.ravel(said) - 1
    return None


def _ranges(episodes: Episodes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    low, high = episodes.extremes("observations")
    return low, high, episodes.statistics().std


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK))


def _histogram(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """numpy's, of values also that are so large and near each other that it finds no bins between them."""
    low, high = float(values.min()), float(values.max())
    if high > low and (high - low) / BINS > np.spacing(max(abs(low), abs(high))):
        return np.histogram(values, bins=BINS)
    margin = max(0.5, 1e-3 * max(abs(low), abs(high)))
    return np.histogram(values, bins=BINS, range=(low - margin, high + margin))


def _actions(episodes: Episodes) -> dict[str, Any]:
    if episodes.discrete:
        counts: Counter[int] = Counter()
        for block in _blocks(episodes.actions):
            counts.update(dict(zip(*(part.tolist() for part in np.unique(block, return_counts=True)), strict=True)))
        return {
            "action_kind": "discrete",
            "action_dim": 1,
            "action_counts": {str(value): counts[value] for value in sorted(counts)},
        }
    if episodes.choices:
        seen = [np.unique(column, return_counts=True) for column in np.asarray(episodes.actions).T]
        return {
            "action_kind": "multidiscrete",
            "action_dim": len(episodes.choices),
            "action_nvec": list(episodes.choices),
            "action_counts": [{str(v): int(n) for v, n in zip(*column, strict=True)} for column in seen],
        }
    return {
        "action_kind": "continuous",
        "action_dim": int(episodes.actions.shape[1]),
        "action_low": episodes.extremes("actions").low.tolist(),
        "action_high": episodes.extremes("actions").high.tolist(),
    }


def _observation_problems(
    episodes: Episodes, low: np.ndarray, high: np.ndarray, std: np.ndarray, env: Any
) -> list[str]:
    out = []
    constant = np.flatnonzero(low == high)
    if len(constant):
        out.append(f"observation dimensions {_some(constant)} never change: they teach nothing")
    nearly = np.flatnonzero((std <= STD_FLOOR) & (low != high))
    if len(nearly):
        out.append(
            f"observation dimensions {_some(nearly)} change by no more than {STD_FLOOR:g}: scaling them is noise"
        )
    space = getattr(env, "observation_space", None)
    size = _flat_size(space)
    if size is not None and size != episodes.observations.shape[1]:
        out.append(f"observations have {episodes.observations.shape[1]} numbers, the environment's have {size}")
    return out


def _flat_size(space: Any) -> int | None:
    """Numbers in a flattened observation, without importing Gymnasium."""
    if space is None:
        return None
    if hasattr(space, "spaces"):
        inner = space.spaces.values() if hasattr(space.spaces, "values") else space.spaces
        sizes = [_flat_size(each) for each in inner]
        return None if any(size is None for size in sizes) else sum(size for size in sizes if size is not None)
    if hasattr(space, "nvec"):
        return int(np.sum(space.nvec))
    if hasattr(space, "start") and hasattr(space, "n"):
        return int(space.n)
    return int(np.prod(space.shape)) if getattr(space, "shape", None) is not None else None


def _action_problems(episodes: Episodes, env: Any) -> list[str]:
    bounds = action_bounds(episodes, env)
    width = 1 if episodes.discrete else episodes.actions.shape[1]
    if bounds is None:
        return []
    low, high = bounds
    if len(low) != width:
        return [f"actions have {width} numbers, the environment's have {len(low)}"]
    out = []
    beyond = outside_bounds(episodes, low, high)
    if beyond:
        share = 100 * beyond / episodes.steps
        out.append(
            f"{beyond} of {episodes.steps} steps ({share:.1f} %) have an action outside the bounds, "
            "which the environment clips or refuses"
        )
    if not episodes.choices and np.isfinite(low).all() and np.isfinite(high).all():
        margin = 1e-3 * (high - low)
        at_bound = np.zeros(len(low))
        for block in _blocks(episodes.actions):
            at_bound += np.count_nonzero((block <= low + margin) | (block >= high - margin), axis=0)
        share = at_bound / episodes.steps
        for dim in np.flatnonzero(share > _SATURATED):
            out.append(f"action dimension {dim} is at or beyond its bounds in {100 * share[dim]:.0f} % of the steps")
    return out


def _episode_problems(episodes: Episodes) -> list[str]:
    out = []
    if pays_alike(episodes):
        out.append(f"every reward is {episodes.rewards[0]:g}: nothing tells good behaviour from bad")
    elif len(episodes) > 1 and episodes.returns.min() == episodes.returns.max():
        out.append(f"every episode has the return {episodes.returns[0]:g}: a return target selects nothing")
    twins = _duplicates(episodes)
    if twins:
        names = ", ".join(f"{b} = {a}" for a, b in twins[:_LISTED])
        out.append(f"{len(twins)} episodes repeat another one exactly ({names}{', …' if len(twins) > _LISTED else ''})")
    short = episodes.ids[episodes.lengths == 1]
    if len(short):
        out.append(f"{len(short)} episodes have one step only ({_some(short)})")
    unfinished = episodes.ids[episodes.unfinished]
    if len(unfinished):
        out.append(
            f"{len(unfinished)} episodes end with neither a terminal nor a timeout ({_some(unfinished)}): "
            "their returns may be cut short"
        )
    both = episodes.ids[episodes.terminated & episodes.truncated]
    if len(both):
        out.append(
            f"{len(both)} episodes end with a terminal and a timeout at once ({_some(both)}): counted as terminated"
        )
    inside = episodes.metadata.get("ends_inside", 0)
    if inside:
        out.append(f"{inside} ends are marked inside episodes, before their last step: they are not cut there")
    if len(episodes) < 5:
        out.append(f"there are {len(episodes)} episodes in all")
    return out


def _duplicates(episodes: Episodes) -> list[tuple[int, int]]:
    """(first id, repeated id) of episodes with equal observations, actions and rewards."""
    seen: dict[tuple[int, int], list[int]] = {}
    twins = []
    for index, (start, end) in enumerate(
        zip(episodes.offsets[:-1].tolist(), episodes.offsets[1:].tolist(), strict=True)
    ):
        rewards = episodes.rewards[start:end]
        # Equal episodes have equal keys; the values are compared only then.
        key = (end - start, hash((rewards.tobytes(), episodes.observations[start].tobytes())))
        for other in seen.setdefault(key, []):
            span = slice(int(episodes.offsets[other]), int(episodes.offsets[other + 1]))
            same = np.array_equal(episodes.actions[start:end], episodes.actions[span])
            if same and np.array_equal(episodes.observations[start:end], episodes.observations[span]):
                twins.append((int(episodes.ids[other]), int(episodes.ids[index])))
                break
        else:
            seen[key].append(index)
    return twins


def _some(values: np.ndarray) -> str:
    return ", ".join(map(str, values[:_LISTED].tolist())) + (", …" if len(values) > _LISTED else "")


def render(report: dict[str, Any], width: int = 40) -> str:
    """The report as text: figures, a histogram of returns (`width` characters at most per bar), and the problems."""
    lines = [f"{report['source']}  ({report['format'] or 'in memory'}{', ' + report['env'] if report['env'] else ''})"]

    def line(label: str, text: str) -> None:
        lines.append(f"  {label:<13}{text}")

    line("episodes", f"{report['episodes']:,}")
    line("steps", f"{report['steps']:,}")
    line("length", f"{report['length_mean']:.1f} mean, {report['length_min']} … {report['length_max']}")
    line(
        "return",
        f"{report['return_mean']:.2f} ± {report['return_std']:.2f}, "
        f"{report['return_min']:.2f} … {report['return_max']:.2f}",
    )
    line(
        "reward",
        f"{report['reward_min']:.4g} … {report['reward_max']:.4g}, {100 * report['reward_nonzero']:.1f} % not 0",
    )
    low, high = min(report["observation_low"]), max(report["observation_high"])
    line("observation", f"{report['observation_dim']} numbers, {low:.4g} … {high:.4g}")
    if report["action_kind"] == "discrete":
        line("action", f"discrete, {len(report['action_counts'])} choices seen")
    elif report["action_kind"] == "multidiscrete":
        line("action", f"{report['action_dim']} at once, of {', '.join(map(str, report['action_nvec']))} choices")
    else:
        low, high = min(report["action_low"]), max(report["action_high"])
        line("action", f"{report['action_dim']} numbers, {low:.4g} … {high:.4g}")
    line("ended", ", ".join(f"{count:,} {kind}" for kind, count in report["ended"].items()))
    lines.append("  returns")
    counts, edges = report["return_histogram"]["counts"], report["return_histogram"]["edges"]
    digits = max(len(f"{edge:.1f}") for edge in edges)
    for count, left in zip(counts, edges, strict=False):
        bar = "█" * round(width * count / max(counts)) or ("▏" if count else "")
        lines.append(f"    {left:>{digits}.1f} {bar}{' ' if bar else ''}{count}")
    lines += [f"  note         {note}" for note in report["notes"]]
    lines.append("  problems" if report["problems"] else "  nothing looks wrong")
    lines += [f"    - {problem}" for problem in report["problems"]]
    return "\n".join(lines)
