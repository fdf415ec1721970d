"""A trial that was parked goes on to the last bit as one that never was."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, StepLR
from torch.testing import assert_close

from hydro_hpc import optim
from hydro_hpc.errors import FusionError
from hydro_hpc.fusion import ExecutorKind, bind
from hydro_hpc.optim import SlotAverage, SlotSchedule
from tests.hydro_hpc.fusion.parked_training import (
    MakeOptimizer,
    Side,
    adamw,
    assert_close_everything,
    assert_same_bits,
    net,
    sgd,
)

KINDS = list(ExecutorKind)


@pytest.mark.parametrize("make", [sgd, adamw])
@pytest.mark.parametrize(("kind", "slot"), [*((kind, 1) for kind in KINDS), (ExecutorKind.LOOP, 2)])
def test_a_parked_trial_goes_on_bit_for_bit_in_another_bundle(
    kind: ExecutorKind, slot: int, make: MakeOptimizer
) -> None:
    unparked, here = Side.of([1, 2, 3], kind, make), Side.of([1, 2, 3], kind, make)
    there = Side.of([4, 5, 6], kind, make, turn=1)
    for side in (unparked, here):
        side.train(5)
    parked = here.bundle.park(1, *here.parts)
    here.trials[1] = None
    here.train(2)
    there.train(3)
    there.bundle.park(slot, *there.parts)
    there.bundle.unpark(slot, parked, *there.parts)
    there.trials[slot], there.steps[2] = 2, 5
    assert there.bundle.report.executor is kind
    found, expected = there.train(5)[2], unparked.train(5)[2]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert_same_bits(there.everything_of(2), unparked.everything_of(2))
    here.train(3)
    for stayed in (1, 3):
        assert_same_bits(here.everything_of(stayed), unparked.everything_of(stayed))


@pytest.mark.parametrize("make", [sgd, adamw])
@pytest.mark.parametrize("kind", KINDS)
def test_a_parked_trial_goes_on_in_another_slot(kind: ExecutorKind, make: MakeOptimizer) -> None:
    unparked, side = (Side.of([1, 2, 3], kind, make, dtype=torch.float64) for _ in range(2))
    unparked.train(10)
    side.train(5)
    parked = side.bundle.park(1, *side.parts)
    side.bundle.park(2)
    side.bundle.unpark(2, parked, *side.parts)
    side.trials = [1, None, 2]
    side.train(5)
    assert_close_everything(side, unparked, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_parked_trial_comes_back_after_another_had_its_slot(kind: ExecutorKind) -> None:
    unparked, side = Side.of([1, 2, 3], kind, adamw), Side.of([1, 2, 3], kind, adamw)
    unparked.train(8)
    side.train(5)
    parked = side.bundle.park(1, *side.parts)
    assert side.bundle.active == [True, False, True]
    side.bundle.replace(1, net(), seed=9)
    for part in side.parts:
        part.reset_slot(1)
    side.trials[1], side.steps[9] = 9, 0
    side.train(3)
    side.bundle.park(1)
    side.bundle.unpark(1, parked, *side.parts)
    side.trials[1] = 2
    side.train(3)
    assert_same_bits(side.everything_of(2), unparked.everything_of(2))


def test_a_parked_trial_is_the_users_class_with_memory_of_its_own() -> None:
    side = Side.of([1, 2, 3], ExecutorKind.GROUPED, sgd)
    side.train(2)
    before = side.everything_of(2)
    parked = side.bundle.park(1, *side.parts)
    side.train(1)
    side.bundle.unpark(1, parked, *side.parts)
    side.train(3)  # what was parked does not change with it
    side.bundle.park(1)
    net().load_state_dict(parked.model.state_dict(), strict=True)
    side.bundle.unpark(1, parked, *side.parts)
    assert_same_bits(side.everything_of(2), before)
    assert (parked.seed, parked.step) == (52, 2)
    assert [part.kind for part in parked.parts] == [type(part).__name__ for part in side.parts]


def test_a_parked_trial_goes_through_a_file_of_plain_values() -> None:
    side = Side.of([1, 2, 3], ExecutorKind.LOOP, adamw)
    side.train(3)
    before = side.everything_of(2)
    parked = side.bundle.park(1, *side.parts)
    states = [part.arguments["state"] for part in parked.parts]
    file = io.BytesIO()
    torch.save((parked.model.state_dict(), parked.seed, parked.step, states), file)
    file.seek(0)
    weights, seed, step, states = torch.load(file, weights_only=True)
    model = net()
    model.load_state_dict(weights)
    side.bundle.replace(1, model, seed=seed, step=step)
    for part, state in zip(side.parts, states, strict=True):
        part.load_slot_state(1, state)
    assert_same_bits(side.everything_of(2), before)


def test_a_parked_trial_takes_the_mode_of_its_new_bundle() -> None:
    bundle = bind([net(), net()], executor=ExecutorKind.LOOP)
    parked = bundle.park(0)
    bundle.eval()
    bundle.unpark(0, parked)
    assert not any(module.training for module in bundle.unbind(0).modules())


class Remembers(nn.Module):
    """Makes its buffers when it is first called: one per kind of making."""

    count: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(7, 3)
        self.register_buffer("count", None)

    def forward(self, x: Tensor) -> Tensor:
        if self.count is None:
            self.count = torch.zeros(())
            self.register_buffer("mean", torch.zeros(7))
        self.count = self.count + 1
        self.mean += x.detach().mean(0) / self.count
        return self.fc(x - self.mean)


def test_buffers_that_forward_makes_are_each_trials_own() -> None:
    torch.manual_seed(0)
    nets = [Remembers() for _ in range(3)]
    alone = [copy.deepcopy(one) for one in nets]
    theirs = [torch.optim.SGD(one.parameters(), lr=0.1) for one in alone]
    bundle = bind(nets, choices=[])
    optimizer = optim.SGD(bundle, lr=0.1)
    average = SlotAverage(bundle)
    trials: list[int | None] = [0, 1, 2]

    def train(num_steps: int) -> None:
        for _ in range(num_steps):
            x = torch.rand(4, 7)
            bundle.shared(x).pow(2).nan_to_num().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
            for trial in trials:
                if trial is not None:
                    theirs[trial].zero_grad()
                    alone[trial](x).pow(2).sum().backward()
                    theirs[trial].step()
        for slot, trial in enumerate(trials):
            if trial is not None:
                assert_close(bundle.unbind(slot).state_dict(), alone[trial].state_dict())

    train(2)
    average.unbind(0)  # its buffers are those of the last update, of which there is none
    parked = bundle.park(1, optimizer, average)
    trials[1] = None
    train(1)
    bundle.replace(1, Remembers(), seed=5)
    bundle.idle(1)
    bundle.unpark(1, parked, optimizer, average)
    trials[1] = 1
    train(2)
    bundle.grow(5, optimizer, average)
    trials += [None, None]
    train(2)
    fresh = Remembers()
    alone.append(copy.deepcopy(fresh))
    theirs.append(torch.optim.SGD(alone[3].parameters(), lr=0.1))
    bundle.replace(3, fresh, seed=5)
    optimizer.reset_slot(3)
    trials[3] = 3
    train(2)
    bundle.idle(0)
    assert bundle.shrink(3, optimizer, average) == {1: 1, 2: 2, 3: 0}
    trials[:] = [3, 1, 2]
    train(2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_parked_trial_with_a_buffer_of_its_own_goes_to_the_loop(kind: ExecutorKind) -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(7, 3)
            self.register_buffer("shift", None)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.fc(x)
            return y if self.shift is None else y + self.shift

    bundle = bind([Late(), Late()], torch.rand(4, 7), executor=kind)
    model = Late()
    model.shift = torch.ones(3)
    bundle.replace(1, model, seed=0)
    x = torch.rand(2, 4, 7)
    torch.testing.assert_close(bundle(x)[1], model(x[1]))
    bundle.grow(3)
    x = torch.rand(3, 4, 7)
    torch.testing.assert_close(bundle(x)[1], model(x[1]))


def test_a_trial_with_a_lambda_in_its_schedule_goes_through_a_file() -> None:
    side = Side.of([1, 2, 3], ExecutorKind.LOOP, sgd)
    schedule = SlotSchedule(side.optimizer, lambda twin: LambdaLR(twin, lambda n: 0.5**n))
    schedule.step()
    named = SlotAverage(side.bundle)
    parked = side.bundle.park(1, side.optimizer, schedule, named)
    assert copy.deepcopy(parked).parts[1].arguments["make"] is parked.parts[1].arguments["make"]
    file = io.BytesIO()
    torch.save(parked, file)
    file.seek(0)
    read = torch.load(file, weights_only=False)
    assert "make" not in read.parts[1].arguments
    rate = side.optimizer.settings()[1][0]["lr"]
    side.bundle.unpark(1, read, side.optimizer, schedule, named)
    schedule.step()
    assert side.optimizer.settings()[1][0]["lr"] == pytest.approx(rate / 2)
    other = SlotSchedule(side.optimizer, lambda twin: StepLR(twin, 2))
    side.bundle.idle(1)
    with pytest.raises(ValueError, match="schedule is a LambdaLR and slot 1 makes a StepLR"):
        side.bundle.unpark(1, read, side.optimizer, other, named)
    assert side.bundle.active == [True, False, True]
    side.bundle.unpark(1, parked, side.optimizer, other, named)  # with its own function


def halved(twin: torch.optim.Optimizer) -> StepLR:
    return StepLR(twin, step_size=1, gamma=0.5)


def test_a_named_function_in_a_schedule_goes_along_in_the_file() -> None:
    side = Side.of([1, 2, 3], ExecutorKind.LOOP, sgd)
    parked = side.bundle.park(1, SlotSchedule(side.optimizer, halved))
    read = pickle.loads(pickle.dumps(parked))
    assert read.parts[0].arguments["make"] is halved


def test_an_idle_slot_has_nothing_to_park() -> None:
    bundle = bind([net(), net()], executor=ExecutorKind.LOOP)
    bundle.idle(1)
    with pytest.raises(FusionError, match="slot 1 is idle: it has no trial to park"):
        bundle.park(1)
    with pytest.raises(IndexError, match="slot 2 of a bundle of 2"):
        bundle.park(2)


def test_a_parked_trial_does_not_push_another_out() -> None:
    bundle = bind([net(), net()], executor=ExecutorKind.LOOP)
    parked = bundle.park(0)
    with pytest.raises(FusionError, match="slot 1 has a trial: park it, or make it idle, first"):
        bundle.unpark(1, parked)


def test_a_trial_of_another_signature_cannot_come_back() -> None:
    parked = bind([nn.Linear(2, 3), nn.Linear(2, 3)], executor=ExecutorKind.LOOP).park(0)
    bundle = bind([nn.Linear(2, 4)], executor=ExecutorKind.LOOP)
    bundle.idle(0)
    with pytest.raises(FusionError, match=r"cannot join the bundle: parameter 'weight'"):
        bundle.unpark(0, parked)
    assert bundle.active == [False]


def test_a_trial_comes_back_with_the_parts_that_it_was_parked_with() -> None:
    side = Side.of([1, 2, 3], ExecutorKind.LOOP, sgd)
    parked = side.bundle.park(1, side.optimizer)
    for parts, named in (
        ((), "the bundle alone"),
        ((adamw(side.bundle),), "AdamW"),
        ((side.optimizer, side.schedule), "SGD, SlotSchedule"),
    ):
        with pytest.raises(FusionError, match=f"parked with SGD and cannot come back with {named}"):
            side.bundle.unpark(1, parked, *parts)
    with pytest.raises(ValueError, match="groups"):
        side.bundle.unpark(1, parked, optim.SGD(side.bundle))
    assert side.bundle.active == [True, False, True]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", KINDS)
def test_a_trial_is_parked_in_host_memory_and_changes_its_device(kind: ExecutorKind) -> None:
    models = [net().cuda() for _ in range(2)]
    bundle = bind(models, executor=kind)
    optimizer = optim.AdamW(bundle)
    bundle(torch.rand(2, 9, 7).cuda()).sum().backward()
    optimizer.step()
    expected = bundle.unbind(1).cpu().state_dict()
    parked = bundle.park(1, optimizer)
    assert all(not tensor.is_cuda for tensor in parked.model.state_dict().values())
    there = bind([net(), net()], executor=kind)
    there_optimizer = optim.AdamW(there)
    there.idle(0)
    there.unpark(0, parked, there_optimizer)
    assert_same_bits(there.unbind(0).state_dict(), expected)
    bundle.unpark(1, there.park(0, there_optimizer), optimizer)
    assert next(bundle.unbind(1).parameters()).is_cuda
    assert_same_bits(bundle.unbind(1).cpu().state_dict(), expected)
