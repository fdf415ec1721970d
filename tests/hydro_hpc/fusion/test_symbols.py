"""What a forward asks of symbols and writes over: answered as for tensors, or not looked into."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, is_grad_enabled, nn

from hydro_hpc.fusion import ExecutorKind, bind
from tests.hydro_hpc.fusion.architectures import build

SLOTS, BATCH, TIME, WIDTH = 3, 5, 4, 6


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("centre", torch.zeros(WIDTH))


class AsksIsInstance(Base):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y: Tensor = self.fc(x)
        return y * mask.unsqueeze(-1) if isinstance(mask, Tensor) else y


class AsksIsTensor(Base):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y: Tensor = self.fc(x)
        return y * mask.unsqueeze(-1) if torch.is_tensor(mask) else y


class MatchesAClass(Base):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y: Tensor = self.fc(x)
        match mask:
            case Tensor():
                return y * mask.unsqueeze(-1)
            case _:
                return y


class BuildsABias(Base):
    """As torch's documentation writes attention."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q = self.fc(x)
        bias = torch.zeros(TIME, TIME, dtype=q.dtype)
        bias.masked_fill_(mask.bool().all(0).logical_not(), float("-inf"))
        return F.softmax(q @ q.mT + bias, dim=-1) @ q


class AddsToATotal(Base):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.fc(x)
        total = torch.zeros((), dtype=y.dtype)
        total += (y * mask.unsqueeze(-1)).mean()
        return y + total


class ClampsAView(Base):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.fc(x) * mask.unsqueeze(-1)
        y.view(-1).clamp_(-0.5, 0.5)
        return y


class ReadsAView(Base):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.fc(x) * mask.unsqueeze(-1)
        view = y.flatten(1)
        y.clamp_(-0.5, 0.5)
        return view.sum(1)


class ClampsItsWeight(Base):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        self.fc.weight.data.view(-1).clamp_(-0.2, 0.2)
        return self.fc(x) * mask.unsqueeze(-1)


class AssignsUnderAnotherName(Base):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = skip = self.fc(x)
        y -= self.centre + mask.mean() - 1.0
        return torch.tanh(y) + skip


class AsksForGradients(Base):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.fc(x) * mask.unsqueeze(-1)
        return torch.tanh(y) if y.requires_grad else y


class AsksForAGradFunction(Base):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.fc(x) * mask.unsqueeze(-1)
        return y * 2 if y.grad_fn is None else y


class AsksByItsOwnName(Base):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y: Tensor = self.fc(x) * mask.unsqueeze(-1)
        return torch.tanh(y) if is_grad_enabled() else y


class GoesOnWithoutAValue(Base):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        try:
            scale = 1.0 if bool(mask.all()) else 2.0
        except Exception:
            scale = 1.0
        return self.fc(x) * scale


class GoesOnWithoutANumber(Base):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        try:
            length = int(mask.sum(1).max())
        except Exception:
            length = x.size(1)
        return self.fc(x[:, :length]).sum(1)


ANSWERED = (AsksIsInstance, AsksIsTensor)
NOT_LOOKED_INTO = (
    MatchesAClass,
    BuildsABias,
    AddsToATotal,
    ClampsAView,
    ReadsAView,
    ClampsItsWeight,
    AssignsUnderAnotherName,
    AsksForGradients,
    AsksForAGradFunction,
    AsksByItsOwnName,
    GoesOnWithoutAValue,
    GoesOnWithoutANumber,
)


def masks(*, full: bool) -> Tensor:
    whole = torch.ones(BATCH, TIME, dtype=torch.float64)
    if full:
        return whole
    whole[:, TIME // 2 :] = 0.0
    return whole


@pytest.mark.parametrize("kind", [None, ExecutorKind.GROUPED, ExecutorKind.VMAP])
@pytest.mark.parametrize("make", [*ANSWERED, *NOT_LOOKED_INTO])
def test_values_stay_right_when_the_example_shows_no_difference(
    make: type[Base], kind: ExecutorKind | None
) -> None:
    """The example's mask is full, and its values are small."""
    models = build(make, SLOTS)
    x = torch.randn(BATCH, TIME, WIDTH, dtype=torch.float64)
    bundle = bind(models, example=(x * 0.01, masks(full=True)), executor=kind, choices=())
    for full in (True, False, False):
        inputs = [torch.randn_like(x) * 3 for _ in models]
        found = bundle(torch.stack(inputs), masks(full=full).expand(SLOTS, -1, -1))
        for output, model, own in zip(found, models, inputs, strict=True):
            torch.testing.assert_close(output, model(own, masks(full=full)))
    with torch.no_grad():
        found = bundle(torch.stack(inputs), masks(full=True).expand(SLOTS, -1, -1))
        for output, model, own in zip(found, models, inputs, strict=True):
            torch.testing.assert_close(output, model(own, masks(full=True)))


@pytest.mark.parametrize("make", ANSWERED)
def test_who_asks_whether_a_symbol_is_a_tensor_is_grouped(make: type[Base]) -> None:
    example = (torch.randn(BATCH, TIME, WIDTH, dtype=torch.float64), masks(full=True))
    bundle = bind(build(make, SLOTS), example=example, executor=ExecutorKind.GROUPED, choices=())
    assert bundle.report.executor is ExecutorKind.GROUPED
    assert not bundle.report.per_slot


def test_a_write_that_nobody_else_reads_stays_grouped() -> None:
    class Plain(Base):
        def forward(self, x: Tensor) -> Tensor:
            y = self.fc(x)
            y += 1.0
            y.mul_(2.0)
            largest, places = y.topk(2)
            largest /= 2.0
            return y.flatten(1).relu_().sum(1) + (largest * places).sum((1, 2))

    example = torch.randn(BATCH, TIME, WIDTH, dtype=torch.float64)
    bundle = bind(build(Plain, SLOTS), example=example, executor=ExecutorKind.GROUPED, choices=())
    assert bundle.report.executor is ExecutorKind.GROUPED
    assert not bundle.report.per_slot
