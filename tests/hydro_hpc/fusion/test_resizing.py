"""Another fusion count: the trials that stay go on equal to separate training."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from hydro_hpc import optim
from hydro_hpc.errors import FusionError
from hydro_hpc.fusion import Bundle, ExecutorKind, bind
from hydro_hpc.fusion.resizing import NewSlots, plan
from hydro_hpc.optim import SlotAverage
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
@pytest.mark.parametrize("kind", KINDS)
def test_trials_of_a_bundle_that_shrinks_and_grows_train_on(
    kind: ExecutorKind, make: MakeOptimizer
) -> None:
    undisturbed, side = (Side.of([1, 2, 3], kind, make, dtype=torch.float64) for _ in range(2))
    undisturbed.train(9)
    side.train(3)
    side.bundle.idle(0)
    assert side.bundle.shrink(2, *side.parts) == {1: 1, 2: 0}
    side.trials = [3, 2]
    side.train(3)
    side.bundle.grow(5, *side.parts)
    side.trials = [3, 2, None, None, None]
    assert side.bundle.active == [True, True, False, False, False]
    assert side.bundle.report.slots == 5
    assert side.bundle.report.executor is kind
    side.train(3)
    for trial in (2, 3):
        assert_close_everything(side, undisturbed, trial)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resized_bundle_has_the_same_values_bit_for_bit(kind: ExecutorKind) -> None:
    side = Side.of([1, 2, 3], kind, adamw)
    side.train(3)
    before = [side.everything_of(trial) for trial in (1, 2, 3)]
    side.bundle.grow(4, *side.parts)
    for trial, state in zip((1, 2, 3), before, strict=True):
        assert_same_bits(side.everything_of(trial), state)


def test_a_new_slot_takes_a_trial_that_trains_as_from_the_beginning() -> None:
    alone, side = (Side.of([1, 2, 3], ExecutorKind.LOOP, adamw) for _ in range(2))
    side.train(3)
    parked = alone.bundle.park(1, *alone.parts)
    alone.bundle.unpark(1, parked, *alone.parts)
    side.bundle.grow(4, *side.parts)
    side.trials.append(None)
    side.train(1)
    side.bundle.unpark(3, parked, *side.parts)
    side.trials = [1, None, 3, 2]
    side.steps[2] = 0
    side.bundle.idle(1)
    side.train(4)
    alone.train(4)
    assert_close_everything(side, alone, 2)


def test_the_way_to_run_is_kept_below_twice_f_and_chosen_anew_from_there_on() -> None:
    bundle = bind([net() for _ in range(3)], torch.rand(4, 7), choices=[])
    report = bundle.report
    bundle.grow(5)
    assert bundle.report.candidates == report.candidates
    bundle.grow(10)
    assert bundle.report.slots == 10
    assert bundle.report.candidates != report.candidates  # timed again
    assert bundle.shared(torch.rand(4, 7)).shape == (10, 4, 3)


def test_a_bundle_that_has_not_run_yet_is_resized() -> None:
    bundle = bind([net(), net()], choices=[])
    bundle.grow(3)
    assert bundle.report.executor is None
    assert bundle.shared(torch.rand(4, 7)).shape == (3, 4, 3)


def test_gradients_before_a_resizing_are_forgotten() -> None:
    bundle = bind([net(), net()], executor=ExecutorKind.LOOP)
    optimizer = optim.SGD(bundle, lr=1.0)
    bundle.shared(torch.rand(4, 7)).sum().backward()
    bundle.grow(3, optimizer)
    before = bundle.unbind(0).state_dict()
    optimizer.step()
    assert_same_bits(bundle.unbind(0).state_dict(), before)


def test_a_slot_whose_model_raised_is_emptied_and_other_idle_ones_stay() -> None:
    torch.manual_seed(0)
    bundle = bind([net() for _ in range(3)], executor=ExecutorKind.LOOP)
    idle = bundle.unbind(1).state_dict()
    bundle.idle(1)
    bundle.fail(2, ValueError("raised"))
    bundle.grow(4)
    assert bundle.active == [True, False, False, False]
    assert {slot: str(error) for slot, error in bundle.failures.items()} == {2: "raised"}
    assert_same_bits(bundle.unbind(1).state_dict(), idle)
    assert_same_bits(bundle.unbind(2).state_dict(), bundle.unbind(0).state_dict())


def test_a_failure_stays_with_its_slot_until_a_trial_moves_in() -> None:
    bundle = bind([net() for _ in range(4)], executor=ExecutorKind.LOOP)
    bundle.fail(0, ValueError("zero"))
    bundle.fail(2, ValueError("two"))
    bundle.idle(1)
    assert bundle.shrink(3) == {3: 0}
    assert {slot: str(error) for slot, error in bundle.failures.items()} == {2: "two"}
    bundle.replace(2, net(), seed=0)
    assert bundle.failures == {}


def test_trials_keep_their_slots_or_move_to_the_first_free_ones() -> None:
    new = plan([False, True, False, True, True], failed=[], slots=3)
    assert new.sources == (3, 1, 4)
    assert new.empty == frozenset()
    new = plan([True, False, True, False], failed=[1], slots=3)
    assert new.sources == (0, 0, 2)
    assert new.empty == {1}
    assert plan([False, False], failed=[], slots=3).sources == (0, 1, 0)


class Unable(SlotAverage):
    """A part for which there is no memory."""

    def take_slots(self, new: NewSlots) -> None:
        del new
        raise MemoryError


@pytest.mark.parametrize("slots", [2, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_if_memory_does_not_suffice_all_goes_on_as_before(kind: ExecutorKind, slots: int) -> None:
    undisturbed, side = Side.of([1, 2, 3], kind, adamw), Side.of([1, 2, 3], kind, adamw)
    for one in (undisturbed, side):
        one.train(3)
        one.bundle.idle(1)
        one.trials[1] = None
    change = side.bundle.shrink if slots < 3 else side.bundle.grow
    with pytest.raises(MemoryError):
        change(slots, *side.parts, Unable(side.bundle))
    for one in (undisturbed, side):
        one.train(3)
    for trial in (1, 3):
        assert_same_bits(side.everything_of(trial), undisturbed.everything_of(trial))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_and_failures_outlive_a_resizing_that_fails(kind: ExecutorKind) -> None:
    torch.manual_seed(0)
    bundle = bind([net() for _ in range(3)], torch.rand(4, 7), executor=kind)
    bundle.fail(1, ValueError("raised"))
    bundle.shared(torch.rand(4, 7)).nan_to_num().sum().backward()
    before = bundle.gradients()[0].values[[0, 2]].clone()
    assert before.abs().sum() > 0
    for change in (bundle.grow, bundle.shrink):
        with pytest.raises(MemoryError):
            change(4 if change == bundle.grow else 2, Unable(bundle))
    assert torch.equal(bundle.gradients()[0].values[[0, 2]], before)
    assert list(bundle.failures) == [1]


def test_a_bundle_does_not_shrink_below_its_trials() -> None:
    bundle = bind([net() for _ in range(3)], executor=ExecutorKind.LOOP)
    with pytest.raises(FusionError, match="park or idle 1 of them first"):
        bundle.shrink(2)
    for slots in (0, 3, 4):
        with pytest.raises(ValueError, match=f"shrink to {slots} slots: name 1 to 2 of 3"):
            bundle.shrink(slots)
    for slots in (2, 3):
        with pytest.raises(ValueError, match=f"grow to {slots} slots: the bundle has 3"):
            bundle.grow(slots)


def test_what_was_left_behind_says_so() -> None:
    side = Side.of([1, 2, 3], ExecutorKind.LOOP, sgd)
    side.bundle.grow(4)
    x: Tensor = torch.rand(4, 9, 7)
    side.bundle(x).sum().backward()
    for part, call in (
        ("SGD", side.optimizer.step),
        ("SlotSchedule", side.schedule.step),
        ("SlotAverage", side.average.update),
        ("SlotGradScaler", lambda: side.scaler.scale(torch.ones(4))),
        ("SlotGradScaler", side.scaler.unscale_),
        ("SlotGradScaler", side.scaler.step),
        ("SlotGradScaler", side.scaler.update),
        ("SlotGradScaler", lambda: side.bundle.park(0, side.scaler)),
        ("SGD", lambda: side.optimizer.set(3, lr=0.1)),
        *((type(part).__name__, partial(part.slot_state, 3)) for part in side.parts),
        *((type(part).__name__, partial(part.reset_slot, 3)) for part in side.parts),
    ):
        with pytest.raises(FusionError, match=f"resized without its {part}"):
            call()
    with pytest.raises(FusionError, match="resized without its SGD"):
        side.bundle.grow(5, side.optimizer)
    assert side.bundle.slots == 4
    side.bundle.idle(3)
    side.bundle.shrink(3)  # as many as before, but not the same
    with pytest.raises(FusionError, match="resized without its SlotGradScaler"):
        side.scaler.scale(torch.ones(3))


def test_a_schedule_goes_with_its_optimizer() -> None:
    side = Side.of([1, 2, 3], ExecutorKind.LOOP, sgd)
    with pytest.raises(FusionError, match="resized without its SGD"):
        side.bundle.grow(5, side.schedule)
    assert side.bundle.slots == 3


class Slotted:
    __slots__ = ("bundle",)

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle


def test_what_has_no_slots_of_the_bundle_is_refused() -> None:
    side, other = (Side.of([1, 2, 3], ExecutorKind.LOOP, sgd) for _ in range(2))
    bundle = side.bundle
    parked = bundle.park(2, side.average)
    torchs = torch.optim.SGD(bundle.parameters())
    slotted: Any = Slotted(bundle)
    for part, sentence in (
        *((part, f"this {type(part).__name__} is of another bundle") for part in other.parts),
        (slotted, "a Slotted keeps its attributes in __slots__"),
        (torchs, "a SGD has no slots of a bundle"),
    ):
        for call in (
            lambda *parts: bundle.park(0, *parts),
            lambda *parts: bundle.unpark(2, parked, *parts),
            lambda *parts: bundle.grow(4, *parts),
            lambda *parts: bundle.shrink(2, *parts),
        ):
            with pytest.raises(FusionError, match=sentence):
                call(part)
    with pytest.raises(FusionError, match="the same SGD was given twice"):
        bundle.shrink(2, side.optimizer, side.optimizer)
    assert bundle.active == [True, True, False]
    side.trials[2] = None
    side.train(1)
