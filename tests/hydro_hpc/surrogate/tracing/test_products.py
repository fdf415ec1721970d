"""Products of activations outside of attention, and what plain numbers multiply them with."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate import shrink

TARGET, NARROW = 64, 16
TOKENS = torch.randint(9, (5,))
Combine = Callable[[Tensor, Tensor], Tensor]  # of two [batch, width]


def dot(u: Tensor, v: Tensor) -> Tensor:
    return (u * v).sum(-1)


def einsum(u: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("bd,bd->b", u, v)


def matmul(u: Tensor, v: Tensor) -> Tensor:
    return u @ v.T


def gram(u: Tensor, v: Tensor) -> Tensor:
    both = torch.stack([u, v], 1)
    return torch.bmm(both, both.mT)[:, [0], [1]]


def parts(u: Tensor, v: Tensor) -> Tensor:
    """Of one tensor."""
    both = torch.cat([u, v], -1)
    one, other = both.chunk(2, -1)
    return (one * other).sum(-1)


def pairs(u: Tensor, v: Tensor) -> Tensor:
    """Each with each, of one tensor."""
    both = torch.stack([u, v], 1)
    return (both[:, None] * both[:, :, None]).sum(-1)[:, 0, 1]


def root(u: Tensor, v: Tensor) -> Tensor:
    return (u * v).sum(-1) / math.sqrt(u.shape[-1])


def relative(u: Tensor, v: Tensor) -> Tensor:
    return (u * v).sum(-1) * (TARGET / u.shape[-1])


def mean(u: Tensor, v: Tensor) -> Tensor:
    return -(u * v).mean(-1)


def cosine(u: Tensor, v: Tensor) -> Tensor:
    return 10 * (F.normalize(u, dim=-1) * F.normalize(v, dim=-1)).sum(-1)


def over_rows(u: Tensor, v: Tensor) -> Tensor:
    return (u * v).sum(0)


def gate(u: Tensor, v: Tensor) -> Tensor:
    return u * v.sigmoid()


def normed_gate(u: Tensor, v: Tensor) -> Tensor:
    """By hand, as by a layer norm."""
    h = gate(u, v)
    return (h - h.mean(-1, keepdim=True)) / h.var(-1, keepdim=True).sqrt()


class Pairs(nn.Module):
    def __init__(self, combine: Combine, width: int) -> None:
        super().__init__()
        self.u, self.v, self.combine = nn.Embedding(9, width), nn.Embedding(9, width), combine

    def forward(self, i: Tensor, j: Tensor) -> Tensor:
        return self.combine(self.u(i), self.v(j))


class Within(nn.Module):
    def __init__(self, combine: Combine, width: int) -> None:
        super().__init__()
        self.inner = Pairs(combine, width)

    def forward(self, i: Tensor, j: Tensor) -> Tensor:
        return self.inner(i, j)  # type: ignore[no-any-return]


@pytest.mark.parametrize("combine", [dot, einsum, matmul, gram, parts, pairs])
def test_a_product_whose_size_shrinks_is_refused(combine: Combine) -> None:
    said = (
        "'inner' multiplies two activations over 64 values in the target and 16 in the surrogate, "
        "and their product by 1 where muP needs 4: multiply it by 64 / its size, which changes "
        "nothing in the target, or let the layers whose product it is give as many values at any "
        "width"
    )
    with pytest.raises(ShrinkError, match=f"^{re.escape(said)}$"):
        shrink(lambda width=TARGET: Within(combine, width), width=NARROW, example=(TOKENS, TOKENS))


def test_a_root_of_the_size_is_not_enough() -> None:
    with pytest.raises(ShrinkError, match=r"and their product by 0[.]25 where muP needs 0[.]5:"):
        shrink(lambda width=TARGET: Within(root, width), width=NARROW, example=(TOKENS, TOKENS))


@pytest.mark.parametrize("combine", [relative, mean, cosine, over_rows, gate, normed_gate])
def test_what_falls_with_the_size_or_is_no_product_over_the_width_is_right(
    combine: Combine,
) -> None:
    surrogate = shrink(
        lambda width=TARGET: Within(combine, width), width=NARROW, example=(TOKENS, TOKENS)
    )
    assert surrogate.report.warnings == ()


def test_a_product_whose_size_stays_is_right() -> None:
    class Projected(Pairs):
        def __init__(self, width: int = TARGET) -> None:
            super().__init__(dot, width)
            self.small = nn.Linear(width, 8)

        def forward(self, i: Tensor, j: Tensor) -> Tensor:
            return dot(self.small(self.u(i)), self.small(self.v(j)))

    assert shrink(Projected, width=NARROW, example=(TOKENS, TOKENS)).report.warnings == ()


def test_a_generated_readout_is_refused() -> None:
    class Generated(nn.Module):
        def __init__(self, width: int = TARGET) -> None:
            super().__init__()
            self.width, self.code = width, nn.Parameter(torch.randn(8))
            self.make, self.into = nn.Linear(8, 3 * width), nn.Linear(8, width)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.into(x).relu(), self.make(self.code).view(3, self.width))

    with pytest.raises(ShrinkError, match=r"^the model multiplies two activations over 64 values"):
        shrink(Generated, width=NARROW, example=torch.randn(4, 8))


def test_a_factor_that_cannot_be_told_is_said() -> None:
    def divided(u: Tensor, v: Tensor) -> Tensor:
        return dot(u, v) / u.abs().mean(-1)

    surrogate = shrink(
        lambda width=TARGET: Within(divided, width), width=NARROW, example=(TOKENS, TOKENS)
    )
    [said] = surrogate.report.warnings
    assert said.endswith(
        "and by what it multiplies their product cannot be told: it must fall as one over that "
        "size, or the size must stay"
    )


Scale = Callable[[Tensor, int], Tensor]  # of what the embedding gives, and the width


class RootMeanSquare(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class Scaled(nn.Module):
    def __init__(self, scale: Scale, width: int = TARGET) -> None:
        super().__init__()
        self.scale, self.width = scale, width
        self.emb, self.qkv = nn.Embedding(9, width), nn.Linear(width, 3 * width)
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, 9)
        self.gain = nn.Parameter(torch.randn(1))

    def forward(self, x: Tensor) -> Tensor:
        h = self.scale(self.emb(x)[None], self.width)
        heads = (
            z.view(1, len(x), self.width // 8, 8).transpose(1, 2)
            for z in self.qkv(self.norm(h)).split(self.width, 2)
        )
        y = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
        return self.out(h + 0.5 * self.gain * y)  # type: ignore[no-any-return]


def by_the_width(h: Tensor, width: int) -> Tensor:
    return h * math.sqrt(width)


def the_same(h: Tensor, width: int) -> Tensor:
    del width
    return h * math.sqrt(TARGET)


def normed(h: Tensor, width: int) -> Tensor:
    return F.normalize(h, dim=-1) * math.sqrt(width)


def centered(h: Tensor, width: int) -> Tensor:
    return h - h.sum(-1, keepdim=True) / width


WARNING = (
    "the model multiplies what 'emb' gives by 8 at the target's width and by 4 at the surrogate's, "
    "and the rules want the same: compute it from the target's width"
)


def test_a_factor_that_follows_the_width_is_said() -> None:
    built = shrink(lambda width=TARGET: Scaled(by_the_width, width), width=NARROW, example=TOKENS)
    assert built.report.warnings == (WARNING,)
    followed = shrink(Scaled(by_the_width), by=4, example=TOKENS)
    assert WARNING in followed.report.warnings


@pytest.mark.parametrize("scale", [the_same, normed, centered])
def test_factors_that_should_be_as_they_are_are_not_remarked(scale: Scale) -> None:
    built = shrink(lambda width=TARGET: Scaled(scale, width), width=NARROW, example=TOKENS)
    assert built.report.warnings == ()


def reciprocal(h: Tensor, width: int) -> Tensor:
    return h * math.sqrt(width) * h.pow(2).sum(-1, keepdim=True).rsqrt()


def gated(h: Tensor, width: int) -> Tensor:
    del width
    return math.sqrt(TARGET) * h * (h * math.sqrt(TARGET)).sigmoid()


@pytest.mark.parametrize("scale", [reciprocal, gated])
def test_products_value_by_value_are_not_remarked(scale: Scale) -> None:
    test_factors_that_should_be_as_they_are_are_not_remarked(scale)


def masked(h: Tensor, width: int) -> Tensor:
    return h * math.sqrt(width) * h.abs().gt(0.1)


def test_a_factor_before_a_product_value_by_value_is_said() -> None:
    surrogate = shrink(lambda width=TARGET: Scaled(masked, width), width=NARROW, example=TOKENS)
    assert surrogate.report.warnings == (WARNING,)


def test_a_factor_after_a_norm_of_ones_own_is_said() -> None:
    """As of T5, whose readout is its table of tokens."""

    class Normed(nn.Module):
        def __init__(self, width: int = TARGET) -> None:
            super().__init__()
            self.width, self.into, self.out = width, nn.Linear(8, width), nn.Linear(width, 3)
            self.norm, self.gain = RootMeanSquare(), nn.Parameter(torch.ones(width))

        def forward(self, x: Tensor) -> Tensor:
            h = self.gain * self.norm(self.into(x))
            return self.out(h * self.width**-0.5)  # type: ignore[no-any-return]

    [said] = shrink(Normed, width=NARROW, example=torch.randn(4, 8)).report.warnings
    assert said.startswith("the model multiplies what 'norm' gives by 0.125 at the target's width")


def test_a_factor_on_what_comes_out_is_said() -> None:
    class Divided(nn.Module):
        def __init__(self, width: int = TARGET) -> None:
            super().__init__()
            self.width, self.into, self.out = width, nn.Linear(8, width), nn.Linear(width, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.into(x).relu()) * (32 / self.width)  # type: ignore[no-any-return]

    [said] = shrink(Divided, width=NARROW, example=torch.randn(4, 8)).report.warnings
    assert said.startswith("the model multiplies what 'out' gives by 0.5 at the target's width and")
