"""Schedules that raise, go below zero, or were made from the rate that the optimizer had."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from hydro_hpc import optim
from hydro_hpc.errors import FusionError
from hydro_hpc.fusion import ExecutorKind, bind
from hydro_hpc.optim import ParameterGroup, SlotSchedule


def made(kind: Any = optim.SGD, **settings: Any) -> Any:
    nets = [nn.Sequential(nn.Linear(2, 2)) for _ in range(2)]
    return kind(bind(nets, executor=ExecutorKind.LOOP, choices=[]), **settings)


def one_cycle(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    rate = optimizer.param_groups[0]["lr"]
    return lr_scheduler.OneCycleLR(optimizer, rate, total_steps=9, cycle_momentum=False)


def rates(optimizer: Any) -> list[float]:
    found: list[float] = optimizer.hyper["lr"].tolist()
    return found


def test_a_schedule_that_raises_holds_no_other_slot_back() -> None:
    optimizer = made(lr=1.0)

    def raises(step: int) -> float:
        if step > 1:
            raise ValueError("no more")
        return 0.5

    schedule = SlotSchedule(
        optimizer,
        [
            lambda twin: lr_scheduler.LambdaLR(twin, lambda step: 0.5**step),
            lambda twin: lr_scheduler.LambdaLR(twin, raises),
        ],
    )
    schedule.step()
    for expected in (0.25, 0.125):
        with pytest.raises(FusionError, match="the schedule of slot 1 raised ValueError: no more"):
            schedule.step()
        assert rates(optimizer) == [expected, 0.5]


def test_what_a_schedule_says_is_taken_and_what_a_user_says_is_checked() -> None:
    optimizer = made(lr=1.0, momentum=0.9, nesterov=True)
    schedule = SlotSchedule(
        optimizer, lambda twin: lr_scheduler.LambdaLR(twin, lambda step: 1.0 - 2 * step)
    )
    schedule.step()
    assert rates(optimizer) == [-1.0, -1.0]
    assert optimizer.slot_state(0)["param_groups"][0]["lr"] == -1.0
    optimizer.set(0, weight_decay=0.1)
    with pytest.raises(ValueError, match=r"lr of slot 0 is -1\.0"):
        optimizer.set(0, lr=-1.0)


def test_a_parked_schedule_was_made_from_the_rate_it_began_with() -> None:
    optimizer = made(lr=[0.1, 0.2])
    schedule = SlotSchedule(optimizer, one_cycle)
    theirs = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.2)
    alone = one_cycle(theirs)
    for step in range(8):
        if step == 3:
            parked = optimizer.bundle.park(1, optimizer, schedule)
            optimizer.bundle.unpark(1, parked, optimizer, schedule)
        theirs.step()
        alone.step()
        schedule.step()
        assert rates(optimizer)[1] == theirs.param_groups[0]["lr"]
    again = torch.optim.SGD(optimizer.bundle.unbind(1).parameters())
    again.load_state_dict(optimizer.slot_state(1))
    assert again.param_groups[0]["max_lr"] == 0.2


def test_the_next_trial_begins_as_the_optimizer_was_made() -> None:
    optimizer = made(lr=0.1, momentum=0.9, groups=[ParameterGroup(names=["0.bias"], lr=0.05)])
    schedule = SlotSchedule(optimizer, lambda twin: lr_scheduler.OneCycleLR(twin, 0.3, 9))
    schedule.step()
    optimizer.reset_slot(1, lr=0.2)
    assert [(g["lr"], g["momentum"]) for g in optimizer.settings()[1]] == [(0.2, 0.9), (0.05, 0.9)]
    assert "max_lr" not in optimizer.slot_state(1)["param_groups"][0]


@pytest.mark.parametrize(("name", "settings"), [("Adam", {}), ("Adagrad", {}), ("RMSprop", {})])
def test_complex_parameters_are_stepped_as_torch_does(name: str, settings: Any) -> None:
    nets = [nn.Linear(2, 2, dtype=torch.complex128) for _ in range(2)]
    bundle = bind(nets, executor=ExecutorKind.LOOP, choices=[])
    ours = getattr(optim, name)(bundle, lr=0.1, **settings)
    theirs = [getattr(torch.optim, name)(net.parameters(), lr=0.1, **settings) for net in nets]
    x = torch.randn(2, 3, 2, dtype=torch.complex128)
    for _ in range(3):
        ours.zero_grad()
        bundle(x).abs().sum().backward()
        ours.step()
        for slot, optimizer in enumerate(theirs):
            optimizer.zero_grad()
            nets[slot](x[slot]).abs().sum().backward()
            optimizer.step()
    for slot, net in enumerate(nets):
        torch.testing.assert_close(bundle.unbind(slot).weight, net.weight)


def test_rmsprop_keeps_its_buffer_while_there_is_no_momentum() -> None:
    optimizer = made(optim.RMSprop, lr=0.1, momentum=0.9)
    alone = optimizer.bundle.unbind(0)
    theirs = torch.optim.RMSprop(alone.parameters(), lr=0.1, momentum=0.9)
    for momentum in (0.9, 0.0, 0.9):
        optimizer.set(0, momentum=momentum)
        theirs.param_groups[0]["momentum"] = momentum
        optimizer.zero_grad()
        optimizer.bundle(torch.ones(2, 3, 2)).sum().backward()
        optimizer.step()
        theirs.zero_grad()
        alone(torch.ones(3, 2)).sum().backward()
        theirs.step()
    torch.testing.assert_close(optimizer.bundle.unbind(0)[0].weight, alone[0].weight)


@pytest.mark.parametrize("call", ["set", "reset_slot", "slot_state"])
def test_no_slot_is_counted_from_the_end(call: str) -> None:
    settings = {} if call == "slot_state" else {"lr": 0.5}
    with pytest.raises(IndexError, match="slot -1 of a bundle of 2"):
        getattr(made(), call)(-1, **settings)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"maximize": 0.5}, r"maximize of slot 0 is 0\.5: it must be True or False"),
        ({"dampening": float("nan")}, "dampening of slot 0 is nan"),
        ({"lr": None}, "lr is None: it must be a number"),
        ({"lr": "a"}, "lr is 'a': it must be a number"),
    ],
)
def test_settings_that_are_none_are_refused(settings: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        made(**settings)


def test_a_state_of_another_class_is_refused() -> None:
    with pytest.raises(ValueError, match="this state has no betas, so it is not of Adam"):
        made(optim.Adam).load_slot_state(0, made().slot_state(0))
    with pytest.raises(ValueError, match="make gave slot 0 a NoneType"):
        SlotSchedule(made(), lambda _: None)  # type: ignore[arg-type, return-value]
