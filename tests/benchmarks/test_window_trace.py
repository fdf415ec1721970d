"""What the scheduling events show of one window."""

from __future__ import annotations

import pytest

from benchmarks.sched_trace import Event, Switch, Waking
from benchmarks.window_trace import cpu_intervals, used_share, windows_seen
from hydro_hpc.report.recording import Run, Wait

PRIMARY, WORKER = 1, 2

EVENTS: list[Event] = [
    Switch(90, 0, False, PRIMARY),
    Switch(1_050, PRIMARY, True, WORKER),  # blocked 50 us after the opening
    Waking(9_000, PRIMARY),
    Switch(9_080, WORKER, False, PRIMARY),
    Switch(9_200, PRIMARY, False, WORKER),  # the rest of its unit
    Switch(9_320, WORKER, True, PRIMARY),
    Switch(12_050, PRIMARY, True, 0),
    Waking(14_000, PRIMARY),
    Switch(14_010, 0, False, PRIMARY),
    Switch(20_000, PRIMARY, True, 0),
]
WAIT = Wait(start_ns=900_000, end_ns=9_150_000, step=0, predicted_ns=8_000_000, opened_ns=1_000_000)
NEXT = Wait(start_ns=12_000_000, end_ns=14_020_000, step=0, predicted_ns=0, opened_ns=12_000_000)
RUN = Run(start_ns=1_120_000, end_ns=9_320_000, device_ns=8_000_000, samples=1, is_training=True)


def test_a_window_shows_resume_overrun_and_the_delay_of_the_primary() -> None:
    [seen] = windows_seen(EVENTS, primary=PRIMARY, workers={WORKER}, waits=[WAIT, NEXT], runs=[RUN])
    assert seen.resume_us == pytest.approx(70)
    assert seen.overrun_us == pytest.approx(80 + 120)
    assert seen.delay_us == pytest.approx(80)


def test_window_without_a_run_resumes_nothing() -> None:
    late = Run(start_ns=20_000_000, end_ns=21_000_000, device_ns=1, samples=1, is_training=True)
    [seen] = windows_seen(
        EVENTS, primary=PRIMARY, workers={WORKER}, waits=[WAIT, NEXT], runs=[late]
    )
    assert seen.resume_us is None


def test_last_window_of_a_block_is_left_out() -> None:
    """Who is stopped while he waits leaves his gate open."""
    assert not windows_seen(EVENTS, primary=PRIMARY, workers={WORKER}, waits=[WAIT], runs=[RUN])


def test_used_share_is_cpu_time_inside_bubbles() -> None:
    assert cpu_intervals(EVENTS, {WORKER}) == [(1_050_000, 9_080_000), (9_200_000, 9_320_000)]
    bubbles = [(900_000, 9_150_000), (90_000_000, 99_000_000)]  # the second was not recorded
    share = used_share(EVENTS, workers={WORKER}, bubbles=bubbles)
    assert share == pytest.approx(8_030 / 8_250)
