"""Kitchen recordings from elsewhere, brought to what `KitchenEnv` sees and pays.

D4RL's and Minari's kitchen data differ from the environment in which their policies are scored: at every step their
rewards count the subtasks that are finished by then, while the environment pays each once.

    in the data      0 0 0 1 1 1 2 2 2 2     sum 12: a return-to-go that no episode in the environment has
    here             0 0 0 1 0 0 1 0 0 0     sum 2

numpy only.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamo.data.episodes import Episodes
from lamo.data.relabel import relabellings

MOST = 7  # subtasks that the kitchen has
OBSERVATION_DIM = 59
_WIDTHS = (OBSERVATION_DIM, 60)  # 60: positions and the goal, as D4RL's first version saw them
_KITCHEN = re.compile(r"(mini[-_])?(franka)?kitchen", re.IGNORECASE)
_SLIDER, _BURNER = "KitchenMicrowaveKettleLightSlider-v1", "KitchenMicrowaveKettleBottomBurnerLight-v1"
_PAYING = {
    frozenset({"microwave", "kettle", "light switch", "slide cabinet"}): _SLIDER,
    frozenset({"microwave", "kettle", "bottom burner", "light switch"}): _BURNER,
}
_SETS = {"complete": _SLIDER, "partial": _SLIDER, "light_slider": _SLIDER, "mixed": _BURNER, "bottomburner": _BURNER}


def counts_subtasks(rewards: NDArray[Any], offsets: NDArray[Any]) -> bool:
    """Whether kitchen rewards (N,) count finished subtasks at every step, instead of paying each once.

    So where all are whole numbers from 0 to 7, and some episode's add up to more than 7: who is paid once for each of
    seven subtasks cannot have that.
    """
    values = np.asarray(rewards, np.float64)
    if not (np.all(values == np.round(values)) and values.min() >= 0 and values.max() <= MOST):
        return False
    return bool(np.add.reduceat(values, offsets[:-1]).max() > MOST)


def pay_once(counts: NDArray[Any], offsets: NDArray[Any]) -> tuple[NDArray[np.float32], int]:
    """Counts of finished subtasks (N,) -> (rewards (N,) float32 that pay each once, episodes in which a count fell).

    What is paid is by how much the count exceeds all before it in its episode. Where a subtask came undone the count
    fell; what only brings it back up is not paid again, so another subtask finished meanwhile is missed.
    """
    paid, fell = np.zeros(len(counts), np.float32), 0
    for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        own = np.asarray(counts[start:end], np.float64)
        paid[start:end] = np.diff(np.maximum.accumulate(own), prepend=0.0)
        fell += bool((np.diff(own) < 0).any())
    return paid, fell


def is_kitchen(episodes: Episodes) -> bool:
    """Whether the name of the environment says so; where none is named that of the source, if the sizes are a
    kitchen's as well: a name alone is no reason to change rewards.
    """
    if env := episodes.metadata.get("env"):
        return bool(_KITCHEN.match(str(env)))
    own_size = episodes.observations.shape[1] in _WIDTHS
    return own_size and bool(_KITCHEN.match(PurePath(episodes.source).name))


def adapt(episodes: Episodes) -> Episodes:
    """Episodes of a kitchen as `KitchenEnv` would have recorded them; all others untouched.

    Kitchens are what `is_kitchen` says. Rewards are relabelled where `counts_subtasks`
    says so. Goal dictionaries, flattened, are cut to their 59-number `observation`. The environment becomes lamo's own
    where the recording tells which four subtasks pay. What was done stands in `metadata["notes"]`.
    """
    env = str(episodes.metadata.get("env") or "")
    if not is_kitchen(episodes):
        return episodes
    notes = list(episodes.metadata.get("notes", []))
    told = len(notes)
    changed: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    if not relabellings(episodes.metadata) and counts_subtasks(episodes.rewards, episodes.offsets):
        changed["rewards"], fell = pay_once(episodes.rewards, episodes.offsets)
        notes.append(
            "rewards counted the finished subtasks at every step (D4RL's way); relabelled: each is paid once, "
            "as in evaluation"
        )
        if fell:
            notes.append(f"in {fell} episodes a count fell: a subtask finished while another came undone is not paid")
    own = None if env in _PAYING.values() else _environment(episodes)
    keys, width = episodes.metadata.get("observation_keys") or [], episodes.observations.shape[1]
    if own and width > OBSERVATION_DIM and keys and keys[-1] == "observation":
        changed["observations"] = np.ascontiguousarray(episodes.observations[:, -OBSERVATION_DIM:])
        if episodes.final_observations is not None:
            changed["final_observations"] = np.ascontiguousarray(episodes.final_observations[:, -OBSERVATION_DIM:])
        metadata["observation_keys"] = metadata["observation_sizes"] = []
        notes.append("goals left out of the observations: they never change")
        width = OBSERVATION_DIM
    if own and width == OBSERVATION_DIM:
        metadata |= {"env": own, "env_kwargs": {}, "env_limit": None}
        notes.append(f"recorded in {env or 'an environment that it does not name'}; scored in {own}")
    if len(notes) == told:
        return episodes
    return replace(episodes, **changed, metadata={**episodes.metadata, **metadata, "notes": notes})


def _environment(episodes: Episodes) -> str | None:
    """lamo's environment in which the same four subtasks pay; None where the recording does not tell."""
    keys = episodes.metadata.get("observation_keys") or []
    goals = {key.removeprefix("desired_goal/") for key in keys if key.startswith("desired_goal/")}
    if keys:  # without goals they were chosen: then the environment's are to be chosen in the same way
        return _PAYING.get(frozenset(goals))
    name = f"{episodes.metadata.get('env')} {episodes.source}".lower().replace("-", "_")
    return next((env for word, env in _SETS.items() if word in name), None)
