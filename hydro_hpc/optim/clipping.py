"""Clipping of gradients by norm and by value, each slot by itself. F slots, N parameters."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hydro_hpc.fusion.bundle import Bundle
from hydro_hpc.optim.arguments import require_bundle
from hydro_hpc.optim.hyperparameters import PerSlot, over_slots
from hydro_hpc.optim.leaf_gradients import LeafGradients, leaf_gradients


@torch.no_grad()
def clip_grad_norm_(
    bundle: Bundle,
    max_norm: PerSlot,
    norm_type: float = 2.0,
    *,
    between: Callable[[], None] = lambda: None,
) -> Tensor:
    """[slots] norms of the slots' gradients, which are then no longer than `max_norm`.

    In every slot what `torch.nn.utils.clip_grad_norm_` does to its model alone; `max_norm` is one
    number or one per slot. A norm that is NaN or infinite makes its own slot's gradients NaN or
    zero, as torch has it, and no others. `between` is called where this may pause.
    """
    require_bundle(bundle, "clip_grad_norm_")
    limits_F = _limits("max_norm", max_norm, bundle.slots)
    found = leaf_gradients(bundle, between)
    norms_F = _norms(found, norm_type)
    factors_F = (norms_F + 1e-6).reciprocal() * limits_F.to(norms_F)  # torch's order of operations
    found.multiply_(factors_F.clamp(max=1.0))
    return norms_F


@torch.no_grad()
def clip_grad_value_(
    bundle: Bundle, clip_value: PerSlot, *, between: Callable[[], None] = lambda: None
) -> None:
    """Limits each gradient to [-clip_value, clip_value], one number or one per slot, as
    `torch.nn.utils.clip_grad_value_` does. `between` is called where this may pause."""
    require_bundle(bundle, "clip_grad_value_")
    limits_F = _limits("clip_value", clip_value, bundle.slots)
    found = leaf_gradients(bundle, between)
    for grad_FP in found.of_slots():
        limits_F1 = limits_F.to(grad_FP)[:, None]
        grad_FP.clamp_(min=-limits_F1, max=limits_F1)
    limits = limits_F.tolist()
    for slot, row in found.of_one_slot():
        torch._foreach_clamp_min_(row, -limits[slot])
        torch._foreach_clamp_max_(row, limits[slot])


def _norms(found: LeafGradients, norm_type: float) -> Tensor:
    """[slots]: the norm of the norms of each slot's gradients."""

    def norm(norms: list[Tensor]) -> Tensor:
        found_F: Tensor = torch.linalg.vector_norm(torch.stack(norms), norm_type, dim=0)
        return found_F

    stacked = [torch.linalg.vector_norm(g_FP, norm_type, dim=1) for g_FP in found.of_slots()]
    if stacked and not any(found.rows):
        return norm(stacked)
    own = [[norm_F[slot] for norm_F in stacked] for slot in range(len(found.rows))]
    for slot, row in found.of_one_slot():
        own[slot] += torch._foreach_norm(row, norm_type)
    none = next((norms[0].new_zeros(()) for norms in own if norms), torch.zeros(()))
    return torch.stack([norm(norms) if norms else none for norms in own])


def _limits(name: str, value: PerSlot, slots: int) -> Tensor:
    """[slots] float64, not negative; infinite where nothing is to be clipped."""
    limits_F = over_slots(name, value, slots)
    for slot, limit in enumerate(limits_F.tolist()):
        if not limit >= 0.0:
            raise ValueError(f"{name} of slot {slot} is {limit}: it must not be negative")
    return limits_F
