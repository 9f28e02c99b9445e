"""Which columns of a table are what: said by the user, or names that are known.

    --columns obs=x,y,vx action=ux reward=r episode=run time=t terminated=done truncated=timeout
    --columns 'obs=joint_\\d+,gripper' action=command …        what is no column's name is a regular expression
    --columns 'obs=joint_\\d{1,2},gripper' …                  whose own commas, in braces or brackets, part nothing
    --columns episode=file …                                 each file is an episode
    --columns time=none …                                    rows are in order, no column says when

Nothing else is guessed: a role without a column is an error that lists those that are there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from lamo.data.sources.options import listed
from lamo.errors import LamoError, NoRewards
from lamo.tasks import nearest

ROLES = ("obs", "action", "reward", "episode", "time", "terminated", "truncated")
SEVERAL = ("obs", "action")  # roles that may have more than one column
FILE = "file"
NONE = "none"  # a role that no column has, whatever columns are called
EXAMPLE = "--columns obs=x,y,vx action=ux reward=r episode=run time=t"

# role -> names of known layouts: LeRobot's, Gymnasium's and D4RL's, and those that `write_table` writes. A name in
# angle brackets stands for a row of columns with numbers at their end.
KNOWN: dict[str, tuple[str, ...]] = {
    "obs": ("observation.state", "observation", "observations", "obs", "<obs_>", "<observation_>"),
    "action": ("action", "actions", "<action_>"),
    "reward": ("next.reward", "reward", "rewards"),
    "episode": ("episode_index", "episode", "episode_id"),
    "time": ("frame_index", "step", "timestep", "timestamp", "time"),
    "terminated": ("next.done", "terminated", "terminals", "terminations", "done", "dones"),
    "truncated": ("next.truncated", "truncated", "timeouts", "truncations", "timeout"),
}
_BESIDE = {"observation.state": "observation.environment_state"}  # LeRobot's second part of the state
_COMMA = re.compile(r",(?![^\[{]*[\]}])")  # none within braces or brackets, which are an expression's
_ORDERED = ("time",)  # of several known names the first is taken; elsewhere two are a question


@dataclass(frozen=True)
class Columns:
    """The columns of each role; `episode` is `FILE` where each file is an episode."""

    obs: tuple[str, ...]
    action: tuple[str, ...]
    reward: str | None
    episode: str | None
    time: str | None
    terminated: str | None
    truncated: str | None
    said: frozenset[str] = field(default_factory=frozenset)
    """Roles that the user named."""

    @property
    def may_sort(self) -> bool:
        """Whether rows that are not in order are sorted: by the time that the user named."""
        return self.time is not None and "time" in self.said

    def names(self) -> list[str]:
        """Every column that is read, each once."""
        single = (getattr(self, role) for role in ROLES if role not in SEVERAL)
        every = (*self.obs, *self.action, *(name for name in single if name is not None))
        return [name for name in dict.fromkeys(every) if name != FILE or self.episode != FILE]


def map_columns(said: Sequence[str] | None, present: Sequence[str], source: str, *, reward: bool = True) -> Columns:
    """What `--columns` says of these column names, and what known names say of the rest.

    Raises `LamoError` for a role that is not known or said twice, a name or expression that no column has,
    observations, actions or (with `reward`) rewards without a column, and columns that two known names claim.
    """
    found: dict[str, tuple[str, ...]] = {}
    for item in said or ():
        role, equals, names = item.partition("=")
        if not equals or not names:
            raise LamoError(f"--columns {item!r} is not role=columns; for example {EXAMPLE}")
        if role not in ROLES:
            raise LamoError(f"--columns {item!r}: unknown role {role!r}; {nearest(role, list(ROLES))}")
        if role in found:
            raise LamoError(f"--columns names {role} twice; join its columns with commas: {role}=a,b")
        found[role] = _named(role, names, present, source)
    for role in ROLES:
        if role not in found and (role != "reward" or reward):
            found[role] = _known(role, present, source)
    missing = [role for role in ("obs", "action", *(("reward",) if reward else ())) if not found[role]]
    if missing:
        found_none = (
            f"{source}: no column is known to be {' or '.join(missing)}; the columns are {listed(present)}; "
            "say which with --columns"
        )
        raise NoRewards(found_none) if missing == ["reward"] else LamoError(f"{found_none}; for example {EXAMPLE}")
    if both := [name for name in found["obs"] if name in (*found["action"], *found.get("reward", ()))]:
        raise LamoError(f"{source}: column {both[0]!r} is both an observation and an action or reward; see --columns")
    single = {role: next(iter(found.get(role, ())), None) for role in ROLES if role not in SEVERAL}
    said_roles = frozenset(item.partition("=")[0] for item in said or ())
    return Columns(obs=found["obs"], action=found["action"], said=said_roles, **single)


def _named(role: str, names: str, present: Sequence[str], source: str) -> tuple[str, ...]:
    """The columns that a list of names and regular expressions says, each expression's in the order of the file."""
    out: list[str] = []
    for name in _COMMA.split(names):
        if name in present:
            out.append(name)
            continue
        if role == "episode" and name == FILE:
            return (FILE,)
        if role == "time" and name == NONE:
            return ()
        try:
            pattern = re.compile(name)
        except re.error as error:
            raise LamoError(f"--columns {role}={names}: {name!r} is no column and no expression ({error})") from None
        matching = [column for column in present if pattern.fullmatch(column)]
        if not matching:
            raise LamoError(
                f"{source}: no column {name!r} (--columns {role}={names}); the columns are {listed(present)}"
            )
        out += matching
    if len(set(out)) < len(out):
        raise LamoError(f"--columns {role}={names} names a column twice")
    if role not in SEVERAL and len(out) > 1:
        raise LamoError(f"--columns {role}={names} names {len(out)} columns ({listed(out)}); {role} is one")
    return tuple(out)


def _known(role: str, present: Sequence[str], source: str) -> tuple[str, ...]:
    matches: list[tuple[str, ...]] = []
    for name in KNOWN[role]:
        if name.startswith("<"):
            if row := _row(name[1:-1], present, source):
                matches.append(row)
        elif name in present:
            beside = _BESIDE.get(name, "")
            matches.append((name, beside) if beside in present else (name,))
    if len(matches) > 1 and role not in _ORDERED:
        raise LamoError(
            f"{source}: both {listed(matches[0])} and {listed(matches[1])} may be {role}; say --columns {role}=NAME"
        )
    return matches[0] if matches else ()


def _row(stem: str, present: Sequence[str], source: str) -> tuple[str, ...]:
    """`obs_0, obs_1, …` in the order of their numbers, of which none may be missing."""
    names = [name for name in present if re.fullmatch(rf"{re.escape(stem)}\d{{1,9}}", name)]
    found = {int(name[len(stem) :]): name for name in names}
    if len(found) < len(names):
        raise LamoError(f"{source}: two columns have one number among {listed(names)}; say which with --columns")
    numbers = sorted(found)
    if numbers and numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        gap = next(n for n, m in enumerate(numbers, numbers[0]) if n != m)
        raise LamoError(f"{source}: column {stem}{gap} is missing; the columns are {listed(present)}")
    return tuple(found[number] for number in numbers)
