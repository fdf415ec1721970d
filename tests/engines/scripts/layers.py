"""What the engines' scripts train: layers of a few numbers, whose work takes its time asleep.

Sleep stands for compute: it makes bubbles that are long on any machine, however busy.
"""

from __future__ import annotations

import json
import time
from typing import Any

import torch
from torch import nn

WIDTH = 8
BATCH = 4


class _Work(torch.autograd.Function):
    """The identity, which takes `work_ms` forward and as much backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, work_ms: float) -> torch.Tensor:
        ctx.work_ms = work_ms
        time.sleep(work_ms / 1000)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        time.sleep(ctx.work_ms / 1000)
        return gradient, None


class Layer(nn.Module):
    """Draws its weights from its own seed, so that they do not depend on the stages."""

    def __init__(self, seed: int, work_ms: float) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.work_ms = work_ms

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.linear(_Work.apply(x, self.work_ms)))


def microbatch(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(number)
    x, target = torch.randn(2, BATCH, WIDTH, generator=generator)
    return x, target


def report(losses: dict[str, list[float]], **more: Any) -> None:
    """Prints this rank's losses, bit by bit, by what was run, as its last line."""
    exact = {name: [loss.hex() for loss in own] for name, own in losses.items()}
    print("\n" + json.dumps({"losses": exact, **more}), flush=True)
