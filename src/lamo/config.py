"""What a run is told (`Experiment`) and what data and environment look like (`Spec`): frozen dataclasses, strict JSON.

A docstring under a field is its help text on the command line. Nothing here imports torch.
"""

from __future__ import annotations

import json
import math
import re
import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from lamo.algorithms import PRESETS, preset_algorithm, preset_settings, settings_type
from lamo.errors import LamoError, warn
from lamo.tasks import TASKS, get_task, nearest

YOUNGER: dict[str, dict[str, Any]] = {"cql": {"bound_margin": 0.0}}
"""Algorithm -> settings that runs of earlier versions did not write down, as those versions did it."""
DEVICES = r"auto|cpu|cuda(:\d+)?"
MAX_SEED, MAX_EPISODES = 99_999, 10_000  # evaluation seeds are base + 10 000 · seed + episode and must stay below 2³²


@dataclass(frozen=True)
class Spec:
    """What a learner must know of the data and the environment that its policy will act in."""

    observation_dim: int
    """S, numbers in an observation."""
    action_dim: int
    """A: numbers in a continuous action, the count of discrete ones, or components of a multidiscrete one."""
    action_kind: Literal["continuous", "discrete", "multidiscrete"]
    """Whether actions are (A,) float32, one of A choices, or (A,) choices."""
    action_low: tuple[float, ...] | None
    """(A,) lower bounds of continuous actions, None where unknown."""
    action_high: tuple[float, ...] | None
    """(A,) upper bounds."""
    horizon: int
    """Steps of the longest episode; the size of the timestep embedding."""
    return_scale: float
    """Returns-to-go are divided by this."""
    targets: tuple[float, ...]
    """Returns that the policy is asked for in evaluation; none for a policy that cannot be asked."""
    env: str | None = None
    """Gymnasium id, None for data without an environment."""
    score_range: tuple[float, float] | None = None
    """Returns of score 0 and of score 100."""
    obs_keys: tuple[str, ...] | None = None
    """Keys of dict observations that the policy sees, None for all of them."""
    action_nvec: tuple[int, ...] | None = None
    """(A,) choices of each component of a multidiscrete action; None for the other kinds."""

    @property
    def choices(self) -> tuple[int, ...]:
        """How many choices each component of an action has; empty for continuous actions."""
        if self.action_kind == "discrete":
            return (self.action_dim,)
        return self.action_nvec or ()

    @property
    def outputs(self) -> int:
        """Numbers that say an action: A of a vector, or a logit for each choice of each component."""
        return sum(self.choices) or self.action_dim


@dataclass(frozen=True)
class Experiment:
    """One run, whole: with equal data, versions and machine two of it give equal metrics.

    What is left at None is filled in from the task's row and the preset; `algorithm` holds the settings of the preset's
    algorithm. Raises `LamoError` for what cannot be, and names the flag.
    """

    preset: str = "lamo"
    """What to train. With a language model: `lamo`, `lamo-random` (the control: random, frozen LM), `wiki-rl`. Without:
    `dt` (Decision Transformer); imitation `bc`, `bc10` (of the best tenth); values `iql`, `cql`, `td3bc`, `bcq`, `nfq`
    (docs/baselines.md)."""
    task: str | None = None
    """A row of `lamo tasks`: environment, horizon, return targets and scale, scores, dataset and published settings."""
    dataset: str | tuple[str, ...] | None = None
    """Dataset: a file, a folder, a store (.lamo), a Minari id or an embedded name; several are one, in that order. By
    default the task's own."""
    columns: tuple[str, ...] | None = None
    """Columns of a table: obs=x,y,vx action=ux reward=r episode=run time=t terminated=done; regular expressions do."""
    obs_keys: tuple[str, ...] | None = None
    """Keys of dict observations to use, in data and environment. By default all of them."""
    actions: Literal["discrete", "continuous"] | None = None
    """What integers among the dataset's actions mean: choices (discrete; several columns: several choices at once) or
    amounts (continuous)."""
    reward: Literal["none"] | None = None
    """`none` reads a dataset without rewards: all are zero, which imitation can do with."""
    env: str | None = None
    """Environment, a Gymnasium id. By default the task's, else the one that the dataset names."""
    ratio: float = 1.0
    """Share of the dataset's episodes that are used, in (0, 1]; chosen at random by the seed."""
    holdout: float = 0.0
    """Share of those episodes that is kept from training, in [0, 1): how far the policy is from their actions is
    measured through training. The same episodes for every seed."""
    seed: int = 0
    """Seed of everything: the choice of episodes, new weights, batches, dropout and evaluation."""
    steps: int = None  # type: ignore[assignment]  # None only until __post_init__
    """Gradient steps."""
    batch_size: int = None  # type: ignore[assignment]
    """Windows (or transitions) per gradient step."""
    eval_every: int = 2_500
    """Gradient steps between evaluations; there is always one at the end."""
    eval_episodes: int = 20
    """Evaluation episodes per return target; 0 trains without an environment."""
    targets: tuple[float | Literal["auto"], ...] | None = None
    """Returns that the policy is asked for. By default the task's, else two taken from the returns in the data. `auto`
    adds one that is chosen from the data when training has ended (docs/selection.md). None for a method whose policy is
    not asked for a return."""
    checkpoint_every: int = 1_000
    """Gradient steps between checkpoints; 0 saves only at the end and when interrupted."""
    log_every: int = 50
    """Gradient steps between rows of metrics.jsonl, which are means over those steps."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto (cuda where there is one)."""
    algorithm: Any = None
    """Settings of the algorithm."""

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise LamoError(f"unknown preset {self.preset!r}; {nearest(self.preset, PRESETS)}")
        task = get_task(self.task) if self.task is not None else None
        kind = preset_algorithm(self.preset)
        # A task's `settings` are those of return-conditioned models; other methods share only their names.
        row = {} if not task else task.settings if kind.conditioned else task.baselines.get(PRESETS[self.preset][0], {})
        fill: dict[str, Any] = {name: row.get(name, getattr(kind, name)) for name in ("steps", "batch_size")}
        fill["algorithm"] = preset_settings(self.preset, **row)[1]
        if task:
            fill |= {"dataset": task.dataset, "env": task.env, "targets": task.targets if kind.conditioned else None}
        for name, value in fill.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.targets is not None:
            object.__setattr__(self, "targets", tuple(t if isinstance(t, str) else float(t) for t in self.targets))
        if self.dataset is not None:
            given = (self.dataset,) if isinstance(self.dataset, str | Path) else self.dataset
            if not given:
                raise LamoError("--dataset names nothing; give a file, a folder, a Minari id or an embedded name")
            names = tuple(map(str, given))
            object.__setattr__(self, "dataset", names[0] if len(names) == 1 else names)
        self._check()

    def _check(self) -> None:
        wanted = settings_type(PRESETS[self.preset][0])
        if type(self.algorithm) is not wanted:
            raise LamoError(f"preset {self.preset} takes {wanted.__name__}, not {type(self.algorithm).__name__}")
        if not 0 < self.ratio <= 1:
            raise LamoError(f"--ratio {self.ratio} lies outside (0, 1]; 0.1 uses a tenth of the episodes, 1 uses all")
        if not 0 <= self.holdout < 1:
            raise LamoError(f"--holdout {self.holdout} lies outside [0, 1); 0.1 holds out a tenth of the episodes")
        for name, low, high in (
            ("seed", 0, MAX_SEED),
            ("steps", 1, None),
            ("batch_size", 1, None),
            ("eval_every", 1, None),
            ("eval_episodes", 0, MAX_EPISODES),
            ("checkpoint_every", 0, None),
            ("log_every", 1, None),
        ):
            value = getattr(self, name)
            if value < low or (high is not None and value > high):
                allowed = f"at least {low}" if high is None else f"from {low} to {high}"
                raise LamoError(f"{flag(name)} {value} must be {allowed}")
        if self.targets is not None and not self.conditioned:
            raise LamoError(f"--targets: the policy of preset {self.preset} is not asked for a return; drop it")
        if self.targets is not None:
            check_targets(self.targets)
        if not re.fullmatch(DEVICES, self.device):
            raise LamoError(f"--device {self.device} is not known; use cpu, cuda, cuda:N or auto")

    @property
    def published(self) -> dict[str, Any]:
        """What preset and task say, by flat name, of the settings that some row of the table of tasks sets."""
        plain = Experiment(preset=self.preset, task=self.task)
        values = {"steps": plain.steps, "batch_size": plain.batch_size, **asdict(plain.algorithm)}
        own = PRESETS[self.preset][0]
        named = {name for task in TASKS.values() for name in (*task.settings, *task.baselines.get(own, ()))}
        return {name: values[name] for name in sorted(named & values.keys())}

    @property
    def dataset_name(self) -> str | None:
        """The dataset for messages: its name, or those of several."""
        return " + ".join(self.dataset) if isinstance(self.dataset, tuple) else self.dataset

    @property
    def conditioned(self) -> bool:
        """Whether the policy is asked for a return."""
        return preset_algorithm(self.preset).conditioned

    @property
    def fixed_targets(self) -> tuple[float, ...]:
        """The numbers among `targets`; empty where the task or the data is to say them."""
        return tuple(target for target in self.targets or () if target != "auto")

    @property
    def auto_target(self) -> bool:
        """Whether a target is chosen from the data as well."""
        return "auto" in (self.targets or ())

    # -------------------------------------------------------------------------------------------------- making others

    @classmethod
    def of(cls, preset: str = "lamo", task: str | None = None, **settings: Any) -> Experiment:
        """An experiment from flat names, as on the command line: `Experiment.of("lamo", steps=500, context=5)`.

        Raises `LamoError` for a name that neither an experiment nor the preset's algorithm has, naming the nearest.
        """
        plain = cls(preset=preset, task=task)
        own, inner = _names(cls) - {"algorithm", "preset", "task"}, _names(type(plain.algorithm))
        for name in settings:
            if name not in own | inner:
                raise LamoError(f"preset {preset} has no setting {name!r}; {nearest(name, sorted(own | inner))}")
        values = {f.name: getattr(plain.algorithm, f.name) for f in fields(plain.algorithm)}
        values |= {name: value for name, value in settings.items() if name in inner}
        return cls(
            preset=preset,
            task=task,
            algorithm=type(plain.algorithm)(**values),
            **{name: value for name, value in settings.items() if name in own},
        )

    def departures(self) -> dict[str, Any]:
        """Flat names and values in which this experiment differs from the defaults of its own preset and task."""
        plain = Experiment(preset=self.preset, task=self.task)
        pairs = [(self, plain, _names(Experiment) - {"algorithm"})]
        pairs.append((self.algorithm, plain.algorithm, _names(type(self.algorithm))))
        return {n: getattr(a, n) for a, b, names in pairs for n in sorted(names) if getattr(a, n) != getattr(b, n)}

    def but(self, **changes: Any) -> Experiment:
        """This experiment with some settings, by flat name, changed.

        A new preset or task brings its own defaults: only the settings in which this experiment departs from its own
        preset and task are carried over, and one that the new algorithm does not have is left out with a warning.
        """
        preset, task = changes.pop("preset", self.preset), changes.pop("task", self.task)
        carried = {name: value for name, value in self.departures().items() if name not in ("preset", "task")}
        known = _names(Experiment) | _names(type(Experiment(preset=preset).algorithm))
        if not Experiment(preset=preset).conditioned:
            known -= {"targets"}
        for name in [name for name in carried if name not in known]:
            warn(f"preset {preset} has no setting {flag(name)}; it is left out")
            del carried[name]
        return Experiment.of(preset, task, **{**carried, **changes})

    # ----------------------------------------------------------------------------------------------------------- JSON

    def to_json(self) -> dict[str, Any]:
        """What config.json holds: enough to run it again. `from_json` gives an equal experiment back."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "algorithm"}
        algorithm = {"name": PRESETS[self.preset][0], **asdict(self.algorithm)}
        return json.loads(json.dumps({**values, "algorithm": algorithm}))

    @classmethod
    def from_json(cls, value: Any, where: str = "config.json") -> Experiment:
        """From a JSON object; keys that are absent take the defaults of preset and task.

        Raises `LamoError` for an unknown key (naming the nearest) and for a value of the wrong type.
        """
        flat = checked_fields(cls, value, where, skip={"algorithm"})
        preset, task = flat.pop("preset", "lamo"), flat.pop("task", None)
        if preset not in PRESETS:
            raise LamoError(f"{where}: unknown preset {preset!r}; {nearest(preset, PRESETS)}")
        algorithm = value.get("algorithm", {})
        if not isinstance(algorithm, dict):
            raise LamoError(f"{where}: algorithm must be an object, not {_json_name(algorithm)}")
        algorithm = dict(algorithm)
        name = algorithm.pop("name", PRESETS[preset][0])
        if name != PRESETS[preset][0]:
            raise LamoError(f"{where}: algorithm.name is {name!r}, but preset {preset} has {PRESETS[preset][0]!r}")
        flat |= checked_fields(settings_type(name), algorithm, where, prefix="algorithm.")
        return cls.of(preset, task, **flat)

    @classmethod
    def of_run(cls, config: Any, where: str) -> Experiment:
        """From the config.json of a run that was begun: settings that are younger than it are as it was without."""
        algorithm = config.get("algorithm") if isinstance(config, dict) else None
        if isinstance(algorithm, dict):
            config = {**config, "algorithm": {**YOUNGER.get(str(algorithm.get("name")), {}), **algorithm}}
        return cls.from_json(config, where)

    @classmethod
    def read(cls, path: str | Path) -> Experiment:
        """From a JSON file. Raises `LamoError` for a file that is missing, not JSON, or not an experiment."""
        return cls.from_json(read_json(path), str(path))


# ------------------------------------------------------------------------------------------------------- strict JSON

T = TypeVar("T")


def read_json(path: str | Path) -> Any:
    """The JSON value in a file. Raises `LamoError` where there is none; NaN and Infinity are not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_no_constant)
    except FileNotFoundError:
        raise LamoError(f"{path}: no such file") from None
    except OSError as error:
        raise LamoError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise LamoError(f"{path}: not a whole JSON file ({error})") from None


def read_dataclass(cls: type[T], value: Any, where: str) -> T:
    """`cls` from a JSON object, every key known and every type right, or a `LamoError` that names the key."""
    return cls(**checked_fields(cls, value, where))


def checked_fields(cls: type, value: Any, where: str, *, prefix: str = "", skip: Iterable[str] = ()) -> dict[str, Any]:
    """The fields of dataclass `cls` that the JSON object `value` gives, lists as tuples; `skip` passes unread."""
    if not isinstance(value, dict):
        raise LamoError(f"{where}: {prefix.rstrip('.') or 'the file'} must hold a JSON object, not {_json_name(value)}")
    hints = typing.get_type_hints(cls)
    out = {}
    for key, item in value.items():
        if key not in _names(cls):
            raise LamoError(f"{where}: unknown key {prefix + key!r}; {nearest(key, sorted(_names(cls)))}")
        if key not in skip:
            out[key] = _typed(item, hints[key], f"{where}: {prefix}{key}")
    return out


def _typed(value: Any, hint: Any, where: str) -> Any:
    """`value` if it is of type `hint`: scalar, None, Literal, tuple[X, ...] or a union; int passes for float."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for arg in args:
            try:
                return _typed(value, arg, where)
            except LamoError:
                continue
    elif origin is Literal:
        if value in args and not isinstance(value, bool):
            return value
    elif origin is tuple:
        if isinstance(value, (list, tuple)):
            inner = [args[0]] * len(value) if args[-1] is Ellipsis else args
            if len(inner) == len(value):
                return tuple(_typed(v, t, f"{where}[{i}]") for i, (v, t) in enumerate(zip(value, inner, strict=True)))
    elif hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    elif hint is Any or type(value) is hint:
        return value
    raise LamoError(f"{where} must be {_describe(hint)}, not {_json_name(value)}")


def _describe(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(arg) for arg in args)
    if origin is Literal:
        return " or ".join(repr(arg) for arg in args)
    if origin is tuple:
        first, *others = _describe(args[0]).removeprefix("a ").split(" or ")
        return " or ".join([f"a list of {first}s", *others])
    plain = {bool: "true or false", int: "a whole number", float: "a number", str: "a string", type(None): "null"}
    return plain.get(hint, str(hint))


def _json_name(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 40 else f"{text[:37]}…"


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


# ----------------------------------------------------------------------------------------------------------- helpers


@cache
def _names(cls: type) -> frozenset[str]:
    return frozenset(f.name for f in fields(cls))


def check_targets(targets: Sequence[float | str]) -> None:
    """Raise `LamoError` for no return, for one that is not finite, and for one that is named twice."""
    if not targets or not all(math.isfinite(t) for t in targets if not isinstance(t, str)):
        raise LamoError("--targets must be one or more finite returns, such as --targets 40 76")
    if len(set(targets)) < len(targets):
        given = " ".join(t if isinstance(t, str) else f"{t:g}" for t in targets)
        raise LamoError(f"--targets {given} names a return twice; give each once")


def flag(name: str) -> str:
    """`eval_every` -> `--eval-every`."""
    return f"--{name.replace('_', '-')}"
