"""Models that are unusual and can be shrunk: what becomes of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from hydro_hpc.surrogate import shrink
from hydro_hpc.surrogate.kinds import Scaling
from hydro_hpc.surrogate.table import Kind
from tests.hydro_hpc.surrogate.against_target import (
    HIDDEN,
    INPUT,
    NARROW,
    OUTPUT,
    TARGET,
    VECTOR,
    Factory,
    M,
    change,
    multipliers,
)


def drawn_alike(layer: nn.Linear) -> nn.Linear:
    nn.init.normal_(layer.weight, std=0.02)
    return layer


def weight_normed(width: int = TARGET) -> nn.Module:
    normed = parametrizations.weight_norm
    return nn.Sequential(
        normed(nn.Linear(20, width)),
        normed(drawn_alike(nn.Linear(width, width))),
        nn.Linear(width, 3),
    )


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def weight_normed_by_hooks(width: int = TARGET) -> nn.Module:
    normed = torch.nn.utils.weight_norm
    return nn.Sequential(
        normed(nn.Linear(20, width)),
        normed(drawn_alike(nn.Linear(width, width))),
        nn.Linear(width, 3),
    )


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize(
    ("factory", "gain", "direction"),
    [
        (weight_normed, "parametrizations.weight.original0", "parametrizations.weight.original1"),
        (weight_normed_by_hooks, "weight_g", "weight_v"),
    ],
)
def test_weight_norm_is_a_vector_of_gains_and_a_weight(
    factory: Factory, gain: str, direction: str
) -> None:
    surrogate = shrink(factory, width=NARROW)
    rules = surrogate.rules
    assert (rules[f"0.{gain}"], rules[f"0.{direction}"]) == (VECTOR, INPUT)
    assert (rules[f"1.{gain}"], rules[f"1.{direction}"]) == (VECTOR, HIDDEN)
    surrogate.module(torch.randn(2, 20))
    weight = surrogate.module[1].weight  # type: ignore[index]
    assert float(weight.detach().std()) == pytest.approx(0.02 * M**-0.5, rel=0.1)
    assert change(factory, f"1.{gain}") == pytest.approx(1.0, rel=0.02)
    assert change(factory, f"1.{direction}") == pytest.approx(M**-0.5, rel=0.02)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_what_computes_its_weight_by_a_hook_may_be_shown_in_a_call() -> None:
    surrogate = shrink(weight_normed_by_hooks, width=NARROW, example=torch.randn(4, 20))
    assert surrogate.rules["1.weight_v"] == HIDDEN
    assert surrogate.report.warnings == ()


class Adapted(nn.Module):
    """A frozen layer with an adapter of a fixed rank, whose second matrix begins at zero."""

    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.into, self.base = nn.Linear(8, width), nn.Linear(width, width)
        self.base.requires_grad_(False)
        self.down = nn.Linear(width, 4, bias=False)
        self.up = nn.Linear(4, width, bias=False)
        nn.init.zeros_(self.up.weight)


def test_frozen_layers_stay_frozen_and_adapters_lead_out_and_in() -> None:
    surrogate = shrink(Adapted, width=NARROW)
    assert surrogate.rules["base.weight"] == HIDDEN
    assert (surrogate.rules["down.weight"], surrogate.rules["up.weight"]) == (OUTPUT, INPUT)
    assert multipliers(surrogate) == {"down": 1 / M}
    assert not surrogate.module.get_parameter("up.weight").any()
    assert not any(p.requires_grad for p in surrogate.module.base.parameters())
    assert change(Adapted, "base.weight") == pytest.approx(M**-0.5, rel=0.02)


def flattened(width: int = TARGET) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, width), nn.Linear(width, 10), nn.LogSoftmax(-1)
    )


def flattened_inside(width: int = TARGET) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.Flatten(), nn.Linear(36 * width, 10))


def test_flattening_and_log_softmax_leave_inputs_and_classes_as_they_are() -> None:
    surrogate = shrink(flattened, width=NARROW)
    assert (surrogate.rules["1.weight"], surrogate.rules["2.weight"]) == (INPUT, OUTPUT)
    assert surrogate.module(torch.randn(5, 4, 4)).exp().sum().item() == pytest.approx(5)
    inside = shrink(flattened_inside, width=NARROW)
    assert inside.rules["2.weight"] == OUTPUT
    assert inside.module(torch.randn(2, 3, 8, 8)).shape == (2, 10)


def rounded(width: int = 100) -> nn.Module:
    heads = max(1, round(width / 24))
    return nn.Sequential(
        nn.Linear(8, 24 * heads), nn.Linear(24 * heads, width), nn.Linear(width, 3)
    )


def test_the_ratio_of_each_axis_is_the_actual_one() -> None:
    rules = shrink(rounded, width=37).rules
    assert rules["0.weight"] == Scaling(kind=Kind.INPUT, m_out=0.5)
    assert rules["1.weight"] == Scaling(kind=Kind.HIDDEN, m_in=0.5, m_out=0.37)
    assert rules["2.weight"] == Scaling(kind=Kind.OUTPUT, m_in=0.37)


def in_groups(width: int = TARGET) -> nn.Module:
    groups = width // 8
    return nn.Sequential(
        nn.Conv1d(width, 2 * width, 3, groups=groups),
        nn.ConvTranspose1d(2 * width, width, 3, groups=groups),
        nn.ConvTranspose1d(width, 2 * width, 3, groups=4),
        nn.ConvTranspose1d(2 * width, 5, 3),
    )


def test_groups_that_grow_leave_the_fan_in_as_it_is() -> None:
    surrogate = shrink(in_groups, width=NARROW)
    found = [surrogate.rules[f"{number}.weight"] for number in range(4)]
    assert found == [INPUT, INPUT, HIDDEN, OUTPUT]
    assert multipliers(surrogate) == {"3": 1 / M}


def into_two_directions(width: int = TARGET) -> nn.Module:
    return nn.Sequential(nn.Linear(8, width), nn.GRU(width, 5, bidirectional=True))


def test_a_layer_of_several_output_weights_has_its_input_multiplied_once() -> None:
    assert multipliers(shrink(into_two_directions, width=NARROW)) == {"1": 1 / M}


class TiedBag(nn.Module):
    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.words, self.out = nn.EmbeddingBag(50, width), nn.Linear(width, 50)
        self.out.weight = self.words.weight


def test_of_a_tied_table_only_the_readout_is_multiplied() -> None:
    assert multipliers(shrink(TiedBag, width=NARROW)) == {"out": 1 / M}


def limited(width: int = TARGET) -> nn.Module:
    return {
        TARGET: nn.Linear(8, TARGET),
        NARROW: nn.Linear(8, NARROW),
    }[width]


def test_two_widths_are_enough_for_another_width_than_the_targets() -> None:
    assert shrink(limited, width=NARROW).rules["weight"] == INPUT
