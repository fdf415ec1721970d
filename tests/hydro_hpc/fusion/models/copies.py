"""Models of which a copy is another model: something is shared or hung on a tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.hydro_hpc.fusion.models.architecture import (
    BATCH,
    CLASSES,
    Architecture,
    Batch,
    vectors,
)


class Renormalized(nn.Module):
    """Rows of unit length, put there before each use; the other weight is clipped in place."""

    def __init__(self, by_assignment: bool) -> None:
        super().__init__()
        self.by_assignment = by_assignment
        self.fc, self.head = nn.Linear(6, 8), nn.Linear(8, CLASSES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.by_assignment:
            self.head.weight.data = F.normalize(self.head.weight.data, dim=1)
        elif self.training:
            self.head.weight.data.copy_(F.normalize(self.head.weight.data, dim=1))
            self.fc.weight.data.clamp_(-0.3, 0.3)
        return 4 * self.head(F.normalize(self.fc(x), dim=1))


class TiedByData(nn.Module):
    """Two parameters in one memory: both gradients move it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 4), nn.Linear(4, 6)
        self.decoder.weight.data = self.encoder.weight.data.transpose(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(torch.relu(self.encoder(x)))


def to_itself() -> Batch:
    x = torch.randn(BATCH, 6)
    return Batch(args=(x,), targets=x.clone())


class LambdaHook(nn.Module):
    """A hook that is a closure over the model, as in most notebooks."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(6, 8), nn.Linear(8, CLASSES)
        self.gain = nn.Parameter(torch.rand(8) + 0.5)
        self.fc.register_forward_hook(lambda _module, _args, output: output * self.gain)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.fc(x)))


class LambdaBlock(nn.Module):
    """A part of the forward that is a closure over the model."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)
        self.block = lambda x: x + F.relu(self.fc2(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.fc1(x)))


class ParameterHook(nn.Module):
    """Gradients of one weight are masked, as in pruning, and of another clipped."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(6, 8), nn.Linear(8, CLASSES)
        mask = (torch.arange(48).view(8, 6) % 3 > 0).double()
        self.fc.weight.register_hook(lambda grad: grad * mask)
        self.head.weight.register_hook(lambda grad: grad.clamp(-0.01, 0.01))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.fc(x)))


@dataclass(frozen=True)
class InfShape:
    base: int
    width: int

    def width_mult(self) -> float:
        return self.width / self.base


class MuReadout(nn.Module):
    """Reads what a package has hung on its weight, as mup's layer does."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.weight = nn.Linear(6, 8), nn.Parameter(torch.randn(CLASSES, 8) / 3)
        self.weight.infshape = InfShape(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.relu(self.fc(x)) / self.weight.infshape.width_mult(), self.weight)


class BufferViews(nn.Module):
    """Two names for parts of one buffer, which the forward updates as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, CLASSES)
        self.register_buffer("bank", torch.randn(6, CLASSES))
        self.short, self.long = self.bank[:2], self.bank[2:]

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x) + self.short.mean(0) - self.long.mean(0)
        if self.training:
            with torch.no_grad():
                self.bank.lerp_(y.mean(0).expand_as(self.bank), 0.3)
        return y


ALL: Final = (
    Architecture(
        name="renormalized_in_place",
        make=lambda: Renormalized(by_assignment=False),
        batch=vectors,
        why="the forward writes into weights behind autograd's back",
    ),
    Architecture(
        name="renormalized_by_assignment",
        make=lambda: Renormalized(by_assignment=True),
        batch=vectors,
        why="a weight that has got other memory is out of the optimizer's reach",
    ),
    Architecture(
        name="tied_by_data",
        make=TiedByData,
        batch=to_itself,
        loss=F.mse_loss,
        why="weights tied through their memory, and not as objects",
        refused="in the same memory",
    ),
    Architecture(
        name="hook_by_lambda",
        make=LambdaHook,
        batch=vectors,
        why="a copy of the model has a hook that still means the original",
    ),
    Architecture(
        name="block_by_lambda",
        make=LambdaBlock,
        batch=vectors,
        why="the same without a hook: a copied closure still calls the original's layers",
    ),
    Architecture(
        name="parameter_hooks",
        make=ParameterHook,
        batch=vectors,
        why="hooks of a parameter are lost when it is copied",
    ),
    Architecture(
        name="parameter_attributes",
        make=MuReadout,
        batch=vectors,
        why="what is hung on a parameter is lost when it is copied",
    ),
    Architecture(
        name="buffer_views",
        make=BufferViews,
        batch=vectors,
        why="memory that two tensors share is shared no more after a copy",
        refused="in the same memory",
    ),
)
