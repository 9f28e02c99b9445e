"""Every algorithm lamo can train, as dictionaries you can read. Importing this imports no torch.

An algorithm is a learner class with

    Learner(settings, spec, episodes, *, device, batch_size, seed, steps)       `steps`: how long the run is to be
    batches(rng)            an endless iterator of batches, drawn with `rng` alone
    update(batch)           one gradient step -> {"loss": …}
    late                    optional: whether `update` gives a `LateRow` instead, of a step that a GPU is still making
    policy()                a `lamo.policy.Policy` that acts with the weights of this moment
    state_dict() / load_state_dict()    all that a resumed run needs, tensors by name
    export()                (tensors, metadata) that `load_policy` turns into a policy again
    summary()               parameter counts and the like, JSON-able
    load_policy(tensors, metadata, device)      a static method, the inverse of export
"""

from __future__ import annotations

import difflib
import importlib
from typing import Any, NamedTuple

from lamo.algorithms.baseline_settings import (
    BCQSettings,
    BCSettings,
    CQLSettings,
    IQLSettings,
    NFQSettings,
    TD3BCSettings,
)
from lamo.algorithms.settings import SequenceSettings
from lamo.errors import LamoError


class Algorithm(NamedTuple):
    """A row of `ALGORITHMS`."""

    learner: str
    """module:class."""
    settings: type
    """The frozen dataclass of its settings."""
    batch_size: int = 64
    """Windows or transitions per gradient step, unless told otherwise."""
    steps: int = 10_000
    """Gradient steps, unless told otherwise."""
    conditioned: bool = True
    """Whether its policy is asked for a return. If so, a task's targets and published `settings` are for it; if not,
    what the row's `baselines` say of it."""


def _baseline(settings: type) -> Algorithm:
    return Algorithm("lamo.algorithms.baselines:Baseline", settings, batch_size=256, steps=100_000, conditioned=False)


ALGORITHMS: dict[str, Algorithm] = {
    "sequence": Algorithm("lamo.algorithms.sequence:SequenceLearner", SequenceSettings),
    "bc": _baseline(BCSettings),
    "iql": _baseline(IQLSettings),
    "cql": _baseline(CQLSettings),
    "td3bc": _baseline(TD3BCSettings),
    "bcq": _baseline(BCQSettings),
    "nfq": _baseline(NFQSettings),
}

PRESETS: dict[str, tuple[str, dict[str, Any], str]] = {
    # name: (algorithm, settings that differ from its defaults, what it is)
    "lamo": (
        "sequence",
        {},
        "LaMo: a pretrained LM, frozen, with LoRA, MLP embeddings and a language loss (arXiv 2310.20587)",
    ),
    "lamo-random": (
        "sequence",
        {"initialise": "random", "language_weight": 0.0, "corpus": ("none",)},
        "the control: LaMo with the LM's weights random and frozen",
    ),
    "dt": (
        "sequence",
        {
            "initialise": "scratch",
            "adapt": "full",
            "embedding": "linear",
            "action_head": "linear",
            "language_weight": 0.0,
            "corpus": ("none",),
            "weight_decay": 1e-4,
        },
        "Decision Transformer: a small GPT-2 trained from scratch (arXiv 2106.01345)",
    ),
    "wiki-rl": (
        "sequence",
        {
            "adapt": "full",
            "embedding": "linear",
            "action_head": "linear",
            "tanh_head": True,
            "cosine_weight": 0.1,
            "dropout": 0.2,
            "weight_decay": 1e-4,
        },
        "Wiki-RL: a pretrained LM, trained in full, with inputs drawn towards words (arXiv 2201.12122)",
    ),
    "bc": ("bc", {}, "behaviour cloning"),
    "bc10": ("bc", {"top_fraction": 0.1}, "behaviour cloning of the tenth of the episodes with the highest return"),
    "iql": ("iql", {}, "implicit Q-learning (arXiv 2110.06169)"),
    "cql": ("cql", {}, "conservative Q-learning (arXiv 2006.04779)"),
    "td3bc": ("td3bc", {}, "TD3+BC, continuous actions (arXiv 2106.06860)"),
    "bcq": ("bcq", {}, "batch-constrained Q-learning (arXiv 1812.02900, 1910.01708)"),
    "nfq": ("nfq", {}, "neural fitted Q iteration, discrete actions (Riedmiller 2005)"),
}


def _lookup(table: dict[str, Any], name: str, what: str) -> Any:
    if name not in table:
        near = difflib.get_close_matches(name, table, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise LamoError(f"unknown {what} {name!r}; {hint}known: {', '.join(table)}")
    return table[name]


def algorithm_row(name: str) -> Algorithm:
    """The row of an algorithm. Raises `LamoError` for an unknown name, and says the nearest."""
    return _lookup(ALGORITHMS, name, "algorithm")


def get_algorithm(name: str) -> Any:
    """The learner class of an algorithm; imports it (and torch) now."""
    module, attribute = algorithm_row(name).learner.split(":")
    return getattr(importlib.import_module(module), attribute)


def settings_type(name: str) -> type:
    """The frozen dataclass of an algorithm's settings."""
    return algorithm_row(name).settings


def preset_algorithm(name: str) -> Algorithm:
    """The row of a preset's algorithm."""
    return algorithm_row(_lookup(PRESETS, name, "preset")[0])


def preset_settings(name: str, **defaults: Any) -> tuple[str, Any]:
    """(algorithm name, settings) of a preset, with `defaults` (a task's published settings, say) for what it leaves
    open.

    Those that the algorithm does not have are left out: a task row speaks to several algorithms at once.
    """
    algorithm, values, _ = _lookup(PRESETS, name, "preset")
    cls = settings_type(algorithm)
    known = {k: v for k, v in defaults.items() if k in cls.__dataclass_fields__}
    return algorithm, cls(**{**known, **values})
