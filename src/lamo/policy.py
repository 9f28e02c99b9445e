"""What acts: the protocol of a policy, and loading one from a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from lamo.errors import LamoError

POLICY_FORMAT = 1


class Policy(Protocol):
    """Acts in `n` episodes at once; context and return-to-go live inside it, so one rollout serves every method."""

    default_target: float | None

    def reset(self, n: int = 1, targets: np.ndarray | None = None) -> None:
        """Forget all context. `targets` (n,): the return that each episode shall reach; None is the policy's own
        default."""
        ...

    def act(self, observations: Any, rewards: Any = None, rows: np.ndarray | None = None) -> np.ndarray:
        """Actions (n, A) for observations (n, S); (A,) for (S,) when n is 1.

        `rewards` (n,) is what each previous action earned, None at the first step. With `rows` (m,) only those
        episodes advance, and observations, rewards and actions have m rows.
        """
        ...


@runtime_checkable
class RemembersActions(Protocol):
    """A policy whose context holds its past actions has this as well: the context must hold what really happened.

    A safety layer may execute another action than the one that `act` gave, and a replay of logged episodes
    (`lamo.replay`) puts the logged action in its place. A policy that acts on the newest observation alone has no need
    of it and leaves it out.
    """

    def executed(self, actions: np.ndarray, rows: np.ndarray | None = None) -> None:
        """After `act` and before the next one: the actions (n, A), or (n,) choices, that were executed instead of those
        that `act` returned. With `rows` (m,) only those of these episodes.
        """
        ...


def save_policy_files(folder: Path, tensors: dict[str, Any], metadata: dict[str, Any]) -> None:
    """Write policy.safetensors and policy.json into `folder` (which the caller moves into place)."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, folder / "policy.safetensors")
    (folder / "policy.safetensors").chmod(0o644)  # safetensors leaves it to its owner alone; a policy is to be deployed
    (folder / "policy.json").write_text(json.dumps({"format": POLICY_FORMAT, **metadata}, indent=1) + "\n")


def load_policy(path: str | Path, device: str = "cpu") -> Policy:
    """The policy of a run folder (or of its `policy/` folder), ready to `reset` and `act`.

    Only JSON and safetensors are read. Raises `LamoError` if there is no policy, or a file is damaged or of a newer
    format.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from lamo.algorithms import get_algorithm

    folder = Path(path)
    if (folder / "policy").is_dir():
        folder = folder / "policy"
    files = folder / "policy.json", folder / "policy.safetensors"
    for file in files:
        if not file.is_file():
            raise LamoError(
                f"{path}: no policy here ({file.name} is missing); give the folder of a run that has finished"
            )
    try:
        metadata = json.loads(files[0].read_text())
        tensors = load_file(files[1], device=device)
    except (ValueError, SafetensorError, OSError) as error:
        raise LamoError(f"{path}: damaged policy: {error}") from None
    if not isinstance(metadata, dict) or not isinstance(metadata.get("algorithm"), str):
        raise LamoError(f"{path}: damaged policy: policy.json names no algorithm; copy the whole policy folder again")
    if metadata.get("format") != POLICY_FORMAT:
        raise LamoError(
            f"{path}: policy format {metadata.get('format')!r} is not {POLICY_FORMAT}; use the lamo that wrote it"
        )
    return get_algorithm(metadata["algorithm"]).load_policy(tensors, metadata, device)
