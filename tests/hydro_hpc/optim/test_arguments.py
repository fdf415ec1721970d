"""What a script for torch would write is refused in a sentence, or done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from hydro_hpc import optim
from hydro_hpc.errors import FusionError
from hydro_hpc.fusion import Bundle, ExecutorKind
from hydro_hpc.optim import (
    SlotAverage,
    SlotGradScaler,
    SlotSchedule,
    clip_grad_norm_,
    clip_grad_value_,
)
from tests.hydro_hpc.optim.torch_oracle import bundle_of, models

CALLS: list[tuple[Callable[[Any], object], str]] = [
    (lambda bundle: optim.Adam(bundle.parameters()), "Adam was given a generator"),
    (lambda _: optim.SGD(nn.Linear(2, 2)), "SGD was given a Linear"),  # type: ignore[arg-type]
    (lambda bundle: SlotAverage(bundle.parameters()), "SlotAverage was given a generator"),
    (lambda bundle: clip_grad_norm_(bundle.parameters(), 1.0), "clip_grad_norm_ was given a gen"),
    (lambda bundle: clip_grad_value_(bundle.parameters(), 1.0), "clip_grad_value_ was given a ge"),
    (lambda bundle: SlotGradScaler(bundle), "SlotGradScaler was given a Bundle"),
    (
        lambda bundle: SlotSchedule(torch.optim.SGD(bundle.parameters()), []),  # type: ignore[arg-type]
        "SlotSchedule was given a SGD: give it an optimizer of hydro_hpc.optim",
    ),
    (lambda bundle: optim.SGD(bundle).state_dict(), r"SGD has no state_dict: save each slot_state"),
    (lambda bundle: optim.SGD(bundle).load_state_dict({}), "SGD has no state_dict"),
]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return bundle_of(models(), ExecutorKind.LOOP)


@pytest.mark.parametrize(("call", "sentence"), CALLS)
def test_what_torch_would_take_is_refused(
    call: Callable[[Any], object], sentence: str, bundle: Bundle
) -> None:
    with pytest.raises(FusionError, match=sentence):
        call(bundle)


def test_gradients_are_cleared_as_torchs_scripts_do_it(bundle: Bundle) -> None:
    bundle(torch.rand(3, 5, 4).double()).sum().backward()
    optim.SGD(bundle).zero_grad(set_to_none=True)
    present = bundle.gradients()[0].present
    assert present is not None
    assert not present.any()
