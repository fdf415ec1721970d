from __future__ import annotations

import struct
from pathlib import Path

import pytest

from hydro_hpc.surrogate import check_ladder
from hydro_hpc.surrogate.coordinates.checking import make_batch
from hydro_hpc.surrogate.coordinates.picture import write_picture
from hydro_hpc.surrogate.coordinates.recipe import Recipe
from tests.hydro_hpc.surrogate.coordinates.architectures import CASES
from tests.hydro_hpc.surrogate.coordinates.faults import no_rate_rule

pytest.importorskip("matplotlib")


def test_is_as_large_as_a_readme_wants_it(tmp_path: Path) -> None:
    case, path = CASES["gpt"], tmp_path / "check.png"
    report = check_ladder(
        no_rate_rule(case),
        widths=case.widths,
        batch=make_batch(case.example, case.targets),
        recipe=Recipe(optimizer="adam", lr=0.01, steps=1),
        seeds=[0],
    )
    write_picture(report, path)
    assert struct.unpack(">II", path.read_bytes()[16:24]) == (1200, 500)
    write_picture(report, tmp_path / "check")
    assert (tmp_path / "check").read_bytes() == path.read_bytes()
    write_picture(report, tmp_path / "check.PDF")
    assert (tmp_path / "check.PDF").read_bytes().startswith(b"%PDF")
