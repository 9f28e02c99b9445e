"""Behaviour policies, above all: nothing in a Stable-Baselines3 zip is executed."""

from __future__ import annotations

import contextlib
import functools
import json
import pickle
import tempfile
import zipfile
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamo.collecting.actors import ActorBehaviour, from_sb3, load_actor, save_actor
from lamo.collecting.collect import collect
from lamo.collecting.zips import load_sb3, read_statistics
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


def saved(path: Path, env, kind: str = "PPO", **options) -> tuple[Path, object]:
    model = getattr(sb3, kind)("MlpPolicy", env, device="cpu", seed=0, **options)
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
    np.testing.assert_allclose(actor.outputs(observations)[0], expected.mean.numpy(), rtol=1e-4, atol=1e-6)
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
    ("kind", "options", "message"),
    [
        ("SAC", {"use_sde": True}, "gSDE"),
        ("PPO", {"use_sde": True}, "gSDE"),
        ("PPO", {"policy_kwargs": {"activation_fn": torch.nn.Softplus}}, r"its activation is .*Softplus"),
    ],
)
def test_other_policies_are_refused(tmp_path: Path, kind: str, options: dict, message: str) -> None:
    path, _ = saved(tmp_path / "model.zip", "Pendulum-v1", kind, **options)
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
    weights = {
        "log_std": np.zeros(1, np.float32),
        "action_net.weight": np.ones((1, 3), np.float32),
        "action_net.bias": np.ones(1, np.float32),
    }
    with EnvPool("Pendulum-v1") as pool:
        actor = ActorBehaviour(from_sb3(weights, "Tanh", "here"), pool)
    assert actor.outputs(np.ones((1, 3), np.float32))[0] == 4.0
    for odd, message in (
        ({"features_extractor.cnn.0.weight": np.zeros((1, 1), np.float32)}, "not the MlpPolicy"),
        ({"action_net.bias": np.ones(2, np.float32)}, "do not fit each other"),
        ({"action_net.bias": np.full(1, np.nan, np.float32)}, "not finite"),
        ({"log_std": np.zeros(2, np.float32)}, "gSDE"),
    ):
        with pytest.raises(LamoError, match=message):
            from_sb3(weights | odd, "Tanh", "here")
    with pytest.raises(LamoError, match="not the MlpPolicy"):
        from_sb3({}, "Tanh", "here")


def off_policy(path: Path, kind: str, env: str) -> tuple[Path, object]:
    return saved(path, env, kind, buffer_size=10, policy_kwargs={"net_arch": [16, 16]})


def test_sac_acts_and_tells_its_density_as_there(tmp_path: Path) -> None:
    path, model = off_policy(tmp_path / "model.zip", "SAC", "Pendulum-v1")
    with EnvPool("Pendulum-v1") as pool:
        actor, notes = load_sb3(path, pool)
        seen = np.repeat(pool.reset([3]), 2000, axis=0)
    assert "stochastically" in notes["policy_description"]
    actor.reset([np.random.default_rng(i) for i in range(2000)])
    drawn = actor.act(seen, None, np.arange(2000))
    assert np.abs(drawn).max() <= 2.0
    distribution = model.policy.actor.action_dist
    with torch.no_grad():
        mean, log_std, _ = model.policy.actor.get_action_dist_params(torch.as_tensor(seen))
        theirs = distribution.proba_distribution(mean, log_std).log_prob(
            torch.as_tensor(drawn / 2, dtype=torch.float32)
        )
    inside = np.abs(drawn[:, 0]) < 1.9  # beyond, atanh in float32 knows little, and their epsilon shows
    np.testing.assert_allclose(actor.log_probs[inside], theirs.numpy()[inside] - np.log(2), atol=2e-3)
    width, edges = 0.2, np.arange(-2, 2.01, 0.2)
    found, _ = np.histogram(drawn, edges)
    told = [
        np.exp(actor.log_probs[np.abs(drawn[:, 0] - x) < width / 2]).mean() * width
        for x in (edges[1:] + edges[:-1]) / 2
    ]
    assert np.abs(found / 2000 - told)[1:-1].max() < 0.03, "the density is that of what is drawn"


@pytest.mark.parametrize(("kind", "env"), [("TD3", "Pendulum-v1"), ("DDPG", "Pendulum-v1"), ("DQN", "CartPole-v1")])
def test_deterministic_actors(tmp_path: Path, kind: str, env: str) -> None:
    path, model = off_policy(tmp_path / "model.zip", kind, env)
    with EnvPool(env) as pool:
        actor, _ = load_sb3(path, pool)
        seen = pool.reset(range(8))
    actor.reset([np.random.default_rng(0)] * 8)
    expected, _ = model.predict(seen, deterministic=True)
    np.testing.assert_allclose(actor.act(seen, None, np.arange(8)), expected, rtol=1e-4, atol=1e-6)


def test_dqn_with_epsilon_says_how_likely_it_acts(tmp_path: Path) -> None:
    path, model = off_policy(tmp_path / "model.zip", "DQN", "CartPole-v1")
    episodes = collect("CartPole-v1", 30, policy=f"sb3:{path}", epsilon=0.4)
    greedy, _ = model.predict(episodes.observations, deterministic=True)
    same = greedy == episodes.actions
    assert 0.7 < same.mean() < 0.9
    np.testing.assert_allclose(np.exp(episodes.log_probs), np.where(same, 0.8, 0.2), rtol=1e-5)
    notes = episodes.metadata["attributes"]
    assert notes["epsilon"] == 0.4 and notes["policy"] == "sb3:model.zip" and len(notes["policy_digest"]) == 64
    assert "--epsilon 0.4" in notes["command"]


def test_noise_on_vectors(tmp_path: Path) -> None:
    path, model = off_policy(tmp_path / "model.zip", "TD3", "Pendulum-v1")
    episodes = collect("Pendulum-v1", 3, policy=f"sb3:{path}", noise=0.05, horizon=100)
    wanted, _ = model.predict(episodes.observations, deterministic=True)
    off = (episodes.actions - wanted)[np.abs(wanted) < 1.5]
    assert off.std() == pytest.approx(0.1, rel=0.15), "0.05 of half the range from -2 to 2"
    assert episodes.log_probs is None
    assert collect("Pendulum-v1", 3, policy=f"sb3:{path}", noise=0.05, horizon=100, envs=1).digest()


def normalised(folder: Path) -> tuple[Path, object]:
    """A SAC on normalised Pendulum, its zip and the file beside."""
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    env = VecNormalize(DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")]))
    path, model = saved(folder / "model.zip", env, "SAC", buffer_size=200, learning_starts=1000)
    model.learn(150)
    env.save(str(folder / "vecnormalize.pkl"))
    return path, model


def test_statistics_of_vec_normalize_are_read_and_used(tmp_path: Path) -> None:
    path, model = normalised(tmp_path)
    env = model.get_env()
    env.training = False
    with EnvPool("Pendulum-v1") as pool:
        actor, notes = load_sb3(path, pool)
        seen = pool.reset(range(5))
        before = collect("Pendulum-v1", 1, policy=f"sb3:{path}", horizon=3).metadata["attributes"]["policy_digest"]
        with torch.no_grad():
            mean, *_ = model.policy.actor.get_action_dist_params(torch.as_tensor(env.normalize_obs(seen)))
        np.testing.assert_allclose(actor.outputs(seen)[0], mean.numpy(), rtol=1e-3, atol=1e-5)
        assert "vecnormalize.pkl" in notes["policy_normalisation"]
        env.norm_obs = False
        env.save(str(tmp_path / "vecnormalize.pkl"))
        assert read_statistics(tmp_path / "vecnormalize.pkl") is None
        assert "policy_normalisation" not in load_sb3(path, pool)[1]
    after = collect("Pendulum-v1", 1, policy=f"sb3:{path}", horizon=3).metadata["attributes"]["policy_digest"]
    assert before != after
    with EnvPool("Reacher2d-v0") as pool, pytest.raises(LamoError, match="maps 3 observation values"):
        load_sb3(path, pool)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("bomb", "not a file of Stable-Baselines3's VecNormalize"),
        ([1, 2], "not a file of Stable-Baselines3's VecNormalize"),
        (b"", "not a whole pickle"),
        (b"\x80\x04garbage", "."),
    ],
)
def test_statistics_that_are_none(tmp_path: Path, content: object, message: str) -> None:
    fuse, file = tmp_path / "exploded", tmp_path / "vecnormalize.pkl"
    made = content if isinstance(content, bytes) else pickle.dumps(Bomb(fuse) if content == "bomb" else content)
    file.write_bytes(made)
    path, _ = off_policy(tmp_path / "model.zip", "TD3", "Pendulum-v1")
    with EnvPool("Pendulum-v1") as pool, pytest.raises(LamoError, match=message):
        load_sb3(path, pool)
    assert not fuse.exists()


@settings(max_examples=60, deadline=None)
@given(cut=st.floats(0, 1), flips=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4))
def test_damaged_statistics_are_one_line(cut: float, flips: list[tuple[float, int]]) -> None:
    data = bytearray(_whole_statistics())
    for where, value in flips:
        data[int(where * (len(data) - 1))] = value
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vecnormalize.pkl"
        file.write_bytes(data[: int(cut * len(data)) + 1])
        with contextlib.suppress(LamoError):
            found = read_statistics(file)
            assert found is None or (np.isfinite(found.mean).all() and (found.variance >= 0).all())


@functools.cache
def _whole_statistics() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        normalised(Path(folder))
        return (Path(folder) / "vecnormalize.pkl").read_bytes()


def test_actors_as_safe_files(tmp_path: Path) -> None:
    for kind, env in (("SAC", "Pendulum-v1"), ("DQN", "CartPole-v1")):
        _, model = off_policy(tmp_path / f"{kind}.zip", kind, env)
        weights = {name: value.numpy() for name, value in model.policy.state_dict().items()}
        actor = from_sb3(weights, None, kind)
        if kind == "SAC":
            actor = actor.normalised(np.arange(3.0), np.ones(3), 5.0, 1e-8)
        data = save_actor(actor)
        again = load_actor(data, "here")
        assert (again.kind, again.activation, again.clip) == (actor.kind, actor.activation, actor.clip)
        assert all(np.array_equal(again.tensors[name], value) for name, value in actor.tensors.items())
        assert save_actor(again) == data
        for damaged in (b"", data[:100], data.replace(b"kind", b"kinb")):
            with pytest.raises(LamoError, match="damaged"):
                load_actor(damaged, "here")
