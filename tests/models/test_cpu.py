"""What the processor is asked, and what follows."""

import io

import pytest
import torch

from lamo.algorithms.settings import SequenceSettings
from lamo.models import backbone, cpu


@pytest.mark.parametrize(
    ("flags", "fast"),
    [
        ("flags\t: fpu avx2 fma", False),
        ("flags\t: fpu avx512f avx512_bf16", True),
        ("flags\t: amx_bf16 amx_tile", True),
        ("Features\t: asimd bf16", True),
        ("", False),
    ],
)
def test_bfloat16_by_what_the_processor_declares(flags: str, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu.sys, "platform", "linux")
    monkeypatch.setattr("builtins.open", lambda *a, **k: io.StringIO(f"processor\t: 0\n{flags}\n"))
    assert cpu.has_fast_bfloat16.__wrapped__() is fast


def test_products_follow_it(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cpu")
    for fast, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(backbone, "has_fast_bfloat16", lambda fast=fast: fast)
        for frozen in (True, False):
            assert backbone.product_dtype(SequenceSettings(), device, frozen) == dtype
            assert backbone.product_dtype(SequenceSettings(dtype="float32"), device, frozen) == torch.float32
        assert backbone.product_dtype(SequenceSettings(dtype="bfloat16"), device, frozen=True) == torch.bfloat16
        assert backbone.product_dtype(SequenceSettings(dtype="bfloat16"), device, frozen=False) == dtype
