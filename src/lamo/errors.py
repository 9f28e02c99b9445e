"""The two ways lamo talks to its user when something is wrong: an error of one line, and a warning of one line."""

from __future__ import annotations

import sys


class LamoError(Exception):
    """Bad input or an impossible request. The message is one line: what is wrong, where, what to do.

    The command line prints it as ``lamo: <message>`` on standard error and exits with code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def warn(message: str) -> None:
    """Print one line, ``lamo: warning: <message>``, on standard error. For users; `warnings` is for developers."""
    print(f"lamo: warning: {' '.join(message.split())}", file=sys.stderr, flush=True)
