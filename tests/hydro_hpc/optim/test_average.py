"""A moving average of every slot equals torch's AveragedModel of its model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hydro_hpc import optim
from hydro_hpc.fusion import Bundle, ExecutorKind, bind
from hydro_hpc.optim import SlotAverage
from tests.hydro_hpc.optim.torch_oracle import SLOTS

DECAYS = [0.9, 0.5, 0.999]
CLOSE = {"rtol": 1e-10, "atol": 1e-13}


class Normed(nn.Module):
    """With buffers, a frozen and a tied parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.norm = nn.BatchNorm1d(4)
        self.frozen = nn.Parameter(torch.rand(4), requires_grad=False)
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.tied(self.norm(self.first(x)) * self.frozen)


class Side:
    """A bundle and its average beside models and theirs, trained on the same data."""

    def __init__(self, kind: ExecutorKind) -> None:
        self.nets = [Normed().double() for _ in range(SLOTS)]
        self.bundle: Bundle = bind(self.nets, example=torch.rand(5, 4).double(), executor=kind)
        self.average = SlotAverage(self.bundle, DECAYS)
        self.optimizer = optim.SGD(self.bundle, lr=0.1)
        self.averages = [averaged(net, decay) for net, decay in zip(self.nets, DECAYS, strict=True)]
        self.num_steps = 0

    def step(self) -> None:
        generator = torch.Generator().manual_seed(self.num_steps)
        x = torch.randn(SLOTS, 5, 4, generator=generator, dtype=torch.float64)
        self.num_steps += 1
        self.optimizer.zero_grad()
        self.bundle(x).pow(2).mean(dim=(1, 2)).sum().backward()
        self.optimizer.step()
        self.average.update()
        for slot, net in enumerate(self.nets):
            optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
            net(x[slot]).pow(2).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            self.averages[slot].update_parameters(net)

    def assert_equal(self) -> None:
        for slot, theirs in enumerate(self.averages):
            ours, expected = self.average.slot_state(slot), theirs.state_dict()
            assert ours.keys() == expected.keys()
            for name, value in expected.items():
                torch.testing.assert_close(ours[name], value, **CLOSE)


def averaged(net: nn.Module, decay: float) -> AveragedModel:
    return AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(decay))


@pytest.mark.parametrize("kind", list(ExecutorKind))
def test_averages_are_torchs(kind: ExecutorKind) -> None:
    side = Side(kind)
    side.assert_equal()  # before the first update: a copy
    for _ in range(10):
        side.step()
        side.assert_equal()


def test_a_step_after_the_last_update_does_not_reach_the_average() -> None:
    side = Side(ExecutorKind.GROUPED)
    side.step()
    side.bundle(torch.randn(SLOTS, 5, 4).double())  # new running statistics
    side.assert_equal()


def test_an_averaged_model_is_the_users_own_with_its_own_storage() -> None:
    side = Side(ExecutorKind.GROUPED)
    side.step()
    side.step()
    model = side.average.unbind(1)
    assert type(model) is Normed
    assert model.tied.weight is model.first.weight
    x = torch.randn(5, 4).double()
    torch.testing.assert_close(model(x), side.averages[1].module(x), **CLOSE)
    with torch.no_grad():
        model.first.weight.zero_()
        model.norm.running_mean.zero_()  # type: ignore[union-attr]
    state = side.average.slot_state(1)
    assert state["module.first.weight"].any()
    assert state["module.norm.running_mean"].any()


def test_a_slot_goes_on_from_torchs_state_and_torch_from_its() -> None:
    side = Side(ExecutorKind.GROUPED)
    for _ in range(3):
        side.step()
    for slot in range(SLOTS):
        moved = averaged(side.nets[slot], DECAYS[slot])
        moved.load_state_dict(side.average.slot_state(slot))
        state = side.averages[slot].state_dict()
        side.average.reset_slot(slot)
        side.average.load_slot_state(slot, state)
        side.averages[slot] = moved
    for _ in range(3):
        side.step()
    side.assert_equal()


def test_the_next_trial_of_a_slot_begins_its_own_average() -> None:
    side = Side(ExecutorKind.GROUPED)
    for _ in range(3):
        side.step()
    side.nets[1] = Normed().double()
    side.bundle.replace(1, side.nets[1], seed=9)
    side.optimizer.reset_slot(1)
    side.average.reset_slot(1, decay=0.3)
    side.averages[1] = averaged(side.nets[1], 0.3)
    for _ in range(3):
        side.step()
    side.assert_equal()


def test_idle_slots_keep_their_average_bit_for_bit() -> None:
    side = Side(ExecutorKind.GROUPED)
    for _ in range(2):
        side.step()
    before = side.average.slot_state(0)
    side.bundle.idle(0)
    with torch.no_grad():
        side.bundle.state.blocks[0].values_FP[0] = torch.nan
    side.average.update()
    after = side.average.slot_state(0)
    for name in before:
        if name != "module.frozen":
            assert torch.equal(before[name], after[name])


def test_an_update_can_pause_within() -> None:
    side = Side(ExecutorKind.GROUPED)
    pauses: list[None] = []
    side.average.between = lambda: pauses.append(None)
    side.average.update()
    assert len(pauses) == SLOTS


@pytest.mark.parametrize("decay", [-0.1, 1.1, float("nan")])
def test_a_wrong_decay_is_refused(decay: float) -> None:
    bundle = Side(ExecutorKind.GROUPED).bundle
    with pytest.raises(ValueError, match="decay of slot 2 is"):
        SlotAverage(bundle, [0.5, 0.5, decay])


def test_a_neighbours_decay_would_be_seen() -> None:
    side = Side(ExecutorKind.GROUPED)
    side.average = SlotAverage(side.bundle, DECAYS[1:] + DECAYS[:1])
    for _ in range(3):
        side.step()
    with pytest.raises(AssertionError, match="not close"):
        side.assert_equal()
