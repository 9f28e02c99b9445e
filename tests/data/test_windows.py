from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lamo.algorithms.resident import ResidentWindows
from lamo.data import Episodes, Statistics, Windows
from lamo.data.actions import Scaling
from lamo.data.windows import WindowBatch
from lamo.errors import LamoError

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=6)
CONTEXT = st.integers(1, 12)


def naive(episodes: Episodes, step: int, context: int, scale: float) -> list[np.ndarray]:
    """The window that begins at a row, one step after the other."""
    mean, std = episodes.statistics()
    episode = next(e for e in range(len(episodes)) if episodes.offsets[e] <= step < episodes.offsets[e + 1])
    rows = list(range(step, min(step + context, int(episodes.offsets[episode + 1]))))
    pad = context - len(rows)
    width = episodes.observations.shape[1]
    returns_to_go = [0.0] * pad + [episodes.returns_to_go[r] / scale for r in rows]
    observations = [np.zeros(width)] * pad + [(episodes.observations[r] - mean) / std for r in rows]
    actions = [np.zeros_like(episodes.actions[0])] * pad + [episodes.actions[r] for r in rows]
    timesteps = [0] * pad + [r - int(episodes.offsets[episode]) for r in rows]
    mask = [False] * pad + [True] * len(rows)
    return [np.array(x) for x in (returns_to_go, observations, actions, timesteps, mask)]


@given(lengths=LENGTHS, context=CONTEXT, discrete=st.booleans(), seed=st.integers(0, 100))
def test_every_window_equals_the_naive_one(make_episodes, lengths, context, discrete, seed):
    """Of every step, so no window crosses an episode, whatever the lengths and the context."""
    episodes = make_episodes(lengths, actions=0 if discrete else 2, seed=seed)
    batch = Windows(episodes, context, return_scale=10.0).at(np.arange(episodes.steps))
    for step in range(episodes.steps):
        expected = naive(episodes, step, context, 10.0)
        np.testing.assert_array_equal(batch.returns_to_go[step], expected[0].astype(np.float32))
        np.testing.assert_array_equal(batch.observations[step], expected[1].astype(np.float32))
        np.testing.assert_array_equal(batch.actions[step], expected[2])
        np.testing.assert_array_equal(batch.timesteps[step], expected[3])
        np.testing.assert_array_equal(batch.mask[step], expected[4])


@given(
    lengths=LENGTHS,
    context=CONTEXT,
    chunk=st.integers(1, 4),
    kind=st.sampled_from(["continuous", "scaled", "discrete"]),
    seed=st.integers(0, 100),
)
def test_windows_cut_where_the_data_lie_are_the_same(make_episodes, lengths, context, chunk, kind, seed):
    """`ResidentWindows`, which a GPU gets: of every step, to the last bit."""
    episodes = make_episodes(lengths, actions=0 if kind == "discrete" else 2, seed=seed)
    windows, steps = Windows(episodes, context, return_scale=7.0), np.arange(episodes.steps)
    scaling = Scaling(np.float32([-2, -1]), np.float32([1, 3])) if kind == "scaled" else None
    found = ResidentWindows(windows, scaling, chunk, torch.device("cpu")).at(steps)
    expected = windows.at(steps)
    for name in ("returns_to_go", "observations", "timesteps", "mask"):
        value, ours = getattr(expected, name), getattr(found, name).numpy()
        assert (ours.shape, ours.dtype) == (value.shape, value.dtype)
        np.testing.assert_array_equal(ours, value)
    actions = expected.actions if scaling is None else scaling.to_unit(expected.actions) * expected.mask[..., None]
    np.testing.assert_array_equal(found.actions.numpy(), actions)
    if chunk == 1:
        assert found.wanted is found.actions
        assert found.real is found.mask
    else:
        wanted, real = windows.futures(steps, chunk)
        np.testing.assert_array_equal(found.real.numpy(), real)
        np.testing.assert_array_equal(found.wanted.numpy(), wanted if scaling is None else scaling.to_unit(wanted))


def test_types_and_shapes(make_episodes, rng):
    batch = Windows(make_episodes([30, 40], width=5, actions=3), 20).sample(rng, 64)
    assert isinstance(batch, WindowBatch)
    assert [(x.shape, x.dtype) for x in batch] == [
        ((64, 20), np.float32),
        ((64, 20, 5), np.float32),
        ((64, 20, 3), np.float32),
        ((64, 20), np.int64),
        ((64, 20), np.bool_),
    ]
    assert all(x.flags.c_contiguous and x.flags.writeable for x in batch)
    discrete = Windows(make_episodes([30], actions=0), 20).sample(rng, 4)
    assert (discrete.actions.shape, discrete.actions.dtype) == ((4, 20), np.int64)


@given(lengths=LENGTHS, context=CONTEXT)
def test_windows_never_cross_episodes(make_episodes, lengths, context):
    episodes = make_episodes(lengths)
    number = np.repeat(np.arange(len(lengths)), lengths).astype(np.float32)
    episodes.observations[:, 0] = number
    batch = Windows(episodes, context, normalise=False).sample(np.random.default_rng(0), 50)
    for row, mask, timesteps in zip(batch.observations[:, :, 0], batch.mask, batch.timesteps, strict=True):
        assert len(set(row[mask].tolist())) == 1
        assert np.diff(timesteps[mask]).tolist() == [1] * (mask.sum() - 1)
        assert mask[-1] and np.all(np.diff(mask.astype(int)) >= 0)  # padded on the left, never empty


@given(lengths=LENGTHS)
def test_every_step_is_reached_and_with_equal_chance(make_episodes, lengths):
    episodes = make_episodes(lengths)
    windows, seen = Windows(episodes, 1), np.zeros(episodes.steps, int)
    episodes.observations[:, 0] = np.arange(episodes.steps)
    windows = Windows(episodes, 1, normalise=False)
    draws = 400 * episodes.steps
    np.add.at(seen, windows.sample(np.random.default_rng(1), draws).observations[:, 0, 0].astype(int), 1)
    assert (seen > 0).all()
    assert np.abs(seen - 400).max() < 6 * np.sqrt(400)  # six standard deviations


def test_the_last_step_of_the_log_is_seen_in_full_windows_too(make_episodes):
    """The last window of an episode that fits ends at its last step: nothing is cut off at the end."""
    episodes = make_episodes([5, 7])
    batch = Windows(episodes, 4, normalise=False).at(np.array([8]))
    np.testing.assert_array_equal(batch.observations[0], episodes.observations[8:12])
    assert batch.mask.all()


@given(seed=st.integers(0, 2**32), batch=st.integers(1, 70))
def test_equal_seeds_give_equal_batches(make_episodes, seed, batch):
    windows = Windows(make_episodes([9, 30, 2]), 6)
    one, two = np.random.default_rng(seed), np.random.default_rng(seed)
    for _ in range(3):
        for x, y in zip(windows.sample(one, batch), windows.sample(two, batch), strict=True):
            np.testing.assert_array_equal(x, y, strict=True)


def test_batches_belong_to_the_caller(make_episodes, rng):
    episodes = make_episodes([9, 30])
    before = episodes.digest()
    windows = Windows(episodes, 6)
    first = windows.sample(rng, 8)
    kept = [x.copy() for x in first]
    windows.sample(rng, 8)
    for x, y in zip(first, kept, strict=True):
        np.testing.assert_array_equal(x, y)
        x[:] = 1
    assert episodes.digest() == before


def test_normalisation_is_given_or_off(make_episodes, rng):
    episodes = make_episodes([9], width=2)
    given_ = Statistics(np.array([1, 2], np.float32), np.array([2, 4], np.float32))
    steps = np.array([0])
    raw = Windows(episodes, 3, normalise=False).at(steps).observations
    np.testing.assert_array_equal(raw[0], episodes.observations[:3])
    scaled = Windows(episodes, 3, statistics=given_).at(steps).observations
    np.testing.assert_array_equal(scaled[0], (episodes.observations[:3] - given_.mean) / given_.std)


def test_arrays_in_any_layout(make_episodes):
    episodes = make_episodes([9, 30])
    turned = replace(
        episodes,
        observations=np.asfortranarray(episodes.observations),
        actions=np.repeat(episodes.actions, 2, axis=0)[::2],
    )
    for x, y in zip(Windows(episodes, 6).at(np.arange(39)), Windows(turned, 6).at(np.arange(39)), strict=True):
        np.testing.assert_array_equal(x, y)
    assert episodes.digest() == turned.digest()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 0}, "context 0"),
        ({"context": 5, "return_scale": 0.0}, "return scale 0.0"),
        ({"context": 5, "return_scale": float("nan")}, "return scale nan"),
        ({"context": 5, "statistics": Statistics(np.zeros(2, np.float32), np.ones(2, np.float32))}, "the data has 3"),
    ],
)
def test_impossible_settings(make_episodes, options, message):
    with pytest.raises(LamoError, match=message):
        Windows(make_episodes([9]), **options)
