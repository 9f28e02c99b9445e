"""Logs of behaviour: reading, checking, sampling. numpy only: no torch, no environment."""

from lamo.data.episodes import Episodes, Statistics

__all__ = ["Episodes", "Statistics"]
