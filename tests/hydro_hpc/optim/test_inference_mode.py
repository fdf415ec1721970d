"""What is made, reset or brought back in an evaluation trains as if it had been made elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from torch.optim.lr_scheduler import ExponentialLR

from hydro_hpc import optim
from hydro_hpc.fusion import ExecutorKind
from hydro_hpc.optim import SlotAverage, SlotGradScaler, SlotSchedule
from tests.hydro_hpc.optim.torch_oracle import SLOTS, assert_equal, bundle_of, models

SAME = {"rtol": 0.0, "atol": 0.0}
NAMES = ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"]


@pytest.mark.parametrize("name", NAMES)
def test_all_that_has_slots_may_be_made_in_an_evaluation(name: str) -> None:
    torch.manual_seed(0)
    nets = models()
    results = []
    contexts: list[Callable[[], AbstractContextManager[object]]] = [
        nullcontext,
        torch.inference_mode,
    ]
    for context in contexts:
        bundle = bundle_of(nets, ExecutorKind.GROUPED)
        settings = {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
        with context():
            optimizer = getattr(optim, name)(bundle, lr=torch.full((SLOTS,), 0.1), **settings)
            schedule = SlotSchedule(optimizer, lambda twin: ExponentialLR(twin, 0.5))
            scaler, average = SlotGradScaler(optimizer), SlotAverage(bundle)
        parts = (optimizer, schedule, scaler, average)
        for step in range(6):
            x = torch.full((SLOTS, 5, 4), 1.0 + step, dtype=torch.float64)
            scaler.scale(bundle(x).pow(2).mean(dim=(1, 2))).sum().backward()
            scaler.step()
            scaler.update()
            optimizer.zero_grad()
            schedule.step()
            average.update()
            with context():
                optimizer.set(0, lr=0.2)
                if step == 2:
                    bundle.unpark(1, bundle.park(1, *parts), *parts)
                if step == 4:
                    for part in parts:
                        part.reset_slot(2)
        results.append([average.unbind(slot) for slot in range(SLOTS)])
        results.append([bundle.unbind(slot) for slot in range(SLOTS)])
    expected_averages, expected, averages, _ = results
    assert_equal(bundle, expected, **SAME)
    for average, right in zip(averages, expected_averages, strict=True):
        for key, value in average.state_dict().items():
            assert torch.equal(value, right.state_dict()[key])
