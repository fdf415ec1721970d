"""The loss of every slot from a loss function written for one model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hydro_hpc.errors import FusionError
from hydro_hpc.fusion.rows import split_slots, stack_rows, tensors_in

LossFunction = Callable[[Any, Any], Tensor]
IGNORED = -100  # the class that torch's function ignores unless told otherwise


class _Raised(Exception):  # noqa: N818 - a finding, not an error
    """torch's function for all slots at once raised: called for each, it says which is to blame."""


def losses(
    loss: LossFunction | Sequence[LossFunction],
    outputs: Any,
    targets: Any,
    *,
    failed: Callable[[int, Exception], None] | None = None,
    between: Callable[..., None] | None = None,
) -> Tensor:
    """[slots] losses; call backward on their SUM, so that no trial's gradient depends on F.

    `loss` takes ONE model's outputs and targets, in their unfused shapes, and returns a scalar; or
    it is a sequence with one such function per slot. `outputs` and `targets` are trees of tensors
    [slots, ...]; for targets that all slots share give `targets.expand(slots, *targets.shape)`.

    `failed(slot, error)` is told what one slot's function raises, and that slot's loss is 0 then,
    without a gradient; None: the first error comes through. `between` is called where the
    calculation may pause, and its backward.
    """
    slots = _slots(outputs, targets)
    if isinstance(loss, Sequence):
        if len(loss) != slots:
            raise FusionError(f"{len(loss)} loss functions were given for {slots} slots")
        return _one_by_one(loss, outputs, targets, slots, failed)
    if slots > 1 and _is_plain_cross_entropy(loss) and _are_classes(outputs, targets):
        with suppress(_Raised):
            return _cross_entropy(outputs, targets, between)
    return _one_by_one([loss] * slots, outputs, targets, slots, failed)


def _one_by_one(
    functions: Sequence[LossFunction],
    outputs: Any,
    targets: Any,
    slots: int,
    failed: Callable[[int, Exception], None] | None,
) -> Tensor:
    rows = zip(split_slots(outputs, slots), split_slots(targets, slots), strict=True)
    values: list[Tensor] = []
    for slot, (function, row) in enumerate(zip(functions, rows, strict=True)):
        try:
            value = function(*row)
        except Exception as error:  # the user's code: it may raise anything
            if failed is None:
                raise
            failed(slot, error)
            value = torch.zeros((), device=tensors_in(row)[0].device)
        if not isinstance(value, Tensor) or value.ndim:
            shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise FusionError(f"the loss function returned {shape}, not one number per model")
        values.append(value)
    return stack_rows(values)


def _is_plain_cross_entropy(loss: LossFunction) -> bool:
    """torch's own function, or its module with the function's defaults: one call does for all."""
    return loss is F.cross_entropy or (
        type(loss) is nn.CrossEntropyLoss
        and loss.weight is None
        and loss.ignore_index == IGNORED
        and loss.reduction == "mean"
        and loss.label_smoothing == 0.0
        and "forward" not in vars(loss)
        and not loss._forward_hooks
        and not loss._forward_pre_hooks
    )


def _are_classes(outputs: Any, targets: Any) -> bool:
    """Says whether targets [slots, batch] are classes of outputs [slots, batch, classes]."""
    return (
        isinstance(outputs, Tensor)
        and isinstance(targets, Tensor)
        and not targets.is_floating_point()
        and outputs.ndim == targets.ndim + 1
        and targets.ndim >= 2
    )


def _cross_entropy(
    outputs_FBC: Tensor, targets_FB: Tensor, between: Callable[..., None] | None
) -> Tensor:
    """The mean over each slot's own targets, without the ignored ones. In the two parts that torch
    has it from: each takes as long as a layer.
    """
    slots = outputs_FBC.size(0)
    logs = F.log_softmax(outputs_FBC.flatten(0, 1), dim=1)
    if between is not None:
        between()
    try:
        losses_of_targets = F.nll_loss(
            logs, targets_FB.flatten(0, 1), reduction="none", ignore_index=IGNORED
        )
    except Exception as error:  # a target that is no class, say
        raise _Raised from error
    per_target = losses_of_targets.view(slots, -1)
    if between is not None and logs.grad_fn is not None:
        logs.grad_fn.register_prehook(between)
    counted = (targets_FB != IGNORED).view(slots, -1).sum(1)
    return per_target.sum(1) / counted


def _slots(outputs: Any, targets: Any) -> int:
    plain = isinstance(outputs, Tensor) and isinstance(targets, Tensor)
    tensors = [outputs, targets] if plain else tensors_in((outputs, targets))
    sizes = [x.size(0) if x.ndim else None for x in tensors]
    if not sizes:
        raise FusionError("losses() was given no tensors")
    slots = sizes[0]
    if slots is None or any(size != slots for size in sizes):
        raise FusionError(
            f"losses() was given tensors with leading dimensions {sizes}: outputs and targets "
            "need one row per slot; for shared targets give targets.expand(slots, *targets.shape)"
        )
    return slots
