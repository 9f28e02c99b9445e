"""Every algorithm lamo can train, as dictionaries you can read. Importing this imports no torch.

An algorithm is a learner class with

    Learner(settings, spec, episodes, *, device, batch_size, seed)
    batches(rng)            an endless iterator of batches, drawn with `rng` alone
    update(batch)           one gradient step -> {"loss": …}
    policy()                a `lamo.policy.Policy` that acts with the weights of this moment
    state_dict() / load_state_dict()    all that a resumed run needs, tensors by name
    export()                (tensors, metadata) that `load_policy` turns into a policy again
    summary()               parameter counts and the like, JSON-able
    load_policy(tensors, metadata, device)      a static method, the inverse of export
"""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from lamo.algorithms.settings import SequenceSettings
from lamo.errors import LamoError

ALGORITHMS: dict[str, tuple[str, type]] = {
    # name: (module:class of the learner, its settings)
    "sequence": ("lamo.algorithms.sequence:SequenceLearner", SequenceSettings),
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
}


def _lookup(table: dict[str, Any], name: str, what: str) -> Any:
    if name not in table:
        near = difflib.get_close_matches(name, table, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise LamoError(f"unknown {what} {name!r}; {hint}known: {', '.join(table)}")
    return table[name]


def get_algorithm(name: str) -> Any:
    """The learner class of an algorithm; imports it (and torch) now."""
    path, _ = _lookup(ALGORITHMS, name, "algorithm")
    module, attribute = path.split(":")
    return getattr(importlib.import_module(module), attribute)


def settings_type(name: str) -> type:
    """The frozen dataclass of an algorithm's settings."""
    return _lookup(ALGORITHMS, name, "algorithm")[1]


def preset_settings(name: str, **overrides: Any) -> tuple[str, Any]:
    """(algorithm name, settings) of a preset, with `overrides` (a task's published settings, say) on top of it.

    Overrides that the algorithm does not have are left out: a task row speaks to several algorithms at once.
    """
    algorithm, values, _ = _lookup(PRESETS, name, "preset")
    cls = settings_type(algorithm)
    known = {k: v for k, v in overrides.items() if k in cls.__dataclass_fields__}
    return algorithm, cls(**{**known, **values})
