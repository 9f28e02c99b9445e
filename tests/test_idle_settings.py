"""Settings that cannot act beside the others are named, once, when a run begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import toy
from lamo import prepare as prepared
from lamo.config import Experiment


@pytest.mark.parametrize(
    ("preset", "settings", "lines"),
    [
        (
            "dt",
            {"lm": "nope", "corpus": ("no.txt",), "lora_rank": 3, "lm_seed": 4, "layers": 1},
            ["--lm, --corpus, --lm-seed have no effect with --initialise scratch"]
            + ["--lora-rank has no effect with --adapt full"],
        ),
        (
            "lamo",
            {"layers": 6, "width": 17, "heads": 3, "lora_rank": 4},
            ["--layers, --width, --heads have no effect with --initialise pretrained"],
        ),
        ("lamo-random", {"lm_seed": 1, "adapt": "frozen"}, []),
        ("lamo", {"initialise": "scratch", "adapt": "full", "language_weight": 0.0, "corpus": ("none",)}, []),
        ("bc", {"layers": 1, "width": 8}, []),
    ],
)
def test_settings_without_effect_are_named_once(
    preset: str, settings: dict[str, Any], lines: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared._warn_once.cache_clear()
    data = str(toy.write_dataset(tmp_path / "toy.hdf5"))
    for seed in range(2):
        experiment = Experiment.of(preset, dataset=data, eval_episodes=0, seed=seed, device="cpu", **settings)
        setup = prepared.prepare(experiment)
    assert [line for line in capsys.readouterr().err.splitlines() if "no effect" in line] == [
        f"lamo: warning: {line}" for line in lines
    ]
    prepared._warn_once.cache_clear()
    prepared.prepare(experiment, known=setup.spec)  # a run that goes on was told when it began
    assert "no effect" not in capsys.readouterr().err
