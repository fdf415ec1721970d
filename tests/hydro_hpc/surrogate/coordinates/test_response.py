from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hydro_hpc.surrogate import Surrogate, shrink
from hydro_hpc.surrogate.coordinates.recipe import Recipe
from hydro_hpc.surrogate.coordinates.response import response, responses
from hydro_hpc.surrogate.coordinates.sites import Site
from hydro_hpc.surrogate.coordinates.training import sites_of
from hydro_hpc.surrogate.coordinates.watching import watch
from hydro_hpc.surrogate.table import Family

GRADIENT = torch.tensor([3.0, -1.0, 2.0])


@pytest.mark.parametrize("scale", [1e-3, 50.0])
def test_the_size_of_the_gradient_does_not_count(scale: float) -> None:
    """A step of Adam does not depend on it, one of SGD is in proportion."""

    def of(step: Tensor, scale: float, family: Family) -> float:
        return response({"w": scale * GRADIENT}, {"w": step}, scale * 5.0, 3, family)

    adam = of(-GRADIENT.sign(), scale, Family.ADAM)
    assert adam == pytest.approx(of(-GRADIENT.sign(), 1.0, Family.ADAM))
    sgd = of(-0.1 * scale * GRADIENT, scale, Family.SGD)
    assert sgd == pytest.approx(of(-0.1 * GRADIENT, 1.0, Family.SGD))


def probed(
    surrogate: Surrogate,
    x: Tensor,
    recipe: Recipe,
    loss: Callable[[Tensor], Tensor] = lambda outputs: outputs.square().sum(),
) -> dict[str, list[tuple[Site, float]]]:
    surrogate.module.zero_grad()
    with watch(surrogate.module) as seen:
        loss(surrogate.module(x)).backward()
    sites = [*sites_of(surrogate.module, seen, ((x,), {}))]
    found: dict[str, list[tuple[Site, float]]] = {}
    for site, value in responses(surrogate, recipe, sites, seed=0):
        found.setdefault(site.part, []).append((site, value))
    return found


def mean_of(found: dict[str, list[tuple[Site, float]]], part: str) -> float:
    return sum(value for _, value in found[part]) / len(found[part])


def one_layer(width: int = 64) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width, bias=False), nn.Linear(width, 4))


@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize("lr", [0.1, 1e-9])
def test_a_step_of_sgd_is_what_a_layers_inputs_make_of_its_rate(lr: float, decay: float) -> None:
    """Of inputs of unit size: rate * inputs / outputs / rows; a decay and a small rate do not show,
    and neither does how large the inputs are.
    """
    torch.manual_seed(0)
    surrogate = shrink(one_layer, width=64)
    recipe = Recipe(optimizer="sgd", lr=lr, weight_decay=decay)
    found = probed(surrogate, 30.0 * torch.randn(16, 64), recipe)
    assert mean_of(found, "0") == pytest.approx(lr / 16, rel=0.1)
    assert mean_of(found, "1 bias") == pytest.approx(lr / 64, rel=0.5)


def test_a_step_of_adam_is_as_long_as_its_rate_and_the_inputs_many() -> None:
    torch.manual_seed(0)
    surrogate = shrink(one_layer, width=64)
    found = probed(surrogate, torch.randn(16, 64), Recipe(optimizer="adam", lr=0.1))
    expected = 0.1 * 64 * math.sqrt(2 / math.pi) / math.sqrt(16)
    assert mean_of(found, "0") == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_how_alike_the_gradients_of_rows_are_does_not_count(optimizer: str) -> None:
    """Which changes with the width, as a narrow model's outputs differ more at first."""
    torch.manual_seed(0)
    surrogate, x = shrink(one_layer, width=64), torch.randn(16, 64).abs()
    signs = torch.tensor([1.0, -1.0]).repeat(8)[:, None]
    recipe = Recipe(optimizer=optimizer, lr=0.1)
    alike = probed(surrogate, x, recipe, lambda outputs: outputs.sum())
    unlike = probed(surrogate, x, recipe, lambda outputs: (outputs * signs).sum())
    for part in ("0", "1", "1 bias"):
        assert mean_of(alike, part) == pytest.approx(mean_of(unlike, part), rel=1e-3)


def test_nothing_is_left_at_the_model() -> None:
    torch.manual_seed(0)
    surrogate = shrink(one_layer, width=32)
    before = {name: value.clone() for name, value in surrogate.module.state_dict().items()}
    probed(surrogate, torch.randn(16, 32), Recipe(optimizer="adam", lr=0.1))
    for name, value in surrogate.module.state_dict().items():
        assert torch.equal(value, before[name])
