"""One value per slot of every hyperparameter, as tensors that are never collapsed to one number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

PerSlot = float | Sequence[float] | Tensor
Pair = tuple[float, float]


def over_slots(name: str, value: PerSlot, slots: int) -> Tensor:
    """[slots] float64 from one number for all or one for each; ValueError otherwise."""
    tensor = _numbers(name, value, f"a number, or one for each of {slots} slots").clone()
    if tensor.ndim == 0:
        return tensor.repeat(slots)
    if tensor.shape != (slots,):
        raise ValueError(f"{name} has shape {list(tensor.shape)}, not one number or [{slots}]")
    return tensor


def split_betas(betas: Pair | Sequence[Pair], slots: int) -> tuple[Tensor, Tensor]:
    """[slots] float64 of beta1 and of beta2, from one pair for all or one for each."""
    tensor = _numbers("betas", betas, f"a pair of numbers, or one for each of {slots} slots")
    if tensor.shape not in ((2,), (slots, 2)) or (tensor.ndim == 1 and tensor.shape != (2,)):
        raise ValueError(f"betas has shape {list(tensor.shape)}, not (2,) or ({slots}, 2)")
    beta1, beta2 = tensor.expand(slots, 2).clone().unbind(1)
    return beta1, beta2


def _numbers(name: str, value: object, wanted: str) -> Tensor:
    try:
        return torch.as_tensor(value, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} is {value!r}: it must be {wanted}") from error


def check_flags(values: Mapping[str, Tensor], flags: Iterable[str]) -> None:
    """ValueError unless these are truth values in every slot; `values` are [slots, G]."""
    for name in sorted(flags):
        is_wrong = (values[name] != 0) & (values[name] != 1)
        if bool(is_wrong.any()):
            slot, value = int(is_wrong.nonzero()[0, 0]), float(values[name][is_wrong][0])
            raise ValueError(f"{name} of slot {slot} is {value}: it must be True or False")


def check_range(
    values: Mapping[str, Tensor],
    ranges: Mapping[str, tuple[float, float]],
    given: Mapping[str, Tensor] | None = None,
) -> None:
    """ValueError unless low <= value < high in every slot, or where `given`, if that is said;
    `values` are [slots] or [slots, G]."""
    for name, (low, high) in ranges.items():
        is_wrong = ~((values[name] >= low) & (values[name] < high))
        if given is not None:
            is_wrong &= given[name]
        if bool(is_wrong.any()):
            slot = int(is_wrong.nonzero()[0, 0])
            value = float(values[name][is_wrong][0])
            raise ValueError(f"{name} of slot {slot} is {value}: it must be in [{low}, {high})")
