"""Behaviour policies, above all: nothing in a Stable-Baselines3 zip is executed."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lamo.data.behaviour import load_sb3, mlp_behaviour
from lamo.envs.pool import EnvPool
from lamo.errors import LamoError

sb3 = pytest.importorskip("stable_baselines3")
torch = pytest.importorskip("torch")


def rewrite(path: Path, **members: bytes) -> Path:
    """The zip with some members replaced."""
    with zipfile.ZipFile(path) as archive:
        kept = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (kept | {name.replace("_pth", ".pth"): value for name, value in members.items()}).items():
            archive.writestr(name, content)
    return path


def saved(path: Path, env: str, kind: str = "PPO", **settings) -> tuple[Path, object]:
    model = getattr(sb3, kind)("MlpPolicy", env, device="cpu", seed=0, **settings)
    model.save(path)
    return path, model


@pytest.mark.parametrize("activation", ["Tanh", "ReLU", "ELU", "LeakyReLU"])
def test_reads_the_actor_of_a_zip(tmp_path: Path, activation: str) -> None:
    kwargs = {"net_arch": [16, 8], "activation_fn": getattr(torch.nn, activation), "log_std_init": -1.0}
    path, model = saved(tmp_path / "model.zip", "Pendulum-v1", policy_kwargs=kwargs)
    with EnvPool("Pendulum-v1") as pool:
        actor, notes = load_sb3(path, pool)
        observations = pool.reset(range(6))
    with torch.no_grad():
        expected = model.policy.get_distribution(torch.as_tensor(observations)).distribution
    np.testing.assert_allclose(actor.output(observations), expected.mean.numpy(), rtol=1e-4, atol=1e-6)
    actor.reset([np.random.default_rng(i) for i in range(4000)])
    drawn = actor.act(np.repeat(observations[:1], 4000, axis=0), None, np.arange(4000))
    assert drawn.std() == pytest.approx(np.exp(-1.0), rel=0.05)
    assert "stochastically" in notes["policy_description"]


def test_default_network_and_noise_by_row(tmp_path: Path) -> None:
    path, _ = saved(tmp_path / "model.zip", "Pendulum-v1", kind="A2C")
    with EnvPool("Pendulum-v1") as pool:
        actor, _ = load_sb3(path, pool)
    seen = np.zeros((2, 3), np.float32)
    actor.reset([np.random.default_rng(i) for i in range(3)])
    first = actor.act(seen, None, np.array([0, 2]))
    actor.reset([np.random.default_rng(2)])
    np.testing.assert_array_equal(actor.act(seen[:1], None, np.array([0]))[0], first[1])


def test_discrete_choices_follow_the_logits(tmp_path: Path) -> None:
    path, model = saved(tmp_path / "model.zip", "CartPole-v1")
    with EnvPool("CartPole-v1") as pool:
        actor, _ = load_sb3(path, pool)
        observation = pool.reset([0]) * 20
    with torch.no_grad():
        expected = model.policy.get_distribution(torch.as_tensor(observation)).distribution.probs[0, 1].item()
    actor.reset([np.random.default_rng(i) for i in range(4000)])
    drawn = actor.act(np.repeat(observation, 4000, axis=0), None, np.arange(4000))
    assert drawn.mean() == pytest.approx(expected, abs=0.03)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickles_in_a_zip_are_never_run(tmp_path: Path) -> None:
    import base64

    fuse = tmp_path / "exploded"
    path, _ = saved(tmp_path / "model.zip", "Pendulum-v1")
    with zipfile.ZipFile(path) as archive:
        data = json.loads(archive.read("data"))
    for value in data.values():
        if isinstance(value, dict) and ":serialized:" in value:
            value[":serialized:"] = base64.b64encode(pickle.dumps(Bomb(fuse))).decode()
    with EnvPool("Pendulum-v1") as pool:
        load_sb3(rewrite(path, data=json.dumps(data).encode()), pool)  # read, and nothing in `data` was decoded
        assert not fuse.exists()
        torch.save({"log_std": Bomb(fuse)}, tmp_path / "bomb.pth")
        rewrite(path, policy_pth=(tmp_path / "bomb.pth").read_bytes())
        with pytest.raises(LamoError, match="cannot be read"):
            load_sb3(path, pool)
    assert not fuse.exists()


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("SAC", {}, "not the MlpPolicy of PPO or A2C"),
        ("PPO", {"use_sde": True}, "gSDE"),
        ("PPO", {"policy_kwargs": {"activation_fn": torch.nn.Softplus}}, r"its activation is .*Softplus"),
    ],
)
def test_other_policies_are_refused(tmp_path: Path, kind: str, settings: dict, message: str) -> None:
    path, _ = saved(tmp_path / "model.zip", "Pendulum-v1", kind, **settings)
    with EnvPool("Pendulum-v1") as pool, pytest.raises(LamoError, match=message):
        load_sb3(path, pool)


def test_the_wrong_environment_is_refused(tmp_path: Path) -> None:
    path, _ = saved(tmp_path / "model.zip", "Pendulum-v1")
    for name in ("Reacher2d-v0", "CartPole-v1"):
        with EnvPool(name) as pool, pytest.raises(LamoError, match="maps 3 observation values to 1 action values"):
            load_sb3(path, pool)


@pytest.mark.parametrize("content", [b"", b"not a zip", None])
def test_damaged_zips(tmp_path: Path, content: bytes | None) -> None:
    path, _ = saved(tmp_path / "model.zip", "Pendulum-v1")
    path.write_bytes(path.read_bytes()[:1000] if content is None else content)
    with EnvPool("Pendulum-v1") as pool, pytest.raises(LamoError, match="cannot be read"):
        load_sb3(path, pool)


def test_a_zip_of_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with EnvPool("Pendulum-v1") as pool, pytest.raises(LamoError, match="without data and policy.pth"):
        load_sb3(tmp_path / "other.zip", pool)


def test_weights_without_hidden_layers() -> None:
    with EnvPool("Pendulum-v1") as pool:
        weights = {
            "log_std": np.zeros(1, np.float32),
            "action_net.weight": np.ones((1, 3), np.float32),
            "action_net.bias": np.ones(1, np.float32),
        }
        actor = mlp_behaviour(weights, "Tanh", pool, "here")
    assert actor.output(np.ones((1, 3), np.float32)) == 4.0
