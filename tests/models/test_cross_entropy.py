"""The chunked linear cross-entropy equals the plain one, in value and in both gradients."""

import pytest
import torch
import torch.nn.functional as F

from lamo.models.cross_entropy import linear_cross_entropy


@pytest.mark.parametrize("chunk", [1, 7, 64])
@pytest.mark.parametrize("frozen", [False, True])
def test_equals_plain_cross_entropy(chunk: int, frozen: bool) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(20, 8, requires_grad=True)
    weight = torch.randn(33, 8, requires_grad=not frozen)
    targets = torch.randint(0, 33, (20,))
    plain = F.cross_entropy(hidden @ weight.t(), targets)
    wanted = torch.autograd.grad(3 * plain, [hidden] if frozen else [hidden, weight])
    loss = linear_cross_entropy(hidden, weight, targets, chunk=chunk)
    got = torch.autograd.grad(3 * loss, [hidden] if frozen else [hidden, weight])
    torch.testing.assert_close(loss, plain)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_bfloat16_is_accumulated_in_float32() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(50, 8), torch.randn(33, 8)
    targets = torch.randint(0, 33, (50,))
    exact = F.cross_entropy(hidden @ weight.t(), targets)
    got = linear_cross_entropy(hidden.bfloat16(), weight.bfloat16(), targets, chunk=16)
    assert got.dtype == torch.float32
    assert abs(float(got - exact)) < 0.02


def test_large_logits_do_not_overflow() -> None:
    hidden = torch.full((2, 4), 100.0)
    weight = torch.stack([torch.full((4,), 100.0), torch.full((4,), -100.0)])
    assert float(linear_cross_entropy(hidden, weight, torch.zeros(2, dtype=torch.long))) == 0.0
