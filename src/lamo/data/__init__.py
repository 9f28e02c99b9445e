"""Logs of behaviour: reading, checking, sampling. numpy only: no torch, no environment."""

from lamo.data.episodes import Episodes, Statistics
from lamo.data.sources import SOURCES, load_episodes
from lamo.data.transitions import TransitionBatch, Transitions
from lamo.data.windows import WindowBatch, Windows

__all__ = [
    "SOURCES",
    "Episodes",
    "Statistics",
    "TransitionBatch",
    "Transitions",
    "WindowBatch",
    "Windows",
    "load_episodes",
]
