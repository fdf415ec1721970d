from __future__ import annotations

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydro_hpc.report.harvest import harvest, tenancy
from hydro_hpc.report.recording import LaneRecording
from tests.hydro_hpc.report.recordings import MS, lane, run, step, wait


def test_counts_device_time_of_training_inside_bubbles() -> None:
    account = harvest(
        lane(
            steps=[step(0, 100), step(100, 200)],
            waits=[wait(10, 30, opened_ms=11), wait(110, 130), wait(150, 151)],
            runs=[
                run(0, 1, device_ms=1),  # the tenancy begins, outside of bubbles
                run(12, 28, device_ms=12),
                run(28, 32, device_ms=2),  # half of it after the bubble
                run(112, 114, device_ms=2, is_training=False),
                run(199, 200, device_ms=1),
            ],
        )
    )
    assert account.wall_s == pytest.approx(0.200)
    assert account.bubble_s == pytest.approx(0.040)
    assert account.open_s == pytest.approx(0.019)
    assert account.harvest_s == pytest.approx(0.013)
    assert account.training_s == pytest.approx(0.016)
    assert account.other_s == pytest.approx(0.002)
    assert account.outside_s == pytest.approx(0.003)
    assert account.harvest_share == pytest.approx(13 / 40)
    assert account.bubble_share == pytest.approx(0.2)


def test_shut_steps_do_not_count() -> None:
    account = harvest(
        lane(
            steps=[step(0, 100), step(100, 200, is_shut=True), step(200, 300)],
            waits=[wait(90, 110), wait(150, 170), wait(210, 220)],
            runs=[run(0, 1, device_ms=1), run(299, 300, device_ms=1)],
        )
    )
    assert account.wall_s == pytest.approx(0.200)
    assert account.bubble_s == pytest.approx(0.020)  # of the first, the part before the border


def test_only_the_tenancy_counts() -> None:
    steps = [step(100 * n, 100 * n + 100) for n in range(4)]
    waits = [wait(100 * n + 40, 100 * n + 60) for n in range(4)]
    account = harvest(
        lane(
            steps=steps,
            waits=waits,
            runs=[
                run(20, 30, device_ms=5, is_training=False),  # before the first training run
                run(145, 150, device_ms=5),
                run(245, 250, device_ms=5),
            ],
        )
    )
    assert account.wall_s == pytest.approx(0.105)
    assert account.bubble_s == pytest.approx(0.015 + 0.010)
    assert account.harvest_share == pytest.approx(10 / 25)
    assert account.other_s == 0


def test_without_a_tenant_everything_is_zero() -> None:
    account = harvest(lane(steps=[step(0, 100)], waits=[wait(10, 30)]))
    assert tenancy(lane()) is None
    assert (account.bubble_s, account.harvest_share, account.bubble_share) == (0, 0, 0)


@st.composite
def lanes(draw: st.DrawFn) -> LaneRecording:
    """Steps border to border; waits and runs in order, none overlapping its own kind."""
    lengths = draw(st.lists(st.integers(5, 60), min_size=1, max_size=6))
    borders = [sum(lengths[:n]) for n in range(len(lengths) + 1)]
    steps = [
        step(begin, end, number=number, is_shut=draw(st.booleans()))
        for number, (begin, end) in enumerate(itertools.pairwise(borders))
    ]
    waits = [
        wait(begin, end, opened_ms=draw(st.sampled_from([0, begin, (begin + end) / 2])))
        for begin, end in draw(pieces(borders[-1]))
    ]
    runs = [
        run(
            begin,
            end,
            device_ms=(end - begin) * draw(st.sampled_from([0.25, 0.5, 1.0])),
            is_training=draw(st.booleans()),
        )
        for begin, end in draw(pieces(borders[-1]))
    ]
    return lane(steps=steps, waits=waits, runs=runs)


def pieces(length: int) -> st.SearchStrategy[list[tuple[int, int]]]:
    cuts = st.lists(st.integers(1, length), unique=True, max_size=12).map(sorted)
    return cuts.map(lambda c: list(zip(c[::2], c[1::2], strict=False)))


@given(lanes())
def test_no_part_is_larger_than_its_whole(recording: LaneRecording) -> None:
    account = harvest(recording)
    slack = 1e-9
    assert account.harvest_s <= account.bubble_s + slack
    assert account.harvest_s <= account.training_s + slack
    assert account.open_s <= account.bubble_s + slack
    assert account.bubble_s <= account.wall_s + slack
    assert -slack <= account.outside_s <= account.training_s + account.other_s + slack
    assert 0 <= account.harvest_share <= 1 + slack
    assert 0 <= account.bubble_share <= 1 + slack


@given(lanes(), st.integers(-5, 10**6))
def test_only_differences_of_times_matter(recording: LaneRecording, shift_ms: int) -> None:
    by_ns = shift_ms * MS

    def moved(item):  # type: ignore[no-untyped-def]
        item = dataclasses.replace(item, start_ns=item.start_ns + by_ns, end_ns=item.end_ns + by_ns)
        if getattr(item, "opened_ns", 0):
            item = dataclasses.replace(item, opened_ns=item.opened_ns + by_ns)
        return item

    later = dataclasses.replace(
        recording,
        waits=tuple(map(moved, recording.waits)),
        steps=tuple(map(moved, recording.steps)),
        runs=tuple(map(moved, recording.runs)),
    )
    assert harvest(later) == harvest(recording)


@given(lanes())
def test_a_wait_cut_by_a_short_gap_is_the_same_bubble(recording: LaneRecording) -> None:
    cut = []
    for one in recording.waits:
        middle = (one.start_ns + one.end_ns) // 2
        cut.append(dataclasses.replace(one, end_ns=middle, opened_ns=0))
        cut.append(dataclasses.replace(one, start_ns=middle + MS // 10, opened_ns=0))
    parted = dataclasses.replace(recording, waits=tuple(cut))
    assert harvest(parted).bubble_s == pytest.approx(harvest(recording).bubble_s)
    assert harvest(parted).harvest_s == pytest.approx(harvest(recording).harvest_s)
