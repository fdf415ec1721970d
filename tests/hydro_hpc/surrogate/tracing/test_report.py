"""What is said of a model that was shrunk: its widths, what stays and why."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from hydro_hpc.surrogate import shrink

BY = 4
ROWS = torch.randn(4, 12)


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.width = 64
        self.a, self.mean = nn.Linear(12, 64), nn.Linear(64, 8)
        self.b, self.out = nn.Linear(8, 64), nn.Linear(64, 12)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.b(self.mean(self.a(x).relu())).relu())
        return out


def test_bottlenecks_that_shrink_and_numbers_that_stay_are_warned_of() -> None:
    report = shrink(Autoencoder(), by=BY, example=ROWS).report
    unasked, bottleneck = report.warnings
    assert unasked.startswith("'width' stays 64, as the call asks for no size that it is")
    assert bottleneck.startswith("8 -> 2 is the size of a bottleneck: if it is to stay")
    assert "keep=['mean.weight']" in bottleneck
    kept = shrink(Autoencoder(), by=BY, example=ROWS, keep=["mean.weight"])
    assert kept.module.get_parameter("mean.weight").shape == (8, 16)


class Towers(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.a, self.b = (nn.Sequential(nn.Linear(12, 64), nn.Linear(64, 32)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.a(x), self.b(x)
        if self.form == "sum":
            return (left * right).sum(-1)
        return torch.einsum("bd,bd->b", left, right)


@pytest.mark.parametrize("form", ["sum", "einsum"])
def test_sizes_stay_over_which_activations_are_multiplied_in_any_form(form: str) -> None:
    lines = str(shrink(Towers(form), by=BY, example=ROWS).report).splitlines()
    assert lines == [
        "a.0.weight and 2 more: 64 -> 16",
        "b.0.weight and 2 more: 64 -> 16",
        "a.1.weight and 3 more: 32 stays, since activations are multiplied over it, as over the "
        "size of heads",
    ]


class Squared(nn.Module):
    """Sums over squares, and over a product with what has one value, are products of no two."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.gate, self.out = nn.Linear(12, 64), nn.Linear(64, 1), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        x = x * torch.rsqrt((x * x).sum(-1, keepdim=True))
        return self.out(x) + (x * self.gate(x)).sum(-1, keepdim=True)


def test_a_square_and_a_gate_keep_no_width() -> None:
    report = shrink(Squared(), by=BY, example=ROWS).report
    assert (str(report.widths[0]), report.kept) == ("into.weight and 3 more: 64 -> 16", ())


def test_a_ratio_that_was_rounded_is_said_beside_the_one_that_was_asked_for() -> None:
    model = nn.Sequential(nn.Linear(12, 20), nn.Linear(20, 64), nn.Linear(64, 3))
    assert str(shrink(model, by=16, example=ROWS).report).splitlines() == [
        "0.weight and 2 more: 20 -> 2, by 10 where 16 was asked for",
        "1.weight and 2 more: 64 -> 4",
    ]


class Adapted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(64, 64)
        self.down, self.up = nn.Linear(64, 8, bias=False), nn.Linear(8, 64, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + self.up(self.down(x))
        return out


def test_bottlenecks_of_one_size_have_one_line_with_all_that_is_to_be_kept() -> None:
    model = nn.Sequential(nn.Linear(12, 64), Adapted(), Adapted(), nn.Linear(64, 3))
    [line] = shrink(model, by=BY, example=ROWS).report.warnings
    assert line.startswith("8 -> 2 is the size of 2 bottlenecks: ")
    assert line.endswith("keep=['1.down.weight', '2.down.weight']")
    kept = shrink(model, by=BY, example=ROWS, keep=["1.down.weight", "2.down.weight"])
    assert not kept.report.warnings


class Counted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.width = 64
        self.into, self.out = nn.Linear(12, 64), nn.Linear(128, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.into(x), self.into(x)], -1).view(len(x), int(self.width * 2))
        out: Tensor = self.out(x)
        return out


def test_a_size_that_the_code_makes_a_number_of_stays_and_its_line_is_said() -> None:
    said = r"0\.out\.weight: 128 stays, test_report\.py, line \d+ says it as a number: where"
    model = nn.Sequential(Counted(), nn.Linear(3, 32), nn.Linear(32, 2))
    assert re.search(said, str(shrink(model, by=BY, example=ROWS).report))


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.grouped = nn.Conv1d(3, 64, 1), nn.Conv1d(64, 64, 1, groups=8)
        self.out = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.grouped(self.into(x)).mean(-1))
        return out


def test_channels_of_a_group_are_no_bottleneck() -> None:
    assert shrink(Grouped(), by=BY, example=torch.randn(2, 3, 8)).report.warnings == ()


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(5, 64), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.out(self.into(2.0 * x[:, :5]))
        return out


@pytest.mark.parametrize(
    ("model", "example"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 3)), (2, 1, 8, 8)),
        (nn.Sequential(nn.Unflatten(1, (4, 3)), nn.Conv1d(4, 64, 3), nn.Flatten()), (2, 12)),
        (Part(), (4, 12)),
    ],
)
def test_sizes_of_what_the_model_is_given_stay_without_a_word(
    model: nn.Module, example: tuple[int, ...]
) -> None:
    model = nn.Sequential(model, nn.LazyLinear(32), nn.Linear(32, 2))
    model(torch.randn(example))
    assert shrink(model, by=BY, example=torch.randn(example)).report.kept == ()
