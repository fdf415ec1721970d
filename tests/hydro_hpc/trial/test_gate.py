"""The gate: what is admitted, when it sleeps, and what makes it give up. Fake clock, real pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from hydro_hpc.errors import LaneError
from hydro_hpc.page_layout import Word
from hydro_hpc.trial.gate import (
    WINDOWS_UNTIL_STARVED,
    LeaveRequested,
    StarvedError,
)
from hydro_hpc.trial.points import LOOK_EVERY_NS
from tests.hydro_hpc.lanes import make_lane, set_site_word
from tests.hydro_hpc.trial.fake_primary import MS, FakePrimary, make_gate, trial_page


@pytest.fixture
def primary(tmp_path: Path) -> FakePrimary:
    return FakePrimary(make_lane(tmp_path))


def test_work_that_fits_is_admitted_without_sleeping(primary: FakePrimary) -> None:
    primary.open(10 * MS)
    make_gate(primary).admit(5 * MS)
    assert primary.num_sleeps == 0


def test_closed_gate_sleeps_until_it_opens(primary: FakePrimary) -> None:
    primary.script = [lambda: None, lambda: primary.open(10 * MS)]
    make_gate(primary).admit(5 * MS)
    assert primary.num_sleeps == 2


def test_work_that_would_pass_the_deadline_waits_for_the_next_window(primary: FakePrimary) -> None:
    gate = make_gate(primary)
    primary.open(10 * MS)
    primary.work(6 * MS)
    primary.script = [primary.close, lambda: primary.open(10 * MS)]
    gate.admit(5 * MS)
    assert primary.epoch == 2


def test_deadline_counts_from_the_opening_however_late_it_is_seen(primary: FakePrimary) -> None:
    gate = make_gate(primary)
    primary.open(10 * MS)
    primary.now_ns += 8 * MS
    gate.admit(MS)
    primary.script = [lambda: primary.open(10 * MS)]
    gate.admit(2 * MS)
    assert primary.num_sleeps == 1


def test_opening_from_the_future_is_not_used(primary: FakePrimary) -> None:
    """A page that its owner has spoilt: trials pause, whatever stands there."""
    gate = make_gate(primary)
    for nonsense_ns in (primary.now_ns + 1000 * MS, 2**64 - 1):
        primary.open(10 * MS)
        primary.page.set("open_ns", nonsense_ns)
        primary.script = [lambda: primary.open(10 * MS)]
        primary.num_sleeps = 0
        gate.admit(MS)
        assert primary.num_sleeps == 1


def test_window_that_ended_early_is_noticed_at_the_next_look(primary: FakePrimary) -> None:
    gate = make_gate(primary)
    primary.open(10 * MS)
    gate.admit(MS)
    primary.close()
    primary.script = [lambda: primary.open(10 * MS)]
    gate.admit(MS)
    assert primary.num_sleeps == 1


def test_window_that_outlasts_its_prediction_is_used_again_from_its_late_start_on(
    primary: FakePrimary,
) -> None:
    gate = make_gate(primary)
    primary.open(10 * MS, late_ns=13 * MS)
    gate.admit(MS)
    opened_ns = primary.now_ns
    primary.work(9 * MS)
    primary.script = [lambda: None] * 4
    gate.admit(2 * MS)
    assert primary.now_ns - opened_ns == 13 * MS
    primary.work(50 * MS)
    gate.admit(5 * MS)
    assert primary.now_ns - opened_ns == 63 * MS
    primary.close()
    primary.script = [lambda: primary.open(10 * MS)]
    gate.admit(MS)
    assert primary.epoch == 2


def test_primary_that_wants_its_device_back_ends_the_run(
    primary: FakePrimary,
) -> None:
    wants = [False]
    gate = make_gate(
        primary,
        primary_wants_device=lambda: wants[0],
        let_primary_block=lambda: primary.close() if wants[0] else None,
    )
    primary.open(10 * MS)
    gate.admit(MS)
    primary.work(3 * MS)
    gate.admit(MS)
    wants[0] = True
    gate.admit(MS)  # looked at a moment ago
    primary.work(LOOK_EVERY_NS)

    def next_window() -> None:
        wants[0] = False
        primary.open(10 * MS)

    primary.script = [next_window]
    gate.admit(MS)
    assert primary.epoch == 2
    assert trial_page(primary).get("num_runs") == 0
    gate.admit(MS)
    assert trial_page(primary).get("run_ns") == 3 * MS + LOOK_EVERY_NS


def test_windows_with_a_late_start_only_starve_nobody(primary: FakePrimary) -> None:
    gate = make_gate(primary)
    for _ in range(WINDOWS_UNTIL_STARVED + 1):
        primary.open(0, late_ns=3 * MS)
        primary.script += [primary.close, lambda: primary.open(0, late_ns=3 * MS)]
    primary.script.append(lambda: primary.open(10 * MS))
    gate.admit(MS)


def test_late_start_of_a_window_that_has_closed_is_no_start(primary: FakePrimary) -> None:
    gate = make_gate(primary)
    primary.open(0, late_ns=3 * MS)
    primary.script = [lambda: None, primary.close, *[lambda: None] * 5]
    primary.script.append(lambda: primary.open(10 * MS))
    gate.admit(MS)
    assert primary.epoch == 2


@pytest.mark.parametrize("name", ["guard_word", "owner_word"])
@pytest.mark.parametrize("value", [Word.HOLD, 0, 12345])
def test_any_permission_but_run_holds(primary: FakePrimary, name: str, value: int) -> None:
    primary.open(10 * MS)
    primary.page.set(name, value)

    def permit() -> None:
        primary.close()
        primary.page.set(name, Word.RUN)
        primary.open(10 * MS)

    primary.script = [lambda: None, permit]
    make_gate(primary).admit(MS)
    assert primary.num_sleeps == 2


def test_held_site_holds(primary: FakePrimary) -> None:
    set_site_word(primary.lane, Word.HOLD)
    primary.open(10 * MS)

    def permit() -> None:
        set_site_word(primary.lane, Word.RUN)
        primary.open(10 * MS)

    primary.script = [permit]
    make_gate(primary).admit(MS)
    assert primary.num_sleeps == 1


def test_torn_opening_is_not_used(primary: FakePrimary) -> None:
    """The word changes between the two looks that frame the reading of time and length."""
    gate = make_gate(primary)
    primary.open(10 * MS)
    words = primary.page.words
    index = primary.page.word_index("gate_word")
    opened = words[index]
    reads = 0
    real = gate._words

    class Torn:
        def __getitem__(self, position: int) -> int:
            nonlocal reads
            if position == index:
                reads += 1
                if reads == 4:  # after one of admit and two of the wait: the look that confirms
                    return opened + (1 << 8)
            return real[position]

    gate._words = Torn()  # type: ignore[assignment]
    primary.script = [lambda: primary.open(10 * MS)]
    gate.admit(MS)
    assert primary.num_sleeps == 1


def test_leaving_ends_a_sleep(primary: FakePrimary) -> None:
    gate = make_gate(primary)
    primary.script = [gate.leave]
    with pytest.raises(LeaveRequested):
        gate.admit(MS)


def test_leaving_is_not_swallowed_by_user_code() -> None:
    assert not issubclass(LeaveRequested, Exception)


def test_lane_that_is_gone_is_an_error(primary: FakePrimary) -> None:
    def end() -> None:
        set_site_word(primary.lane, Word.GONE)
        primary.now_ns += 1000 * MS

    primary.script = [end]
    with pytest.raises(LaneError, match="the job that lent it has ended"):
        make_gate(primary).admit(MS)


def test_primary_that_died_is_an_error(primary: FakePrimary) -> None:
    def die() -> None:
        primary.page.set("start_ticks", 1)
        primary.now_ns += 1000 * MS

    primary.script = [die]
    with pytest.raises(LaneError, match="not running any more"):
        make_gate(primary).admit(MS)


def test_unit_longer_than_every_bubble_is_an_error_at_last(primary: FakePrimary) -> None:
    def next_window() -> None:
        primary.script.append(next_window)
        primary.open(3 * MS)

    primary.script = [next_window]
    with pytest.raises(LaneError, match=r"one unit of work takes 5\.0 ms"):
        make_gate(primary).admit(5 * MS)


def test_piece_that_cannot_be_cut_takes_the_longest_window_when_all_have_become_short(
    primary: FakePrimary,
) -> None:
    gate = make_gate(primary)
    primary.open(12 * MS)
    with gate.work("replace"):
        primary.work(9 * MS)
    gate.pause()

    def next_window() -> None:
        primary.script.append(next_window)
        primary.open(4 * MS)

    primary.script = [next_window]
    with gate.work("replace"):  # 9 ms, and no window of 9 ms comes any more
        pass
    assert primary.num_sleeps < 100


def test_work_that_can_be_cut_asks_for_each_piece_by_its_own_length(primary: FakePrimary) -> None:
    gate = make_gate(primary)
    for _ in range(2):
        primary.open(30 * MS)
        with gate.work("build") as cut:
            primary.work(9 * MS)
            cut("copy")
            primary.work(MS)
    gate.pause()
    primary.script = [lambda: primary.open(30 * MS)]
    primary.open(8 * MS)  # too short for the first piece, long enough for the second
    with gate.work("build") as cut:
        assert primary.num_sleeps == 1
        primary.work(9 * MS)
        primary.open(3 * MS)
        cut("copy")
        primary.work(MS)
    assert primary.num_sleeps == 1


def test_what_must_not_be_broken_ends_before_the_gang_leaves(primary: FakePrimary) -> None:
    gate = make_gate(primary)
    primary.open(20 * MS)
    done = []

    def work() -> None:
        with gate.unbroken():
            gate.admit(MS)
            gate.leave()
            primary.close()
            for number in range(3):
                gate.admit(MS)  # no window, and nobody will open one
                done.append(number)

    with pytest.raises(LeaveRequested):
        work()
    assert done == [0, 1, 2]
    with pytest.raises(LeaveRequested):
        gate.admit(MS)


def test_bubbles_that_are_too_short_break_even_that(primary: FakePrimary) -> None:
    gate = make_gate(primary)

    def next_window() -> None:
        primary.script.append(next_window)
        primary.open(3 * MS)

    primary.script = [next_window]
    with pytest.raises(StarvedError, match="make model or bundle smaller"), gate.unbroken():
        gate.admit(20 * MS)
