"""The run folder: the one contract between training and everything after it. JSON, JSON Lines and safetensors only.

    config.json provenance.json        written when the run begins, together
    metrics.jsonl timing.jsonl episodes.jsonl        grow while it runs; a resumed run cuts them back to its checkpoint
    checkpoints/00001000/{tensors.safetensors, checkpoint.json}        the newest two
    policy/ rollout.json auto_target.json summary.json        written at the end

Whatever must be whole is written beside its place, synced to disk, and renamed into it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

from lamo.config import read_json
from lamo.errors import LamoError, warn

CHECKPOINTS_KEPT = 2
LOGS = ("metrics.jsonl", "timing.jsonl", "episodes.jsonl")
HOLDOUT_ERROR = "holdout_action_error"  # the key that an evaluation adds to metrics.jsonl, in a row of its own


Method = TypeVar("Method", bound=Callable[..., None])


def _writes(method: Method) -> Method:
    """A method of a run that writes: a disk that is full or refuses is one line, and what was whole before stays."""

    @functools.wraps(method)
    def guarded(self: Run, *args: Any, **kwargs: Any) -> None:
        from safetensors import SafetensorError

        try:
            method(self, *args, **kwargs)
        except (OSError, SafetensorError) as error:
            for part in (*self.path.glob(".*.part"), *(self.path / "checkpoints").glob(".*.part")):
                shutil.rmtree(part, ignore_errors=True)
            reason = getattr(error, "strerror", None) or error
            again = f"then go on with: lamo train --resume {self.path}"
            raise LamoError(f"{self.path}: cannot be written ({reason}); make room or mend the disk, {again}") from None

    return cast("Method", guarded)


class Run:
    """One run folder. `create` makes it, `open` finds it; `config` and `provenance` are what its files say."""

    def __init__(self, path: Path, config: dict[str, Any], provenance: dict[str, Any]) -> None:
        self.path, self.config, self.provenance = path, config, provenance

    @classmethod
    def create(cls, path: str | Path, config: dict[str, Any], provenance: dict[str, Any]) -> Run:
        """A new folder with its config and provenance, which appear together or not at all.

        Raises `LamoError` for a path that holds anything already, or that cannot be written.
        """
        path = Path(path)
        check_free(path)
        beside = path.with_name(f".{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir()
            write_json(beside / "config.json", config)
            write_json(beside / "provenance.json", provenance)
            os.replace(beside, path)  # an empty folder in its place is replaced
            _sync(path.parent)
        except OSError as error:
            shutil.rmtree(beside, ignore_errors=True)
            raise LamoError(f"--out {path}: cannot be written: {error.strerror or error}") from None
        return cls(path, config, provenance)

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """An existing run. Raises `LamoError` for a folder that is missing or holds no run."""
        path = Path(path)
        if not path.is_dir():
            raise LamoError(f"{path}: no such run folder")
        if not (path / "config.json").is_file():
            raise LamoError(f"{path}: not a run folder (it has no config.json)")
        config, provenance = (read_json(path / f"{name}.json") for name in ("config", "provenance"))
        if not isinstance(config, dict) or not isinstance(provenance, dict):
            raise LamoError(f"{path}: damaged run folder (config.json and provenance.json must hold JSON objects)")
        return cls(path, config, provenance)

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Hold the folder while training in it, see `locked`."""
        return locked(self.path, "training in it")

    # -------------------------------------------------------------------------------------------------------- records

    def log(self, row: Mapping[str, Any]) -> None:
        """Append {"step", "loss", …} to metrics.jsonl. No times in it: two runs with one seed write the same bytes."""
        self._append("metrics.jsonl", [row])

    def timing(self, row: Mapping[str, Any]) -> None:
        """Append {"step", "seconds", "steps_per_second"} to timing.jsonl."""
        self._append("timing.jsonl", [row])

    def episodes(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append evaluation episodes, {"step", "target", "episode", "return", …}, to episodes.jsonl."""
        self._append("episodes.jsonl", rows)

    @_writes
    def _append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write(text)

    def read(self, name: str) -> list[dict[str, Any]]:
        """The rows of `metrics.jsonl`, `timing.jsonl` or `episodes.jsonl`; a torn last line is left out."""
        try:
            lines = (
                (self.path / name).read_bytes().split(b"\n")[:-1]
            )  # what follows the last newline is torn or nothing
        except FileNotFoundError:
            return []
        try:
            return [json.loads(line) for line in lines]
        except ValueError as error:
            raise LamoError(f"{self.path / name}: damaged ({error})") from None

    def read_metrics(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl."""
        return self.read("metrics.jsonl")

    def read_episodes(self) -> list[dict[str, Any]]:
        """The rows of episodes.jsonl."""
        return self.read("episodes.jsonl")

    def rewind(self, step: int, *, evaluated: int | None = None) -> None:
        """Cut the logs back to rows of at most `step` (-1: none), and remove checkpoints beyond it, which are torn.

        Of episodes.jsonl, and of the rows of metrics.jsonl that evaluations leave, only those of at most `evaluated`
        stay: a checkpoint may be older than its step's evaluation.
        """
        (self.path / "summary.json").unlink(missing_ok=True)
        for name in LOGS:
            if (self.path / name).exists():
                last = evaluated if name == "episodes.jsonl" and evaluated is not None else step
                rows = _rows_up_to(self.path / name, last)
                if name == "metrics.jsonl" and evaluated is not None:
                    rows = (row for row in rows if not _of_evaluation(row, evaluated))
                write_whole(self.path / name, b"".join(rows))
        for folder in self._checkpoints():
            if int(folder.name) > step:
                shutil.rmtree(folder)
        for part in (self.path / "checkpoints").glob(".*.part"):
            shutil.rmtree(part, ignore_errors=True)

    # ---------------------------------------------------------------------------------------------------- checkpoints

    @_writes
    def save_checkpoint(self, step: int, tensors: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Write the state after `step` (torch tensors by name, and JSON), then remove all but the newest two.

        The logs are synced first, so that a checkpoint on disk has every row before it on disk.
        """
        from safetensors.torch import save_file

        folder = self.path / "checkpoints"
        folder.mkdir(exist_ok=True)
        beside = folder / f".{step:08d}.part"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        for name in LOGS:
            if (self.path / name).exists():
                _sync(self.path / name)
        file = beside / "tensors.safetensors"
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, file)
        _sync(file)
        body = json.dumps(state, sort_keys=True)
        digests = {"tensors": _digest(file), "state": hashlib.sha256(body.encode()).hexdigest()}
        write_json(beside / "checkpoint.json", {"step": step, "sha256": digests, "state": state})
        _sync(beside)
        target = folder / f"{step:08d}"
        shutil.rmtree(target, ignore_errors=True)  # a torn one of the same step
        os.replace(beside, target)
        _sync(folder)
        for old in self._checkpoints()[:-CHECKPOINTS_KEPT]:
            shutil.rmtree(old)

    def load_checkpoint(self) -> tuple[int, dict[str, Any], dict[str, Any]] | None:
        """(step, tensors, state) of the newest checkpoint that is whole; torn ones are passed over with a warning.

        None if the run has not saved one yet. Raises `LamoError` if there are some and none is whole.
        """
        folders = self._checkpoints()
        for folder in reversed(folders):
            try:
                found = _read_checkpoint(folder)
            except LamoError as error:
                warn(f"{error}; looking for an older one")
                continue
            if folder != folders[-1]:
                warn(f"{self.path}: going on from the checkpoint of step {found[0]}")
            return found
        if folders:
            again = f"start over with --config {self.path / 'config.json'} and a new --out"
            raise LamoError(f"{self.path}: no checkpoint is whole; {again}")
        return None

    def last_checkpoint(self) -> int | None:
        """The step of the newest checkpoint, unread; None if there is none."""
        folders = self._checkpoints()
        return int(folders[-1].name) if folders else None

    def _checkpoints(self) -> list[Path]:
        return sorted(path for path in (self.path / "checkpoints").glob("[0-9]*") if path.name.isdigit())

    # --------------------------------------------------------------------------------------------------- at the end

    @_writes
    def save_policy(self, tensors: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
        """Write policy/: what deployment needs and nothing else."""
        from lamo.policy import save_policy_files

        beside, target = self.path / ".policy.part", self.path / "policy"
        shutil.rmtree(beside, ignore_errors=True)
        save_policy_files(beside, dict(tensors), dict(metadata))
        for file in beside.iterdir():
            file.chmod(0o644)  # safetensors makes its files readable by their owner alone; a policy is for others
            _sync(file)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(beside, target)

    @_writes
    def save_config(self, config: dict[str, Any]) -> None:
        """Replace config.json (a resumed run may be given more steps)."""
        write_json(self.path / "config.json", config)
        self.config = config

    @_writes
    def save_rollout(self, rollout: Mapping[str, Any]) -> None:
        """Write rollout.json, one episode of the final policy, for the report's animation."""
        write_whole(self.path / "rollout.json", json.dumps(rollout).encode())

    @_writes
    def save_auto_target(self, choice: Mapping[str, Any]) -> None:
        """Write auto_target.json: the return target chosen from the data, why, and the episodes played with it."""
        write_json(self.path / "auto_target.json", choice)

    @_writes
    def save_summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json; a run that has one has finished."""
        write_json(self.path / "summary.json", summary)

    def summary(self) -> dict[str, Any] | None:
        """What summary.json says, None for a run that has not finished."""
        path = self.path / "summary.json"
        if not path.exists():
            return None
        found = read_json(path)
        if not isinstance(found, dict) or not all(type(found.get(key)) in (int, float) for key in ("steps", "seconds")):
            again = f"delete it, then: lamo train --resume {self.path}"
            raise LamoError(f"{path}: damaged (it must hold an object with numbers steps and seconds); {again}")
        return found

    def finished(self) -> dict[str, Any]:
        """The same. Raises `LamoError` for a run that has not finished: what it holds of a policy is of an earlier
        end."""
        if (summary := self.summary()) is None:
            raise LamoError(f"{self.path}: has not finished; go on with it: lamo train --resume {self.path}")
        return summary


@contextlib.contextmanager
def locked(path: Path, doing: str) -> Iterator[None]:
    """Hold a folder; the lock dies with its process. `LamoError` where another process has it: `doing` says why."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LamoError(f"{path}: another process is {doing}; wait for it or stop it") from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)


def check_free(path: str | Path) -> None:
    """Raise `LamoError` unless a new run can be made at `path`: nothing there, or an empty folder."""
    path = Path(path)
    check_named(path)
    if (path / "config.json").exists():
        hint = f"choose another folder, or continue it with: lamo train --resume {path}"
        raise LamoError(f"--out {path} holds another run; {hint}")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise LamoError(f"--out {path} exists and is not an empty folder; choose another")


def check_named(path: Path) -> None:
    """Raise `LamoError` for `.` and `..`, beside which nothing can be made and renamed."""
    if path.name in ("", ".."):
        raise LamoError(f"--out {path}: a run needs a folder of its own, with a name, such as runs/a")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON beside `path`, sync, and rename it into place. NaN is refused: it is not JSON."""
    write_whole(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` beside `path`, sync, and rename it into place: the file is there whole or not at all."""
    beside = path.with_name(f".{path.name}.part")  # what a killed process left there is written over
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Ask the disk to keep a file, or a folder's list of names (Windows cannot open folders)."""
    with contextlib.suppress(PermissionError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _rows_up_to(path: Path, step: int) -> Iterator[bytes]:
    """Whole lines of a log up to the first row beyond `step`, or the first that a crash left unreadable."""
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            if json.loads(line)["step"] > step:
                return
        except (ValueError, KeyError, TypeError):
            return
        yield line + b"\n"


def _of_evaluation(line: bytes, after: int) -> bool:
    """Whether a row of metrics.jsonl was left by an evaluation after step `after`."""
    row = json.loads(line)
    return HOLDOUT_ERROR in row and row["step"] > after


def _digest(path: Path) -> str:
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def _read_checkpoint(folder: Path) -> tuple[int, dict[str, Any], dict[str, Any]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    value = read_json(folder / "checkpoint.json")
    try:
        step, digests, state = value["step"], value["sha256"], value["state"]
        body = json.dumps(state, sort_keys=True)
        whole = digests["state"] == hashlib.sha256(body.encode()).hexdigest()
        if not whole or digests["tensors"] != _digest(folder / "tensors.safetensors"):
            raise LamoError(f"checkpoint {folder} is damaged (its digest differs)")
        return step, load_file(folder / "tensors.safetensors"), state
    except (KeyError, TypeError, OSError, SafetensorError) as error:
        raise LamoError(f"checkpoint {folder} is damaged ({error})") from None
