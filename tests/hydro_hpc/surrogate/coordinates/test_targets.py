"""Targets that are not of the outputs, and losses that are none, refused in one sentence."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate import check

ROWS = torch.randn(16, 8)


def model(width: int = 64) -> nn.Module:
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 3))


def of_each(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


@pytest.mark.parametrize(
    ("targets", "loss", "said"),
    [
        (torch.randint(3, (15,)), None, r"targets= do not fit .* \(ValueError: .*16.*15"),
        (torch.full((16,), 8), None, r"targets= do not fit .* \(IndexError: Target 8 is out of"),
        (torch.randn(16), None, r"targets= do not fit .* outputs are \[16, 3\], targets \[16\]"),
        ("classes", None, r"targets= is of type str: give a tensor"),
        (torch.randint(3, (16,)), 3, r"loss= is of type int: give a function"),
        (torch.randint(3, (16,)), of_each, r"loss= gives no single number"),
    ],
)
def test_what_does_not_fit_the_outputs_is_refused(targets: Any, loss: Any, said: str) -> None:
    with pytest.raises(ShrinkError, match=f"^{said}") as raised:
        check(model, example=ROWS, targets=targets, loss=loss, seeds=1)
    assert not re.search(r"\n|\. |\.[;)]", str(raised.value)), str(raised.value)
