"""The two ways lamo talks to its user when something is wrong: an error of one line, and a warning of one line."""

from __future__ import annotations

import sys

LONGEST = 1500  # characters of a message; its beginning says what, its end what to do


class LamoError(Exception):
    """Bad input or an impossible request. The message is one line: what is wrong, where, what to do.

    The command line prints it as ``lamo: <message>`` on standard error and exits with code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_one_line(message))


class NoRewards(LamoError):
    """A log without rewards, read by somebody who did not say so. `found` is the message without what to do."""

    def __init__(self, found: str) -> None:
        super().__init__(f"{found}; for a log without rewards give --reward none")
        self.found = found


def warn(message: str) -> None:
    """Print one line, ``lamo: warning: <message>``, on standard error. For users; `warnings` is for developers."""
    print(f"lamo: warning: {_one_line(message)}", file=sys.stderr, flush=True)


def _one_line(message: str) -> str:
    """On one line, and fit for a terminal: names in files may be of any length and hold control characters."""
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(message.split()))
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 300]} … {line[-290:]}"
