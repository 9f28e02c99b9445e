"""What is to be recorded, and what records it: environment and behaviour, opened from a request."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lamo.collecting.behaviours import Behaviour, Noisy, RandomBehaviour, RunBehaviour, run_digest, run_keys
from lamo.collecting.record import Block, record_block
from lamo.envs.pool import EnvPool, collection_seed
from lamo.errors import LamoError
from lamo.tasks import Family, env_family

ENVS = 16
_WITHOUT_FILE = ("train", "random", "operator")


@dataclass(frozen=True)
class Request:
    """Everything that the recorded episodes depend on. Equal requests on one machine with the same versions give the
    same episodes, bit for bit.
    """

    task: str
    """`reacher2d`, a task's name, or a Gymnasium id."""
    episodes: int
    policy: str = "train:medium"
    """`random`, `train:SKILL`, `sb3:FILE.zip`, `operator:MANNER` or the folder of a run."""
    seed: int = 0
    horizon: int | None = None
    """Steps after which an episode is cut; None: the environment's own limit."""
    target: float | None = None
    """The return that the policy of a run is asked for; None: its own default."""
    noise: float = 0.0
    epsilon: float = 0.0
    envs: int = ENVS
    """Episodes stepped together. A network's sums may depend on it in the last bit, so it is part of the request."""

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise LamoError(f"cannot collect {self.episodes} episodes; give 1 or more")
        if self.horizon is not None and self.horizon < 1:
            raise LamoError(f"--horizon {self.horizon} must be at least 1")
        if self.envs < 1:
            raise LamoError(f"--envs {self.envs} must be at least 1")
        for name, value in (("noise", self.noise), ("epsilon", self.epsilon), ("target", self.target)):
            if value is not None and not math.isfinite(value):
                raise LamoError(f"--{name} {value} must be a finite number")
        if self.target is not None and self.kind != "run":
            raise LamoError(f"--target is for the policy of a run, not for {self.kind}; leave it out")
        collection_seed(self.seed, self.episodes - 1)

    @property
    def kind(self) -> str:
        """`random`, `train`, `sb3`, `operator` or `run`."""
        head = self.policy.partition(":")[0]
        return head if head in ("train", "sb3", "operator") or self.policy == "random" else "run"

    @property
    def argument(self) -> str:
        """What follows the policy's kind."""
        return self.policy if self.kind == "run" else self.policy.partition(":")[2]

    @property
    def name(self) -> str:
        """The policy by its name, not its place: a dataset should not tell of the machine that made it."""
        if self.kind in _WITHOUT_FILE:
            return self.policy
        return ("sb3:" if self.kind == "sb3" else "") + Path(self.argument).name

    @property
    def family(self) -> Family:
        """The environment."""
        return env_family(self.task)

    def obs_keys(self) -> tuple[str, ...] | None:
        """The keys of dict observations that are recorded; None: all."""
        return run_keys(self.policy) if self.kind == "run" else None

    def command(self, out: Path | None) -> str:
        """The command that gives these episodes again."""
        words = ["lamo data collect", f"--task {self.task} --episodes {self.episodes} --seed {self.seed}"]
        words.append(f"--policy {shlex.quote(self.name)}")
        for option, value, default in (
            ("horizon", self.horizon, None),
            ("target", self.target, None),
            ("noise", self.noise, 0.0),
            ("epsilon", self.epsilon, 0.0),
            ("envs", self.envs, ENVS),
        ):
            if value is not None and value != default:
                words.append(f"--{option} {str(value).removesuffix('.0')}")  # every digit: rounded it asks for others
        words += [f"--out {shlex.quote(out.name)}"] if out else []
        return " ".join(words)

    def told(self) -> dict[str, Any]:
        """JSON-able, by the names of the options; a policy of a file by its name."""
        return {f"--{name}": value for name, value in (asdict(self) | {"policy": self.name}).items()}


class Recorder:
    """Environments and behaviour of a request, open until `close`. `trained`: the behaviour where it was trained.

    Raises `LamoError` for what does not exist or fit. PyTorch has one thread meanwhile: the sums of several are not the
    same for every number of processes.
    """

    def __init__(self, request: Request, trained: bytes | None = None) -> None:
        self.request = request
        with contextlib.ExitStack() as opened:
            if request.kind in ("train", "sb3", "run"):
                opened.enter_context(_one_thread())
            self.pool = opened.enter_context(EnvPool(request.family.env, obs_keys=request.obs_keys()))
            limit = request.horizon or self.pool.max_episode_steps
            if limit is None:
                raise LamoError(f"{self.pool.env_id} has no limit of steps of its own; give --horizon")
            self.limit: int = limit
            self.behaviour, self.notes = _behaviour(request, self.pool, trained)
            if request.noise or request.epsilon:
                self.behaviour = Noisy(self.behaviour, self.pool, request.noise, request.epsilon)
            self._opened = opened.pop_all()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the environments."""
        self._opened.close()

    def block(self, numbers: range, check: Any = lambda: None) -> Block:
        """Record these episodes, see `record_block`."""
        return record_block(self.pool, self.behaviour, numbers, self.request.seed, self.limit, check)


@contextlib.contextmanager
def _one_thread() -> Any:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def policy_digest(request: Request, trained: bytes | None) -> str | None:
    """SHA-256 of the policy's files, or of the trained weights; None where a policy is code alone."""
    if request.kind == "train":
        return None if trained is None else hashlib.sha256(trained).hexdigest()
    if request.kind == "sb3":
        from lamo.collecting.zips import zip_digest

        return zip_digest(Path(request.argument))
    return run_digest(request.policy) if request.kind == "run" else None


def _behaviour(request: Request, pool: EnvPool, trained: bytes | None) -> tuple[Behaviour, dict[str, Any]]:
    """The behaviour, and what the recording's attributes say of it."""
    if request.kind == "random":
        return RandomBehaviour(pool), {"policy_description": "uniformly random"}
    if request.kind == "operator":
        return _operator(request, pool)
    if request.kind == "sb3":
        from lamo.collecting.zips import load_sb3

        return load_sb3(Path(request.argument), pool)
    if request.kind == "train":
        from lamo.collecting.actors import ActorBehaviour, load_actor

        assert trained is not None
        actor = load_actor(trained, "the trained behaviour")
        return ActorBehaviour(actor, pool), json.loads(actor.notes)
    run = RunBehaviour(request.policy, pool, request.target)
    return run, {"policy_description": "policy of a lamo run", "target": run.asked}


def _operator(request: Request, pool: EnvPool) -> tuple[Behaviour, dict[str, Any]]:
    from lamo.envs.kitchen_demos import OperatorBehaviour, demonstrations  # here: it imports MuJoCo

    operator = OperatorBehaviour(pool, demonstrations(request.task), request.argument)
    style = ", ".join(f"{name} {value:g}" for name, value in vars(operator.style).items())
    plan = " then ".join(operator.plan) if operator.plan else f"those of {operator.kind}"
    return operator, {"policy_description": f"scripted operator; plans: {plan}; {style}"}
