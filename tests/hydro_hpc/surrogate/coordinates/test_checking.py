"""The whole check on models with unequal widths: right ones pass, each fault is found and named,
over ten seeds, and no structural check helps. `benchmarks/coordinates.py` has all combinations.
"""

from __future__ import annotations

from typing import Final

import pytest
import torch
from torch import Tensor, nn

from hydro_hpc.errors import ShrinkError, StudyError
from hydro_hpc.surrogate import CheckReport, Narrow, check, check_ladder, shrink
from hydro_hpc.surrogate.coordinates.checking import make_batch
from hydro_hpc.surrogate.coordinates.recipe import Ladder, Recipe
from hydro_hpc.surrogate.coordinates.records import Role
from tests.hydro_hpc.surrogate.coordinates import faults
from tests.hydro_hpc.surrogate.coordinates.architectures import CASES, WRONG_ATTENTION, Case
from tests.hydro_hpc.surrogate.coordinates.zoo import ZOO

SEEDS: Final = range(10)
SEEDS_EACH: Final = 2  # that a check takes the mean of
WIDTHS_EACH: Final = 3
RATES: Final = {"sgd": 0.2, "adam": 0.01, "adamw": 0.01}


def checked(
    ladder: Ladder,
    case: Case,
    optimizer: str,
    seed: int,
    steps: int = 1,
    seeds_each: int = SEEDS_EACH,
) -> CheckReport:
    return check_ladder(
        ladder,
        widths=case.widths[:WIDTHS_EACH],
        batch=make_batch(case.example, case.targets),
        recipe=Recipe(optimizer=optimizer, lr=RATES[optimizer], weight_decay=0.01, steps=steps)
        if optimizer == "adamw"
        else Recipe(optimizer=optimizer, lr=RATES[optimizer], steps=steps),
        seeds=range(seeds_each * seed, seeds_each * (seed + 1)),
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("optimizer", RATES)
@pytest.mark.parametrize("name", ["mlp", "resnet", "gpt"])
def test_right_surrogates_raise_no_alarm(name: str, optimizer: str, seed: int) -> None:
    case = CASES[name]
    report = checked(faults.right(case), case, optimizer, seed)
    assert report.passed, str(report)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("name", ZOO)
def test_right_surrogates_of_other_kinds_raise_no_alarm(name: str, optimizer: str) -> None:
    """Among them those of which gradients of the batch say that they are wrong."""
    case = ZOO[name]
    report = checked(faults.right(case), case, optimizer, 0)
    assert report.passed, str(report)


def test_raw_parameters_have_a_verdict_by_their_own_names() -> None:
    case = ZOO["vit"]
    report = checked(faults.right(case), case, "adam", 0)
    found = {verdict.layer: verdict for verdict in report.layers}
    assert {found[name].role for name in ("cls", "places")} == {Role.VECTOR}
    assert all(found[name].slopes.step is not None for name in ("cls", "places"))
    assert found["(model)"].slopes.step is None
    wrong = checked(faults.every_rate_divided(case), case, "adam", 0)
    assert {"cls", "places"} <= {verdict.layer for verdict in wrong.culprits}


def test_a_tied_readout_is_looked_at_beside_its_table() -> None:
    case = ZOO["tied gpt"]
    wrong = checked(faults.no_readout_multiplier(case), case, "sgd", 0)
    assert [verdict.layer for verdict in wrong.culprits] == ["head"]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_heads_that_grow_raise_no_alarm_when_scaled_by_their_size(optimizer: str) -> None:
    case = CASES["gpt of growing heads"]
    reports = [checked(faults.right(case), case, optimizer, seed) for seed in range(4)]
    assert not [str(report) for report in reports if not report.passed]


HIDDEN_OF: Final = {
    "mlp": {"up", "down"},
    "resnet": {"one.a", "one.b", "two.a", "two.b", "two.short.0"},
    "gpt": {
        f"blocks.0.{layer}" for layer in (*(f"attention.{name}" for name in "qkvo"), "up", "down")
    },
}
UNEQUAL_OF: Final = {
    "mlp": {"up", "down"},
    "resnet": {"one.a", "one.b", "two.a", "two.b"},
    "gpt": {"blocks.0.up", "blocks.0.down"},
}
INPUT_OF: Final = {"mlp": "first", "resnet": "stem", "gpt": "tokens"}


@pytest.mark.parametrize(
    ("name", "optimizer", "seed"),
    [
        *(("mlp", optimizer, seed) for optimizer in ("sgd", "adam") for seed in SEEDS),
        ("resnet", "sgd", 0),
        ("gpt", "adam", 0),
    ],
)
class TestFaults:
    def culprits(self, fault: str, name: str, optimizer: str, seed: int) -> dict[str, str]:
        case = CASES[name]
        report = checked(faults.FAULTS[fault](case), case, optimizer, seed, seeds_each=1)
        assert not report.passed
        return {verdict.layer: verdict.cause for verdict in report.culprits}

    def test_standard_parametrization_is_found_at_hidden_layers_and_the_head(
        self, name: str, optimizer: str, seed: int
    ) -> None:
        found = self.culprits("standard parametrization", name, optimizer, seed)
        assert "learning rate" in found[first_of(found, HIDDEN_OF[name])]
        assert "multiplier on the input" in found["head"]

    def test_no_rate_rule_is_found_where_the_rule_changes_the_rate(
        self, name: str, optimizer: str, seed: int
    ) -> None:
        found = self.culprits("no rate rule", name, optimizer, seed)
        if optimizer == "sgd":
            assert "must be multiplied by m_out" in found[INPUT_OF[name]]
        else:
            assert set(found) <= HIDDEN_OF[name]
            assert "must be divided" in found[first_of(found, HIDDEN_OF[name])]

    def test_a_missing_readout_multiplier_is_found_at_the_head_alone(
        self, name: str, optimizer: str, seed: int
    ) -> None:
        found = self.culprits("no readout multiplier", name, optimizer, seed)
        assert set(found) == {"head"}
        assert "multiplier" in found["head"]

    def test_a_rate_divided_everywhere_is_found_where_it_must_not_be(
        self, name: str, optimizer: str, seed: int
    ) -> None:
        found = self.culprits("every rate divided", name, optimizer, seed)
        assert "steps shrink with the width" in found[INPUT_OF[name]]

    def test_a_wrong_fan_axis_is_found_at_layers_of_unequal_axes(
        self, name: str, optimizer: str, seed: int
    ) -> None:
        found = self.culprits("wrong fan axis", name, optimizer, seed)
        assert found
        assert set(found) <= UNEQUAL_OF[name]
        assert "m_in, not m_out" in " ".join(found.values())

    def test_a_hidden_rate_divided_once_more_is_found_at_hidden_layers(
        self, name: str, optimizer: str, seed: int
    ) -> None:
        found = self.culprits("hidden rate x S", name, optimizer, seed)
        assert found
        assert set(found) <= HIDDEN_OF[name]
        assert all("steps shrink with the width" in cause for cause in found.values())


def first_of(found: dict[str, str], layers: set[str]) -> str:
    return next(layer for layer in found if layer in layers)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_attention_scaled_by_the_root_of_a_growing_head_is_found(optimizer: str, seed: int) -> None:
    report = checked(faults.right(WRONG_ATTENTION), WRONG_ATTENTION, optimizer, seed)
    assert {verdict.role for verdict in report.culprits} == {Role.LOGITS}
    assert {verdict.layer for verdict in report.culprits} == {"blocks.0.attention logits"}
    assert "1 / size" in report.culprits[0].cause


def test_a_check_looks_for_rate_and_widths_by_itself() -> None:
    case = CASES["mlp"]
    report = check(case.factory, example=case.example, targets=case.targets)
    assert report.passed
    assert report.widths == (16, 32, 64, 128)
    assert 2**-13 <= report.lr < 1


def test_a_check_needs_no_targets() -> None:
    case = CASES["mlp"]
    assert check(case.factory, example=case.example, optimizer="sgd", lr=0.1, seeds=1).passed


def test_the_global_random_state_stays() -> None:
    case = CASES["mlp"]
    before = torch.get_rng_state()
    check(case.factory, example=case.example, lr=0.01, seeds=1, widths=(16, 32, 64))
    assert torch.equal(before, torch.get_rng_state())


def test_dropout_is_no_change() -> None:
    def model(width: int = 64) -> nn.Module:
        return nn.Sequential(
            nn.Linear(20, width),
            nn.Dropout(0.5),
            nn.ReLU(inplace=True),
            nn.Linear(width, width),
            nn.Linear(width, 10),
        )

    report = check(model, example=torch.randn(16, 20), lr=1e-6, optimizer="sgd", seeds=1)
    changes = [c for c in report.curves if c.layer == "1" and c.measure.value == "change"]
    assert max(max(curve.means) for curve in changes) < 1e-3
    assert report.passed


class ZeroHead(nn.Module):
    """Whose hidden layers have no gradient in the first step."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.first, self.hidden = nn.Linear(20, width), nn.Linear(width, width)
        self.head = nn.Linear(width, 10)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.hidden(self.first(x).relu()).relu())
        return found


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_head_of_zeros_hides_no_fault(optimizer: str) -> None:
    case = Case(
        factory=ZeroHead,
        target=64,
        widths=(16, 32, 64, 128),
        example=CASES["mlp"].example,
        targets=CASES["mlp"].targets,
    )
    assert checked(faults.right(case), case, optimizer, 0, steps=2).passed
    wrong = checked(faults.hidden_rate_divided_once_more(case), case, optimizer, 0, steps=2)
    assert {verdict.layer for verdict in wrong.culprits} == {"hidden"}


def test_frozen_layers_pass() -> None:
    def model(width: int = 64) -> nn.Module:
        layers = nn.Sequential(nn.Linear(20, width), nn.ReLU(), nn.Linear(width, 10))
        layers[0].requires_grad_(False)
        return layers

    report = check(model, example=torch.randn(16, 20), lr=0.01, seeds=1)
    assert report.passed
    assert report.layers[0].slopes.step is None


def test_values_that_are_not_finite_fail() -> None:
    case = CASES["mlp"]
    report = check(case.factory, example=case.example, optimizer="sgd", lr=1e30, seeds=1)
    assert not report.passed
    assert "not finite" in str(report)


def test_weight_decay_of_adam_is_warned_about() -> None:
    case = CASES["mlp"]
    report = check(case.factory, example=case.example, lr=0.01, weight_decay=0.1, seeds=1)
    assert "Adam" in report.notes[0]
    assert "note: weight decay" in str(report)


class TimesRoot(nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.into, self.head, self.width = nn.Linear(20, width), nn.Linear(width, 5), width

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.into(x).relu() * self.width**0.5)
        return found


def test_what_shrinking_warns_of_is_noted() -> None:
    """A factor that shows in no layer's own values and steps."""
    report = check(TimesRoot, example=torch.randn(8, 20), lr=0.01, seeds=1, steps=1)
    assert any("and the rules want the same" in note for note in report.notes)


def test_one_width_cannot_be_compared() -> None:
    case = CASES["mlp"]
    with pytest.raises(ShrinkError, match="two widths"):
        check(case.factory, example=case.example, lr=0.01, widths=(16,))


def test_a_function_of_the_width_keeps_nothing() -> None:
    case = CASES["mlp"]
    why = "is of models whose widths are followed; this one has width=, and its code says what that"
    with pytest.raises(ShrinkError, match=rf"^keep= {why} changes: leave it out$"):
        check(case.factory, example=case.example, lr=0.01, keep=["down"])
    with pytest.raises(ShrinkError, match=rf"^keep= {why} changes: leave it out$"):
        shrink(case.factory, width=16, keep=["down"])
    with pytest.raises(StudyError, match=rf"^Narrow\(keep=\) {why} changes: leave it out$"):
        Narrow(width=16, keep=("down",))
