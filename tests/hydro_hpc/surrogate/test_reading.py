"""What a model's own code says of its raw parameters, in the forms in which people write it."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate import shrink
from hydro_hpc.surrogate.expressions import Use
from hydro_hpc.surrogate.kinds import Scaling
from hydro_hpc.surrogate.reading import CodeUses
from hydro_hpc.surrogate.table import Kind

TARGET, NARROW = 64, 16
VECTOR = Scaling(kind=Kind.VECTOR, m_out=NARROW / TARGET)


class Base(nn.Module):
    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.into = nn.Linear(8, width)
        self.h = nn.Parameter(torch.randn(width))


class ByProperty(Base):
    @property
    def query(self) -> Tensor:
        return self.h

    def forward(self, x: Tensor) -> Tensor:
        return self.into(x) @ self.query


class ByArgument(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.score(self.into(x), self.h)

    def score(self, x: Tensor, weight: Tensor) -> Tensor:
        return x @ weight


class ByGetattr(Base):
    def forward(self, x: Tensor) -> Tensor:
        query: Tensor = getattr(self, "h")  # noqa: B009
        return self.into(x) @ query


class ByComputedName(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.into(x) @ getattr(self, "".join("h"))


class ByDict(Base):
    def __init__(self, width: int = TARGET) -> None:
        super().__init__(width)
        self.own = nn.ParameterDict({"a": nn.Parameter(torch.randn(width))})

    def forward(self, x: Tensor) -> Tensor:
        return (self.into(x) + self.h) @ self.own["a"]


class ByList(Base):
    def __init__(self, width: int = TARGET) -> None:
        super().__init__(width)
        self.own = nn.ParameterList([nn.Parameter(torch.randn(width)) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x) + self.h
        return torch.stack([x @ each for each in self.own])


class Holder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.h = nn.Parameter(torch.randn(width))


class ByParent(nn.Module):
    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.into, self.holder = nn.Linear(8, width), Holder(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.into(x) @ self.holder.h


class ByLoop(nn.Module):
    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.into = nn.Linear(8, width)
        self.holders = nn.ModuleList([Holder(width)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        for holder in self.holders:
            x = x.matmul(holder.h)
        return x


class BySum(Base):
    def forward(self, x: Tensor) -> Tensor:
        y = self.into(x)
        y = y * self.h
        return y.sum(dim=-1)


class BySumOfAffine(Base):
    def __init__(self, width: int = TARGET) -> None:
        super().__init__(width)
        self.shift = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sum(self.into(x) * self.h.exp() + self.shift, -1)


class ByNumber(Base):
    def forward(self, x: Tensor) -> Tensor:
        scale = 2.0
        return self.into(x) @ (1 + self.h * scale)


class ByEinsum(Base):
    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("b d, d -> b", self.into(x), self.h)


class Twice(Base):
    """It is added where its own class reads it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.into(x) + self.h


class ByOwner(nn.Module):
    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.inner = Twice(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.inner(x), self.inner.h)


FACTORS = {
    ByProperty: "h",
    ByArgument: "h",
    ByGetattr: "h",
    ByComputedName: "h",
    ByDict: "own.a",
    ByList: "own.0",
    ByParent: "holder.h",
    ByLoop: "holders.0.h",
    BySum: "h",
    BySumOfAffine: "h",
    ByNumber: "h",
    ByEinsum: "h",
    ByOwner: "inner.h",
}


@pytest.mark.parametrize("factory", FACTORS)
def test_a_vector_that_is_summed_over_is_found_or_asked_about(factory: type[nn.Module]) -> None:
    name = FACTORS[factory]
    said = rf"'{name}' of \w+ (is a factor of a product|is used cannot be told)"
    with pytest.raises(ShrinkError, match=said) as raised:
        shrink(factory, width=NARROW)
    assert not re.search(r"\n|\. ", str(raised.value))


@pytest.mark.parametrize("factory", [each for each in FACTORS if each is not BySumOfAffine])
def test_an_example_shows_it_to_be_a_readout(factory: type[nn.Module]) -> None:
    rules = shrink(factory, width=NARROW, example=torch.randn(4, 8)).rules
    assert rules[FACTORS[factory]].kind is Kind.BARE_OUTPUT


class Weights(nn.Module):
    """Of two long axes, each in a form that looks like a sum."""

    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.into = nn.Linear(8, width)
        self.out = nn.Parameter(torch.randn(width, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.into(x) @ (self.out + 1e-3)


class WeightsOfNames(Weights):
    def forward(self, x: Tensor) -> Tensor:
        return self.into(x) @ torch.add(self.out, 1e-3)


class WeightsByParent(nn.Module):
    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.inner = Places(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) @ self.inner.out.T


class Places(nn.Module):
    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.into = nn.Linear(8, width)
        self.out = nn.Parameter(torch.randn(5, width))

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        return x + self.out[: x.size(0)]


@pytest.mark.parametrize("factory", [Weights, WeightsOfNames, WeightsByParent])
def test_weights_in_sums_are_asked_about(factory: type[nn.Module]) -> None:
    with pytest.raises(ShrinkError, match=r"out' of \w+ is used cannot be told"):
        shrink(factory, width=NARROW)


def test_places_are_added() -> None:
    assert shrink(Places, width=NARROW).rules["out"] == VECTOR


class ByValue(nn.Module):
    """Vectors as people write them in norms, gates and layers of their own."""

    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.linear = nn.Linear(8, width)
        names = "gain shift plus scale mix token bias gamma slope gated lerped joined normed"
        for name in names.split():
            self.register_parameter(name, nn.Parameter(torch.ones(width)))
        self.scales = nn.ParameterList([torch.ones(width) for _ in range(2)])
        self.reset()

    def reset(self) -> None:
        nn.init.zeros_(self.shift)
        self.plus.data.zero_()
        with torch.no_grad():
            self.scale.fill_(1e-4)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = F.linear(x, self.linear.weight, self.bias)
        mean = x.mean(-1, keepdim=True)
        x = (x - mean) * torch.rsqrt((x - mean).pow(2).mean(-1, keepdim=True) + 1e-5)
        x = self.gain.to(x.dtype) * x + self.shift
        x = F.layer_norm(x, self.normed.shape, self.normed, None, 1e-5)
        x = x * (1 + self.plus) + x * torch.sigmoid(self.gated)
        scale = self.scale if self.training else self.scale.detach()
        x = scale * x
        x *= self.gamma
        x = torch.lerp(x, x * self.mix, self.lerped)
        x = torch.where(x > 0, x, x * self.slope)
        for each in self.scales:
            x = x * each
        if mask is not None:
            x = torch.where(mask[..., None], self.token, x)
        start = self.joined.expand(1, -1)
        return torch.cat([start, x]) if self.bias is not None else x


def test_vectors_that_are_used_value_by_value_are_not_asked_about() -> None:
    model = ByValue()
    found = {name: CodeUses(model).of(p) for name, p in model.named_parameters() if p.ndim == 1}
    assert {found[name] for name in ("shift", "bias", "token", "joined")} <= {Use.ADDED, Use.SCALED}
    assert {name for name, use in found.items() if use not in (Use.ADDED, Use.SCALED)} == {
        "linear.bias"  # which is torch's
    }
    rules = shrink(ByValue, width=NARROW).rules
    assert {rules[name] for name in found} == {VECTOR}


class Functional(nn.Module):
    """The weights of layers, which are not called."""

    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.tokens, self.out = nn.Embedding(9, width), nn.Linear(width, 9)
        self.is_tied = True

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.tokens(x), self.out.weight)


class FunctionalTie(Functional):
    def forward(self, x: Tensor) -> Tensor:
        table = self.tokens.weight
        return self.tokens(x) @ table.t()


@pytest.mark.parametrize(
    ("factory", "sentence"),
    [
        (Functional, r"'out\.weight' leads out of the width.*; call 'out'"),
        (FunctionalTie, r"'tokens\.weight' is an embedding and a readout at once"),
    ],
)
def test_a_readout_beside_its_layer_is_refused(factory: type[nn.Module], sentence: str) -> None:
    for example in (None, torch.randint(9, (2, 3))):
        with pytest.raises(ShrinkError, match=sentence):
            shrink(factory, width=NARROW, example=example)
