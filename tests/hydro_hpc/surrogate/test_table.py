"""The muP table as such."""

from __future__ import annotations

import pytest

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate.table import FAMILIES, Factors, Family, Kind, factors, family_of

UNCHANGED = Factors(lr=1.0, weight_decay=1.0, init_std=1.0, in_mult=1.0)


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("kind", Kind)
def test_nothing_changes_at_the_targets_own_width(kind: Kind, family: Family) -> None:
    assert factors(kind, family) == UNCHANGED


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("kind", Kind)
def test_rate_times_weight_decay_is_the_targets(kind: Kind, family: Family) -> None:
    found = factors(kind, family, m_in=0.25, m_out=0.5)
    assert found.lr * found.weight_decay == pytest.approx(1.0)


def test_a_hidden_weight_of_unequal_axes_goes_by_the_right_one() -> None:
    sgd = factors(Kind.HIDDEN, Family.SGD, m_in=0.25, m_out=0.5)
    adam = factors(Kind.HIDDEN, Family.ADAM, m_in=0.25, m_out=0.5)
    assert (sgd.lr, adam.lr) == (2.0, 4.0)
    assert sgd.init_std == adam.init_std == 2.0


def test_only_what_leads_out_of_the_width_has_a_multiplier() -> None:
    for kind in Kind:
        found = factors(kind, Family.ADAM, m_in=0.25, m_out=0.25).in_mult
        assert found == (4.0 if kind in (Kind.OUTPUT, Kind.TIED) else 1.0)


def test_optimizers_are_found_by_torchs_names() -> None:
    assert {family_of(name) for name in ("Adam", "AdamW", "RMSprop", "Adagrad")} == {Family.ADAM}
    assert family_of("SGD") is Family.SGD


def test_an_optimizer_without_a_rule_is_refused() -> None:
    with pytest.raises(ShrinkError, match="'Muon'") as raised:
        family_of("Muon")
    assert all(name in str(raised.value) for name in FAMILIES)
