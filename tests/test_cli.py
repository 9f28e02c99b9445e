"""The command line, end to end: exit codes, what goes to which stream, and the commands of the README."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

import toy
from lamo import cli
from lamo.runs import Run

HERE = Path(__file__).parent
OPTIONS = {"steps": 12, "eval-every": 6, "eval-episodes": 2, "checkpoint-every": 4, "log-every": 3, "batch-size": 8}
FAST = [word for name, value in OPTIONS.items() for word in (f"--{name}", str(value))] + ["--device", "cpu"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(toy.write_dataset(tmp_path_factory.mktemp("data") / "toy.hdf5"))


@pytest.fixture(scope="module")
def run(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "a"
    assert cli.main(["train", "--preset", "toy", "--dataset", data, "--out", str(out), "--quiet", *FAST]) == 0
    return out


def start(*argv: str, **options: Any) -> subprocess.Popen[str]:
    """A real process: `lamo` with the toy learner in its tables."""
    env = {**os.environ, "PYTHONPATH": str(HERE.parent / "src")}
    command = [sys.executable, str(HERE / "toy.py"), *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, **options)


def lamo(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of `lamo argv` in this process."""
    capsys.readouterr()
    with contextlib.suppress(SystemExit):
        code = cli.main(list(argv))
    return code, *capsys.readouterr()


# ----------------------------------------------------------------------------------------------------- help and errors


def test_help_answers_at_once_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); from lamo.cli import main; main(['--help']);"
        "heavy = {'torch', 'numpy', 'tyro', 'gymnasium', 'transformers'} & set(sys.modules);"
        "print(time.perf_counter() - start, heavy, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, heavy = done.stderr.split(" ", 1)
    assert heavy.strip() == "set()" and float(seconds) < 1
    for verb in cli.VERBS:
        assert f"lamo {verb}" in done.stdout


@pytest.mark.parametrize("verb", list(cli.VERBS))
def test_help_of_each_verb_says_defaults(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = lamo(capsys, *verb.split(), "--help")
    assert code == 0 and f"usage: lamo {verb}" in out and "--json" in out
    for option in ("--quiet", "--seed", "--episodes", "--steps", "--lora-rank"):
        for told in out.split(f"│ {option} ")[1:]:  # up to the next option, whose default is its own
            assert "default:" in told.split("│ --", 1)[0]


def test_help_of_train_shows_the_defaults_of_preset_and_task(capsys: pytest.CaptureFixture[str]) -> None:
    def context(*argv: str) -> str:
        out = lamo(capsys, "train", *argv, "--help")[1]
        return " ".join(out.split("--context", 1)[1].split("--dropout")[0].replace("│", " ").split())

    assert "(default: 20)" in context()
    assert "(default: 5)" in context("--task", "reacher2d-medium")
    assert "--explode-at" in lamo(capsys, "train", "--preset=toy", "--help")[1]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = lamo(capsys, "--version")
    assert code == 0 and out.startswith("lamo 0.")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("trian", "did you mean `lamo train`"),
        ("data", "lamo data inspect, lamo data convert"),
        ("lm evalute tiny", "lamo lm pretrain, lamo lm evaluate"),
        ("train --preset toy --dataset DATA", "give --out DIR"),
        ("train --preset toy --out OUT", "give --task NAME"),
        ("train --preset laom --out OUT", "did you mean lamo"),
        ("train --task reacher2d-medum --out OUT", "did you mean reacher2d-medium"),
        ("train --preset toy --dataset DATA --out OUT --ratio 0", "--ratio 0.0 lies outside (0, 1]"),
        ("train --preset toy --dataset DATA --out OUT --ratio 1.01", "--ratio 1.01 lies outside (0, 1]"),
        ("train --preset toy --dataset DATA --out OUT --ratio 0.001", "smallest usable ratio is 0.08"),
        ("train --preset toy --dataset nowhere.hdf5 --out OUT", "nowhere.hdf5"),
        ("train --preset toy --dataset DATA --env Reacher2d-v0 --out OUT", "those of Reacher2d-v0 have 12"),
        ("train --preset toy --dataset DATA --out RUN", "holds another run"),
        ("train --preset toy --dataset DATA --out OUT --device cuda:77", "--device cuda:77"),
        ("train --dataset DATA --out OUT --device cpu --cuda-graph", "--cuda-graph: the device is cpu"),
        ("train --lm nowhere/at/all --dataset DATA --out OUT", "--lm nowhere/at/all"),
        ("train --dataset DATA --out OUT --corpus none", "--language-weight"),
        ("train --config nowhere.json --out OUT", "nowhere.json: no such file"),
        ("train --resume OUT", "no such run folder"),
        ("train --resume RUN --out OUT", "drop --out"),
        ("train --resume RUN --config nowhere.json", "drop --config"),
        ("train --resume RUN --seed 3", "--seed cannot change"),
        ("train --resume RUN --learning-rate 3", "--learning-rate cannot change"),
        ("train --resume RUN --steps 3", "has done 12 steps"),
        ("evaluate OUT", "no such run folder"),
        ("evaluate RUN --env Reacher2d-v9", "Reacher2d-v9"),
        ("evaluate RUN --env CartPole-v1", "--env CartPole-v1 has observations of 4"),
        ("evaluate RUN --targets 40 40", "--targets 40 40 names a return twice"),
        ("evaluate RUN --targets nan", "--targets must be one or more finite returns"),
        ("evaluate RUN --device gpu", "--device gpu is not known"),
        ("report OUT", "OUT"),
        ("report", "no run to report on"),
        ("data inspect nowhere.hdf5", "nowhere.hdf5"),
        ("lm evaluate nowhere/at/all --corpus DATA", "DATA"),
        ("lm pretrain --corpus nowhere.txt --out OUT", "nowhere.txt"),
        ("lm pretrain --corpus TEXT --out TEXT/lm", "TEXT/lm"),
        ("lm pretrain --corpus TEXT --out OUT --resume", "drop --resume"),
        ("lm pretrain --corpus TEXT --out OUT --device gpu", "--device gpu is not known"),
        ("lm pretrain --corpus TEXT --out OUT --heads 0", "--heads 0 must be at least 1"),
        ("lm evaluate tiny --corpus", "--corpus names no file"),
        ("lm evaluate tiny --corpus TEXT --device gpu", "--device gpu is not known"),
        ("data collect --task reacher2d --policy random --episodes 1 --out OUT.txt", ".hdf5"),
        ("data collect --task reacher2d --policy random --episodes 1 --out TEXT/a.hdf5", "cannot be written"),
        ("data collect --task reacher2d --policy random --episodes 1 --horizon 0 --out a.hdf5", "--horizon 0"),
        ("demo --out DATA --steps 1 --seeds 0 0", "--seeds"),
    ],
)
def test_bad_input_is_one_line_code_2_and_leaves_nothing(
    line: str, message: str, data: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"DATA": data, "RUN": str(run), "OUT": str(tmp_path / "out"), "TEXT": toy.__file__}

    def filled(text: str) -> str:
        return reduce(lambda done, name: done.replace(name, names[name]), names, text)

    code, out, err = lamo(capsys, *map(filled, line.split()))
    assert code == 2 and out == ""
    assert err.startswith("lamo: ") and err.count("\n") == 1, err
    assert filled(message) in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "text", "line", "message"),
    [
        ("policy/policy.json", '{"format": 1}', "evaluate RUN", "policy.json names no algorithm"),
        ("policy/policy.json", "[]", "evaluate RUN", "policy.json names no algorithm"),
        ("policy/policy.json", '{"format": 9, "algorithm": "toy"}', "evaluate RUN", "policy format 9 is not 1"),
        ("policy/policy.safetensors", "torn", "evaluate RUN", "damaged policy"),
        ("config.json", "{}", "evaluate RUN --episodes 0", "nothing to evaluate"),
        ("config.json", "[]", "evaluate RUN", "damaged run folder"),
        ("provenance.json", "{}", "evaluate RUN", "spec"),
        ("provenance.json", "{}", "train --resume RUN --steps 20", "it has no dataset.digest"),
        ("provenance.json", '{"dataset', "train --resume RUN --steps 20", "not a whole JSON file"),
    ],
)
def test_a_damaged_run_folder_is_one_line(
    file: str, text: str, line: str, message: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / file).write_text(text)
    code, out, err = lamo(capsys, *(str(copy) if word == "RUN" else word for word in line.split()))
    assert code == 2 and out == "" and err.startswith("lamo: ") and err.count("\n") == 1, err
    assert message in err
    assert str(copy) in err or message == "nothing to evaluate"


@pytest.mark.parametrize("line", ["train --stpes 3", "train --steps many", "evaluate", "tasks --jsn", "train --preset"])
def test_lines_that_cannot_be_parsed_are_code_2(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = lamo(capsys, *line.split())
    assert code == 2 and out == "" and err


def test_ctrl_c_has_a_word(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(argv: list[str]) -> int:
        raise KeyboardInterrupt("\n")  # as compiled code may raise it

    monkeypatch.setattr("lamo.cli._run", stop)
    assert lamo(capsys, "tasks") == (130, "", "lamo: stopped\n")


def test_without_a_verb(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = lamo(capsys)
    assert code == 2 and out == "" and "usage: lamo VERB" in err


# ------------------------------------------------------------------------------------------------------------ commands


def test_train_evaluate_report_as_json(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A real process each; standard output holds one JSON object and nothing else."""

    def ask(*argv: str) -> dict[str, Any]:
        process = start(*argv, "--json")
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert out.count("\n") == 1
        return json.loads(out)

    out = str(tmp_path / "a")
    trained = ask("train", "--preset", "toy", "--dataset", data, "--out", out, *FAST)
    assert trained["finished"] and trained["steps"] == 12 and trained["run"] == out
    assert Run.open(out).provenance["command"].startswith("lamo train --preset toy --dataset")
    tested = ask("evaluate", out, "--targets", "1", "2", "--episodes", "3", "--seed", "5")
    assert [(row["target"], row["episodes"]) for row in tested["targets"]] == [(1.0, 3), (2.0, 3)]
    assert {"return_mean", "score_mean"} <= tested["targets"][0].keys()
    assert ask("report", out, "--out", str(tmp_path / "report"))["sections"]
    assert (tmp_path / "report" / "report.html").stat().st_size > 1000


def test_train_says_what_came_of_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = lamo(capsys, "train", "--resume", str(run))
    assert code == 0 and "has finished" in err
    assert "12 steps" in out and "parameters" in out and "target" in out and "lamo report" in out


def test_config_file_and_flags(data: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A flag beats the file, and the file beats the preset."""
    config = tmp_path / "c.json"
    text = {"preset": "toy-fast", "dataset": data, "steps": 3, "device": "cpu", "algorithm": {"context": 9}}
    config.write_text(json.dumps(text))
    argv = ["train", "--config", str(config), "--quiet"]
    assert lamo(capsys, *argv, "--out", str(tmp_path / "a"), "--steps", "2", "--eval-episodes", "1")[0] == 0
    made = Run.open(tmp_path / "a").config
    assert (made["steps"], made["algorithm"]["context"], made["algorithm"]["learning_rate"]) == (2, 9, 0.1)
    assert lamo(capsys, *argv, "--out", str(tmp_path / "b"), "--preset", "toy", "--eval-episodes", "0")[0] == 0
    made = Run.open(tmp_path / "b").config
    assert (made["preset"], made["steps"], made["algorithm"]["learning_rate"]) == ("toy", 3, 0.01)
    # the example of the README: another seed of a run
    argv = ["train", "--config", str(run / "config.json"), "--seed", "1", "--out", str(tmp_path / "c"), "--quiet"]
    assert lamo(capsys, *argv)[0] == 0
    assert Run.open(tmp_path / "c").config == {**Run.open(run).config, "seed": 1}


def test_evaluate_prints_every_target(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = lamo(capsys, "evaluate", str(run), "--targets", "3", "4.5", "--episodes", "2")
    assert code == 0 and "target 3 " in out and "target 4.5 " in out and "(2 episodes)" in out


def test_data_inspect(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = lamo(capsys, "data", "inspect", data, "--json")
    found = json.loads(out)
    assert code == 0 and (found["episodes"], found["steps"]) == (12, 120)
    assert {"return_mean", "return_max"} <= found.keys()
    code, out, _ = lamo(capsys, "data", "inspect", "reacher2d-medium", "--env", "Reacher2d-v0")
    assert code == 0 and "episodes" in out and "█" in out


def test_data_collect(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, policy in (("a", "random"), ("b", str(run))):
        out = tmp_path / f"{name}.hdf5"
        argv = [
            "data",
            "collect",
            "--task",
            toy.ENV,
            "--policy",
            policy,
            "--episodes",
            "3",
            "--out",
            str(out),
            "--json",
        ]
        code, said, _ = lamo(capsys, *argv)
        assert code == 0 and json.loads(said)["episodes"] == 3 and out.exists()


def test_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = lamo(capsys, "tasks", "--json")
    assert code == 0 and json.loads(out)["reacher2d-medium"]["targets"] == [40.0, 76.0]
    assert "hopper-medium" in lamo(capsys, "tasks")[1]


def test_lm_pretrain_and_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the arm reaches the target and stays there. " * 400)
    small = "--vocabulary 280 --width 16 --layers 1 --heads 1 --context 16 --batch-size 4 --passes 0.2 --device cpu"
    out = str(tmp_path / "lm")
    argv = ["lm", "pretrain", "--corpus", str(text), "--out", out, "--quiet", "--json", *small.split()]
    code, said, err = lamo(capsys, *argv)
    assert code == 0, err
    assert json.loads(said)["steps"] > 0
    code, said, err = lamo(capsys, "lm", "evaluate", out, "--corpus", str(text), "--json")
    assert code == 0 and {"bits_per_byte", "perplexity"} <= json.loads(said).keys(), err
    assert "bits per byte" in lamo(capsys, "lm", "evaluate", out, "--corpus", str(text), "--references")[1]


def test_demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With toys in the place of the three methods: runs, report, and a second time without training."""
    monkeypatch.setattr("lamo.demo.PRESETS", ("toy", "toy-fast"))
    monkeypatch.setattr("lamo.demo.EVALUATIONS", 1)
    from lamo import report

    argv = ["demo", "--out", str(tmp_path / "demo"), "--steps", "3", "--seeds", "0", "1"]
    code, out, err = lamo(capsys, *argv)
    assert code == 0 and str(tmp_path / "demo" / "report.html") in out and "run 4 of 4" in err
    assert len(list((tmp_path / "demo" / "runs").iterdir())) == 4
    monkeypatch.setattr("lamo.demo.write_report", lambda runs, out: {"runs": len(runs)})
    monkeypatch.setattr(report, "terminal_table", lambda numbers: "")
    code, out, err = lamo(capsys, *argv, "--json")
    assert code == 0 and json.loads(out) == {"runs": 4} and "run 1 of 4" not in err
    argv[4] = "4"
    code, _, err = lamo(capsys, *argv)
    assert code == 2 and "other settings" in err


# ------------------------------------------------------------------------------------------------------- being stopped


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if condition():
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    raise AssertionError("it did not happen within a minute")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_stopped_process_goes_on_to_the_same_end(
    number: int, code: int, data: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a"
    argv = ["train", "--preset", "toy", "--dataset", data, "--out", str(out), "--sleep", "0.2", *FAST]
    process = start(*argv)
    wait_for(lambda: (out / "metrics.jsonl").exists() and len(Run.open(out).read_metrics()) > 2, process)
    process.send_signal(number)
    said, err = process.communicate(timeout=60)
    assert process.returncode == code and said == ""
    if code > 0:
        assert f"go on with: lamo train --resume {out}" in err.splitlines()[-1] and "Traceback" not in err
        assert Run.open(out).last_checkpoint() is not None
    code, said, err = lamo(capsys, "train", "--resume", str(out), "--json")
    assert code == 0 and json.loads(said)["steps"] == 12, err
    for name in ("metrics.jsonl", "episodes.jsonl", "policy/policy.safetensors"):
        assert (out / name).read_bytes() == (run / name).read_bytes()


def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"{sys.executable} -m lamo tasks | head -n 1"
    env = {**os.environ, "PYTHONPATH": str(HERE.parent / "src")}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=env)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.startswith("reacher2d-medium")
