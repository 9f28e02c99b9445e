"""`train:SKILL`: what is trained, that it stops at the skill, and that it is kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lamo.collecting import training
from lamo.collecting.collect import collect
from lamo.collecting.partial import Partial
from lamo.collecting.training import TRAINERS, Trainer, read_training
from lamo.data.sources import load_episodes
from lamo.errors import LamoError
from lamo.tasks import FAMILIES, Family, env_family

pytest.importorskip("stable_baselines3")

QUICK = {
    "ppo-sparse": Trainer("PPO", 1_200, 400, episodes=8, environments=4, normalise=False,
                          settings={"n_steps": 100, "batch_size": 100, "policy_kwargs": {"net_arch": [16]}}),
    "ppo": Trainer("PPO", 30_000, 1_024, episodes=8, environments=8, settings={"n_steps": 128, "batch_size": 256}),
    "sac": Trainer("SAC", 400, 200, episodes=3,
                   settings={"learning_starts": 100, "policy_kwargs": {"net_arch": [32, 32]}}),
}  # fmt: skip


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainers that end soon, and a skill that a few updates reach."""
    monkeypatch.setitem(
        FAMILIES, "reacher2d", Family("Reacher2d-v0", {"awake": (-5.0, 5.0), "medium": (30.0, 50.0)}, "ppo-sparse")
    )
    for name, trainer in QUICK.items():
        monkeypatch.setitem(training.TRAINERS, name, trainer)


def test_trained_behaviour_is_the_same_twice(quick: None, tmp_path: Path) -> None:
    first = collect("reacher2d", 2, tmp_path / "a.hdf5", policy="train:awake", seed=3, envs=1)
    assert first.digest() == collect("reacher2d", 2, policy="train:awake", seed=3, envs=1).digest()
    notes = first.metadata["attributes"]
    assert notes["training_steps"] == 400 and json.loads(notes["training_settings"])["settings"]["n_steps"] == 100
    assert "stochastically" in notes["policy_description"] and len(notes["policy_digest"]) == 64
    assert len(np.unique(first.actions)) > 50  # it acts with noise


def test_a_skill_not_reached_is_an_error(quick: None, tmp_path: Path) -> None:
    with pytest.raises(LamoError, match=r"in 1,200 steps, not the 35 to 45 of 'medium'; try another --seed, or more"):
        collect("reacher2d", 2, tmp_path / "out.hdf5")
    assert not list(tmp_path.iterdir())


def test_ppo_reaches_a_return_and_is_not_trained_again(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, told = tmp_path / "a.hdf5", []

    def fails(self: Partial, block: object) -> None:
        raise ConnectionAbortedError

    with monkeypatch.context() as patched:
        patched.setattr(Partial, "put", fails)
        with pytest.raises(ConnectionAbortedError):
            collect("CartPole-v1", 6, out, policy="train:return=40", progress=told.append)
    assert told[0].startswith("PPO 1,024 of at most 30,000 steps: mean return ")
    assert "return=40 is 40 or more" in told[0] and "left" in told[0]
    assert (tmp_path / "a.hdf5.partial" / "behaviour.safetensors").exists()
    monkeypatch.setattr(training, "train_behaviour", None)
    episodes = collect("CartPole-v1", 6, out, policy="train:return=40")
    notes = episodes.metadata["attributes"]
    assert notes["training_return"] >= 40 and episodes.log_probs is not None
    assert [path.name for path in tmp_path.iterdir()] == ["a.hdf5"]
    assert load_episodes(out).discrete


def test_sac_for_vectors(quick: None) -> None:
    told: list[str] = []
    # any policy earns at least the worst that Pendulum pays; training goes on to the first evaluation
    episodes = collect("Pendulum-v1", 2, policy="train:return=-2000", progress=told.append)
    notes = episodes.metadata["attributes"]
    assert notes["training_steps"] == 200 and json.loads(notes["training_settings"])["algorithm"] == "SAC"
    assert episodes.log_probs is not None and np.isfinite(episodes.log_probs).all()
    with pytest.raises(LamoError, match=r"SAC on Pendulum-v1 reached a mean return of -\d+.\d at best in 400 steps"):
        collect("Pendulum-v1", 2, policy="train:return=-1")


def test_skills_by_score_and_by_row() -> None:
    hopper = env_family("Hopper-v5")
    medium, trainer = read_training("", hopper, discrete=False)
    assert (
        (medium.name, trainer) == ("medium", TRAINERS["sac"]) and 880 < medium.low < 900 and 1440 < medium.high < 1450
    )
    expert, shorter = read_training("expert,steps=5000", hopper, discrete=False)
    assert expert.low == pytest.approx(0.9 * 3234.3, rel=0.01) and expert.high == np.inf and shorter.steps == 5000
    assert expert.score is not None and expert.score(3234.3) == pytest.approx(100)
    assert env_family("Hopper-v4").trainer == "" and env_family("reacher2d-medium").trainer == "ppo-sparse"
    arm, trainer = read_training("medium", env_family("reacher2d"), discrete=False)
    assert (arm.low, arm.high) == (35.0, 45.0) and trainer.algorithm == "PPO"
    pole, trainer = read_training("return=200", env_family("CartPole-v1"), discrete=True)
    assert (pole.low, trainer) == (200.0, TRAINERS["ppo"])


@pytest.mark.slow
def test_a_trained_behaviour_in_workers(quick: None) -> None:
    one, two = (collect("reacher2d", 40, policy="train:awake", envs=8, workers=workers) for workers in (1, 2))
    assert one.digest() == two.digest() and one.metadata["attributes"] == two.metadata["attributes"]


@pytest.mark.slow
@pytest.mark.parametrize(("env", "skill"), [("Pendulum-v1", "return=-250"), ("CartPole-v1", "return=200")])
def test_real_skills_are_reached(env: str, skill: str) -> None:
    episodes = collect(env, 50, policy=f"train:{skill}")
    assert episodes.returns.mean() >= {"Pendulum-v1": -300, "CartPole-v1": 180}[env]
