"""Loss scaling of every slot equals torch's GradScaler of its model."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hydro_hpc import optim
from hydro_hpc.errors import FusionError
from hydro_hpc.fusion import ExecutorKind, bind
from hydro_hpc.optim import SlotGradScaler, clip_grad_norm_, scaler
from tests.hydro_hpc.optim.torch_oracle import (
    SLOTS,
    assert_equal,
    assert_equal_gradients,
    backward_both,
    bundle_of,
    models,
    torch_optimizers,
)

CLOSE = {"rtol": 1e-10, "atol": 1e-13}
SCALES = [2.0**10, 3.0, 2.0**4]
SETTINGS = {
    "growth_factor": [2.0, 1.5, 3.0],
    "backoff_factor": [0.5, 0.25, 0.7],
    "growth_interval": [2, 3, 4],
}
POISONED = {(2, 1): math.inf, (3, 1): math.nan, (5, 0): math.nan, (6, 2): math.inf}


def torch_scaler(slot: int) -> torch.amp.GradScaler:
    made = torch.amp.GradScaler(
        "cpu",
        init_scale=SCALES[slot],
        growth_factor=SETTINGS["growth_factor"][slot],
        backoff_factor=SETTINGS["backoff_factor"][slot],
        growth_interval=int(SETTINGS["growth_interval"][slot]),
    )
    made.scale(torch.zeros(()))  # it makes its state at the first use
    return made


class Side:
    """A bundle and its scaler beside models and theirs; at some steps a slot's loss explodes."""

    def __init__(self, kind: ExecutorKind) -> None:
        self.nets: list[nn.Module] = models()
        self.bundle = bundle_of(self.nets, kind)
        rates = [0.1, 0.01, 0.05]
        self.ours = optim.AdamW(self.bundle, lr=rates)
        self.scaler = SlotGradScaler(self.ours, init_scale=SCALES, **SETTINGS)
        self.theirs = torch_optimizers("AdamW", {"lr": rates}, self.nets)
        self.scalers = [torch_scaler(slot) for slot in range(SLOTS)]
        self.num_steps = 0

    def backward(self) -> None:
        factors = [POISONED.get((self.num_steps, slot), 1.0) for slot in range(SLOTS)]
        factors_F = torch.tensor(factors, dtype=torch.float64)
        backward_both(
            self.bundle,
            self.nets,
            self.num_steps,
            ours=lambda losses_F: self.scaler.scale(losses_F * factors_F),
            theirs=lambda slot, loss: self.scalers[slot].scale(loss * factors_F[slot]),
        )
        self.num_steps += 1

    def clip(self) -> None:
        self.scaler.unscale_()
        norms_F = clip_grad_norm_(self.bundle, 0.1)
        for slot, net in enumerate(self.nets):
            self.scalers[slot].unscale_(self.theirs[slot])
            norm = nn.utils.clip_grad_norm_(net.parameters(), 0.1)
            torch.testing.assert_close(norms_F[slot], norm, equal_nan=True, **CLOSE)
        assert_equal_gradients(self.bundle, self.nets, **CLOSE)

    def step(self, *, clips: bool) -> None:
        self.backward()
        if clips:
            self.clip()
        self.scaler.step()
        self.scaler.update()
        self.ours.zero_grad()
        for slot, optimizer in enumerate(self.theirs):
            self.scalers[slot].step(optimizer)
            self.scalers[slot].update()
            optimizer.zero_grad()
            assert self.scaler.slot_state(slot) == self.scalers[slot].state_dict()


@pytest.mark.parametrize("clips", [False, True])
@pytest.mark.parametrize("kind", list(ExecutorKind))
def test_scales_and_steps_are_torchs(kind: ExecutorKind, clips: bool) -> None:
    side = Side(kind)
    for _ in range(12):
        side.step(clips=clips)
        assert_equal(side.bundle, side.nets, **CLOSE)
    for slot, optimizer in enumerate(side.theirs):
        ours, theirs = side.ours.slot_state(slot)["state"], optimizer.state_dict()["state"]
        assert ours[1]["step"] == theirs[1]["step"]


def test_a_slot_that_is_skipped_leaves_the_others_bit_identical() -> None:
    found = []
    torch.manual_seed(0)
    nets = models()
    for poison in (1.0, math.inf):
        bundle = bundle_of(nets, ExecutorKind.GROUPED)
        scaler = SlotGradScaler(optim.Adam(bundle, lr=0.1))
        x = torch.ones(SLOTS, 5, 4).double()
        for factor in (1.0, poison, 1.0):
            losses_F = bundle(x).sum(dim=(1, 2)) * torch.tensor([1.0, factor, 1.0])
            scaler.scale(losses_F).sum().backward()
            scaler.step()
            assert scaler.is_skipped == [False, factor == math.inf, False]
            scaler.update()
            bundle.zero_grad()
        assert bundle.streams.steps == [3] * SLOTS  # a skipped step moves the stream on
        found.append([bundle.unbind(slot).state_dict() for slot in (0, 2)])
    for ours, others in zip(*found, strict=True):
        assert all(torch.equal(ours[name], others[name]) for name in ours)
    assert scaler.scales.tolist() == [2.0**16, 2.0**15, 2.0**16]


def test_nobody_steps_if_all_are_skipped() -> None:
    bundle = bundle_of(models(), ExecutorKind.GROUPED)
    scaler = SlotGradScaler(optim.Adam(bundle, lr=0.1))
    before = [bundle.unbind(slot).state_dict() for slot in range(SLOTS)]
    bundle.idle(1)
    losses_F = bundle(torch.ones(SLOTS, 5, 4).double()).sum(dim=(1, 2))
    scaler.scale(losses_F * math.nan).sum().backward()
    scaler.step()
    scaler.update()
    for slot in range(SLOTS):
        after = bundle.unbind(slot).state_dict()
        assert all(torch.equal(after[name], before[slot][name]) for name in after)
    assert bundle.streams.steps == [1, 0, 1]
    assert scaler.scales.tolist() == [2.0**15, 2.0**16, 2.0**15]


def test_a_slot_goes_on_from_torchs_state_and_torch_from_its() -> None:
    side = Side(ExecutorKind.GROUPED)
    for _ in range(5):
        side.step(clips=False)
    states = [side.scaler.slot_state(slot) for slot in range(SLOTS)]
    for slot in range(SLOTS):
        side.scaler.reset_slot(slot, init_scale=7.0)
        side.scaler.load_slot_state(slot, side.scalers[slot].state_dict())
        side.scalers[slot] = torch_scaler(slot)
        side.scalers[slot].load_state_dict(states[slot])
    for _ in range(6):
        side.step(clips=False)


def test_the_next_trial_of_a_slot_begins_with_the_first_scale() -> None:
    bundle = bundle_of(models(), ExecutorKind.GROUPED)
    scaler = SlotGradScaler(optim.SGD(bundle), init_scale=SCALES)
    scaler.update(new_scale=[5.0, 6.0, 7.0])
    assert scaler.scales.tolist() == [5.0, 6.0, 7.0]
    scaler.reset_slot(1)
    scaler.reset_slot(2, init_scale=9.0)
    assert scaler.scales.tolist() == [5.0, SCALES[1], 9.0]


def test_outputs_keep_their_precision_and_losses_that_of_the_scale() -> None:
    scaler = SlotGradScaler(optim.SGD(bundle_of(models(), ExecutorKind.GROUPED)))
    losses_F = torch.ones(SLOTS, dtype=torch.float16)
    assert scaler.scale(losses_F).tolist() == [2.0**16] * SLOTS  # more than float16 can hold
    outputs = scaler.scale(torch.full((SLOTS, 2), 2.0**-9, dtype=torch.float16))
    assert outputs.dtype is torch.float16
    assert outputs.tolist() == [[128.0, 128.0]] * SLOTS
    with pytest.raises(FusionError, match=r"\[2, 3\] is not \[3 slots, \.\.\.\]"):
        scaler.scale(torch.ones(2, 3))


def test_calls_out_of_order_are_refused() -> None:
    bundle = bundle_of(models(), ExecutorKind.GROUPED)
    scaler = SlotGradScaler(optim.SGD(bundle))
    with pytest.raises(FusionError, match=r"update\(\) before unscale_\(\) or step\(\)"):
        scaler.update()
    scaler.unscale_()
    with pytest.raises(FusionError, match=r"unscale_\(\) after unscale_\(\)"):
        scaler.unscale_()
    scaler.step()
    with pytest.raises(FusionError, match=r"step\(\) after step\(\)"):
        scaler.step()
    with pytest.raises(FusionError, match=r"unscale_\(\) after step\(\)"):
        scaler.unscale_()
    scaler.update()
    scaler.step()


def test_half_precision_parameters_are_refused() -> None:
    bundle = bind([nn.Linear(4, 2).half() for _ in range(SLOTS)])
    with pytest.raises(FusionError, match="parameters are float16: keep them in float32"):
        SlotGradScaler(optim.SGD(bundle)).unscale_()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"init_scale": [1.0, math.nan, 1.0]}, "scale of slot 1 is nan"),
        ({"growth_factor": 0.5}, "growth_factor of slot 0 is 0.5"),
        ({"backoff_factor": 1.5}, "backoff_factor of slot 0 is 1.5"),
        ({"growth_interval": [1, 2, 0]}, "growth_interval of slot 2 is 0"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], sentence: str) -> None:
    optimizer = optim.SGD(bundle_of(models(), ExecutorKind.GROUPED))
    with pytest.raises(ValueError, match=sentence):
        SlotGradScaler(optimizer, **settings)


own_infinite = scaler._infinite


def in_any_slot(*args: Any) -> Tensor:
    """A mutant: one slot's infinity skips every slot's step."""
    found_F = own_infinite(*args)
    return found_F.any().expand(found_F.shape)


def in_the_neighbour(*args: Any) -> Tensor:
    return own_infinite(*args).roll(1)


def in_no_slot(*args: Any) -> Tensor:
    return torch.zeros_like(own_infinite(*args))


@pytest.mark.parametrize("mutant", [in_any_slot, in_the_neighbour, in_no_slot])
def test_an_infinity_of_other_slots_would_be_seen(
    mutant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaler, "_infinite", mutant)
    side = Side(ExecutorKind.GROUPED)
    side.step(clips=False)
    side.step(clips=False)
    with pytest.raises(AssertionError):
        side.step(clips=False)  # slot 1's loss is infinite now
