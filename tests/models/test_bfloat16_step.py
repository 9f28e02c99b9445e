"""The tolerances that judge a step in bfloat16 on a GPU (test_gpu.py) hold on a processor, and would tell an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_gpu import ROUNDED, check, learner

from lamo.algorithms.sequence import SequenceLearner

TOLERANCE = {**ROUNDED, "each": 0.2}  # a GPU rounds at other places, and is given half as much again


def pair(lm: Path, **settings: Any) -> list[SequenceLearner]:
    """In bfloat16 and in float32, of the same weights."""
    return [learner(lm, "cpu", dtype=dtype, learning_rate=1e-12, **settings) for dtype in ("bfloat16", "float32")]


@pytest.mark.parametrize("settings", [{}, {"span": 3}], ids=["windows", "banded"])
def test_a_step_in_bfloat16_is_near_the_float32_step(small_lm: Path, settings: dict[str, Any]) -> None:
    check(*pair(small_lm, **settings), TOLERANCE)


@pytest.mark.parametrize("part", ["embed_return.second.bias", "h.1.attn.c_attn.lora_A.default.weight"])
def test_a_gradient_of_half_its_size_is_found(small_lm: Path, part: str) -> None:
    ours, exact = pair(small_lm)
    (halved,) = (p for name, p in ours.model.named_parameters() if name.endswith(part))
    halved.register_hook(lambda grad: 0.5 * grad)
    with pytest.raises(AssertionError, match=part):
        check(ours, exact, ROUNDED)
