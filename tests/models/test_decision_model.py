"""The decision model: shapes, causality, and what a padded step may influence (nothing)."""

import pytest
import torch

from lamo.algorithms.settings import SequenceSettings
from lamo.config import Spec
from lamo.models.made import scratch_model
from lamo.models.sequence import DecisionModel

SPEC = Spec(
    observation_dim=3,
    action_dim=2,
    action_kind="continuous",
    action_low=None,
    action_high=None,
    horizon=10,
    return_scale=1.0,
    targets=(1.0,),
)


def model(spec: Spec = SPEC, **changes: object) -> DecisionModel:
    torch.manual_seed(0)
    values = {
        "initialise": "scratch",
        "adapt": "full",
        "language_weight": 0.0,
        "corpus": ("none",),
        "width": 16,
        "layers": 2,
        "dropout": 0.0,
    }
    settings = SequenceSettings(**{**values, **changes})  # pyright: ignore[reportArgumentType]
    return DecisionModel(scratch_model(settings, 0), settings, spec).eval()


def inputs(k: int = 5) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return [
        torch.randn(4, k, generator=g),
        torch.randn(4, k, 3, generator=g),
        torch.randn(4, k, 2, generator=g),
        torch.arange(k).repeat(4, 1),
    ]


@pytest.mark.parametrize("embedding", ["mlp", "linear"])
@pytest.mark.parametrize("tanh", [False, True])
def test_shapes_and_range(embedding: str, tanh: bool) -> None:
    out = model(embedding=embedding, tanh_head=tanh, action_head=embedding)(*inputs())
    assert out.shape == (4, 5, 2)
    if tanh:
        assert out.abs().max() <= 1


def test_prediction_sees_the_past_and_its_own_state_only() -> None:
    net, (rtg, obs, act, t) = model(), inputs()
    base = net(rtg, obs, act, t)
    for which, changed in (("obs", (rtg, obs.clone(), act, t)), ("act", (rtg, obs, act.clone(), t))):
        changed[1 if which == "obs" else 2][:, 3] += 1
        out = net(*changed)
        torch.testing.assert_close(out[:, :3], base[:, :3])
        own_step_changes = not torch.allclose(out[:, 3], base[:, 3])
        assert own_step_changes == (which == "obs")  # a_3 is what prediction 3 must not see
        assert not torch.allclose(out[:, 4], base[:, 4])


def test_padded_steps_influence_nothing() -> None:
    net, (rtg, obs, act, t) = model(), inputs()
    mask = torch.tensor([[False, False, True, True, True]]).repeat(4, 1)
    noise = torch.randn(4, 2)
    other = (torch.cat([noise, rtg[:, 2:]], 1), torch.cat([noise[..., None].repeat(1, 1, 3), obs[:, 2:]], 1), act, t)
    torch.testing.assert_close(net(rtg, obs, act, t, mask)[:, 2:], net(*other, mask)[:, 2:])
    torch.testing.assert_close(
        net(rtg, obs, act, t, mask)[:, 2:], net(rtg[:, 2:], obs[:, 2:], act[:, 2:], t[:, 2:]), atol=1e-5, rtol=1e-5
    )


def test_timesteps_beyond_the_horizon_use_its_last_row() -> None:
    net, (rtg, obs, act, t) = model(), inputs()
    torch.testing.assert_close(net(rtg, obs, act, t + 100), net(rtg, obs, act, torch.full_like(t, 9)))
