"""The kitchen pays once for each subtask, is the same twice, and says what is missing."""

from __future__ import annotations

import pickle
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from lamo.cli import main
from lamo.envs.geometry import Outline
from lamo.envs.kitchen import OBSERVATION_DIM, SUBTASKS, KitchenEnv, goals
from lamo.envs.pool import EnvPool, make
from lamo.errors import LamoError

SLIDER, BURNER = "KitchenMicrowaveKettleLightSlider-v1", "KitchenMicrowaveKettleBottomBurnerLight-v1"


@pytest.fixture(scope="module")
def env() -> KitchenEnv:
    return make(SLIDER).unwrapped  # type: ignore[return-value]


def test_passes_the_checker() -> None:
    with warnings.catch_warnings():
        # observations without bounds are gymnasium-robotics' own
        warnings.filterwarnings("ignore", message=".*Box observation space (minimum|maximum) value is.*")
        check_env(gymnasium.make(SLIDER, disable_env_checker=True).unwrapped, skip_render_check=True)


def test_sizes_and_limit() -> None:
    for name in (SLIDER, BURNER):
        with EnvPool(name) as pool:
            assert (pool.observation_dim, pool.action_dim, pool.max_episode_steps) == (OBSERVATION_DIM, 9, 280)
            assert pool.action_low is not None and (pool.action_low == -1).all()
    assert set(goals()) == set(SUBTASKS)


def test_observation_is_the_state_with_a_little_noise(env: KitchenEnv) -> None:
    observation, _ = env.reset(seed=4)
    np.testing.assert_allclose(observation[:9], env.data.qpos[:9], atol=2e-3)
    np.testing.assert_allclose(observation[9:18], env.data.qvel[:9], atol=2e-3)
    np.testing.assert_allclose(observation[18:39], env.data.qpos[9:], atol=2e-4)
    np.testing.assert_allclose(observation[39:], env.data.qvel[9:], atol=2e-4)


def test_same_seed_same_episode_in_a_kitchen_that_shares_the_model(env: KitchenEnv, rng: np.random.Generator) -> None:
    other = pickle.loads(pickle.dumps(env))
    assert other.model is env.model and other.data is not env.data
    actions = rng.uniform(-1, 1, (5, 9))

    def episode(kitchen: KitchenEnv, seed: int) -> np.ndarray:
        first, _ = kitchen.reset(seed=seed)
        return np.array([first, *(kitchen.step(action)[0] for action in actions)])

    np.testing.assert_array_equal(episode(env, 1), episode(other, 1))
    assert (episode(env, 1) != episode(other, 2)).any()


def test_each_subtask_pays_once(env: KitchenEnv) -> None:
    """Joints are put at their goals by hand, which no policy can."""
    env.reset(seed=0)

    def put(subtask: str, away: float) -> tuple[float, bool, tuple[str, ...]]:
        index, goal = goals()[subtask]
        env.data.qpos[index] = goal
        env.data.qpos[index[0]] += away
        _, reward, terminated, truncated, info = env.step(np.zeros(9))
        assert not truncated
        return reward, terminated, info["finished"]

    assert put("slide cabinet", -0.33) == (0.0, False, ())
    assert put("slide cabinet", -0.27) == (1.0, False, ("slide cabinet",))
    assert env.distance("slide cabinet") < 0.3
    assert put("slide cabinet", -0.1) == (0.0, False, ("slide cabinet",)), "finished and not paid again"
    assert put("slide cabinet", -0.36)[0] == 0.0 and put("slide cabinet", 0.0)[0] == 0.0, "nor after it came undone"
    assert put("hinge cabinet", 0.0)[0] == 0.0, "not one of the four"
    assert put("light switch", 0.0)[0] == 1.0 and put("microwave", 0.0)[0] == 1.0
    assert put("kettle", 0.0) == (1.0, True, ("slide cabinet", "light switch", "microwave", "kettle"))
    assert env.reset(seed=0)[1]["finished"] == () and env.finished == ()
    assert put("slide cabinet", 0.0)[0] == 1.0, "a new episode pays anew"


def test_it_is_drawn_as_what_it_is(env: KitchenEnv) -> None:
    env.reset(seed=0)
    outline = Outline.of(env)
    names = [part["name"] for part in outline.parts]
    assert outline.view == "xz" and {"arm", "left finger", "kettle", "microwave's door"} <= set(names)
    before, state = outline.frame(), env.data.qpos.copy()
    assert before.shape == (len(names), 4) and np.isfinite(before).all()
    np.testing.assert_array_equal(env.data.qpos, state)
    index, goal = goals()["microwave"]
    env.data.qpos[index] = goal
    moved = {name for name, same in zip(names, (outline.frame() == before).all(axis=1), strict=True) if not same}
    assert moved == {"microwave's door", "its handle"}


def test_unknown_subtask_names_the_known() -> None:
    with pytest.raises(LamoError, match=r"no subtask 'oven'; known: microwave, kettle"):
        KitchenEnv(["oven"])


def test_missing_extra_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in [name for name in sys.modules if name.startswith("gymnasium_robotics.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    with pytest.raises(LamoError, match=r'pip install "lamo\[kitchen\]"'):
        make(BURNER)
    assert main(["data", "collect", "--task", "kitchen-mixed", "--policy", "operator", "--out", "never.hdf5"]) == 2
    said = capsys.readouterr().err
    assert 'pip install "lamo[kitchen]"' in said and said.count("\n") == 1
