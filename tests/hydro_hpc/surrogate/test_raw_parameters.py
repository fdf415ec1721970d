"""Raw parameters whose use is seen or said: what their rules are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate import shrink
from hydro_hpc.surrogate.kinds import Scaling
from hydro_hpc.surrogate.table import Kind
from tests.hydro_hpc.surrogate.against_target import (
    FIXED,
    HIDDEN,
    INPUT,
    NARROW,
    TARGET,
    VECTOR,
    M,
    multipliers,
)


class Vision(nn.Module):
    """Positions and tokens as people write them: each is only added or joined."""

    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.start = nn.Parameter(torch.zeros(1, 1, width))
        self.prompts = nn.Parameter(torch.randn(1, 2, width))
        self.places = nn.Parameter(torch.empty(1, 7, width))
        self.columns = nn.Parameter(torch.randn(7, width))
        self.scale = nn.Parameter(torch.full((width,), 1e-4))
        self.reset()
        self.head = nn.Linear(width, 10)

    def reset(self) -> None:
        nn.init.trunc_normal_(self.places, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        start = self.start.expand(x.size(0), -1, -1)
        x = torch.cat([start, self.prompts.expand(x.size(0), -1, -1), x], dim=1)
        places = self.places[:, : x.size(1)]
        x = x + places
        x += self.columns[: x.size(1)].unsqueeze(0)
        head: Tensor = self.head((self.scale * x)[:, 0])
        return head.log_softmax(-1)


def test_positions_and_tokens_that_are_added_are_vectors() -> None:
    surrogate = shrink(Vision, width=NARROW)
    for name in ("start", "prompts", "places", "columns", "scale"):
        assert surrogate.rules[name] == VECTOR
    assert surrogate.module(torch.randn(2, 3, 8, 8)).shape == (2, 10)
    assert multipliers(surrogate) == {"head": 1 / M}


class Raw(nn.Module):
    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.into = nn.Parameter(torch.randn(20, width) / 20**0.5)
        self.hidden = nn.Parameter(torch.randn(width, width) / width**0.5)
        self.out = nn.Parameter(torch.randn(3, width) / width**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return ((x @ self.into).relu() @ self.hidden).relu() @ self.out.T


def test_raw_weights_whose_use_is_said_have_rules() -> None:
    """A raw readout has no input that could be multiplied: its spread and rates make up for it."""
    uses = {"into": (1, 0), "hidden": (1, 0), "out": (0, 1)}
    surrogate = shrink(Raw, width=NARROW, uses=uses)
    out = Scaling(kind=Kind.BARE_OUTPUT, m_in=M)
    assert surrogate.rules == {"into": INPUT, "hidden": HIDDEN, "out": out}
    assert not multipliers(surrogate)
    rates = {
        optimizer: {
            id(p): group["lr"]
            for group in surrogate.param_groups(optimizer, lr=1.0)
            for p in group["params"]
        }[id(surrogate.module.out)]
        for optimizer in ("sgd", "adam")
    }
    assert rates == {"sgd": 1 / M, "adam": 1 / M}


class Layered(nn.Module):
    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.into, self.hidden = nn.Linear(20, width, bias=False), nn.Linear(width, width)
        self.out = nn.Linear(width, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.hidden(self.into(x).relu()).relu())
        return out


class HalfRaw(Layered):
    """The same, its readout a raw parameter."""

    def __init__(self, width: int = TARGET) -> None:
        super().__init__(width)
        self.out = nn.Parameter(self.out.weight.detach())  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return self.hidden(self.into(x).relu()).relu() @ self.out.T  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("optimizer", "make"),
    [("sgd", torch.optim.SGD), ("rmsprop", torch.optim.RMSprop)],
)
def test_a_raw_readout_trains_as_a_layer_does(
    optimizer: str, make: type[torch.optim.Optimizer]
) -> None:
    """Step by step the same function, but for the guard of rmsprop against small gradients."""
    x, y = torch.randn(32, 20), torch.randint(3, (32,))
    outputs = []
    for factory in (Layered, HalfRaw):
        torch.manual_seed(0)
        surrogate = shrink(
            factory, width=NARROW, uses={"out": (0, 1)} if factory is HalfRaw else {}
        )
        training = make(surrogate.param_groups(optimizer, lr=1e-3))  # type: ignore[call-arg]
        for _ in range(5):
            training.zero_grad()
            nn.functional.cross_entropy(surrogate.module(x), y).backward()
            training.step()
        outputs.append(surrogate.module(x))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-3, atol=1e-4)


class InHeads(nn.Module):
    """Queries' weights of all heads, as many as the width has, in one parameter."""

    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(8, width), nn.Linear(width, 3)
        self.weight = nn.Parameter(torch.randn(width // 8, width, 8) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("bd,hde->bhe", self.into(x), self.weight)
        return self.out(y.flatten(1))  # type: ignore[no-any-return]


def test_a_weight_of_which_three_axes_grow_is_refused_with_what_to_say() -> None:
    with pytest.raises(ShrinkError, match=r"'weight' has axes \[0, 1\] that .* say others as"):
        shrink(InHeads, width=NARROW, example=torch.randn(4, 8))
    assert shrink(InHeads, width=NARROW, uses={"weight": (0, 1)}).rules["weight"] == HIDDEN


class Flat(nn.Module):
    """A weight that is a view of a vector."""

    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.into, self.out, self.width = nn.Linear(20, width), nn.Linear(width, 3), width
        self.flat = nn.Parameter(torch.randn(width * width) / width**0.5)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(self.into(x) @ self.flat.view(self.width, self.width))
        return found


@pytest.mark.parametrize("way", ["function", "model"])
def test_a_matrix_that_is_a_view_of_a_vector_is_refused(way: str) -> None:
    options = {"width": NARROW} if way == "function" else {"by": TARGET / NARROW}
    with pytest.raises(ShrinkError, match=r"'flat' is multiplied after .*; let it have these axes"):
        shrink(Flat if way == "function" else Flat(), example=torch.randn(4, 20), **options)


class Times(nn.Module):
    """A learned scalar times a weight."""

    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(20, width), nn.Linear(width, 3)
        self.scale, self.weight = nn.Parameter(torch.ones(1)), nn.Parameter(torch.eye(width))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(self.into(x) @ (self.scale * self.weight))
        return found


def test_a_learned_scalar_is_no_weight() -> None:
    rules = shrink(Times, width=NARROW, example=torch.randn(4, 20)).rules
    assert (rules["scale"], rules["weight"]) == (FIXED, HIDDEN)
