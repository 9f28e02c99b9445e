"""The run folder: nothing half-written is ever taken for whole."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lamo.errors import LamoError
from lamo.policy import load_policy
from lamo.runs import Run, write_json

CONFIG, PROVENANCE = {"preset": "toy", "seed": 0}, {"versions": {}}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "runs" / "a", CONFIG, PROVENANCE)


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.full((3, 2), value), "half": torch.tensor([value], dtype=torch.bfloat16), "n": torch.tensor(7)}


def save(run: Run, *steps: int) -> None:
    for step in steps:
        run.log({"step": step, "loss": 1 / step})
        run.save_checkpoint(step, tensors(step), {"batches": {"state": 2**100 + step}})


def test_create_and_open(run: Run) -> None:
    found = Run.open(run.path)
    assert (found.config, found.provenance) == (CONFIG, PROVENANCE)
    assert sorted(path.name for path in run.path.iterdir()) == ["config.json", "provenance.json"]
    assert [path.name for path in run.path.parent.iterdir()] == ["a"]


def test_another_run_is_refused(run: Run) -> None:
    with pytest.raises(LamoError, match=r"holds another run; .*--resume"):
        Run.create(run.path, CONFIG, PROVENANCE)
    other = run.path.parent / "b"
    other.mkdir()
    Run.create(other, CONFIG, PROVENANCE)  # an empty folder is free
    (run.path.parent / "c").mkdir()
    (run.path.parent / "c" / "thesis.txt").write_text("mine")
    with pytest.raises(LamoError, match="not an empty folder"):
        Run.create(run.path.parent / "c", CONFIG, PROVENANCE)
    with pytest.raises(LamoError, match="cannot be written"):
        Run.create(run.path.parent / "c" / "thesis.txt" / "d", CONFIG, PROVENANCE)
    assert sorted(path.name for path in run.path.parent.iterdir()) == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_open_refuses_what_is_no_run(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(LamoError, match=name):
        Run.open(tmp_path / name)


def test_checkpoint_round_trip_keeps_the_newest_two(run: Run) -> None:
    assert run.load_checkpoint() is None and run.last_checkpoint() is None
    save(run, 10, 20, 30)
    assert sorted(path.name for path in (run.path / "checkpoints").iterdir()) == ["00000020", "00000030"]
    found = run.load_checkpoint()
    assert found is not None
    step, loaded, state = found
    assert step == 30 == run.last_checkpoint() and state == {"batches": {"state": 2**100 + 30}}
    assert {name: tensor.dtype for name, tensor in loaded.items()} == {n: t.dtype for n, t in tensors(30).items()}
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors(30).items())


def damage_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(bytes(data))


def damage_state(path: Path) -> None:
    path.write_text(path.read_text().replace("1267650600228229401496703205396", "1267650600228229401496703205397"))


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("tensors.safetensors", damage_half),
        ("tensors.safetensors", damage_bit),
        ("tensors.safetensors", Path.unlink),
        ("checkpoint.json", damage_half),
        ("checkpoint.json", damage_state),
        ("checkpoint.json", Path.unlink),
        ("checkpoint.json", lambda path: path.write_text("[]")),
    ],
)
def test_a_torn_checkpoint_falls_back_with_a_word(
    run: Run, file: str, damage, capsys: pytest.CaptureFixture[str]
) -> None:
    save(run, 10, 20)
    damage(run.path / "checkpoints" / "00000020" / file)
    found = run.load_checkpoint()
    assert found is not None and found[0] == 10 and torch.equal(found[1]["w"], tensors(10)["w"])
    said = capsys.readouterr().err
    assert "00000020" in said and "step 10" in said
    run.rewind(10)
    assert run.last_checkpoint() == 10 and [row["step"] for row in run.read_metrics()] == [10]
    save(run, 20)
    assert run.load_checkpoint()[0] == 20  # type: ignore[index]


def test_a_full_disk_is_one_line_and_loses_nothing(run: Run, full_disk) -> None:
    save(run, 10)
    told = "cannot be written.*--resume"
    with full_disk(64):
        for write in (
            lambda: run.save_checkpoint(20, tensors(20), {}),
            lambda: run.log({"step": 20, "loss": 0.5, "note": "x" * 100}),
            lambda: run.save_policy(tensors(20), {}),
            lambda: run.save_summary({"steps": 20, "note": "x" * 100}),
        ):
            with pytest.raises(LamoError, match=told):
                write()
    assert run.load_checkpoint()[0] == 10  # type: ignore[index]
    assert run.summary() is None and not list(run.path.rglob("*.part"))
    assert [row["step"] for row in run.read_metrics()] == [10]
    run.rewind(10)
    save(run, 20)
    assert [row["step"] for row in run.read_metrics()] == [10, 20]


def test_no_whole_checkpoint_is_an_error(run: Run) -> None:
    save(run, 10)
    damage_half(run.path / "checkpoints" / "00000010" / "tensors.safetensors")
    with pytest.raises(LamoError, match="no checkpoint is whole"):
        run.load_checkpoint()


def test_a_checkpoint_that_never_got_its_name_is_not_seen(run: Run) -> None:
    save(run, 10)
    shutil.copytree(run.path / "checkpoints" / "00000010", run.path / "checkpoints" / ".00000020.part")
    assert run.load_checkpoint()[0] == 10  # type: ignore[index]
    run.rewind(10)
    assert [path.name for path in (run.path / "checkpoints").iterdir()] == ["00000010"]


def test_rewind_cuts_rows_and_torn_lines_and_keeps_bytes(run: Run) -> None:
    rows = [{"step": s, "loss": 0.1 * s} for s in (5, 10, 15)]
    for row in rows:
        run.log(row)
        run.timing({"step": row["step"], "seconds": 1.0, "steps_per_second": 2.0})
    run.episodes({"step": s, "target": 1.0, "episode": e, "return": 1.0} for s in (5, 10) for e in (0, 1))
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "lo')
    assert run.read_metrics() == rows
    run.save_summary({"finished": True})
    run.rewind(10, evaluated=5)
    assert (run.path / "metrics.jsonl").read_text() == "".join(json.dumps(row) + "\n" for row in rows[:2])
    assert [row["step"] for row in run.read_episodes()] == [5, 5]
    assert len(run.read("timing.jsonl")) == 2 and run.summary() is None
    run.rewind(-1)
    assert run.read_metrics() == run.read_episodes() == []


def test_json_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_policy_is_replaced_whole(run: Run) -> None:
    for value in (1.0, 2.0):
        run.save_policy(tensors(value), {"algorithm": "none-such", "value": value})
    assert sorted(path.name for path in (run.path / "policy").iterdir()) == ["policy.json", "policy.safetensors"]
    assert json.loads((run.path / "policy" / "policy.json").read_text())["value"] == 2.0
    assert (run.path / "policy" / "policy.safetensors").stat().st_mode & 0o044 == 0o044
    with pytest.raises(LamoError, match="none-such"):
        load_policy(run.path)


def test_one_process_at_a_time(run: Run) -> None:
    pytest.importorskip("fcntl")
    code = f"from lamo.runs import Run\nwith Run.open({str(run.path)!r}).locked(): pass"
    with run.locked():
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert other.returncode != 0 and "another process is training" in other.stderr
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
