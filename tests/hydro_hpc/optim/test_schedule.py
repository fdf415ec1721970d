"""Any of torch's schedulers, in every slot as beside its own torch optimizer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from hydro_hpc import optim
from hydro_hpc.fusion import ExecutorKind
from hydro_hpc.optim import SlotSchedule
from tests.hydro_hpc.optim.torch_oracle import (
    SLOTS,
    Own,
    assert_equal,
    bundle_of,
    give_gradients,
    models,
    slot_optimizer,
    torch_optimizers,
)

Make = Callable[[torch.optim.Optimizer], Any]


def warm_up_then_cosine(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    parts: list[lr_scheduler.LRScheduler] = [
        lr_scheduler.LinearLR(optimizer, 0.1, total_iters=4),
        lr_scheduler.CosineAnnealingLR(optimizer, T_max=8),
    ]
    return lr_scheduler.SequentialLR(optimizer, parts, milestones=[4])


def chained(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    parts = [
        lr_scheduler.ConstantLR(optimizer, 0.5, total_iters=3),
        lr_scheduler.ExponentialLR(optimizer, 0.9),
    ]
    return lr_scheduler.ChainedScheduler(parts, optimizer=optimizer)


def cyclic(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    return lr_scheduler.CyclicLR(optimizer, 0.01, 0.2, step_size_up=3)


def one_cycle(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    return lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=20)


SCHEDULES: Final[list[Make | list[Make]]] = [
    partial(lr_scheduler.StepLR, step_size=3, gamma=0.5),
    partial(lr_scheduler.LambdaLR, lr_lambda=lambda step: 1.0 / (1 + step)),
    partial(lr_scheduler.MultiplicativeLR, lr_lambda=lambda step: 1.0 - step / 30),
    partial(lr_scheduler.PolynomialLR, total_iters=9, power=2.0),
    partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=3, T_mult=2),
    warm_up_then_cosine,
    chained,
    cyclic,
    one_cycle,
    [one_cycle, partial(lr_scheduler.MultiStepLR, milestones=[2, 5]), warm_up_then_cosine],
]
OPTIMIZERS: Final[list[tuple[str, Own]]] = [
    ("SGD", {"lr": [0.1, 0.01, 0.2], "momentum": [0.9, 0.8, 0.5]}),
    (
        "AdamW",
        {
            "lr": [0.1, 0.01, 0.2],
            "betas": [(0.9, 0.999), (0.5, 0.9), (0.8, 0.99)],
            "groups": [(["first.bias"], {"lr": [0.2, 0.3, 0.02]})],
        },
    ),
]


class Side:
    """A scheduled bundle beside scheduled models."""

    def __init__(self, name: str, own: Own, make: Make | list[Make]) -> None:
        self.nets: list[nn.Module] = models()
        self.bundle = bundle_of(self.nets, ExecutorKind.GROUPED)
        self.ours = slot_optimizer(name, own, self.bundle)
        self.schedule = SlotSchedule(self.ours, make)
        self.theirs = torch_optimizers(name, own, self.nets)
        makes = make if isinstance(make, list) else [make] * SLOTS
        self.theirs_schedules = [m(o) for m, o in zip(makes, self.theirs, strict=True)]
        self.num_steps = 0

    def step(self, metrics: list[float] | None = None) -> None:
        give_gradients(self.bundle, self.nets, self.num_steps)
        self.ours.step()
        self.schedule.step(metrics)
        for slot, (optimizer, schedule) in enumerate(
            zip(self.theirs, self.theirs_schedules, strict=True)
        ):
            optimizer.step()
            schedule.step(*[] if metrics is None else [metrics[slot]])
        self.num_steps += 1
        self.assert_same_settings()

    def assert_same_settings(self) -> None:
        for own, optimizer in zip(self.ours.settings(), self.theirs, strict=True):
            for ours, theirs in zip(own, optimizer.param_groups, strict=True):
                assert ours == {name: theirs[name] for name in ours}


@pytest.mark.parametrize(("name", "own"), OPTIMIZERS)
@pytest.mark.parametrize("make", SCHEDULES)
def test_a_schedule_is_torchs_in_every_slot(name: str, own: Own, make: Make | list[Make]) -> None:
    side = Side(name, own, make)
    side.assert_same_settings()
    for _ in range(19):
        side.step()
    assert_equal(side.bundle, side.nets)


def plateau(optimizer: torch.optim.Optimizer) -> lr_scheduler.ReduceLROnPlateau:
    return lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)


def test_a_plateau_is_each_slots_own() -> None:
    side = Side(*OPTIMIZERS[1], plateau)
    for step in range(8):
        side.step([1.0 / (step + 1), 1.0, 1.0 if step < 4 else 2.0 - step / 8])
    rates = [slot[0]["lr"] for slot in side.ours.settings()]
    assert rates[0] == 0.1  # it improves all the time
    assert rates[1] < 0.01
    with pytest.raises(ValueError, match="slot 0 has a ReduceLROnPlateau: step needs metrics"):
        side.schedule.step()


@pytest.mark.parametrize("make", [one_cycle, warm_up_then_cosine, cyclic, chained])
def test_a_slot_goes_on_from_torchs_state_and_torch_from_its(make: Make) -> None:
    side = Side(*OPTIMIZERS[1], make)
    for _ in range(6):
        side.step()
    resumed = Side(*OPTIMIZERS[1], make)
    for slot in range(SLOTS):
        resumed.ours.load_slot_state(slot, side.theirs[slot].state_dict())
        resumed.schedule.load_slot_state(slot, side.theirs_schedules[slot].state_dict())
        resumed.theirs[slot].load_state_dict(side.theirs[slot].state_dict())
        resumed.theirs_schedules[slot].load_state_dict(side.schedule.slot_state(slot))
        for ours, theirs in zip(
            resumed.ours.settings()[slot], side.theirs[slot].param_groups, strict=True
        ):
            assert ours == {name: theirs[name] for name in ours}
    for _ in range(6):
        resumed.step()


def test_a_stored_state_does_not_move_on_with_the_schedule() -> None:
    side = Side(*OPTIMIZERS[0], one_cycle)
    state = side.schedule.slot_state(1)
    kept = state["last_epoch"], list(state["_last_lr"])
    side.step()
    assert (state["last_epoch"], state["_last_lr"]) == kept


def decayed(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    return lr_scheduler.ExponentialLR(optimizer, 0.5)


def test_the_next_trial_of_a_slot_begins_its_own_schedule() -> None:
    optimizer = optim.SGD(bundle_of(models(), ExecutorKind.GROUPED), lr=0.8)
    schedule = SlotSchedule(optimizer, decayed)
    schedule.step()
    optimizer.reset_slot(1, lr=0.1)
    schedule.reset_slot(1)
    assert optimizer.hyper["lr"].tolist() == [0.4, 0.1, 0.4]
    schedule.step()
    assert optimizer.hyper["lr"].tolist() == pytest.approx([0.2, 0.05, 0.2])
    optimizer.reset_slot(2, lr=0.1)
    schedule.reset_slot(2, partial(lr_scheduler.ConstantLR, factor=0.1, total_iters=5))
    assert optimizer.hyper["lr"].tolist() == pytest.approx([0.2, 0.05, 0.01])


def test_only_active_or_named_slots_move_on() -> None:
    bundle = bundle_of(models(), ExecutorKind.GROUPED)
    optimizer = optim.SGD(bundle, lr=0.8)
    schedule = SlotSchedule(optimizer, decayed)
    bundle.idle(0)
    schedule.step()
    assert optimizer.hyper["lr"].tolist() == [0.8, 0.4, 0.4]
    schedule.step(slots=[2])
    assert optimizer.hyper["lr"].tolist() == [0.8, 0.4, 0.2]


def test_a_rate_set_by_hand_is_where_the_schedule_goes_on() -> None:
    optimizer = optim.SGD(bundle_of(models(), ExecutorKind.GROUPED), lr=0.8)
    schedule = SlotSchedule(optimizer, decayed)
    optimizer.set(1, lr=0.2)
    schedule.step()
    assert optimizer.hyper["lr"].tolist() == [0.4, 0.1, 0.4]


def test_too_few_schedules_are_refused() -> None:
    optimizer = optim.SGD(bundle_of(models(), ExecutorKind.GROUPED), lr=0.8)
    with pytest.raises(ValueError, match="2 schedules were given for 3 slots"):
        SlotSchedule(optimizer, [decayed, decayed])


def test_one_slots_schedule_for_all_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_slot_0(self: SlotSchedule, slot: int) -> Any:
        return own_start(self, slot * 0)

    own_start = SlotSchedule._started
    monkeypatch.setattr(SlotSchedule, "_started", of_slot_0)
    with pytest.raises(AssertionError):
        Side(*OPTIMIZERS[0], SCHEDULES[-1]).step()
