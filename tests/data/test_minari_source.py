"""Datasets as Minari itself writes them, read without it and without an environment."""

from __future__ import annotations

import collections
import json
import os
import shutil
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lamo.data import load_episodes
from lamo.data.stream import stream
from lamo.errors import LamoError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import minari
    from minari.data_collector import EpisodeBuffer

STORAGES = ["hdf5", "arrow", "parquet"]
BOX = spaces.Box(-np.inf, np.inf, (3,), np.float64)
NESTED = spaces.Dict(
    {
        "observation": spaces.Box(-np.inf, np.inf, (4,), np.float64),
        "achieved_goal": spaces.Dict({"kettle": spaces.Box(-9, 9, (2,)), "burner": spaces.Box(-9, 9, (1, 2))}),
        "mode": spaces.Discrete(3, start=5),
        "switches": spaces.MultiBinary(2),
        "dials": spaces.MultiDiscrete([2, 4]),
    }
)
ORDERED = spaces.Dict(collections.OrderedDict(z=spaces.Box(-1, 1, (1,)), a=spaces.Box(-1, 1, (2,))))
PAIR = spaces.Tuple((spaces.Box(-1, 1, (2,)), spaces.Discrete(2)))
ACTION = spaces.Box(np.array([-1, -2], np.float32), np.array([1, 2], np.float32))
LENGTHS, ENDS = [3, 1, 5], [(True, False), (False, True), (False, False)]


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "store"


def stack(space: spaces.Space, values: list[Any]) -> Any:
    """A list of observations as Minari's buffers want them: lists at the leaves."""
    if isinstance(space, spaces.Dict):
        return {key: stack(inner, [value[key] for value in values]) for key, inner in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(stack(inner, [value[i] for value in values]) for i, inner in enumerate(space.spaces))
    return values


def create(name: str, space: spaces.Space, action: spaces.Space = ACTION, storage: str = "hdf5", **options: Any):
    """Write a dataset; return observations (one list per episode, T + 1 each), actions and rewards as they went in."""
    if storage != "hdf5":
        pytest.importorskip("pyarrow")
    space.seed(1), action.seed(2)
    rng = np.random.default_rng(3)
    buffers, log = [], []
    for number, (steps, (terminated, truncated)) in enumerate(zip(LENGTHS, ENDS, strict=True)):
        observations = [space.sample() for _ in range(steps + 1)]
        actions = [action.sample() for _ in range(steps)]
        rewards = rng.normal(size=steps).tolist()
        last = [False] * (steps - 1)
        buffers.append(
            EpisodeBuffer(
                id=number,
                seed=number,
                observations=stack(space, observations),
                actions=actions,
                rewards=rewards,
                terminations=[*last, terminated],
                truncations=[*last, truncated],
                infos={},
            )
        )
        log.append((observations, actions, rewards))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it would like an author, a link and an environment
        minari.create_dataset_from_buffers(
            name, buffers, observation_space=space, action_space=action, data_format=storage, **options
        )
    return log


def check(episodes, log, space) -> None:
    assert episodes.lengths.tolist() == LENGTHS
    assert episodes.ids.tolist() == [0, 1, 2]
    assert list(zip(episodes.terminated.tolist(), episodes.truncated.tolist(), strict=True)) == ENDS
    flat = [np.array([spaces.flatten(space, o) for o in observations], np.float32) for observations, _, _ in log]
    np.testing.assert_array_equal(episodes.observations, np.concatenate([rows[:-1] for rows in flat]))
    np.testing.assert_array_equal(episodes.final_observations, np.array([rows[-1] for rows in flat]))
    np.testing.assert_array_equal(episodes.rewards, np.concatenate([r for *_, r in log]).astype(np.float32))
    kind = np.int64 if episodes.discrete else np.float32
    np.testing.assert_array_equal(episodes.actions, np.concatenate([a for _, a, _ in log]).astype(kind))


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("space", [BOX, NESTED, ORDERED, PAIR], ids=["box", "nested", "ordered", "tuple"])
def test_observations_are_flattened_as_gymnasium_does(store, storage, space):
    log = create("room/world/medium-v0", space, storage=storage)
    episodes = load_episodes("room/world/medium-v0")
    check(episodes, log, space)
    assert episodes.metadata["format"] == "minari"
    assert episodes.metadata["source"] == "room/world/medium-v0"
    assert (episodes.metadata["action_low"], episodes.metadata["action_high"]) == ([-1, -2], [1, 2])
    assert json.loads(json.dumps(episodes.metadata, allow_nan=False)) == episodes.metadata


@given(
    kinds=st.lists(
        st.tuples(st.integers(1, 4), st.sampled_from(["terminated", "truncated", "unfinished"])),
        min_size=1,
        max_size=12,
    ),
    storage=st.sampled_from(STORAGES),
    discrete=st.booleans(),
    split=st.booleans(),
)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_round_trip(make_episodes, assert_same, tmp_path_factory, monkeypatch, kinds, storage, discrete, split):
    """Episodes of any number, lengths and ends, their observations in one array or as a dict of two."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("store")))
    lengths, ends = zip(*kinds, strict=True)
    episodes = make_episodes(lengths, ends=ends, actions=0 if discrete else 2, final=True)
    box = partial(spaces.Box, -np.inf, np.inf, dtype=np.float32)
    buffers = []
    for e in range(len(episodes)):
        span = slice(*map(int, episodes.offsets[e : e + 2]))
        seen = [*episodes.observations[span], episodes.final_observations[e]]
        last = np.arange(lengths[e]) == lengths[e] - 1
        buffers.append(
            EpisodeBuffer(
                id=e,
                observations={"a": [o[:1] for o in seen], "b": [o[1:] for o in seen]} if split else seen,
                actions=list(episodes.actions[span]),
                rewards=episodes.rewards[span].tolist(),
                terminations=(last & episodes.terminated[e]).tolist(),
                truncations=(last & episodes.truncated[e]).tolist(),
                infos={},
            )
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            "any-v0",
            buffers,
            observation_space=spaces.Dict(a=box(shape=(1,)), b=box(shape=(2,))) if split else box(shape=(3,)),
            action_space=spaces.Discrete(4) if discrete else box(shape=(2,)),
            data_format=storage,
        )
    back = load_episodes("any-v0")
    assert_same(back, episodes)
    assert back.ids.tolist() == episodes.ids.tolist()


def test_keys_of_a_dict_are_in_order(store):
    create("world-v0", NESTED)
    keys = load_episodes("world-v0").metadata["observation_keys"]
    assert keys == ["achieved_goal/burner", "achieved_goal/kettle", "dials", "mode", "observation", "switches"]


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("start", [1, -2])
def test_discrete_actions(store, storage, start):
    action = spaces.Discrete(4, start=start)
    log = create("world-v0", BOX, action, storage)
    episodes = load_episodes("world-v0")
    check(episodes, [(o, [a - start for a in actions], r) for o, actions, r in log], BOX)  # choices counted from 0
    assert episodes.discrete
    assert episodes.metadata["action_choices"] == 4
    blocks = list(stream("world-v0", size=1))
    assert len(blocks) == 3
    np.testing.assert_array_equal(np.concatenate([block.actions for block in blocks]), episodes.actions)


@pytest.mark.parametrize("storage", STORAGES)
def test_several_choices_counted_from_below_zero(store, storage):
    log = create("world-v0", BOX, spaces.MultiDiscrete([3, 5], start=[-1, -4]), storage)
    episodes = load_episodes("world-v0")
    check(episodes, [(o, [a + [1, 4] for a in actions], r) for o, actions, r in log], BOX)
    assert episodes.choices == (3, 5)


def test_every_way_to_name_it(store, tmp_path):
    log = create("room/world-v0", NESTED)
    folder = store / "room" / "world-v0"
    shutil.copytree(folder, tmp_path / "copy")
    for source in (
        "room/world-v0",
        folder,
        str(folder / "data"),
        folder / "data" / "main_data.hdf5",
        "copy",
        "./copy/data/main_data.hdf5",
    ):
        check(load_episodes(source), log, NESTED)
    assert load_episodes(folder).metadata["source"] == "world-v0"


def test_a_main_file_alone(store, tmp_path):
    """Without metadata.json there are no spaces: keys are sorted, and what is discrete cannot be known."""
    log = create("world-v0", ORDERED)
    shutil.copy(store / "world-v0" / "data" / "main_data.hdf5", tmp_path / "alone.h5")
    check(load_episodes("alone.h5"), log, spaces.Dict(dict(ORDERED.spaces)))


def test_the_environment_is_named_but_need_not_exist(store):
    spec = gymnasium.envs.registration.EnvSpec("Nowhere-v3", entry_point="nowhere:Nothing")
    create("world-v0", BOX)
    notes = store / "world-v0" / "data" / "metadata.json"
    notes.write_text(json.dumps({**json.loads(notes.read_text()), "env_spec": spec.to_json()}))
    assert load_episodes("world-v0").metadata["env"] == "Nowhere-v3"


def test_neither_minari_nor_gymnasium_is_imported(store):
    create("world-v0", NESTED)
    code = "import sys; from lamo.data import load_episodes; load_episodes('world-v0'); print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert not {"minari", "gymnasium", "mujoco", "torch"} & set(result.stdout.split())


def test_an_id_that_cannot_be_downloaded(store):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(LamoError, match=r"neither in .* nor could it be downloaded") as caught:
            load_episodes("mujoco/hopper/medium-v0")
    assert "\n" not in str(caught.value)


def test_without_a_network_it_is_said_at_once(store, monkeypatch):
    """The hub's client would try for half a minute; one request of its own says what is the case."""
    asked = []

    class Session:
        def head(self, url, timeout):
            asked.append((url, timeout))
            raise OSError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.get_session", Session)
    monkeypatch.setattr("minari.download_dataset", lambda name: pytest.fail("tried to download"))
    with pytest.raises(LamoError, match=r"could it be downloaded \(Name or service not known\); check the id"):
        load_episodes("mujoco/hopper/medium-v0")
    assert len(asked) == 1 and asked[0][1] <= 5


def test_metadata_that_tells_another_number_of_episodes(store, capsys):
    create("world-v0", BOX)
    with h5py.File(store / "world-v0" / "data" / "main_data.hdf5", "a") as file:
        del file["episode_1"]
    episodes = load_episodes("world-v0")
    assert episodes.ids.tolist() == [0, 2]
    assert "speaks of 3 episodes, 2 are there" in capsys.readouterr().err


def test_an_episode_of_no_steps_is_left_out_aloud(store, capsys):
    create("world-v0", BOX)
    with h5py.File(store / "world-v0" / "data" / "main_data.hdf5", "a") as file:
        for key in ("rewards", "actions", "terminations", "truncations"):
            file["episode_1"][key].resize(0, axis=0)
    assert load_episodes("world-v0").ids.tolist() == [0, 2]
    assert "episodes of no steps are left out, the first is episode_1" in capsys.readouterr().err


def damage(file: h5py.File, how: str) -> None:
    group = file["episode_2"]
    if how in ("rewards", "actions", "observations/mode"):
        del group[how]
    elif how == "short":
        group["actions"].resize(4, axis=0)
    elif how == "long":
        group["observations/observation"].resize(8, axis=0)
    elif how == "nan":
        group["observations/observation"][2, 1] = np.nan
    elif how == "last nan":
        group["observations/observation"][5, 1] = np.nan
    elif how == "choice":
        group["observations/mode"][1] = 99
    elif how == "none":
        for key in list(file):
            del file[key]
    elif how == "flat":
        del group["actions"]
        group["actions"] = 1.0
    elif how == "group":
        del group["actions"]
        group.create_group("actions")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("rewards", ["episode_2: key 'rewards' is missing", "actions, infos, observations"]),
        ("actions", ["episode_2: key 'actions' is missing"]),
        ("observations/mode", ["episode_2: key 'observations/mode' is missing"]),
        ("short", ["episode_2", "different lengths", "actions 4", "rewards 5"]),
        ("long", ["episode_2", "observations/observation 8"]),
        ("nan", ["observations holds nan at [6, 14] (episode 2, step 2)"]),
        ("last nan", ["after the last action of episode 2"]),
        ("choice", ["observations/mode", "outside its space"]),
        ("flat", ["episode_2: actions is not an array"]),
        ("group", ["episode_2: actions is not an array"]),
    ],
)
def test_bad_episodes(store, how, words):
    create("world-v0", NESTED)
    with h5py.File(store / "world-v0" / "data" / "main_data.hdf5", "a") as file:
        damage(file, how)
    with pytest.raises(LamoError) as caught:
        load_episodes("world-v0")
    for word in ["world-v0: ", *words]:
        assert word in str(caught.value), str(caught.value)


def test_bad_folders(store):
    create("world-v0", BOX)
    data = store / "world-v0" / "data"
    notes = json.loads((data / "metadata.json").read_text())

    def refused(*words: str) -> None:
        with pytest.raises(LamoError) as caught:
            load_episodes("world-v0")
        assert all(word in str(caught.value) for word in words), str(caught.value)

    (data / "metadata.json").write_text("{")
    refused("metadata.json is not readable")
    (data / "metadata.json").write_text("[]")
    refused("metadata.json is not a JSON object")
    (data / "metadata.json").write_text(json.dumps({**notes, "observation_space": "{"}))
    refused("observation_space is not a serialised space")
    for space in ('{"type": "Dict"}', '{"type": "Dict", "subspaces": {"a": 1}}', "{}", "[1]", '{"type": "Graph"}'):
        (data / "metadata.json").write_text(json.dumps({**notes, "observation_space": space}))
        refused("space")
    (data / "metadata.json").write_text(json.dumps({**notes, "action_space": '{"type": ["Box"]}'}))
    refused("describes a space that does not fit")
    (data / "metadata.json").write_text(json.dumps({**notes, "data_format": "tape"}))
    refused("'tape' is not one of hdf5, arrow, parquet")
    (data / "metadata.json").write_text(json.dumps(notes))
    whole = (data / "main_data.hdf5").read_bytes()
    (data / "main_data.hdf5").write_bytes(whole[: len(whole) // 2])
    refused("not a whole HDF5 file")
    (data / "main_data.hdf5").unlink()
    with h5py.File(data / "main_data.hdf5", "w"):
        pass
    refused("holds no episodes")
    (data / "main_data.hdf5").unlink()
    refused("without a Minari dataset")


def test_images_are_refused(store):
    create("world-v0", spaces.Dict(pixels=spaces.Box(0, 255, (8, 8, 3), np.uint8)))
    with pytest.raises(LamoError, match="observations are images; only state observations"):
        load_episodes("world-v0")


@pytest.mark.parametrize("storage", ["arrow", "parquet"])
def test_bad_tables(store, storage):
    create("world-v0", NESTED, storage=storage)
    data = store / "world-v0" / "data"
    part = next((data / "1").glob(f"*.{storage}"))
    part.write_bytes(part.read_bytes()[:100])
    words = {"arrow": "episode 1 is not readable as arrow", "parquet": "episode 1: not a whole Parquet file"}
    with pytest.raises(LamoError, match=words[storage]):
        load_episodes("world-v0")


@pytest.mark.parametrize("name", [b"rewards", b"observation", b"kettle"])
def test_names_in_arrow_that_are_no_text(store, name):
    create("world-v0", NESTED, storage="arrow")
    for episode in ("2", "0"):  # a later one, then the first, which says how the others must be
        part = next((store / "world-v0" / "data" / episode).glob("*.arrow"))
        part.write_bytes(part.read_bytes().replace(name, b"\xef" + name[1:]))
        with pytest.raises(LamoError, match="world-v0: "):
            load_episodes("world-v0")


def test_arrow_that_is_compressed(store):
    """How large it is cannot be known before it is unpacked; Minari itself compresses nothing."""
    import pyarrow as pa

    log = create("world-v0", BOX, storage="arrow")
    part = next((store / "world-v0" / "data" / "1").glob("*.arrow"))
    table = pa.ipc.open_file(part).read_all()
    for codec in (None, "lz4", "zstd"):
        options = pa.ipc.IpcWriteOptions(compression=codec)
        with pa.OSFile(str(part), "wb") as sink, pa.ipc.new_file(sink, table.schema, options=options) as writer:
            writer.write_table(table, max_chunksize=1)
        if codec is None:
            check(load_episodes("world-v0"), log, BOX)
        else:
            with pytest.raises(LamoError, match="episode 1 is compressed"):
                load_episodes("world-v0")


def test_arrow_without_pyarrow(store, monkeypatch):
    create("world-v0", BOX)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.dataset", None)
    notes = store / "world-v0" / "data" / "metadata.json"
    notes.write_text(json.dumps({**json.loads(notes.read_text()), "data_format": "arrow"}))
    with pytest.raises(LamoError, match=r"is stored as arrow; `pip install \"lamo\[tables\]"):
        load_episodes("world-v0")


@pytest.mark.parametrize(
    ("space", "stored", "actions", "choices"),
    [
        ({"type": "MultiDiscrete", "nvec": [3, 2], "start": [0, 4]}, [[2, 4], [0, 5]], [[2, 0], [0, 1]], (3, 2)),
        ({"type": "MultiDiscrete", "nvec": [[3], [2]]}, [[[2], [0]], [[1], [1]]], [[2, 0], [1, 1]], (3, 2)),
        ({"type": "MultiDiscrete", "nvec": [5], "start": [1]}, [[5], [1]], [[4], [0]], (5,)),
        ({"type": "MultiBinary", "n": 2}, [[1, 0], [0, 0]], [[1, 0], [0, 0]], (2, 2)),
        ({"type": "MultiDiscrete", "nvec": [3, 2], "start": [-1, 0]}, [[1, 1], [-1, 0]], [[2, 1], [0, 0]], (3, 2)),
        ({"type": "Discrete", "n": 4, "start": 2}, [5, 2], [3, 0], (4,)),
        ({"type": "Discrete", "n": 4, "start": -1}, [2, -1], [3, 0], (4,)),
    ],
)
def test_choices_of_every_space(tmp_path, space, stored, actions, choices):
    """The space says that they are choices, how many, and what they are counted from."""
    (tmp_path / "data").mkdir()
    described = {"observation_space": {"type": "Box", "dtype": "float64", "shape": [1]}, "action_space": space}
    notes = {"data_format": "hdf5", **{key: json.dumps(value) for key, value in described.items()}}
    (tmp_path / "data" / "metadata.json").write_text(json.dumps(notes))
    with h5py.File(tmp_path / "data" / "main_data.hdf5", "w") as file:
        group = file.create_group("episode_0")
        group["observations"], group["actions"] = np.zeros((3, 1)), np.array(stored, np.int64)
        group["rewards"], group["terminations"] = np.zeros(2), np.array([False, True])
        group["truncations"] = np.zeros(2, bool)
    episodes = load_episodes(tmp_path)
    assert episodes.actions.tolist() == actions and episodes.choices == choices
    amounts = load_episodes(tmp_path, actions="continuous")
    assert amounts.actions.tolist() == np.reshape(stored, (2, -1)).tolist()
