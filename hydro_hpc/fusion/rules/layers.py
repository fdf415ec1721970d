"""`torch.nn.functional`, and the same functions under other names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from hydro_hpc.nn import functional


def layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    return functional.layer_norm(x, weight, bias, shape=normalized_shape, eps=eps)


def rms_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    return functional.rms_norm(x, weight, shape=normalized_shape, eps=eps)


SAME_NAME: Final = tuple(
    name for name in functional.__all__ if name not in ("layer_norm", "rms_norm")
)

FUNCTIONS: Final[dict[Callable[..., Any], Callable[..., Any]]] = {
    **{getattr(F, name): getattr(functional, name) for name in SAME_NAME},
    F.layer_norm: layer_norm,
    F.rms_norm: rms_norm,
    torch.log_softmax: functional.log_softmax,
    torch.prelu: functional.prelu,
    torch.softmax: functional.softmax,
}
METHODS: Final[dict[str, Callable[..., Any]]] = {
    "log_softmax": functional.log_softmax,
    "softmax": functional.softmax,
}
