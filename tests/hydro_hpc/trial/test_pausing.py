"""When a command's processes run and stop, what is written about it; without any process."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from hydro_hpc.config import Settings
from hydro_hpc.page import Page, page_path
from hydro_hpc.page_layout import GATE_CLOSED, GATE_OPEN, PageKind, Record, RecordKind, Word
from hydro_hpc.trial.lane import TenantLane
from hydro_hpc.trial.pausing import LEAVE_NS, Pauser
from hydro_hpc.trial.residency import STRIKES_UNTIL_END
from tests.hydro_hpc.lanes import make_lane, stage_page
from tests.hydro_hpc.trial.in_memory_tree import InMemoryTree

MS = 1_000_000
WINDOW_NS = 40 * MS
MARGIN_NS = 200_000


class Lane:
    """A pauser on a made-up lane, whose clock this moves."""

    def __init__(self, directory: Path) -> None:
        path = make_lane(directory)
        self.stage = stage_page(path)
        self.stage.set("guard_word", Word.RUN)
        self.stage.set("owner_word", Word.RUN)
        self.stage.words[self.stage.word_index("window_us")] = WINDOW_NS // 1000
        self.page = Page.map_for_writing(page_path(path, PageKind.TRIAL), PageKind.TRIAL)
        self.tree = InMemoryTree()
        self.now_ns = 1_000 * MS
        self.epoch = 0
        self.sleeps_s: list[float] = []
        self.pauser = Pauser(
            lane=TenantLane(path),
            tree=self.tree,
            waiter=self,
            page=self.page,
            settings=Settings(),
            now_ns=lambda: self.now_ns,
        )

    def wait_change(self, seen: int, timeout_s: float) -> None:
        """The waiter: nothing happens but time; after a while the command ends."""
        assert seen == self.stage.get("gate_word")
        self.sleeps_s.append(timeout_s)
        self.pass_time(int(timeout_s * 1e9) + 1)

    def pass_time(self, ns: int) -> None:
        self.now_ns += ns
        self.tree.let_time_pass(ns)

    def open(self) -> None:
        self.epoch += 1
        self.stage.set("open_ns", self.now_ns)
        self.stage.set("gate_word", self.epoch << 8 | GATE_OPEN)

    def close(self) -> None:
        self.stage.set("close_ns", self.now_ns)
        self.stage.set("gate_word", self.epoch << 8 | GATE_CLOSED)

    def turn(self) -> float:
        return self.pauser.turn()[1]

    def records(self) -> list[Record]:
        return [record for _, record in self.page.records()]


@pytest.fixture
def lane(tmp_path: Path) -> Lane:
    return Lane(tmp_path)


def test_command_runs_from_the_opening_until_the_margin_before_the_predicted_end(
    lane: Lane,
) -> None:
    lane.turn()
    assert lane.tree.calls == []
    lane.open()
    opened_ns = lane.now_ns
    while True:
        sleep_s = lane.turn()
        if lane.tree.is_paused:
            break
        lane.wait_change(lane.stage.get("gate_word"), sleep_s)
    assert lane.tree.calls == ["resume", "pause"]
    late_ns = lane.now_ns - (opened_ns + WINDOW_NS - MARGIN_NS)
    assert 0 <= late_ns < 1000
    assert max(lane.sleeps_s) == pytest.approx(200e-6)  # the primary wakes nobody at a close


def test_window_that_closes_early_is_noticed_and_what_was_used_after_it_is_an_overrun(
    lane: Lane,
) -> None:
    lane.open()
    lane.turn()
    lane.pass_time(10 * MS)
    lane.close()
    lane.pass_time(2 * MS)
    lane.turn()
    assert lane.tree.calls == ["resume", "pause"]
    lane.turn()
    before, after = lane.records()
    assert (before.kind, before.value, before.end_ns - before.start_ns) == (
        RecordKind.RUN,
        10 * MS,
        10 * MS,
    )
    assert (after.value, after.end_ns - after.start_ns) == (2 * MS, 2 * MS)
    assert lane.page.get("num_overruns") == 1
    assert lane.page.get("overrun_max_ns") == 2 * MS
    assert lane.page.get("run_ns") == 12 * MS


def test_late_pause_of_who_was_not_running_is_no_overrun(lane: Lane) -> None:
    lane.open()
    lane.turn()
    lane.pass_time(10 * MS)
    lane.close()
    lane.now_ns += 5 * MS  # somebody else has the core
    lane.turn()
    lane.turn()
    assert lane.page.get("num_overruns") == 0
    assert lane.page.get("run_ns") == 10 * MS


def test_rest_of_a_window_that_is_too_short_is_not_used(lane: Lane) -> None:
    lane.open()
    lane.now_ns += WINDOW_NS - MARGIN_NS - 100_000
    lane.turn()
    assert lane.tree.calls == []


@pytest.mark.parametrize("word", ["guard_word", "owner_word"])
def test_held_window_is_not_used(lane: Lane, word: str) -> None:
    lane.stage.set(word, Word.HOLD)
    lane.open()
    lane.turn()
    assert lane.tree.calls == []
    lane.stage.set(word, Word.RUN)
    lane.turn()
    assert lane.tree.calls == ["resume"]


def test_who_escapes_is_paused_again_and_the_command_ended_in_the_end(lane: Lane) -> None:
    lane.tree.escaped = True
    lane.turn()
    for _ in range(STRIKES_UNTIL_END + 1):
        lane.turn()
        lane.pass_time(11 * MS)
    assert lane.tree.calls == ["pause"] * (STRIKES_UNTIL_END - 1)
    assert lane.pauser.ended_because is not None
    assert "again and again" in lane.pauser.ended_because


def test_exit_code_is_the_commands_and_nothing_is_left(lane: Lane) -> None:
    lane.tree.code = 7
    assert lane.pauser.run() == 7
    assert lane.tree.calls == ["kill"]


def test_last_run_is_written_when_the_command_ends_in_a_window(lane: Lane) -> None:
    lane.open()
    lane.turn()
    lane.pass_time(3 * MS)
    lane.tree.code = 0
    lane.pauser.run()
    [record] = lane.records()
    assert record.value == 3 * MS


def test_command_that_is_to_leave_may_run_and_is_killed_when_it_does_not_end(lane: Lane) -> None:
    lane.pauser.leave()
    started_ns = lane.now_ns
    assert lane.pauser.run() == -signal.SIGKILL
    assert lane.tree.calls == ["ask", "kill"]
    assert lane.now_ns - started_ns <= LEAVE_NS + 100 * MS
