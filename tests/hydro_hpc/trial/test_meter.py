"""Cutting a step into units: grouping is pure; hooks are real torch hooks on a fake clock."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hydro_hpc.nn.fused import Fused
from hydro_hpc.trial.meter import STEPS_TO_LEARN, Meter, group_needs

US = 1000


@given(st.lists(st.integers(0, 500), max_size=60), st.integers(1, 400))
def test_needs_cover_all_work_and_no_group_passes_the_unit(lengths: list[int], unit: int) -> None:
    needs = group_needs(lengths, unit)
    assert len(needs) == len(lengths)
    starts = [position for position, need in enumerate(needs) if need]
    assert bool(starts) == bool(lengths)
    for first, after in zip(starts, [*starts[1:], len(lengths)], strict=False):
        group = lengths[first:after]
        assert needs[first] == max(sum(group), 1)
        assert sum(group) <= unit or len([length for length in group if length]) <= 1
    if lengths:
        assert starts[0] == 0


class FakeGate:
    """Admits everything, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def admit(self, need_ns: int) -> None:
        self.asked.append(need_ns)


class FakeDevice:
    """A device whose time passes only in `work`."""

    def __init__(self) -> None:
        self.now_ns = 0

    def read(self) -> int:
        return self.now_ns


class Spend(torch.autograd.Function):
    """The identity, at a price in both directions."""

    @staticmethod
    def forward(ctx, x, device, length_ns):  # type: ignore[no-untyped-def]
        ctx.device, ctx.length_ns = device, length_ns
        device.now_ns += length_ns
        return x.clone()

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        ctx.device.now_ns += ctx.length_ns
        return grad, None, None


class Busy(nn.Module):
    """A layer that takes a fixed time forward and backward."""

    def __init__(self, device: FakeDevice, length_ns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.device = device
        self.length_ns = length_ns

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Spend.apply(x * self.weight, self.device, self.length_ns)


def run_steps(meter: Meter, layers: nn.Sequential, count: int) -> None:
    for _ in range(count):
        meter.begin()
        layers(torch.ones(1)).sum().backward()
        meter.point("optimizer")
        meter.end()


def test_small_step_ends_as_one_unit_without_any_hook() -> None:
    gate, device = FakeGate(), FakeDevice()
    layers = nn.Sequential(*(Busy(device, 10 * US) for _ in range(3)))
    meter = Meter(gate, unit_ns=200 * US, device_ns=device.read)
    meter.hook({str(i): layer for i, layer in enumerate(layers)})
    run_steps(meter, layers, 2 * STEPS_TO_LEARN)
    gate.asked.clear()
    run_steps(meter, layers, 1)
    assert gate.asked == [int(60 * US * 1.1)]
    assert all(not layer._forward_pre_hooks for layer in layers)


def test_long_modules_keep_a_unit_each_forward_and_backward() -> None:
    gate, device = FakeGate(), FakeDevice()
    layers = nn.Sequential(*(Busy(device, 300 * US) for _ in range(2)))
    meter = Meter(gate, unit_ns=200 * US, device_ns=device.read)
    meter.hook({str(i): layer for i, layer in enumerate(layers)})
    run_steps(meter, layers, 2 * STEPS_TO_LEARN)
    gate.asked.clear()
    run_steps(meter, layers, 1)
    assert [need for need in gate.asked if need >= 300 * US] == [330 * US] * 4


class Halved(Fused):
    """A fused layer whose backward is two long pieces, with a pause before and between them."""

    has_own_backward = True

    def __init__(self, device: FakeDevice, length_ns: int) -> None:
        super().__init__()
        self.device = device
        self.length_ns = length_ns

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = Spend.apply(x, self.device, self.length_ns)
        first.register_hook(lambda _grad: self.between() if self.between else None)
        y = Spend.apply(first, self.device, self.length_ns)
        y.register_hook(lambda _grad: self.before() if self.before else None)
        return y


@pytest.mark.parametrize(("length_us", "num_backward"), [(150, 2), (50, 1)])
def test_long_backward_is_cut_where_its_module_may_pause(length_us: int, num_backward: int) -> None:
    gate, device = FakeGate(), FakeDevice()
    layer = Halved(device, length_us * US)
    meter = Meter(gate, unit_ns=200 * US, device_ns=device.read)
    meter.hook({"0": layer})
    for _ in range(2 * STEPS_TO_LEARN):
        meter.begin()
        y = layer(torch.ones(1, requires_grad=True)).sum()
        gate.asked.clear()
        y.backward()
        meter.end()
    assert len(gate.asked) == num_backward
    meter.close()
    assert layer.between is None


def test_work_is_asked_for_before_anything_is_known_about_it() -> None:
    gate, device = FakeGate(), FakeDevice()
    layers = nn.Sequential(Busy(device, 10 * US))
    meter = Meter(gate, unit_ns=200 * US, device_ns=device.read)
    meter.hook({"0": layers[0]})
    run_steps(meter, layers, 1)
    assert len(gate.asked) == 4  # begin, forward, backward, optimizer
    assert min(gate.asked) >= 1_000_000


def test_step_with_more_points_than_learned_asks_for_each() -> None:
    gate, device = FakeGate(), FakeDevice()
    meter = Meter(gate, unit_ns=200 * US, device_ns=device.read)
    for _ in range(STEPS_TO_LEARN):
        meter.begin()
        meter.end()
    gate.asked.clear()
    meter.begin()
    meter.point("surprise")
    assert gate.asked[-1] == 200 * US


def test_hooks_are_silent_outside_a_step_of_their_own_meter() -> None:
    """A bundle is evaluated with the hooks of its training steps still in place."""
    gate, device = FakeGate(), FakeDevice()
    layers = nn.Sequential(Busy(device, 10 * US))
    meter = Meter(gate, unit_ns=200 * US, device_ns=device.read)
    meter.hook({"0": layers[0]})
    run_steps(meter, layers, 1)
    asked = len(gate.asked)
    layers(torch.ones(1))
    assert len(gate.asked) == asked
    run_steps(meter, layers, 1)
    assert len(gate.asked) == 2 * asked


def test_abandoned_step_teaches_nothing() -> None:
    gate, device = FakeGate(), FakeDevice()
    meter = Meter(gate, unit_ns=200 * US, device_ns=device.read)
    meter.begin()
    device.now_ns += 999 * US
    meter.point("optimizer")
    meter.abandon()
    for _ in range(STEPS_TO_LEARN):
        meter.begin()
        device.now_ns += 20 * US
        meter.point("optimizer")
        meter.end()
    gate.asked.clear()
    meter.begin()
    assert gate.asked == [22 * US]


def test_closed_meter_leaves_no_hook() -> None:
    gate, device = FakeGate(), FakeDevice()
    layer = Busy(device, 10)
    meter = Meter(gate, unit_ns=US, device_ns=device.read)
    meter.hook({"0": layer})
    meter.close()
    assert not layer._forward_pre_hooks
    assert not layer._forward_hooks
