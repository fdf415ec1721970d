from __future__ import annotations

import struct
from pathlib import Path

import pytest

from hydro_hpc.report.picture import choose_steps, write_picture
from hydro_hpc.report.recording import LaneRecording
from tests.hydro_hpc.report.recordings import MS, lane, run, shared_steps, step

pytest.importorskip("matplotlib")


def test_shows_shared_steps_and_a_shut_one() -> None:
    # Steps 0 to 2 begin before the first training run, 3 to 5 lie in the tenancy.
    assert choose_steps([shared_steps(0), shared_steps(1)]) == (300 * MS, 600 * MS)


def test_prefers_steps_in_which_every_stage_trains() -> None:
    def repeated(stage: int, busy_from_ms: int) -> LaneRecording:
        """Three stretches of two shared steps and a shut one; in all but one trials are stored."""
        steps = [step(100 * n, 100 * n + 100, number=n, is_shut=n % 3 == 1) for n in range(9)]
        runs = [
            run(100 * n + 10, 100 * n + 30, device_ms=20, is_training=100 * n >= busy_from_ms)
            for n in range(9)
        ]
        edges = [run(0, 1, device_ms=1), run(950, 951, device_ms=1)]
        return lane(stage=stage, steps=steps, runs=[edges[0], *runs, edges[1]])

    assert choose_steps([repeated(0, 300), repeated(1, 600)]) == (600 * MS, 900 * MS)


def test_is_as_large_as_a_readme_wants_it(tmp_path: Path) -> None:
    path = tmp_path / "timeline.png"
    assert write_picture([shared_steps(0), shared_steps(1)], path, title="A run")
    assert struct.unpack(">II", path.read_bytes()[16:24]) == (1200, 500)


def test_nothing_is_drawn_of_a_run_without_trials(tmp_path: Path) -> None:
    path = tmp_path / "timeline.png"
    assert not write_picture([lane(), lane(stage=1)], path, title="A run")
    assert not path.exists()
