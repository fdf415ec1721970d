from __future__ import annotations

import pytest
import torch
from torch import nn

from hydro_hpc.surrogate.coordinates.response import (
    own_change,
    own_parameters,
    parts_of,
    response,
)
from hydro_hpc.surrogate.table import Family

GRADIENT = torch.tensor([3.0, -1.0, 2.0])


@pytest.mark.parametrize("scale", [1e-3, 50.0])
def test_the_size_of_the_gradient_does_not_count(scale: float) -> None:
    """A step of Adam does not depend on it, one of SGD is in proportion."""
    g = GRADIENT * scale
    adam = response(-g.sign(), g, Family.ADAM)
    assert adam == pytest.approx(response(-GRADIENT.sign(), GRADIENT, Family.ADAM))
    sgd = response(-0.1 * g, g, Family.SGD)
    assert sgd == pytest.approx(response(-0.1 * GRADIENT, GRADIENT, Family.SGD))


def test_what_no_gradient_made_does_not_count() -> None:
    across = torch.tensor([1.0, 3.0, 0.0])
    assert response(across, GRADIENT, Family.ADAM) == 0.0
    assert response(torch.zeros(3), GRADIENT, Family.SGD) == 0.0


def test_weights_and_biases_move_by_themselves() -> None:
    layer, x = nn.Linear(3, 3), torch.randn(5, 3)
    before = own_parameters(layer)
    with torch.no_grad():
        layer.weight += 1.0
        layer.bias += 2.0
    parts = parts_of("a", before)
    assert parts == {"a": {"weight"}, "a bias": {"bias"}}
    changes = {n: own_change(layer, before, moved, ((x,), {}), 0) for n, moved in parts.items()}
    torch.testing.assert_close(changes["a"], x.sum(1, keepdim=True).expand(5, 3))
    torch.testing.assert_close(changes["a bias"], torch.full((5, 3), 2.0))


def test_running_means_stay() -> None:
    layer = nn.BatchNorm1d(3)
    own_change(layer, own_parameters(layer), frozenset({"weight"}), ((torch.randn(5, 3),), {}), 0)
    assert torch.equal(layer.running_mean, torch.zeros(3))
