"""Initial values from functions of the width: whose draws they are, and how far they spread."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hydro_hpc.surrogate import shrink
from tests.hydro_hpc.surrogate.against_target import (
    FIXED,
    HIDDEN,
    NARROW,
    TARGET,
    VECTOR,
    M,
    change,
)


class Patterned(nn.Module):
    """Values that are the same under all seeds, and were not trained."""

    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.same, self.cell = nn.Linear(width, width), nn.LSTM(width, width)
        nn.init.eye_(self.same.weight)
        nn.init.zeros_(self.cell.bias_ih_l0)
        nn.init.ones_(self.cell.bias_ih_l0[width : 2 * width])
        self.decays = nn.Parameter(torch.arange(1.0, 9.0).log().repeat(width, 1))
        sines = torch.outer(torch.arange(9.0), 0.1 ** torch.linspace(0, 4, width)).sin()
        self.sines = nn.Parameter(sines, requires_grad=False)
        self.bank = nn.Conv2d(3, 4, 3)
        nn.init.constant_(self.bank.bias, 0.5)
        with torch.no_grad():
            self.bank.weight.copy_(torch.linspace(-1, 1, 108).view(4, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.sines + self.decays.sum(1)


def test_patterns_and_frozen_tables_are_no_fixed_weights() -> None:
    rules = shrink(Patterned, width=NARROW, uses={"decays": None}).rules
    assert (rules["sines"], rules["bank.weight"]) == (VECTOR, FIXED)
    identity = shrink(Patterned, width=NARROW, uses={"decays": None}).module.same.weight  # type: ignore[union-attr]
    assert torch.equal(identity.detach(), torch.eye(NARROW))  # type: ignore[union-attr]


def self_seeding(width: int = TARGET) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, width), nn.Linear(width, width), nn.Linear(width, 3))


def test_a_factory_may_seed_itself() -> None:
    assert shrink(self_seeding, width=NARROW).rules["1.weight"] == HIDDEN


class Typed(nn.Module):
    """Half precision, complex values, none at all, whole numbers."""

    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.halved = nn.Linear(width, width, dtype=torch.float16)
        self.waves = nn.Linear(width, width, dtype=torch.complex64)
        self.none = nn.Parameter(torch.empty(0, 5))
        self.count = nn.Parameter(torch.arange(width), requires_grad=False)
        nn.init.normal_(self.halved.weight, std=0.02)
        with torch.no_grad():
            self.waves.weight.copy_(torch.randn(width, width, dtype=torch.complex64) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        return self.halved(x) + self.count


def test_values_of_any_type_are_scaled() -> None:
    surrogate = shrink(Typed, width=NARROW)
    for name in ("halved.weight", "waves.weight"):
        assert surrogate.rules[name] == HIDDEN
        found = surrogate.module.get_parameter(name).detach()
        measured = float(found.abs().double().square().mean().sqrt())
        assert measured == pytest.approx(0.02 * M**-0.5, rel=0.15)
    assert surrogate.rules["none"] == FIXED
    assert surrogate.module.get_parameter("count").tolist() == [*range(NARROW)]


class Small(nn.Module):
    """Few values each: their law is told from several draws."""

    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.out = nn.Linear(width, 1)
        self.token = nn.Parameter(torch.randn(width) * width**-0.5)
        self.place = nn.Parameter(torch.randn(1, 1, width) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([self.token.expand(len(x), 1, -1), x + self.place], dim=1))


@pytest.mark.parametrize("name", ["out.bias", "token", "place"])
def test_parameters_of_few_values_keep_their_spread(name: str) -> None:
    assert change(Small, name, 60) == pytest.approx(1.0, rel=0.25)


def test_all_draws_have_the_same_factor() -> None:
    factors = set()
    for seed in range(10):
        torch.manual_seed(seed)
        scaled = shrink(Small, width=NARROW).module
        torch.manual_seed(seed)
        drawn = Small(NARROW)
        ratio = scaled.get_parameter("token").detach() / drawn.token.detach()
        factors.add(round(float(ratio.mean()), 4))
    assert factors == {round(M**0.5, 4)}


def draws_everywhere(width: int = TARGET) -> nn.Module:
    layer = nn.Linear(8, width)
    nn.init.constant_(layer.bias, random.random() + np.random.random())
    return layer


def test_the_surrogates_draws_are_the_users_and_no_more_are_taken() -> None:
    states = []
    biases = []
    for build in (lambda: shrink(draws_everywhere, width=NARROW).module, draws_everywhere):
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)
        biases.append(float(build().bias.detach()[0]))
        states.append((random.random(), np.random.random()))
    assert biases[0] == biases[1]
    assert states[0] == states[1]


class Root(nn.Module):
    """A layer of one's own, drawn by its fan-in."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, into) / into**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.t()


def own_layers(width: int = TARGET) -> nn.Module:
    return nn.Sequential(Root(8, width), Root(width, 2 * width), nn.Linear(2 * width, 3))


@pytest.mark.parametrize("seed", range(3))
def test_spreads_of_ones_own_layers_have_no_noise(seed: int) -> None:
    torch.manual_seed(seed)
    uses = {"0.weight": (0, 1), "1.weight": (0, 1)}
    assert shrink(own_layers, width=NARROW, uses=uses).initial["1.weight"] == 1.0
