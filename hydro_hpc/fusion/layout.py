"""Images with their channels last in memory, where many kernels are faster.

torch's kernels go by the memory of what they get, and give the same back: so it is enough to lay
out the inputs. What is computed stays the same, up to rounding and the order of random draws, and
is verified like anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import torch
from torch import Tensor

from hydro_hpc.fusion.inputs import InputForm

RANKS: Final = (4, 5)  # of one model's batch of images [B, C, H, W] or volumes [B, C, D, H, W]


def has_images(tensors: Sequence[Tensor]) -> bool:
    """Says whether there are any among these tensors [slots, ...]."""
    return any(_are_images(x) for x in tensors)


def within_slots(form: InputForm) -> InputForm:
    """In memory [F, B, H, W, C]: each slot's images are as torch's `channels_last`."""
    return _laid_out(form, _within_slots)


def across_slots(form: InputForm) -> InputForm:
    """In memory [B, H, W, F, C]: the channels of all slots are as one model's `channels_last`."""
    return _laid_out(form, _across_slots)


def _laid_out(form: InputForm, lay_out: Callable[[Tensor], Tensor]) -> InputForm:
    return form.with_tensors([lay_out(x) if _are_images(x) else x for x in form.tensors])


def _are_images(x: Tensor) -> bool:
    return x.ndim - 1 in RANKS and x.is_floating_point()


def _within_slots(x_FBC: Tensor) -> Tensor:
    return _dense(x_FBC.movedim(2, -1)).movedim(-1, 2)


def _across_slots(x_FBC: Tensor) -> Tensor:
    if x_FBC.stride(0) == 0:  # every slot sees the same batch
        return _within_slots(x_FBC[:1]).expand(x_FBC.shape)
    return _dense(x_FBC.movedim((0, 2), (-2, -1))).movedim((-2, -1), (0, 2))


def _dense(x: Tensor) -> Tensor:
    """A copy, whose axes of size 1 have their strides too, which `contiguous` leaves alone."""
    return x.clone(memory_format=torch.contiguous_format)
