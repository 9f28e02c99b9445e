"""Files that mean harm: they point outside, lie about their size, or hold what nobody can want."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from lamo.cli import main
from lamo.data import load_episodes
from lamo.data.sources.d4rl import write_d4rl
from lamo.errors import LONGEST, LamoError


def refused(path: Path, *words: str, **options) -> str:
    with pytest.raises(LamoError) as caught:
        load_episodes(path, **options)
    message = str(caught.value)
    assert message.isprintable()
    for word in words:
        assert word in message, message
    return message


@pytest.fixture
def flat(make_episodes, tmp_path) -> Path:
    return write_d4rl(make_episodes([4, 5, 30]), tmp_path / "a.hdf5", {"env_id": "Hopper-v5"})


@pytest.fixture
def minari(make_episodes, tmp_path) -> Path:
    """A folder in Minari's layout."""
    episodes = make_episodes([2, 3], final=True)
    data = tmp_path / "world-v0" / "data"
    data.mkdir(parents=True)
    (data / "metadata.json").write_text("{}")
    with h5py.File(data / "main_data.hdf5", "w") as file:
        for e, (start, stop) in enumerate([(0, 2), (2, 5)]):
            group = file.create_group(f"episode_{e}")
            last = episodes.final_observations[e : e + 1]
            group["observations"] = np.concatenate([episodes.observations[start:stop], last])
            group["actions"], group["rewards"] = episodes.actions[start:stop], episodes.rewards[start:stop]
            group["terminations"] = group["truncations"] = np.zeros(stop - start, bool)
    return tmp_path / "world-v0"


@pytest.mark.parametrize("key", ["observations", "rewards", "metadata", "infos", "metadata/ids"])
def test_links_to_other_files(flat, tmp_path, key):
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["x"] = np.arange(39.0)
    with h5py.File(flat, "a") as file:
        if key in file:
            del file[key]
        file[key] = h5py.ExternalLink("other.hdf5", "x")
    refused(flat, "a.hdf5: ", "links to another file, which is not followed")


def test_links_that_nobody_follows_do_no_harm(flat, tmp_path):
    with h5py.File(flat, "a") as file:
        file["video"] = h5py.ExternalLink("nowhere.hdf5", "x")
        file["again"] = h5py.SoftLink("/nowhere")
    assert load_episodes(flat).steps == 39


def test_values_in_other_files(flat, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(39 * 4))
    with h5py.File(flat, "a") as file:
        del file["rewards"]
        file.create_dataset("rewards", (39,), "f4", external=[(str(tmp_path / "secret"), 0, 39 * 4)])
    refused(flat, "rewards keeps its values in another file")


def test_huge_attributes(flat, make_episodes, tmp_path):
    with h5py.File(flat) as old, h5py.File(tmp_path / "large.hdf5", "w", libver="latest") as file:
        for key in old:
            old.copy(key, file)
        file.attrs["notes"] = np.zeros(1 << 18)
    refused(tmp_path / "large.hdf5", "attribute 'notes' has 2097152 bytes; remove it")
    text = write_d4rl(make_episodes([4]), tmp_path / "b.hdf5")
    with h5py.File(text, "a") as file:
        file["metadata/notes"] = "x" * (1 << 21)
    refused(text, "attribute 'notes' has more than")


def test_a_chunk_that_unpacks_beyond_measure(flat, monkeypatch):
    """Nine numbers in a chunk of millions: small to look at, large to read."""
    monkeypatch.setattr("lamo.data.sources.flat.BOMB_BYTES", 1 << 20)
    with h5py.File(flat, "a") as file:
        del file["rewards"]
        file.create_dataset("rewards", (39,), "f4", maxshape=(None,), chunks=(1 << 22,), compression="gzip")[:] = 0
    refused(flat, "rewards would unpack from", "to 16777216 bytes")


def test_an_array_that_unpacks_beyond_measure(flat, monkeypatch):
    monkeypatch.setattr("lamo.data.sources.flat.BOMB_BYTES", 1 << 20)
    with h5py.File(flat, "a") as file:
        del file["rewards"]
        file.create_dataset("rewards", data=np.zeros(1 << 22, np.float32), compression="gzip")
    refused(flat, "rewards would unpack from", "to 16777216 bytes")


def test_groups_that_hold_themselves(minari):
    """Without a description of the space the keys are walked through, as deep as observations may be."""
    with h5py.File(minari / "data" / "main_data.hdf5", "a") as file:
        del file["episode_0/observations"]
        group = file.create_group("episode_0/observations")
        group["again"] = group
    refused(minari, "dicts within dicts without end")


def test_episodes_that_are_numbered_twice(minari):
    with h5py.File(minari / "data" / "main_data.hdf5", "a") as file:
        file["episode_01"] = file["episode_0"]
    refused(minari, "episode_01 and episode_1 are the same episode number")


def test_a_folder_that_leads_outside(minari, tmp_path):
    main_file = minari / "data" / "main_data.hdf5"
    main_file.rename(tmp_path / "outside.hdf5")
    main_file.symlink_to(tmp_path / "outside.hdf5")
    refused(minari, "main_data.hdf5 leads out of the dataset's folder")
    assert len(load_episodes(main_file)) == 2  # a link that the user names is the user's
    main_file.unlink()
    (tmp_path / "outside.hdf5").rename(main_file)
    (minari / "data" / "metadata.json").unlink()
    (minari / "data" / "metadata.json").symlink_to("/etc/hostname")
    refused(minari, "metadata.json leads out of the dataset's folder")


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"type": "Discrete", "n": 10**12}, "choices, of which no observation can be made"),
        ({"type": "Discrete", "n": 10**400}, "world-v0: "),
        ({"type": "MultiDiscrete", "nvec": [10**6] * 3}, "choices, of which no observation can be made"),
        ({"type": "Dict", "subspaces": {"../../x": {"type": "Box"}}}, "world-v0: "),
    ],
)
def test_spaces_of_any_size(minari, space, words):
    (minari / "data" / "metadata.json").write_text(json.dumps({"observation_space": json.dumps(space)}))
    refused(minari, words)


def test_descriptions_without_end(minari):
    (minari / "data" / "metadata.json").write_text("[" * 100_000)
    refused(minari, "metadata.json is not readable")
    with (minari / "data" / "metadata.json").open("wb") as file:
        file.truncate(1 << 25)
    refused(minari, "metadata.json has 33554432 bytes")


def test_an_archive_with_two_arrays_of_one_name(make_episodes, flat_arrays, tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, **flat_arrays(make_episodes([4])))
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("rewards.npy", archive.read("rewards.npy"))
    refused(path, "holds rewards twice")


def test_flags_that_are_no_numbers(make_episodes, flat_arrays, tmp_path):
    arrays = flat_arrays(make_episodes([4]))
    np.savez(tmp_path / "a.npz", **{**arrays, "timeouts": np.full(4, np.nan)})
    refused(tmp_path / "a.npz", "timeouts holds nan, which is neither true nor false")


def test_names_that_would_write_to_the_terminal(flat, tmp_path, capsys):
    """Escape codes and line breaks in a file come out as text, and not without end."""
    with h5py.File(flat, "a") as file:
        del file["rewards"]
        file["evil\x1b[2Jname\nline"] = 1
        file["x" * 10_000] = 1
    message = refused(flat, "key 'rewards' is missing", r"evil\x1b[2Jname line")
    assert len(message) <= LONGEST + 10
    assert main(["data", "inspect", str(flat)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "\x1b" not in err
