"""Sizes that are one axis together, such as heads and their size: one alone shrinks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hydro_hpc.surrogate import Surrogate, shrink
from tests.hydro_hpc.surrogate.tracing.models import ROWS
from tests.hydro_hpc.surrogate.tracing.test_models import BY, WIDTH, shrunk
from tests.hydro_hpc.surrogate.tracing.unusual_models import MODELS


class Parts(nn.Module):
    """Heads of no attention, by what their number and size are called and how they are said."""

    def __init__(self, heads: int, size: int, form: str) -> None:
        super().__init__()
        self.form = form
        if form == "named the other way round":
            self.size, self.heads = heads, size
        else:
            self.heads, self.size = heads, size
        self.into, self.inner = nn.Linear(12, heads * size), nn.Linear(heads * size, 64)
        self.out = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        if self.form == "batch":
            x = x.view(x.shape[0], self.heads, self.size)
        elif self.form == "rest":
            x = x.view(-1, self.heads, self.size)
        elif self.form == "flat":
            return self.after(x.view(-1, self.heads, self.size).view(-1, self.heads * self.size))
        else:
            x = x.view(x.shape[0], self.size, self.heads)
        return self.after(x.relu().flatten(1))

    def after(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.inner(x).relu())
        return out


def shapes(surrogate: Surrogate) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in surrogate.module.named_parameters()}


@pytest.mark.parametrize("form", ["batch", "rest", "flat", "named the other way round"])
@pytest.mark.parametrize(("by", "heads", "inner"), [(2, 4, 32), (4, 2, 16), (8, 1, 8)])
def test_of_heads_and_their_size_the_leading_one_shrinks_alone(
    form: str, by: int, heads: int, inner: int
) -> None:
    surrogate = shrink(Parts(8, 16, form), by=by, example=ROWS)
    found = shapes(surrogate)
    assert (found["into.weight"], found["inner.weight"]) == ((heads * 16, 12), (inner, heads * 16))
    kept = {surrogate.module.heads, surrogate.module.size}
    assert kept == {heads, 16}
    lines = str(surrogate.report).splitlines()
    assert lines[0].startswith("into.weight and ")
    assert lines[0].endswith(f" more: 128 -> {heads * 16}")
    assert f"inner.weight and 2 more: 64 -> {inner}" in lines


class Pooled(nn.Module):
    """As many weights as heads, which a layer gives."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.size = 4, 16
        self.values, self.weights = nn.Linear(12, 64), nn.Linear(12, 4)
        self.out = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.weights(x).softmax(1)[..., None]
        values = self.values(x).view(*x.shape[:2], self.heads, self.size)
        out: Tensor = self.out((weights * values).sum(1).reshape(len(x), self.heads * self.size))
        return out


@pytest.mark.parametrize("form", ["batch", "rest", "flat"])
def test_where_heads_are_too_few_for_the_ratio_their_size_shrinks(form: str) -> None:
    surrogate = shrink(Parts(2, 32, form), by=4, example=ROWS)
    assert (surrogate.module.heads, surrogate.module.size) == (2, 8)
    assert shapes(surrogate)["inner.weight"] == (16, 16)


@pytest.mark.parametrize(("by", "heads", "size"), [(2, 2, 16), (4, 4, 4), (8, 4, 2)])
def test_heads_that_a_layer_gives_shrink_to_two_at_least(by: int, heads: int, size: int) -> None:
    surrogate = shrink(Pooled(), by=by, example=torch.randn(2, 5, 12))
    assert (surrogate.module.heads, surrogate.module.size) == (heads, size)
    assert shapes(surrogate)["out.weight"] == (3, 64 // by)
    stays = "values.weight and 2 more: 16" if by == 2 else "weights.weight and 4 more: 4"
    assert str(surrogate.report).splitlines() == [
        f"values.weight and 2 more: 64 -> {64 // by}",
        *(["weights.weight and 1 more: 4 -> 2"] if by == 2 else []),
        f"{stays} stays, since of 4 and 16, which are one axis together, one alone shrinks",
    ]


def test_where_heads_are_kept_their_size_shrinks() -> None:
    surrogate = shrink(Pooled(), by=4, example=torch.randn(2, 5, 12), keep=["weights"])
    assert (surrogate.module.heads, surrogate.module.size) == (4, 4)
    assert str(surrogate.report).splitlines() == [
        "values.weight and 2 more: 64 -> 16",
        "weights.weight and 4 more: 4 stays, as asked",
    ]


class GraphAttention(nn.Module):
    """A vector for each head, by which rows are told."""

    def __init__(self, heads: int, is_rest: bool) -> None:
        super().__init__()
        self.heads, self.size = heads, 64 // heads
        self.into = nn.Linear(12, 64, bias=False)
        self.source = nn.Parameter(torch.randn(1, heads, 64 // heads))
        self.out = nn.Linear(64, 3)
        self.is_rest = is_rest

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x).view(-1 if self.is_rest else len(x), self.heads, self.size)
        logits = (x * self.source).sum(-1, keepdim=True)
        out: Tensor = self.out((x * logits.sigmoid()).flatten(1))
        return out


@pytest.mark.parametrize("is_rest", [True, False])
@pytest.mark.parametrize(("heads", "by", "size"), [(2, 4, 8), (4, 4, 4), (8, 4, 2), (8, 8, 2)])
def test_heads_that_only_a_raw_parameter_has_stay_however_they_are_said(
    heads: int, by: int, size: int, is_rest: bool
) -> None:
    surrogate = shrink(GraphAttention(heads, is_rest), by=by, example=ROWS)
    assert shapes(surrogate) == {
        "source": (1, heads, size),
        "into.weight": (heads * size, 12),
        "out.weight": (3, heads * size),
        "out.bias": (3,),
    }


class Outer(nn.Module):
    """All products of what two layers give."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(12, 64), nn.Linear(12, 32), nn.Linear(64 * 32, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out((self.a(x)[:, :, None] * self.b(x)[:, None]).flatten(1))
        return out


def test_of_an_outer_product_the_first_factor_shrinks() -> None:
    surrogate = shrink(Outer(), by=4, example=ROWS)
    assert shapes(surrogate)["out.weight"] == (3, 16 * 32)
    assert str(surrogate.report.widths[-1]) == "out.weight: 2048 -> 512"


@pytest.mark.parametrize("name", MODELS)
def test_the_report_names_all_that_shrank_and_by_how_much(name: str) -> None:
    build, _ = MODELS[name]
    surrogate = shrunk(name)
    target, narrow = build(WIDTH), surrogate.module.state_dict(keep_vars=True)
    for key, tensor in [*target.named_parameters(), *target.named_buffers()]:
        lines = [width for width in surrogate.report.widths if key in width.paths]
        said = {round(line.target / line.size, 3) for line in lines}
        pairs = zip(tensor.shape, narrow[key].shape, strict=True)
        actual = {round(before / after, 3) for before, after in pairs if before != after}
        assert actual <= said, (key, lines)
        assert all(ratio <= BY * 1.5 for ratio in actual)
