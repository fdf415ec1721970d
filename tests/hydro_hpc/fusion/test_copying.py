"""A copy of a model has nothing of the original, and all that it had."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hydro_hpc.errors import FusionError
from hydro_hpc.fusion import bind
from hydro_hpc.fusion.copying import own_copy
from tests.hydro_hpc.fusion.architectures import vectors


class Closures(nn.Module):
    """Everything that a notebook hangs on a model."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(6, 6), nn.Linear(6, 4)
        self.gain = nn.Parameter(torch.rand(6) + 0.5)
        layers = [self.fc, self.head]
        self.block = lambda x: layers[0](x) * self.gain
        self.bound = partial(torch.mul, other=self.gain)
        self.fc.register_forward_hook(lambda _module, _args, output: output + self.gain)
        self.gain.register_hook(lambda gradient: gradient * 0.5)
        self.gain.kind = "gain"

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bound(self.block(x)))


def test_closures_hooks_and_attributes_are_those_of_the_copy() -> None:
    model = Closures().double()
    copied: Any = own_copy(model, "model")
    x = vectors()
    torch.testing.assert_close(copied(x), model(x))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert copied(x).abs().min() > 0
    copied(x).sum().backward()
    assert all(parameter.grad is not None for parameter in copied.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert copied.gain.kind == "gain"


def test_hooks_of_parameters_act_on_the_copys_gradients() -> None:
    model = nn.Linear(6, 4).double()
    model.weight.register_hook(lambda gradient: gradient * 0)
    steps: list[Tensor] = []
    model.bias.register_post_accumulate_grad_hook(steps.append)
    copied: Any = own_copy(model, "model")
    copied(vectors()).sum().backward()
    assert copied.weight.grad.abs().max() == 0
    assert steps[0] is copied.bias


def test_a_function_that_knows_nothing_of_the_model_stays_the_same() -> None:
    seen: list[int] = []
    model = nn.Linear(2, 2)
    model.register_forward_hook(lambda *_: seen.append(1))
    copied = own_copy(model, "model")
    copied(torch.zeros(1, 2))
    assert seen == [1]


class Views(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 4)
        self.register_buffer("bank", torch.randn(6, 4))
        self.short = self.bank[:2]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + self.short.mean(0)


class TiedByData(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec = nn.Linear(6, 4), nn.Linear(4, 6)
        self.dec.weight.data = self.enc.weight.data.t()

    def forward(self, x: Tensor) -> Tensor:
        return self.dec(self.enc(x))


@pytest.mark.parametrize(
    ("make", "names"),
    [(Views, "'bank' and 'short'"), (TiedByData, "'enc.weight' and 'dec.weight'")],
)
def test_memory_that_two_tensors_share_is_refused(make: type[nn.Module], names: str) -> None:
    with pytest.raises(FusionError, match="in the same memory") as error:
        bind([make(), make()])
    first, _, second = names.partition(" and ")
    assert first in str(error.value)
    assert second in str(error.value)
