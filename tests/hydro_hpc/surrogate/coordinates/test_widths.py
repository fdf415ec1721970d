from __future__ import annotations

import itertools

import pytest

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate.coordinates.widths import candidates, choose


@pytest.mark.parametrize(
    ("target", "first"), [(512, [16, 32, 64, 128]), (8, [8, 16, 32, 64]), (4096, [64, 128, 256])]
)
def test_widths_are_the_targets_times_powers_of_two(target: int, first: list[int]) -> None:
    assert [*itertools.islice(candidates(target), len(first))] == first


def test_a_width_that_the_factory_refuses_is_passed_over_and_said() -> None:
    found = choose(candidates(64), lambda width: "no heads" if width < 32 else None)
    assert found.accepted == (32, 64, 128, 256)
    assert found.refused == {16: "no heads"}


def test_too_few_widths_are_refused_in_a_sentence() -> None:
    with pytest.raises(ShrinkError, match=r"takes 0 of the widths.*no heads.*widths="):
        choose(candidates(64), lambda _: "no heads")
