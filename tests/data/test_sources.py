"""Each format gives back what was written to it."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lamo.data.sources
from lamo.data import SOURCES, load_episodes
from lamo.data.sources.d4rl import write_d4rl
from lamo.errors import LamoError

KINDS = st.lists(
    st.tuples(st.integers(1, 6), st.sampled_from(["terminated", "truncated", "unfinished"])), min_size=1, max_size=6
)


def write_hdf5(path: Path, arrays: dict, **options) -> Path:
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            file.create_dataset(key, data=value, **options)
    return path


def split(episodes):
    return list(zip(episodes.offsets[:-1].tolist(), episodes.offsets[1:].tolist(), strict=True))


@given(kinds=KINDS, actions=st.sampled_from([2, 0, -3]), final=st.booleans())
def test_d4rl_round_trip(make_episodes, assert_same, tmp_path_factory, kinds, actions, final):
    """What the writer says of choices is enough to read them again, their number too."""
    lengths, ends = zip(*kinds, strict=True)
    said = {0: {"action_choices": 7}, -3: {"action_nvec": [5, 4, 6]}}.get(actions)
    episodes = make_episodes(lengths, ends=ends, actions=actions, final=final, metadata=said)
    path = write_d4rl(episodes, tmp_path_factory.mktemp("d4rl") / "a.hdf5", {"env_id": "Hopper-v5"})
    back = load_episodes(path)
    assert_same(back, episodes)
    assert back.digest() == episodes.digest()
    assert back.choices == episodes.choices == {0: (7,), -3: (5, 4, 6), 2: ()}[actions]
    assert back.ids.tolist() == episodes.ids.tolist()
    assert back.metadata["env"] == "Hopper-v5"
    assert back.metadata["source"] == "a.hdf5"  # not the path of a machine


def test_d4rl_writer(make_episodes, tmp_path):
    episodes = make_episodes([3, 4, 5], ends=["terminated", "unfinished", "unfinished"], final=True)
    episodes = replace(episodes, ids=np.array([4, 8, 9]))
    attributes = {"env_id": "X-v0", "action_low": [-1.0, -1.0], "policy": {"name": "ppo"}, "nothing": None}
    one = write_d4rl(episodes, tmp_path / "new" / "a.hdf5", attributes)
    two = write_d4rl(episodes, tmp_path / "b.hdf5", attributes)
    assert one.read_bytes() == two.read_bytes()
    with h5py.File(one) as file:  # as any reader of D4RL files sees it
        assert {key for key in file if key != "metadata"} == {
            "observations", "actions", "rewards", "terminals", "timeouts",
        }  # fmt: skip
        assert file["terminals"][:].nonzero()[0].tolist() == [2]
        assert file["timeouts"][:].nonzero()[0].tolist() == [6]  # the cut between two unfinished episodes is kept
        assert file["observations"].compression == "gzip" and file["observations"].shuffle
        assert dict(file.attrs)["policy"] == '{"name": "ppo"}'
        assert "nothing" not in file.attrs
    back = load_episodes(one)
    assert back.unfinished.tolist() == [False, True, True]
    assert back.ids.tolist() == [4, 8, 9]
    assert back.metadata["action_low"] == [-1.0, -1.0]
    again = write_d4rl(back, tmp_path / "c.hdf5")  # what is known about the environment goes along by itself
    assert load_episodes(again).metadata["env"] == "X-v0"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.hdf5", "c.hdf5", "new"]  # nothing left beside


def test_d4rl_writer_leaves_nothing_behind(make_episodes, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LamoError, match="cannot write"):
        write_d4rl(make_episodes([2]), tmp_path / "file" / "a.hdf5")
    (tmp_path / "folder.hdf5").mkdir()
    with pytest.raises(LamoError, match="cannot write"):
        write_d4rl(make_episodes([2]), tmp_path / "folder.hdf5")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.hdf5"]


@given(
    flags=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30),
    suffix=st.sampled_from(["hdf5", "npz"]),
)
def test_terminals_and_timeouts_cut_and_no_step_is_lost_or_moved(tmp_path_factory, flags, suffix):
    """Every step is in one episode, in its place; each flag is at the end of one."""
    steps = len(flags)
    terminals, timeouts = (np.array(column) for column in zip(*flags, strict=True))
    number = np.arange(steps, dtype=np.float32)
    arrays = {
        "observations": number[:, None],
        "actions": number[:, None] + 0.5,
        "rewards": number + 0.25,
        "terminals": terminals,
        "timeouts": timeouts,
    }
    path = tmp_path_factory.mktemp("flat") / f"a.{suffix}"
    write_hdf5(path, arrays) if suffix == "hdf5" else np.savez(path, **arrays)
    episodes = load_episodes(path)
    np.testing.assert_array_equal(episodes.observations[:, 0], number)
    np.testing.assert_array_equal(episodes.actions[:, 0], number + 0.5)
    np.testing.assert_array_equal(episodes.rewards, number + 0.25)
    ends = [i for i in range(steps) if terminals[i] or timeouts[i]]
    assert (episodes.offsets[1:] - 1).tolist() == ends + ([] if ends and ends[-1] == steps - 1 else [steps - 1])
    np.testing.assert_array_equal(episodes.terminated, terminals[episodes.offsets[1:] - 1])
    np.testing.assert_array_equal(episodes.truncated, timeouts[episodes.offsets[1:] - 1])
    assert episodes.unfinished[:-1].tolist() == [False] * (len(episodes) - 1)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("order", ["C", "F"])
@given(kinds=KINDS, actions=st.sampled_from([2, 0, -3]))
def test_npz_round_trip(make_episodes, flat_arrays, assert_same, tmp_path_factory, compressed, order, kinds, actions):
    lengths, ends = zip(*kinds, strict=True)
    ends = [end if end != "unfinished" or i == len(ends) - 1 else "truncated" for i, end in enumerate(ends)]
    episodes = make_episodes(lengths, ends=ends, actions=actions)
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    arrays = {key: np.asarray(value, order=order) for key, value in flat_arrays(episodes).items()}
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    assert_same(load_episodes(path, actions=None if actions > 0 else "discrete"), episodes)


@given(kinds=KINDS, actions=st.sampled_from([2, 0, -3]), protocol=st.integers(0, 5), lists=st.booleans())
def test_trajectories_round_trip(make_episodes, assert_same, tmp_path_factory, kinds, actions, protocol, lists):
    lengths, ends = zip(*kinds, strict=True)
    episodes = make_episodes(lengths, ends=ends, actions=actions, final=True)
    content = []
    for index, (a, b) in enumerate(split(episodes)):
        following = np.concatenate([episodes.observations[a + 1 : b], episodes.final_observations[index : index + 1]])
        content.append(
            {
                "observations": episodes.observations[a:b],
                "next_observations": following,
                "actions": episodes.actions[a:b],
                "rewards": episodes.rewards[a:b].tolist() if lists else episodes.rewards[a:b],
                "terminals": np.arange(a, b) == b - 1 if episodes.terminated[index] else np.zeros(b - a, bool),
                "timeouts": np.arange(a, b) == b - 1 if episodes.truncated[index] else np.zeros(b - a, bool),
            }
        )
    path = tmp_path_factory.mktemp("pkl") / "a.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    assert_same(load_episodes(path, actions=None if actions > 0 else "discrete"), episodes)


def test_a_pickled_dict_of_flat_arrays(make_episodes, flat_arrays, assert_same, tmp_path):
    episodes = make_episodes([40, 30, 20], width=9)
    path = tmp_path / "flat.pickle"
    path.write_bytes(pickle.dumps(flat_arrays(episodes)))
    assert_same(load_episodes(path), episodes)


def test_next_observations_give_what_was_seen_last(make_episodes, flat_arrays, tmp_path):
    episodes = make_episodes([3, 4])
    arrays = flat_arrays(episodes)
    arrays["next_observations"] = np.concatenate([episodes.observations[1:], [[7, 8, 9]]]).astype(np.float32)
    arrays["next_observations"][2] = [4, 5, 6]
    for path in (write_hdf5(tmp_path / "a.hdf5", arrays), tmp_path / "a.npz"):
        np.savez(tmp_path / "a.npz", **arrays)
        assert load_episodes(path).final_observations.tolist() == [[4, 5, 6], [7, 8, 9]]


@pytest.mark.parametrize("options", [{}, {"chunks": (7,), "compression": "gzip"}, {"chunks": (64,)}])
def test_types_and_layouts_of_other_peoples_files(make_episodes, flat_arrays, assert_same, tmp_path, options):
    """float64, flags as numbers, rewards and flags as columns, any chunking."""
    episodes = make_episodes([30, 40, 50])
    arrays = flat_arrays(episodes)
    wide = {
        "observations": arrays["observations"].astype(np.float64),
        "actions": arrays["actions"].astype(">f8"),
        "rewards": arrays["rewards"].astype(np.float64)[:, None],
        "terminals": arrays["terminals"].astype(np.float32)[:, None],
        "timeouts": arrays["timeouts"].astype(np.uint8),
    }
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for key, value in wide.items():
            shape = options.get("chunks") and (options["chunks"][0], *[1] * (value.ndim - 1))
            file.create_dataset(key, data=value, **{**options, **({"chunks": shape} if shape else {})})
        file["infos/goal"] = np.zeros((120, 2))
        file["metadata/algorithm"] = "SAC"
    back = load_episodes(tmp_path / "a.h5")
    assert_same(back, episodes)
    assert back.metadata["infos"] == ["goal"]
    assert back.metadata["attributes"]["algorithm"] == "SAC"
    np.savez(tmp_path / "a.npz", **wide)
    assert_same(load_episodes(tmp_path / "a.npz"), episodes)


def test_adroit_as_d4rl_keeps_it(make_episodes, flat_arrays, assert_same, tmp_path):
    """Demonstrations and the policy that made them; float32 and float64 mixed, notes as text, weights in groups."""
    episodes = make_episodes([20, 30, 25], width=45, actions=24, ends=["truncated"] * 3)
    path = write_hdf5(tmp_path / "pen-cloned-v1.hdf5", flat_arrays(episodes), compression="gzip")
    with h5py.File(path, "a") as file:
        for name, width in {
            "qpos": 30,
            "qvel": 30,
            "desired_orien": 4,
            "action_mean": 24,
            "action_log_std": 24,
        }.items():
            file[f"infos/{name}"] = np.zeros((75, width))
        file["infos/action_log_probs"] = np.full(75, -3.0)
        file["metadata/algorithm"] = np.bytes_("BC")
        file["metadata/iteration"] = 0
        file["metadata/policy/fc0/weight"] = np.zeros((256, 45))
        file["metadata/policy/nonlinearity"] = np.bytes_("tanh")
    back = load_episodes(path)
    assert_same(back, episodes)
    assert back.metadata["attributes"] == {"algorithm": "BC", "iteration": 0}
    assert "action_mean" in back.metadata["infos"]
    np.testing.assert_array_equal(back.log_probs, np.full(75, -3.0, np.float32))


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "lzf", "shuffle": True},
        {"compression": "gzip", "fletcher32": True},
        {"shuffle": True},
        {"chunks": (1, 1)},
        {"compression": "lzf", "chunks": (7, 2)},
        {"maxshape": (None, None), "fletcher32": True},
    ],
)
@pytest.mark.parametrize("libver", ["earliest", "v110", "latest"])
@pytest.mark.parametrize("kind", ["f2", ">f4", "f8", "i2"])
def test_whatever_layout_h5py_writes(make_episodes, flat_arrays, tmp_path, options, libver, kind):
    arrays = flat_arrays(make_episodes([13, 17]))
    with h5py.File(tmp_path / "a.hdf5", "w", libver=libver) as file:
        for key, value in arrays.items():
            own = {name: size[: value.ndim] if isinstance(size, tuple) else size for name, size in options.items()}
            file.create_dataset(key, data=value.astype(kind) if key == "observations" else value, **own)
    back = load_episodes(tmp_path / "a.hdf5")
    np.testing.assert_array_equal(back.observations, arrays["observations"].astype(kind).astype(np.float32))
    np.testing.assert_array_equal(back.rewards, arrays["rewards"])


def test_arrays_that_were_not_written_whole(make_episodes, flat_arrays, tmp_path):
    """What was never written is the fill value; what was cut off is gone; PyTables keeps booleans as bits."""
    arrays = flat_arrays(make_episodes([13, 17], ends=["terminated", "unfinished"]))
    bits = arrays.pop("terminals")
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file.create_dataset("timeouts", (30,), bool, chunks=(8,), compression="gzip")
        for key in ("observations", "actions", "rewards"):
            shape = arrays[key].shape[1:]
            data = file.create_dataset(key, (99, *shape), "f4", maxshape=(None, *shape), chunks=(4, *shape))
            data[:] = 9
            data.resize(30, axis=0)
            data[:] = arrays[key]
        file.create_dataset("terminals", data=bits.astype(np.uint8), dtype=h5py.Datatype(h5py.h5t.STD_B8LE))
    back = load_episodes(tmp_path / "a.hdf5")
    assert back.lengths.tolist() == [13, 17] and back.terminated.tolist() == [True, False]
    np.testing.assert_array_equal(back.observations, arrays["observations"])


def test_filters_that_are_not_read(make_episodes, flat_arrays, tmp_path):
    arrays = flat_arrays(make_episodes([30]))
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for key, value in arrays.items():
            file.create_dataset(key, data=value, scaleoffset=4 if key == "rewards" else None)
    with pytest.raises(LamoError, match=r"rewards is packed by 'scaleoffset', which is not read; `h5repack -f GZIP=4"):
        load_episodes(tmp_path / "a.hdf5")


def test_a_chunk_that_is_shorter_than_it_says(make_episodes, flat_arrays, tmp_path):
    """HDF5 would read on beyond it, in memory."""
    path = write_hdf5(tmp_path / "a.hdf5", flat_arrays(make_episodes([300])))
    with h5py.File(path, "a") as file:
        del file["rewards"]
        data = file.create_dataset("rewards", (300,), "f4", chunks=(300,), compression="gzip")
        data.id.write_direct_chunk((0,), np.zeros(30, np.float32).tobytes(), filter_mask=1)
    with pytest.raises(LamoError, match=r"a\.hdf5: rewards is damaged \(its chunks\); copy or download the file again"):
        load_episodes(path)


def test_only_timeouts_is_enough_and_only_terminals_is_said(make_episodes, flat_arrays, assert_same, tmp_path, capsys):
    episodes = make_episodes([3, 4], ends=["truncated", "truncated"])
    arrays = flat_arrays(episodes)
    del arrays["terminals"]
    np.savez(tmp_path / "a.npz", **arrays)
    assert_same(load_episodes(tmp_path / "a.npz"), episodes)
    assert capsys.readouterr().err == ""
    arrays["terminals"] = np.zeros(7, bool)
    del arrays["timeouts"]
    np.savez(tmp_path / "b.npz", **arrays)
    assert len(load_episodes(tmp_path / "b.npz")) == 1
    assert "has no 'timeouts'" in capsys.readouterr().err


def test_a_name_inside_the_package(make_episodes, monkeypatch, tmp_path):
    """An embedded name wins over a folder of that name in the working directory; `./` always means a path."""
    write_d4rl(make_episodes([3]), tmp_path / "assets" / "tiny-world.hdf5")
    monkeypatch.setattr(lamo.data.sources.resources, "files", lambda package: tmp_path)
    monkeypatch.chdir(tmp_path)
    assert lamo.data.sources.embedded() == ["tiny-world"]
    (tmp_path / "tiny-world").mkdir()
    assert load_episodes("tiny-world").metadata["source"] == "tiny-world"
    with pytest.raises(LamoError, match="without a Minari dataset"):
        load_episodes("./tiny-world")


def test_the_user_s_name_is_kept_but_no_absolute_path(make_episodes, monkeypatch, tmp_path):
    write_d4rl(make_episodes([3]), tmp_path / "logs" / "a.hdf5")
    monkeypatch.chdir(tmp_path)
    assert load_episodes("logs/a.hdf5").metadata["source"] == "logs/a.hdf5"
    assert load_episodes(tmp_path / "logs" / "a.hdf5").metadata["source"] == "a.hdf5"


def test_the_table_of_sources():
    assert set(SOURCES) == {"minari", "d4rl", "npz", "trajectories", "tables", "lerobot", "robomimic", "store"}


def test_attributes_that_hold_nothing(make_episodes, tmp_path):
    path = write_d4rl(make_episodes([3]), tmp_path / "a.hdf5")
    with h5py.File(path, "a") as file:
        file.attrs["authors"], file.attrs["remark"] = np.zeros(0), h5py.Empty("f4")
    assert load_episodes(path).metadata["attributes"]["authors"] == []
