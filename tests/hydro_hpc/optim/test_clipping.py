"""Clipping equals torch's of every model alone; nothing in a slot changes another's."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hydro_hpc.fusion import Bundle, ExecutorKind
from hydro_hpc.optim import clip_grad_norm_, clip_grad_value_, clipping
from tests.hydro_hpc.optim.torch_oracle import (
    EXACT,
    SLOTS,
    assert_equal_gradients,
    backward_both,
    bundle_of,
    give_gradients,
    gradients,
    models,
)

KINDS = list(ExecutorKind)
SIZES = [100.0, 1.0, 0.01]  # the gradients of one slot are large


def with_gradients(kind: ExecutorKind, *, absent: bool = False) -> tuple[Bundle, list[nn.Module]]:
    nets = models()
    bundle = bundle_of(nets, kind)
    give_gradients(bundle, nets, step=3, absent=absent)
    for slot, net in enumerate(nets):
        for name, parameter in net.named_parameters():
            if parameter.grad is not None:
                found = gradients(bundle, name, slot)
                assert found is not None
                parameter.grad.mul_(SIZES[slot])
                found.mul_(SIZES[slot])
    return bundle, nets


def assert_clips_as_torch(
    bundle: Bundle, nets: list[nn.Module], limits: list[float], norm_type: float
) -> Tensor:
    norms_F = clip_grad_norm_(bundle, limits, norm_type)
    expected = [
        nn.utils.clip_grad_norm_(net.parameters(), limit, norm_type)
        for net, limit in zip(nets, limits, strict=True)
    ]
    torch.testing.assert_close(norms_F, torch.stack(expected), equal_nan=True, **EXACT)
    assert_equal_gradients(bundle, nets)
    return norms_F


@pytest.mark.parametrize("norm_type", [2.0, 1.0, math.inf, 3.5])
@pytest.mark.parametrize(
    ("kind", "absent"),
    [(ExecutorKind.GROUPED, False), (ExecutorKind.LOOP, False), (ExecutorKind.LOOP, True)],
)
def test_norms_are_clipped_as_in_torch(kind: ExecutorKind, absent: bool, norm_type: float) -> None:
    assert_clips_as_torch(*with_gradients(kind, absent=absent), [0.5, 2.0, 1.0], norm_type)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_a_poisoned_slot_is_torchs_and_the_others_are_as_ever(
    kind: ExecutorKind, poison: float
) -> None:
    bundle, nets = with_gradients(kind)
    found = gradients(bundle, "first.weight", 1)
    parameter = dict(nets[1].named_parameters())["first.weight"]
    assert found is not None
    assert parameter.grad is not None
    found[0, 0] = parameter.grad[0, 0] = poison
    norms_F = assert_clips_as_torch(bundle, nets, [0.5, 0.5, 0.5], 2.0)
    assert norms_F.isfinite().tolist() == [True, False, True]


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_clipped_as_in_torch(kind: ExecutorKind) -> None:
    bundle, nets = with_gradients(kind)
    found = gradients(bundle, "last.weight", 2)
    parameter = dict(nets[2].named_parameters())["last.weight"]
    assert found is not None
    assert parameter.grad is not None
    found[1, 1] = parameter.grad[1, 1] = math.nan
    limits = [0.5, math.inf, 0.001]
    clip_grad_value_(bundle, limits)
    for net, limit in zip(nets, limits, strict=True):
        nn.utils.clip_grad_value_(net.parameters(), limit)
    assert_equal_gradients(bundle, nets)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bundle_without_gradients_has_norms_of_zero(kind: ExecutorKind) -> None:
    assert clip_grad_norm_(bundle_of(models(), kind), 1.0).tolist() == [0.0] * SLOTS


def test_gradients_that_came_by_two_executors_are_clipped_as_one() -> None:
    """The bundle falls to the loop between two backward calls whose gradients add up."""
    for clip in (clip_grad_norm_, clip_grad_value_):
        nets = models()
        bundle = bundle_of(nets, ExecutorKind.GROUPED)
        backward_both(bundle, nets, 0)
        bundle._fall_to_loop("for this test")
        backward_both(bundle, nets, 1)
        clip(bundle, 0.05)
        for net in nets:
            getattr(nn.utils, clip.__name__)(net.parameters(), 0.05)
        assert_equal_gradients(bundle, nets, rtol=1e-10, atol=1e-13)
        [gathered] = bundle.gradients()
        own = [[p.grad.reshape(-1) for p in n.parameters() if p.grad is not None] for n in nets]
        expected_FP = torch.stack([torch.cat(grads) for grads in own])
        torch.testing.assert_close(gathered.values, expected_FP, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("clip", [clip_grad_norm_, clip_grad_value_])
@pytest.mark.parametrize("kind", KINDS)
def test_clipping_can_pause_within(kind: ExecutorKind, clip: Any) -> None:
    bundle, _ = with_gradients(kind)
    pauses: list[None] = []
    clip(bundle, 1.0, between=lambda: pauses.append(None))
    assert len(pauses) >= SLOTS


def test_wrong_limits_are_refused() -> None:
    bundle = bundle_of(models(), ExecutorKind.GROUPED)
    with pytest.raises(ValueError, match=r"max_norm of slot 1 is -1\.0: it must not be negative"):
        clip_grad_norm_(bundle, [1.0, -1.0, 1.0])
    with pytest.raises(ValueError, match="clip_value of slot 0 is nan"):
        clip_grad_value_(bundle, math.nan)


def over_all_slots(*args: Any) -> Tensor:
    """A mutant: one norm over the whole bundle."""
    norms_F = own_norms(*args)
    return torch.linalg.vector_norm(norms_F).expand(norms_F.shape)


def of_the_neighbour(*args: Any) -> Tensor:
    return own_norms(*args).roll(1)


own_norms = clipping._norms


@pytest.mark.parametrize("mutant", [over_all_slots, of_the_neighbour])
def test_a_norm_of_other_slots_would_be_seen(mutant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clipping, "_norms", mutant)
    with pytest.raises(AssertionError, match="not close"):
        assert_clips_as_torch(*with_gradients(ExecutorKind.GROUPED), [0.5, 2.0, 1.0], 2.0)
