"""Several datasets as one, without copying: their steps stay where they are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from lamo.data.actions import KIND_WORDS
from lamo.data.episodes import Episodes, Extremes, Moments, Recorded
from lamo.data.spans import joiner
from lamo.errors import LamoError, warn

_ALIKE = ("env", "action_low", "action_high", "action_choices", "action_nvec", "observation_keys", "observation_sizes")


def join(parts: Sequence[Episodes]) -> Episodes:
    """Episodes of all parts, one after the other; steps are not copied, what is per episode is.

    Numbers of episodes are kept where no two are alike, else counted on from part to part. Where every part knows its
    digest the whole has one made of theirs; statistics are put together in float64 (Chan, Golub and LeVeque 1983).
    Raises `LamoError`, naming both, for parts that do not fit together.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    for other in parts[1:]:
        check_alike(first, other)
    ids = join_ids([part.ids for part in parts])
    rows = joiner()
    finals = None
    if any(part.final_observations is not None for part in parts):
        width = first.observations.shape[1]
        unknown = [np.full((len(part), width), np.nan, np.float32) for part in parts]
        finals = np.concatenate(
            [b if a.final_observations is None else a.final_observations for a, b in zip(parts, unknown, strict=True)]
        )
    log_probs = [part.log_probs for part in parts if part.log_probs is not None]
    if 0 < len(log_probs) < len(parts):
        without = next(part for part in parts if part.log_probs is None)
        warn(f"{without.source}: has no log-probabilities of its actions, others have: they are left out of all")
    ends = np.cumsum([0, *(part.steps for part in parts)])
    whole = Episodes(
        observations=rows([part.observations for part in parts]),
        actions=rows([part.actions for part in parts]),
        rewards=rows([part.rewards for part in parts]),
        offsets=np.concatenate(
            [np.zeros(1, np.int64), *(part.offsets[1:] + at for part, at in zip(parts, ends.tolist(), strict=False))]
        ),
        terminated=np.concatenate([part.terminated for part in parts]),
        truncated=np.concatenate([part.truncated for part in parts]),
        ids=ids,
        final_observations=finals,
        log_probs=rows(log_probs) if len(log_probs) == len(parts) else None,
        metadata=join_metadata([part.metadata for part in parts]),
    )
    return whole.with_record(
        Recorded(
            rows([part.returns_to_go for part in parts]),
            np.concatenate([part.returns for part in parts]),
            **_together(parts),
        )
    )


def _together(parts: Sequence[Episodes]) -> dict[str, Any]:
    known = [part.known for part in parts]
    out: dict[str, Any] = {"extremes": {}}
    digests = [each.digest if each is not None else None for each in known]
    if None not in digests:
        out["digest"] = hashlib.sha256("\n".join(["joined", *map(str, digests)]).encode()).hexdigest()
    moments = [each.moments if each is not None else None for each in known]
    if all(each is not None for each in moments):
        out["moments"] = _pooled([(part.steps, each) for part, each in zip(parts, moments, strict=True) if each])
    for key in ("observations", "actions", "rewards"):
        each = [one.extremes.get(key) if one is not None else None for one in known]
        if all(one is not None for one in each):
            low, high = zip(*(one for one in each if one is not None), strict=True)
            out["extremes"][key] = Extremes(np.min(low, axis=0), np.max(high, axis=0))
    return out


def _pooled(parts: Sequence[tuple[int, Moments]]) -> Moments:
    """Mean and sum of squared deviations of the whole from those of its parts."""
    steps, (mean, squares) = parts[0]
    for count, other in parts[1:]:
        apart, total = other.mean - mean, steps + count
        mean = mean + apart * (count / total)
        squares = squares + other.squares + np.square(apart) * (steps * count / total)
        steps = total
    return Moments(mean, squares)


def join_ids(parts: Sequence[np.ndarray]) -> np.ndarray:
    """(E,) int64: the numbers of all parts; where two are alike each part's are counted on from those before."""
    whole = np.concatenate(parts)
    if len(np.unique(whole)) == len(whole):
        return whole
    out, following = [], 0
    for ids in parts:
        out.append(ids - ids.min() + following)
        following = int(out[-1].max()) + 1
    return np.concatenate(out)


def join_metadata(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What is true of the whole. Raises `LamoError`, naming both, for action spaces that differ."""
    first, names = parts[0], [str(part.get("source", "episodes")) for part in parts]
    out: dict[str, Any] = {
        "source": " + ".join(names) if len(names) <= 4 else f"{names[0]} and {len(names) - 1} more",
        "format": "joined" if len({part.get("format") for part in parts}) > 1 else first.get("format"),
        "attributes": {},
        "parts": [{"source": name, "history": lineage(part)} for name, part in zip(names, parts, strict=True)],
    }
    if inside := sum(part.get("ends_inside", 0) for part in parts):
        out["ends_inside"] = inside
    for key in _ALIKE:
        values = [part.get(key) for part in parts]
        said = [i for i, value in enumerate(values) if value is not None]
        differing = next((i for i in said if values[i] != values[said[0]]), None)
        out[key] = values[0] if differing is None and len(said) == len(parts) else None
        if differing is None:
            continue
        one = said[0]
        told = f"{names[one]} has {key} {_short(values[one])}, {names[differing]} has {_short(values[differing])}"
        if key != "env":
            raise LamoError(f"{told}; data of two kinds is not one dataset")
        warn(f"{told}: the whole names none")
    notes = list(dict.fromkeys(note for part in parts for note in part.get("notes", [])))
    return out | ({"notes": notes} if notes else {})


def lineage(metadata: dict[str, Any]) -> list[Any]:
    """How a dataset was made, for the history of what is made of it; of a joined one that begins with its parts."""
    history, parts = metadata.get("history"), metadata.get("parts")
    return [*([{"sources": parts}] if parts else []), *(history if isinstance(history, list) else [])]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def check_alike(first: Episodes, other: Episodes) -> None:
    """Raise `LamoError`, naming both, where observations or actions of two datasets are not of one kind."""
    names = first.source if first.source != other.source else "episodes before", other.source
    sizes = [each.observations.shape[1] for each in (first, other)]
    if sizes[0] != sizes[1]:
        raise LamoError(f"{names[0]} has observations of {sizes[0]} numbers, {names[1]} of {sizes[1]}")
    if first.action_kind != other.action_kind:
        kinds = [KIND_WORDS[each.action_kind] for each in (first, other)]
        raise LamoError(f"{names[0]} has actions that are {kinds[0]}, {names[1]} has {kinds[1]}")
    if not first.discrete and first.actions.shape[1] != other.actions.shape[1]:
        sizes = [each.actions.shape[1] for each in (first, other)]
        raise LamoError(f"{names[0]} has actions of {sizes[0]} numbers, {names[1]} of {sizes[1]}")
