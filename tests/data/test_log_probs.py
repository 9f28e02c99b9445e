"""Log-probabilities of logged actions: read where a file has them, kept, and no part of what the data is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from lamo.collecting.actors import ActorBehaviour, from_sb3
from lamo.collecting.collect import collect
from lamo.data.recut import merge
from lamo.data.sources import load_episodes
from lamo.data.sources.arrays import write_npz
from lamo.data.sources.d4rl import write_d4rl
from lamo.envs.pool import EnvPool
from lamo.errors import LamoError


def test_round_trip_and_subsets(make_episodes, flat_arrays, tmp_path: Path, rng: np.random.Generator) -> None:
    plain = make_episodes([3, 2, 4])
    logged = replace(plain, log_probs=rng.normal(size=9).astype(np.float32))
    assert logged.digest() == plain.digest()
    write_d4rl(logged, tmp_path / "a.hdf5")
    np.savez(tmp_path / "a.npz", behaviour_log_prob=logged.log_probs, **flat_arrays(plain))
    write_npz(logged, tmp_path / "b.npz")
    for name in ("a.hdf5", "a.npz", "b.npz"):
        read = load_episodes(tmp_path / name)
        assert read.log_probs is not None and np.array_equal(read.log_probs, logged.log_probs)
        assert np.array_equal(read.select([2, 0]).log_probs, logged.log_probs[[5, 6, 7, 8, 0, 1, 2]])
    write_d4rl(plain, tmp_path / "b.hdf5")
    assert load_episodes(tmp_path / "b.hdf5").log_probs is None
    with pytest.raises(LamoError, match=r"log_probs must be \(9,\) float32"):
        replace(plain, log_probs=np.zeros(8, np.float32))


def test_data_with_and_without_are_joined_aloud(make_episodes, tmp_path: Path, capsys) -> None:
    plain = make_episodes([3, 2])
    logged = replace(plain, log_probs=np.full(5, -1, np.float32))
    paths = [write_d4rl(each, tmp_path / name) for each, name in ((logged, "a.hdf5"), (plain, "b.hdf5"))]
    assert load_episodes(paths).log_probs is None
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "b.hdf5: has no log-probabilities of its actions, others have" in said
    merge(paths, tmp_path / "c.lamo")
    assert capsys.readouterr().err.count("\n") == 1
    assert load_episodes([paths[0], paths[0]]).log_probs is not None and not capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "actions", "said"),
    [
        (np.zeros(9), 2, None),
        (np.full(9, 3.0), 2, None),  # a density may be above 1
        (np.full(9, 3.0), 0, "numbers above 0, which are no log-probabilities"),
        (np.full(9, np.nan), 2, "values that are not finite"),
        (np.zeros(8), 2, "does not hold one number per step"),
    ],
)
def test_d4rl_infos(
    make_episodes,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    values: np.ndarray,
    actions: int,
    said: str | None,
) -> None:
    path = write_d4rl(make_episodes([3, 2, 4], actions=actions), tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as file:
        file["infos/action_log_probs"] = values
    read = load_episodes(path)
    err = capsys.readouterr().err
    assert (read.log_probs is None) == (said is not None)
    assert err.count("\n") == (said is not None) and (said or "") in err
    assert read.metadata["infos"] == ["action_log_probs"]


def test_random_behaviour_says_how_likely_it_acts(tmp_path: Path) -> None:
    choices = collect("CartPole-v1", 3, tmp_path / "a.hdf5", policy="random", horizon=20)
    assert choices.log_probs is not None
    np.testing.assert_allclose(choices.log_probs, np.log(0.5), rtol=1e-6)
    assert np.array_equal(load_episodes(tmp_path / "a.hdf5").log_probs, choices.log_probs)
    vectors = collect("reacher2d", 1, policy="random", horizon=4)
    assert vectors.log_probs is not None
    np.testing.assert_allclose(vectors.log_probs, np.log(0.25), rtol=1e-6)  # uniform on [-1, 1]²


def test_a_softmax_says_how_likely_it_chose() -> None:
    rng = np.random.default_rng(0)
    weights = {"action_net.weight": rng.normal(size=(2, 4)), "action_net.bias": np.zeros(2)}
    with EnvPool("CartPole-v1") as pool:
        behaviour = ActorBehaviour(from_sb3(weights, None, "here"), pool)
    behaviour.reset([np.random.default_rng(i) for i in range(200)])
    observations = np.repeat(rng.normal(size=(1, 4)).astype(np.float32), 200, axis=0)
    chosen = behaviour.act(observations, None, np.arange(200))
    logits = behaviour.outputs(observations[:1])[0][0].astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum())
    np.testing.assert_allclose(behaviour.log_probs, expected[chosen], rtol=1e-5)
