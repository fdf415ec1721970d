"""What the gate writes of the runs that it admits, and what it learns from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hydro_hpc.page_layout import RecordKind
from hydro_hpc.trial.gate import (
    EXCESS_NS,
)
from hydro_hpc.trial.runs import OVERRUN_NS
from tests.hydro_hpc.lanes import make_lane
from tests.hydro_hpc.trial.fake_primary import MARGIN_NS, MS, FakePrimary, make_gate, trial_page


@pytest.fixture
def primary(tmp_path: Path) -> FakePrimary:
    return FakePrimary(make_lane(tmp_path))


def test_a_run_that_the_primary_ends_is_written_in_the_next_window(primary: FakePrimary) -> None:
    """Between the close and the sleep nothing is done that can wait: it is the primary's time; nor
    before the first unit of the next window, whose time it would take.
    """
    gate = make_gate(primary)
    primary.open(10 * MS)
    gate.admit(MS)
    primary.work(2 * MS)
    primary.close()
    written: list[int] = []

    def next_window() -> None:
        written.append(len(list(trial_page(primary).records())))
        primary.open(10 * MS)

    primary.script = [next_window]
    gate.admit(MS)
    assert not list(trial_page(primary).records())
    gate.admit(MS)
    assert written == [0]
    assert [record.value for _, record in trial_page(primary).records()] == [2 * MS]


def test_runs_are_recorded_with_device_time_and_samples(primary: FakePrimary) -> None:
    gate = make_gate(primary)
    primary.open(20 * MS)
    gate.admit(MS)
    primary.work(3 * MS)
    gate.num_samples += 64
    gate.pause()
    page = trial_page(primary)
    [(_, record)] = page.records()
    assert record.kind == RecordKind.RUN
    assert record.end_ns - record.start_ns == 3 * MS
    assert (record.value, record.extra) == (3 * MS, 64)
    assert page.get("run_ns") == 3 * MS
    assert page.get("num_samples") == 64


def test_other_work_is_not_counted_as_training(primary: FakePrimary) -> None:
    gate = make_gate(primary)
    primary.open(50 * MS)
    gate.admit(MS)
    primary.work(2 * MS)
    with gate.doing(RecordKind.OTHER):
        gate.admit(MS)
        primary.work(5 * MS)
    page = trial_page(primary)
    assert (page.get("run_ns"), page.get("other_ns")) == (2 * MS, 5 * MS)


def test_worker_that_was_kept_from_running_did_not_overrun(primary: FakePrimary) -> None:
    gate = make_gate(primary)
    primary.open(10 * MS)
    gate.admit(MS)
    primary.close()
    primary.work(OVERRUN_NS // 2)
    primary.now_ns += 50 * MS  # the primary has the core
    gate.pause()
    page = trial_page(primary)
    assert page.get("num_overruns") == 0
    assert page.get("margin_ns") == MARGIN_NS


def test_window_that_ends_early_is_an_overrun_but_no_reason_to_stop_earlier(
    primary: FakePrimary,
) -> None:
    """Every second window ends before its median: a margin that grew by that would eat them all."""
    gate = make_gate(primary)
    primary.open(10 * MS)
    gate.admit(MS)
    primary.close()
    primary.work(OVERRUN_NS + 1000)
    gate.pause()
    page = trial_page(primary)
    assert page.get("num_overruns") == 1
    assert page.get("overrun_max_ns") == OVERRUN_NS + 1000
    assert page.get("margin_ns") == MARGIN_NS


def test_unit_that_passes_the_deadline_widens_the_margin(primary: FakePrimary) -> None:
    gate = make_gate(primary)
    primary.open(5 * MS)
    gate.admit(MS)
    primary.work(5 * MS + EXCESS_NS)
    gate.pause()
    assert trial_page(primary).get("margin_ns") > 1.5 * MARGIN_NS
    for _ in range(300):
        primary.open(10 * MS)
        gate.admit(MS)
        gate.pause()
    assert trial_page(primary).get("margin_ns") == MARGIN_NS
