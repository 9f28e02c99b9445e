"""An Experiment: how it is filled in, what it refuses, and strict JSON in and out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import toy  # noqa: F401  # puts presets "toy" and "toy-fast" into the table
from lamo.algorithms import PRESETS, preset_algorithm
from lamo.config import Experiment, Spec, read_dataclass
from lamo.errors import LamoError


def test_task_and_preset_fill_what_is_not_given() -> None:
    experiment = Experiment(preset="lamo", task="reacher2d-medium")
    assert (experiment.dataset, experiment.env) == ("reacher2d-medium", "Reacher2d-v0")
    assert experiment.targets == (40.0, 76.0)
    assert experiment.steps == 10_000 and experiment.batch_size == 64
    assert experiment.algorithm.context == 5  # the task's published setting
    assert Experiment(preset="lamo").algorithm.context == 20


def test_what_is_given_stays() -> None:
    experiment = Experiment.of("dt", "reacher2d-medium", context=7, targets=[3], steps=11, dataset=Path("x.hdf5"))
    assert experiment.algorithm.context == 7 and experiment.targets == (3.0,)
    assert experiment.steps == 11 and experiment.dataset == "x.hdf5"
    assert experiment.algorithm.embedding == "linear"  # the preset beats the task's row


def test_experiment_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Experiment().seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio": 0.0}, "--ratio 0.0 lies outside"),
        ({"ratio": 1.5}, "--ratio 1.5 lies outside"),
        ({"ratio": float("nan")}, "--ratio nan lies outside"),
        ({"holdout": 1.0}, "--holdout 1.0 lies outside"),
        ({"holdout": -0.1}, "--holdout -0.1 lies outside"),
        ({"steps": 0}, "--steps 0 must be at least 1"),
        ({"batch_size": 0}, "--batch-size 0"),
        ({"eval_every": 0}, "--eval-every 0"),
        ({"eval_episodes": -1}, "--eval-episodes -1"),
        ({"checkpoint_every": -1}, "--checkpoint-every -1"),
        ({"seed": -1}, "--seed -1"),
        ({"targets": ()}, "--targets must be"),
        ({"targets": (1.0, 1.0)}, "names a return twice"),
        ({"targets": (float("inf"),)}, "finite"),
        ({"device": "gpu"}, "--device gpu"),
        ({"stpes": 3}, "did you mean steps"),
        ({"explode": 3}, "did you mean explode_at"),
    ],
)
def test_refusals_name_the_flag(settings: dict, message: str) -> None:
    with pytest.raises(LamoError, match=message.replace("(", r"\(")):
        Experiment.of("toy", **settings)


def test_published_settings_are_those_of_the_row() -> None:
    named = {"context", "learning_rate", "weight_decay", "embedding", "tanh_head"}
    told = {preset: Experiment.of(preset, "reacher2d-medium", context=9).published for preset in ("lamo", "dt")}
    assert told["lamo"].keys() == told["dt"].keys() == named and told["lamo"]["context"] == 5
    assert (told["lamo"]["embedding"], told["dt"]["embedding"]) == ("mlp", "linear")  # DT's own comes before the row's
    assert "context" not in Experiment(preset="iql", task="reacher2d-medium").published
    assert Experiment(preset="lamo").published["context"] == 20


def test_published_settings_of_baselines_are_those_of_the_row() -> None:
    def told(task: str | None, preset: str = "iql") -> tuple[float, float, float, str]:
        of = Experiment(preset=preset, task=task).algorithm
        return of.expectile, of.temperature, of.dropout, of.reward_scaling

    locomotion = (0.7, 3.0, 0.0, "return-range")
    for task in (None, "hopper-medium", "walker2d-expert", "halfcheetah-medium-replay", "ant-medium"):
        assert told(task) == locomotion
    assert told("kitchen-partial") == told("pen-human") == told("relocate-expert") == (0.7, 0.5, 0.1, "none")
    assert told("antmaze-large-play") == (0.9, 10.0, 0.0, "minus-one")
    assert told("pointmaze-umaze") == (0.7, 3.0, 0.0, "none")
    assert Experiment(preset="td3bc", task="antmaze-umaze").algorithm.reward_scaling == "minus-one"
    assert Experiment(preset="td3bc", task="kitchen-mixed").algorithm.reward_scaling == "none"
    given = Experiment.of("iql", "antmaze-umaze", temperature=4.0)
    assert given.algorithm.temperature == 4.0 and given.algorithm.expectile == 0.9
    assert given.published["temperature"] == 10.0 and Experiment(preset="iql").published["temperature"] == 3.0
    assert Experiment.from_json(given.to_json()) == given


def test_unknown_names_say_the_nearest() -> None:
    with pytest.raises(LamoError, match="did you mean lamo"):
        Experiment(preset="lmao")
    with pytest.raises(LamoError, match="reacher2d-medium"):
        Experiment(task="reacher2d-meduim")


@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize("task", [None, "reacher2d-medium", "hopper-medium"])
def test_json_round_trip(preset: str, task: str | None) -> None:
    asked = {"targets": (1.5, 2.0)} if preset_algorithm(preset).conditioned else {}
    experiment = Experiment.of(preset, task, seed=3, **asked)
    text = json.dumps(experiment.to_json(), allow_nan=False)
    assert Experiment.from_json(json.loads(text)) == experiment


@given(
    ratio=st.floats(1e-9, 1.0),
    seed=st.integers(0, 99_999),
    steps=st.integers(1, 10**9),
    targets=st.none() | st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=4, unique=True),
    learning_rate=st.floats(1e-12, 1e3),
)
def test_json_round_trip_keeps_every_digit(
    ratio: float, seed: int, steps: int, targets: list | None, learning_rate: float
) -> None:
    experiment = Experiment.of("toy", ratio=ratio, seed=seed, steps=steps, targets=targets, learning_rate=learning_rate)
    assert Experiment.from_json(json.loads(json.dumps(experiment.to_json()))) == experiment


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"presett": "toy"}, "unknown key 'presett'; did you mean preset"),
        ({"preset": "toy", "algorithm": {"learning_rat": 1.0}}, "unknown key 'algorithm.learning_rat'"),
        ({"preset": "toy", "algorithm": {"name": "sequence"}}, "algorithm.name is 'sequence'"),
        ({"preset": "toy", "algorithm": []}, "algorithm must be an object"),
        ({"preset": "toyy"}, "unknown preset 'toyy'"),
        ({"steps": 1.5}, "steps must be a whole number, not 1.5"),
        ({"steps": True}, "steps must be a whole number, not true"),
        ({"steps": None}, "steps must be a whole number, not null"),
        ({"ratio": "0.1"}, 'ratio must be a number, not "0.1"'),
        ({"targets": [1, "x"]}, "targets must be a list of numbers or 'auto' or null"),
        ({"device": 3}, "device must be a string"),
        ({"algorithm": {"adapt": "loar"}}, "algorithm.adapt must be 'lora' or 'full' or 'frozen'"),
        ([], "must hold a JSON object"),
    ],
)
def test_json_is_strict(value: object, message: str) -> None:
    with pytest.raises(LamoError) as caught:
        Experiment.from_json(value, "c.json")
    assert str(caught.value).startswith("c.json: ") and message in str(caught.value)


def test_partial_json_takes_defaults() -> None:
    experiment = Experiment.from_json({"preset": "toy", "task": "reacher2d-medium", "algorithm": {"sleep": 1}})
    assert experiment.algorithm.sleep == 1.0 and type(experiment.algorithm.sleep) is float
    assert experiment.env == "Reacher2d-v0" and experiment.algorithm.context == 5


@pytest.mark.parametrize("text", ["", "{", '{"ratio": NaN}', "[" * 100_000, "\x00"])
def test_broken_json_files(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(LamoError, match=r"c\.json"):
        Experiment.read(path)


def test_missing_json_file(tmp_path: Path) -> None:
    with pytest.raises(LamoError, match="no such file"):
        Experiment.read(tmp_path / "none.json")


def test_but_keeps_only_departures_when_preset_or_task_change(capsys: pytest.CaptureFixture[str]) -> None:
    old = Experiment.of("lamo", "reacher2d-medium", seed=4, lora_rank=8)
    new = old.but(task="hopper-medium")
    assert (new.env, new.targets, new.algorithm.context) == ("Hopper-v5", (1800.0, 3600.0), 20)
    assert (new.seed, new.algorithm.lora_rank) == (4, 8)
    toy_one = old.but(preset="toy", sleep=2.0)
    assert (toy_one.seed, toy_one.algorithm.sleep, toy_one.env) == (4, 2.0, "Reacher2d-v0")
    assert "--lora-rank" in capsys.readouterr().err
    assert old.but() == old


def test_spec_from_json() -> None:
    spec = Spec(3, 2, "continuous", (-1.0, -1.0), (1.0, 1.0), 10, 1.0, (1.0,), None, (0.0, 1.0))
    value = json.loads(json.dumps(spec.__dict__))
    assert read_dataclass(Spec, value, "x") == spec
    with pytest.raises(LamoError, match="score_range must be"):
        read_dataclass(Spec, {**value, "score_range": [0.0]}, "x")
