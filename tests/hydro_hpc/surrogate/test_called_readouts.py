"""A readout's multiplier is a hook: models that use a readout without calling it are refused."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate import shrink
from tests.hydro_hpc.surrogate.against_target import NARROW, TARGET, M, multipliers

EXAMPLE = torch.randn(4, 8)


class Two(nn.Module):
    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]


class Forwarded(Two):
    def forward(self, x: Tensor) -> Tensor:
        for layer in self.net:
            x = layer.forward(x)
        return x


class Named(Two):
    def forward(self, x: Tensor) -> Tensor:
        p = dict(self.named_parameters())
        h = (x @ p["net.0.weight"].T + p["net.0.bias"]).relu()
        return h @ p["net.2.weight"].T + p["net.2.bias"]


class Children(nn.Module):
    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.into, self.head = nn.Linear(8, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = F.linear(x, layer.weight, layer.bias)
        return x


class HeadForward(Children):
    def forward(self, x: Tensor) -> Tensor:
        return self.head.forward(self.into(x).relu())


class Besides(Children):
    """It is called, too."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.into(x).relu()
        weight = dict(self.head.named_parameters())["weight"]
        return self.head(h) + h @ weight.T  # type: ignore[no-any-return]


class Stacked(nn.Module):
    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.into = nn.Linear(8, width)
        self.heads = nn.ModuleList([nn.Linear(width, 3) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.stack([head.weight for head in self.heads])
        return torch.einsum("bd,kod->bko", self.into(x).relu(), weight)


FORMS = {
    Forwarded: ("net.2", "layer(x)"),
    Named: ("net.2", "layer(x)"),
    Children: ("head", "self.head(x)"),
    HeadForward: ("head", "self.head(x)"),
    Besides: ("head", "self.head(x)"),
    Stacked: ("heads.0", "layer(x)"),
}


def said(path: str, call: str) -> str:
    return f"^{re.escape(repr(path))} leads out of the width, .*: call it as {re.escape(call)}$"


@pytest.mark.parametrize("form", FORMS)
def test_a_readout_that_is_not_called_is_refused_by_an_example(
    form: Callable[..., nn.Module],
) -> None:
    with pytest.raises(ShrinkError, match=said(*FORMS[form])):
        shrink(form, width=NARROW, example=EXAMPLE)


@pytest.mark.parametrize("form", [Forwarded, Named, Children, HeadForward, Besides])
def test_a_followed_model_with_one_is_refused(form: Callable[..., nn.Module]) -> None:
    with pytest.raises(ShrinkError, match=said(*FORMS[form])):
        shrink(form(), by=4, example=EXAMPLE)


@pytest.mark.parametrize("form", [Forwarded, HeadForward])
def test_a_call_of_its_forward_is_read(form: Callable[..., nn.Module]) -> None:
    with pytest.raises(ShrinkError, match=said(*FORMS[form])):
        shrink(form, width=NARROW)


class Head(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return self.product(x)

    def product(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class OwnHead(nn.Module):
    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.into, self.head = nn.Linear(8, width), Head(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.into(x).relu())  # type: ignore[no-any-return]


class OwnMethod(OwnHead):
    """The head's own method, beside its call."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head.product(self.into(x).relu())


class Checkpointed(OwnHead):
    def forward(self, x: Tensor) -> Tensor:
        h = self.into(x).relu()
        return checkpoint(self.head, h, use_reentrant=False)  # type: ignore[no-any-return]


class Unused(OwnHead):
    """With a head that this call does not use, and a regularizer of the other's weight."""

    def __init__(self, width: int = TARGET) -> None:
        super().__init__(width)
        self.other = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y + 1e-3 * self.head.weight.pow(2).mean()


class Tied(nn.Module):
    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.tokens, self.head = nn.Embedding(9, width), nn.Linear(width, 9, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.tokens((x.abs() * 2).long().clamp(max=8)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("form", [OwnHead, Checkpointed, Unused, Tied])
def test_a_readout_that_is_called_is_multiplied(form: Callable[..., nn.Module]) -> None:
    for example in (None, EXAMPLE):
        assert multipliers(shrink(form, width=NARROW, example=example))["head"] == 1 / M


def test_a_readouts_own_forward_is_followed() -> None:
    assert multipliers(shrink(OwnHead(), by=4, example=EXAMPLE)) == {"head": 1 / M}


def test_a_readouts_method_that_its_call_does_not_run_is_beside_it() -> None:
    with pytest.raises(ShrinkError, match=said("head", "self.head(x)")):
        shrink(OwnMethod, width=NARROW, example=EXAMPLE)


def test_models_and_random_state_are_as_before() -> None:
    torch.manual_seed(0)
    one = shrink(OwnHead, width=NARROW)
    torch.manual_seed(0)
    other = shrink(OwnHead, width=NARROW, example=EXAMPLE)
    for left, right in zip(one.module.parameters(), other.module.parameters(), strict=True):
        assert torch.equal(left, right)
    assert [len(m._forward_pre_hooks) for m in other.module.modules()] == [0, 0, 1]
