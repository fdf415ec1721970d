"""Buffers that activations are multiplied with over the width: weights that are not trained."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate import Surrogate, shrink
from hydro_hpc.surrogate.narrow import Widths
from hydro_hpc.surrogate.stored import drawn_by, from_json, recipe_of, to_json
from hydro_hpc.surrogate.structure import own_width_findings
from tests.hydro_hpc.surrogate.against_target import NARROW, TARGET, M, root_mean_square

ROWS, WAYS = torch.randn(8, 12), ("function", "model")


class Fixed(nn.Module):
    """A layer, a buffer `w` of `shape`, and two layers more."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.into, self.inner = nn.Linear(12, width), nn.Linear(width, width)
        self.out = nn.Linear(width, 3)
        self.register_buffer("w", self.drawn(width))

    def drawn(self, width):
        return torch.randn(width, width) * 0.1

    def fixed(self, h):
        raise NotImplementedError

    def forward(self, x):
        return self.out(F.relu(self.inner(F.relu(self.fixed(F.relu(self.into(x)))))))


class Reservoir(Fixed):
    def fixed(self, h):
        state = torch.zeros(len(h), self.w.shape[0])
        for _ in range(3):
            state = torch.tanh(h + F.linear(state, 0.9 * self.w))
        return state


class Law(Fixed):
    """Drawn by the law that a layer's weight follows, in a product of matrices."""

    def drawn(self, width):
        return torch.randn(width, width) / math.sqrt(width)

    def fixed(self, h):
        return torch.einsum("bi,ij->bj", h, self.w)


class Kernel(Fixed):
    def drawn(self, width):
        return torch.randn(width, width, 1) * 0.1

    def fixed(self, h):
        return F.conv1d(h[:, :, None], self.w)[:, :, 0]


class Factor(Fixed):
    """With a learned scalar."""

    def __init__(self, width):
        super().__init__(width)
        self.scale = nn.Parameter(torch.ones(1))

    def fixed(self, h):
        return h @ (self.scale * self.w)


class Delta(Fixed):
    """With what is learned beside it."""

    def __init__(self, width):
        super().__init__(width)
        self.delta = nn.Parameter(torch.zeros(width, width))

    def fixed(self, h):
        return F.linear(h, self.w + self.delta)


class Identity(Fixed):
    def drawn(self, width):
        return torch.eye(width)

    def fixed(self, h):
        return h @ self.w


class Readout(Fixed):
    def drawn(self, width):
        return torch.randn(width, 3) / math.sqrt(width)

    def forward(self, x):
        return F.relu(self.inner(F.relu(self.into(x)))) @ self.w


class Summed(Fixed):
    def drawn(self, width):
        return torch.randn(width) * 0.1

    def fixed(self, h):
        return h + (h * self.w).sum(-1, keepdim=True)


class Mean(Fixed):
    def drawn(self, width):
        return torch.full((width, 1), 1 / width)

    def fixed(self, h):
        return h - h @ self.w


class Features(Fixed):
    def drawn(self, width):
        return torch.randn(width, 12)

    def forward(self, x):
        return self.out(F.relu(self.inner(torch.cos(F.linear(x, self.w)))))


class Mask(Fixed):
    def drawn(self, width):
        return (torch.rand(width, width) < 0.5).float()

    def fixed(self, h):
        return F.linear(h, self.w * self.inner.weight)


class Positions(Fixed):
    """That a layer takes, and a mean over a part of them."""

    def drawn(self, width):
        return torch.randn(20, width)

    def fixed(self, h):
        return h + self.inner(self.w[: len(h)])


class Averages(Fixed):
    """Over rows, as of a graph or of what came before, of more than there are."""

    def drawn(self, _):
        return torch.tril(torch.ones(20, 20)) / 20

    def fixed(self, h):
        return self.w[: len(h), : len(h)] @ h


def made(form: type[Fixed], way: str) -> Surrogate:
    torch.manual_seed(0)
    if way == "model":
        return shrink(form(TARGET), by=TARGET / NARROW, example=ROWS)
    return shrink(lambda width=TARGET: form(width), width=NARROW, example=ROWS)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("form", "expected"),
    [
        *((form, M**-0.5) for form in (Reservoir, Law, Kernel, Factor, Delta, Identity)),
        *((form, 1 / M) for form in (Readout, Summed, Mean)),
        *((form, 1.0) for form in (Features, Mask, Positions, Averages)),
    ],
)
def test_they_spread_as_trained_weights_do(form: type[Fixed], expected: float, way: str) -> None:
    found = made(form, way).module.get_buffer("w")
    torch.manual_seed(1)
    target = form(TARGET).get_buffer("w")
    near = 5 * math.sqrt(0.5 / found.numel() + 0.5 / target.numel())
    ratio = root_mean_square(found) / root_mean_square(target)
    assert math.log(ratio) == pytest.approx(math.log(expected), abs=0.02 + near)


@pytest.mark.parametrize("way", WAYS)
def test_what_takes_the_width_is_said(way: str) -> None:
    said = "'w' is a buffer that activations are multiplied with over the width"
    assert said in str(made(Reservoir, way).report)
    assert said not in str(made(Features, way).report)


def test_at_the_targets_width_they_are_the_targets() -> None:
    torch.manual_seed(0)
    target = Reservoir(TARGET)
    torch.manual_seed(0)
    surrogate = shrink(lambda width=TARGET: Reservoir(width), width=TARGET, example=ROWS)
    assert not own_width_findings(target, surrogate, (ROWS,))
    assert not own_width_findings(target, shrink(target, by=1, example=ROWS), (ROWS,))


class Part(Reservoir):
    """Of a tensor that the user keeps."""

    ALL = torch.randn(TARGET * 4, TARGET * 4) * 0.1

    def drawn(self, width):
        return self.ALL[:width, :width]


def test_what_the_user_keeps_is_not_changed() -> None:
    before = Part.ALL.clone()
    found = made(Part, "function").module.get_buffer("w")
    assert torch.equal(Part.ALL, before)
    assert torch.allclose(found, before[:NARROW, :NARROW] * M**-0.5)


def test_a_study_keeps_by_what_they_are_multiplied() -> None:
    torch.manual_seed(0)
    drawn = Part(NARROW)
    surrogate = made(Part, "function")
    recipe = recipe_of(surrogate, drawn_by(drawn), Widths(surrogate=NARROW, target=TARGET))
    kept = from_json(json.loads(json.dumps(to_json(recipe, "adam"))))
    again = kept.apply(drawn)
    assert torch.equal(again.module.get_buffer("w"), surrogate.module.get_buffer("w"))


class Codes(Fixed):
    def drawn(self, width):
        return torch.randn(20, width)

    def fixed(self, h):
        return h + F.embedding((h @ self.w.T).argmax(-1), self.w)


class Queue(Fixed):
    """What calls change."""

    def drawn(self, width):
        return F.normalize(torch.randn(width, 20), dim=0)

    def fixed(self, h):
        logits = h @ self.w.clone()
        with torch.no_grad():
            self.w[:, : len(h)] = h.T
        return h + logits.mean(-1, keepdim=True)


class Joined(Fixed):
    def fixed(self, h):
        return (h @ torch.cat([self.w, 2 * self.w], 1)).chunk(2, 1)[0]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("form", [Codes, Queue])
def test_one_of_two_uses_is_refused(form: type[Fixed], way: str) -> None:
    with pytest.raises(ShrinkError, match=r"'w' is a buffer .* in other ways too"):
        made(form, way)


def test_one_whose_axes_are_joined_is_refused() -> None:
    with pytest.raises(ShrinkError, match="'w' is a buffer that is multiplied with after its axes"):
        made(Joined, "function")


class Unfollowed(Reservoir):
    def forward(self, x):
        return super().forward(x) * (1.0 if x.sum().item() < math.inf else 0.0)


def test_of_a_call_that_cannot_be_followed_it_is_said() -> None:
    report = made(Unfollowed, "function").report
    assert "'w' is a buffer, and its values stay as they are" in str(report)


class Unregistered(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(12, width), nn.Linear(width, 3)
        self.w, self.shift = torch.randn(width, width), torch.zeros(width)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(self.into(x) @ self.w + self.shift)
        return found


def test_a_tensor_that_is_no_buffer_is_said() -> None:
    factory: Callable[..., nn.Module] = lambda width=TARGET: Unregistered(width)  # noqa: E731
    report = str(shrink(factory, width=NARROW, example=ROWS).report)
    assert "'w' is a tensor that is no buffer" in report
    assert "shift" not in report
