"""Where we do otherwise than microsoft/mup 1.0.0, on purpose (docs/decisions/0011-surrogates.md).

Each test holds what mup does beside what we do, so that it fails when either changes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import mup
import pytest
import torch
from torch import Tensor, nn

from hydro_hpc.errors import ShrinkError
from hydro_hpc.nn.multiplier import InputMultiplier
from hydro_hpc.surrogate import Surrogate, shrink
from hydro_hpc.surrogate.kinds import Scaling
from hydro_hpc.surrogate.table import Kind
from tests.hydro_hpc.surrogate.against_target import root_mean_square
from tests.hydro_hpc.surrogate.oracle_models import (
    NARROW,
    TARGET,
    TiedLanguage,
    oracle,
    ours,
    values,
)

M = NARROW / TARGET
M_PLUS = (NARROW + 8) / (TARGET + 8)


def of_mup(build: Callable[[int], nn.Module]) -> nn.Module:
    model = build(NARROW)
    mup.set_base_shapes(model, build(TARGET), delta=build(2 * TARGET))
    return model


def ours_of(build: Callable[[int], nn.Module]) -> Surrogate:
    return shrink(lambda width=TARGET: build(width), width=NARROW)


def spread(build: Callable[[], nn.Module], name: str, draws: int) -> float:
    return root_mean_square(values(build, draws)[name])


@functools.cache
def drawn(build: Callable[[int], nn.Module], draws: int = 40) -> tuple[dict[str, Tensor], ...]:
    """Of mup's narrow models, of ours and of targets, drawn once for all parameters."""
    return tuple(
        values(model, draws)
        for model in (lambda: of_mup(build), lambda: ours_of(build).module, lambda: build(TARGET))
    )


def change(build: Callable[[int], nn.Module], name: str) -> tuple[float, float]:
    """The spreads of mup's narrow model and of ours, against the target's."""
    theirs, mine, target = (root_mean_square(of_one[name]) for of_one in drawn(build))
    return theirs / target, mine / target


def rate(model: nn.Module, optimizer: torch.optim.Optimizer, name: str) -> float:
    wanted = model.get_parameter(name)
    groups: list[dict[str, Any]] = optimizer.param_groups
    [found] = [g["lr"] for g in groups for p in g["params"] if p is wanted]
    return float(found)


def rates(build: Callable[[int], nn.Module], name: str) -> tuple[float, float]:
    """For SGD at a rate of 1: mup's and ours."""
    model, surrogate = of_mup(build), ours_of(build)
    mine = torch.optim.SGD(surrogate.param_groups("sgd", lr=1.0))
    return rate(model, mup.MuSGD(model.parameters(), lr=1.0), name), rate(
        surrogate.module, mine, name
    )


def multiplier(module: nn.Module) -> float:
    [hook] = [h for h in module._forward_pre_hooks.values() if isinstance(h, InputMultiplier)]
    return hook.factor


def test_a_shared_weight_keeps_its_embeddings_spread() -> None:
    name = "tokens.weight"
    plain = spread(lambda: oracle(TiedLanguage, rescaled=False), name, 3)
    rescaled = spread(lambda: oracle(TiedLanguage, rescaled=True), name, 3)
    assert rescaled == pytest.approx(plain * M**0.5, rel=1e-6)
    assert spread(lambda: ours(TiedLanguage).module, name, 3) == pytest.approx(plain, rel=1e-6)


def transposed(width: int) -> nn.Module:
    return nn.Sequential(nn.ConvTranspose2d(width + 8, width, 3))


def test_a_transposed_convolution_goes_by_its_true_fan_in() -> None:
    """Its weight is (in, out, kernel): mup takes axis 1 to be what comes in."""
    assert ours_of(transposed).rules["0.weight"] == Scaling(kind=Kind.HIDDEN, m_in=M_PLUS, m_out=M)
    assert rates(transposed, "0.weight") == pytest.approx((M_PLUS / M, M / M_PLUS))
    assert change(transposed, "0.weight") == pytest.approx((M**-0.5, M_PLUS**-0.5), rel=0.01)


def over_words(width: int) -> nn.Module:
    """Of words' embeddings as rows of an image."""
    return nn.Sequential(nn.Conv2d(1, width + 8, (3, width)))


def test_a_kernel_along_the_width_is_what_a_convolution_takes() -> None:
    """To mup, what comes in is the one channel; under Adam, where it takes the last axis, both
    agree.
    """
    hidden = Scaling(kind=Kind.HIDDEN, m_in=M, m_out=M_PLUS)
    assert ours_of(over_words).rules["0.weight"] == hidden
    assert rates(over_words, "0.weight") == pytest.approx((M_PLUS, M_PLUS / M))
    model, groups = of_mup(over_words), ours_of(over_words).param_groups("adam", lr=1.0)
    theirs = rate(model, mup.MuAdam(model.parameters(), lr=1.0), "0.weight")
    assert {group["lr"] for group in groups} == {theirs, 1.0} == {1 / M, 1.0}


def depthwise_transposed(width: int) -> nn.Module:
    return nn.Sequential(nn.ConvTranspose1d(width, width, 5, groups=width))


def test_a_depthwise_transposed_convolution_takes_one_channel_for_each() -> None:
    """So does mup's, since one of its axes grows; by that axis alone it would be a readout."""
    expected = Scaling(kind=Kind.INPUT, m_out=M)
    surrogate = ours_of(depthwise_transposed)
    assert surrogate.rules["0.weight"] == expected
    assert not surrogate.module[0]._forward_pre_hooks  # type: ignore[index]
    assert rates(depthwise_transposed, "0.weight") == pytest.approx((M, M))


def widths_to_classes(width: int) -> nn.Module:
    return nn.Sequential(nn.Conv1d(3, width, 3), nn.Conv1d(width, 7, 1))


def test_a_convolution_that_leads_out_of_the_width_is_a_readout() -> None:
    """Mup has MuReadout for linear layers alone: such a convolution gets no multiplier there."""
    of_theirs, of_ours = change(widths_to_classes, "1.weight")
    assert (of_theirs, of_ours) == pytest.approx((M**-0.5, 1.0), rel=0.05)
    assert multiplier(ours_of(widths_to_classes).module[1]) == 1 / M  # type: ignore[index]


def recurrent(width: int) -> nn.Module:
    return nn.Sequential(nn.LSTM(20, width))


@pytest.mark.parametrize("name", ["0.weight_ih_l0", "0.bias_ih_l0", "0.bias_hh_l0"])
def test_recurrent_layers_keep_the_spread_of_their_inputs_weights_and_biases(name: str) -> None:
    """torch draws all of them by the size of the state; mup rescales linear layers alone."""
    assert change(recurrent, name) == pytest.approx((M**-0.5, 1.0), rel=0.05)


def crossed(width: int) -> nn.Module:
    return nn.Sequential(nn.MultiheadAttention(width, 4, kdim=6))


def test_attentions_weights_for_keys_of_a_fixed_size_keep_their_spread() -> None:
    """torch draws them by both fans; mup leaves attention as it is drawn."""
    drawn = ((TARGET + 6) / (NARROW + 6)) ** 0.5
    assert change(crossed, "0.k_proj_weight") == pytest.approx((drawn, 1.0), rel=0.05)


class Prior(nn.Module):
    """A readout whose bias begins at the logarithm of a class' share."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(20, width), mup.MuReadout(width, 3)
        nn.init.constant_(self.out.bias, -4.0)


def test_a_constant_bias_of_a_readout_stays() -> None:
    theirs, mine = of_mup(Prior).out, ours_of(prior).module.get_submodule("1")
    assert theirs.bias.tolist() == [-4.0 * M**0.5] * 3  # type: ignore[union-attr]
    assert mine.bias.tolist() == [-4.0] * 3  # type: ignore[union-attr]


def prior(width: int) -> nn.Module:
    model = nn.Sequential(nn.Linear(20, width), nn.Linear(width, 3))
    nn.init.constant_(model[1].bias, -4.0)  # type: ignore[arg-type]
    return model


def drawn_alike(width: int) -> nn.Module:
    model = nn.Sequential(nn.Linear(20, width), nn.Linear(width, width + 8))
    for layer in model:
        nn.init.normal_(layer.weight, std=0.02)  # type: ignore[arg-type]
    return model


def test_a_hidden_weight_gets_its_spread_whatever_its_initialisation() -> None:
    """Mup's rescaling supposes torch's default; others are to be written anew for it."""
    assert change(drawn_alike, "1.weight") == pytest.approx((1.0, M**-0.5), rel=0.01)


def grid(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(20, width), nn.LayerNorm((width, width + 8)))


def test_a_gain_along_two_wide_axes_is_a_vector() -> None:
    """Mup takes what has two wide axes to be a matrix."""
    assert ours_of(grid).rules["1.weight"] == Scaling(kind=Kind.VECTOR, m_out=M * M_PLUS)
    assert rates(grid, "1.weight") == pytest.approx((M / M_PLUS, M * M_PLUS))


def second_wide(width: int) -> nn.Module:
    return nn.Sequential(nn.Bilinear(6, width + 8, width))


def test_a_bilinear_layer_takes_by_the_axis_that_is_wide() -> None:
    """Mup takes axis 1 for it always."""
    assert rates(second_wide, "0.weight") == pytest.approx((M, M / M_PLUS))


def test_a_linear_layer_that_leads_out_in_the_middle_is_a_readout() -> None:
    """Mup refuses it, unless it is a MuReadout."""

    def adapter(width: int) -> nn.Module:
        return nn.Sequential(nn.Linear(20, width), nn.Linear(width, 4), nn.Linear(4, width))

    with pytest.raises(AssertionError):
        of_mup(adapter)
    assert multiplier(ours_of(adapter).module[1]) == 1 / M  # type: ignore[index]


def test_three_wide_axes_are_refused_as_by_mup() -> None:
    def product(width: int) -> nn.Module:
        return nn.Sequential(nn.Bilinear(width, width, width))

    with pytest.raises(NotImplementedError):
        mup.MuAdam(of_mup(product).parameters(), lr=1.0)
    with pytest.raises(ShrinkError, match="both inputs of '0'"):
        ours_of(product)
