"""What fused modules keep for backward: no more than separate ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from hydro_hpc.nn import functional

SLOTS, ROWS, WIDTH = 3, 40, 7


def kept_bytes(forward: Callable[[], Tensor]) -> int:
    """Of the distinct tensors that a forward keeps for its backward."""
    kept: dict[int, Tensor] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.data_ptr()] = x
        return x

    with saved_tensors_hooks(keep, lambda x: x):
        forward()
    return sum(x.numel() * x.element_size() for x in kept.values())


def test_layer_norm_keeps_its_input_alone() -> None:
    x = torch.randn(SLOTS, ROWS, WIDTH, requires_grad=True)
    gains, shifts = (torch.randn(SLOTS, WIDTH, requires_grad=True) for _ in range(2))
    norms = [nn.LayerNorm(WIDTH) for _ in range(SLOTS)]
    ours = kept_bytes(lambda: functional.layer_norm(x, gains, shifts, shape=[WIDTH], eps=1e-5))
    separate = sum(
        kept_bytes(lambda norm=norm, row=row: norm(row))  # type: ignore[misc]
        for norm, row in zip(norms, x.unbind(), strict=True)
    )
    assert ours <= separate
