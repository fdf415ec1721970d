from __future__ import annotations

import struct
from pathlib import Path

import pytest

from hydro_hpc.report.picture import choose_steps, write_picture
from tests.hydro_hpc.report.recordings import MS, lane, shared_steps

pytest.importorskip("matplotlib")


def test_shows_shared_steps_and_a_shut_one() -> None:
    # Steps 0 to 2 begin before the first training run, 3 to 5 lie in the tenancy.
    assert choose_steps([shared_steps(0), shared_steps(1)]) == (300 * MS, 600 * MS)


def test_is_as_large_as_a_readme_wants_it(tmp_path: Path) -> None:
    path = tmp_path / "timeline.png"
    assert write_picture([shared_steps(0), shared_steps(1)], path, title="A run")
    assert struct.unpack(">II", path.read_bytes()[16:24]) == (1200, 500)


def test_nothing_is_drawn_of_a_run_without_trials(tmp_path: Path) -> None:
    path = tmp_path / "timeline.png"
    assert not write_picture([lane(), lane(stage=1)], path, title="A run")
    assert not path.exists()
