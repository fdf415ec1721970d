"""Surrogates from factories: what their parameters are, and how they begin."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate import shrink
from hydro_hpc.surrogate.kinds import Scaling
from hydro_hpc.surrogate.table import Kind

TARGET, NARROW = 64, 16
M = NARROW / TARGET


def perceptron(width: int = TARGET) -> nn.Module:
    return nn.Sequential(
        nn.Linear(20, width),
        nn.ReLU(),
        nn.Linear(width, 2 * width + 8),
        nn.LayerNorm(2 * width + 8),
        nn.Linear(2 * width + 8, 10),
    )


class Everything(nn.Module):
    """One of each kind of layer with a weight."""

    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.depthwise = nn.Conv2d(width, width, 3, groups=width)
        self.up = nn.ConvTranspose2d(width, 2 * width + 4, 3)
        self.tokens = nn.Embedding(50, width)
        self.attention = nn.MultiheadAttention(width, 4)
        self.recurrent = nn.LSTM(width, 2 * width)
        self.slope = nn.PReLU(width)
        self.temperature = nn.Parameter(torch.ones(()))
        self.head = nn.Conv1d(width, 7, 1)


class Tied(nn.Module):
    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.tokens, self.head = nn.Embedding(50, width), nn.Linear(width, 50, bias=False)
        self.head.weight = self.tokens.weight


def kinds(factory: Callable[..., nn.Module]) -> dict[str, Scaling]:
    return dict(shrink(factory, width=NARROW).rules)


def test_parameters_are_told_by_the_axes_that_grow() -> None:
    wide = (2 * NARROW + 8) / (2 * TARGET + 8)
    assert kinds(perceptron) == {
        "0.weight": Scaling(kind=Kind.INPUT, m_out=M),
        "0.bias": Scaling(kind=Kind.VECTOR, m_out=M),
        "2.weight": Scaling(kind=Kind.HIDDEN, m_in=M, m_out=wide),
        "2.bias": Scaling(kind=Kind.VECTOR, m_out=wide),
        "3.weight": Scaling(kind=Kind.VECTOR, m_out=wide),
        "3.bias": Scaling(kind=Kind.VECTOR, m_out=wide),
        "4.weight": Scaling(kind=Kind.OUTPUT, m_in=wide),
        "4.bias": Scaling(kind=Kind.FIXED),
    }


def test_every_layers_weight_goes_by_its_own_axes() -> None:
    found = kinds(Everything)
    wide = (2 * NARROW + 4) / (2 * TARGET + 4)
    assert found["conv.weight"] == Scaling(kind=Kind.INPUT, m_out=M)
    assert found["depthwise.weight"] == Scaling(kind=Kind.INPUT, m_out=M)
    assert found["up.weight"] == Scaling(kind=Kind.HIDDEN, m_in=M, m_out=wide)
    assert found["tokens.weight"] == Scaling(kind=Kind.INPUT, m_out=M)
    assert found["attention.in_proj_weight"] == Scaling(kind=Kind.HIDDEN, m_in=M, m_out=M)
    assert found["recurrent.weight_ih_l0"] == Scaling(kind=Kind.HIDDEN, m_in=M, m_out=M)
    assert found["slope.weight"] == Scaling(kind=Kind.VECTOR, m_out=M)
    assert found["temperature"] == Scaling(kind=Kind.FIXED)
    assert found["head.weight"] == Scaling(kind=Kind.OUTPUT, m_in=M)


def test_a_tied_weight_is_one_kind_of_its_own() -> None:
    assert kinds(Tied) == {"tokens.weight": Scaling(kind=Kind.TIED, m_in=M, m_out=M)}


def test_the_output_layers_input_is_multiplied_and_its_bias_is_not() -> None:
    module = shrink(perceptron, width=NARROW).module
    head, x = copy.deepcopy(module[4]), torch.randn(5, 2 * NARROW + 8)  # type: ignore[index]
    ratio = (2 * NARROW + 8) / (2 * TARGET + 8)
    expected = nn.functional.linear(x / ratio, head.weight, head.bias)
    torch.testing.assert_close(head(x), expected)
    torch.testing.assert_close(head(input=x), expected)


def test_parameter_groups_have_every_parameter_once_with_its_rate() -> None:
    surrogate = shrink(perceptron, width=NARROW)
    names = {id(p): name for name, p in surrogate.module.named_parameters()}
    groups = surrogate.param_groups("sgd", lr=0.1, weight_decay=0.02)
    found = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    wide = (2 * NARROW + 8) / (2 * TARGET + 8)
    rates = {"0.weight": M, "0.bias": M, "2.weight": wide / M, "2.bias": wide}
    rates |= {"3.weight": wide, "3.bias": wide, "4.weight": wide, "4.bias": 1.0}
    assert found == {n: pytest.approx((0.1 * rate, 0.02 / rate)) for n, rate in rates.items()}
    assert sum(len(group["params"]) for group in groups) == len(names)


@pytest.mark.parametrize(("optimizer", "decay"), [("adamw", 0.01), ("AdamW", 0.01), ("adam", 0)])
def test_weights_decay_as_torch_does_it_unless_the_decay_is_said(
    optimizer: str, decay: float
) -> None:
    """By the product with the rate, which is what a weight loses in a step."""
    surrogate = shrink(perceptron, width=NARROW)
    for group in surrogate.param_groups(optimizer, lr=0.5):
        assert group["lr"] * group["weight_decay"] == pytest.approx(0.5 * decay)
    for group in surrogate.param_groups(optimizer, lr=0.5, weight_decay=0.0):
        assert group["weight_decay"] == 0.0


@pytest.mark.parametrize(
    ("optimizer", "settings", "sentence"),
    [
        ("adam", {"lr": -1.0}, "lr=-1.0 is no number of 0 or more"),
        ("adam", {"lr": math.nan}, "lr=nan is no number"),
        ("adam", {"lr": "a"}, "lr='a' is no number"),
        ("adam", {"lr": 1.0, "weight_decay": True}, "weight_decay=True is no number"),
        (None, {"lr": 1.0}, "how the steps of None scale with the width is not known"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    optimizer: Any, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ShrinkError, match=sentence):
        shrink(perceptron, width=NARROW).param_groups(optimizer, **settings)


def test_a_layer_that_came_later_has_no_rule() -> None:
    surrogate = shrink(perceptron, width=NARROW)
    surrogate.module.add_module("extra", nn.Linear(2, 2))
    with pytest.raises(ShrinkError, match=r"'extra\.weight'"):
        surrogate.param_groups("adam", lr=0.1)


def test_a_surrogate_of_the_targets_width_is_the_target_bit_by_bit() -> None:
    torch.manual_seed(3)
    surrogate = shrink(perceptron, width=TARGET).module
    torch.manual_seed(3)
    target = perceptron()
    for found, expected in zip(surrogate.parameters(), target.parameters(), strict=True):
        assert torch.equal(found, expected)
    x = torch.randn(5, 20)
    assert torch.equal(surrogate(x), target(x))


def test_values_spread_as_the_rules_say() -> None:
    """Against the target's own spread, of a default initialisation: 1 / sqrt(3 fan-in)."""
    drawn: dict[str, list[torch.Tensor]] = {}
    for seed in range(20):
        torch.manual_seed(seed)
        for name, parameter in shrink(perceptron, width=NARROW).module.named_parameters():
            drawn.setdefault(name, []).append(parameter.detach().flatten())
    spread = {name: float(torch.cat(some).std()) for name, some in drawn.items()}
    fan_in = {"0": 20, "2": TARGET, "4": 2 * TARGET + 8}
    for layer, size in fan_in.items():
        expected = 1 / math.sqrt(3 * size)
        hidden = M**-0.5 if layer == "2" else 1.0
        assert spread[f"{layer}.weight"] == pytest.approx(expected * hidden, rel=0.05)
        assert spread[f"{layer}.bias"] == pytest.approx(expected, rel=0.2)
    assert spread["3.weight"] == spread["3.bias"] == 0.0


class Conflicting(nn.Module):
    """One weight that takes at one place by the axis by which it gives at the other."""

    def __init__(self, width: int = TARGET) -> None:
        super().__init__()
        self.table = nn.Embedding(2 * width + 8, width)
        self.back = nn.Linear(width, 2 * width + 8, bias=False)
        self.back.weight = self.table.weight


def layers_by_width(width: int = TARGET) -> nn.Module:
    return nn.Sequential(*(nn.Linear(4, 4) for _ in range(width // 16)))


@pytest.mark.parametrize(
    ("factory", "sentence"),
    [
        (lambda size=64: nn.Linear(size, size), "no argument width="),
        (lambda width: nn.Linear(width, width), "no argument width="),
        (
            lambda width=64: nn.Sequential(*(nn.Linear(4, 4) for _ in range(width // 16))),
            "one width only",
        ),
        (lambda width=64: nn.Conv2d(width, width, 2 * width - 1), "kernels"),
    ],
)
def test_what_has_no_rule_is_refused_in_a_sentence(
    factory: Callable[..., nn.Module], sentence: str
) -> None:
    with pytest.raises(ShrinkError, match=sentence):
        shrink(factory, width=NARROW)


def test_the_report_lists_widths_and_what_was_not_looked_at() -> None:
    lines = str(shrink(perceptron, width=NARROW).report).splitlines()
    assert lines[0] == "0.weight and 2 more: 64 -> 16"
    assert lines[1] == "2.weight and 4 more: 136 -> 40, by 3.4 where 4 was asked for"
    assert lines[2].endswith("since the model was not called: give example=, such as one batch")
    assert len(lines) == 3
    called = shrink(perceptron, by=4, example=torch.randn(2, 20)).report
    assert str(called).splitlines() == lines[:2]


def test_at_the_targets_width_there_is_nothing_to_report() -> None:
    assert str(shrink(perceptron, width=TARGET).report) == ""
