"""The publisher: when the gate opens and closes, what it counts. Fake clock, a real page."""

from __future__ import annotations

from pathlib import Path

import pytest

from hydro_hpc.devices.memory import InMemoryDevice
from hydro_hpc.page import Page as StagePage
from hydro_hpc.page import page_path
from hydro_hpc.page_layout import Gate, PageKind, PrimaryState, RecordKind, Word
from hydro_hpc.primary.guard import Guard, GuardSettings, is_shut
from hydro_hpc.primary.publisher import LIMIT_EVERY_STEPS, STEPS_UNTIL_NOT_PIPELINED, Publisher
from hydro_hpc.primary.windows import NUM_NEEDED
from tests.hydro_hpc.lanes import make_lane, stage_page

MS = 1_000_000


class Rank:
    """A rank whose every step is: compute 10 ms, wait `wait_ns`, compute 10 ms, wait `wait_ns`."""

    def __init__(self, lane: str, *, dense_steps: int = 0, tenant_job: int = 7) -> None:
        self.lane = lane
        self.now_ns = 1000 * MS
        self.wakes = 0
        self.words_in_wait: list[tuple[int, Gate]] = []
        self.page = stage_page(lane)
        self.memory = InMemoryDevice(limit_bytes=8000)
        self.guard = Guard(GuardSettings(dense_steps=dense_steps))
        self.publisher = Publisher(
            self.page,
            guard=self.guard,
            wake_all=self.wake,
            read_tenant=lambda: tenant_job,
            memory=self.memory,
            num_lanes=2,
            now_ns=lambda: self.now_ns,
        )
        self.step_number = 0

    def wake(self) -> None:
        self.wakes += 1

    def gate(self) -> Gate:
        return Gate.unpack(self.page.get("gate_word"))

    def wait(self, name: str, wait_ns: int) -> None:
        self.publisher.begin_wait(name)
        self.publisher.open()
        self.words_in_wait.append((self.step_number, self.gate()))
        self.now_ns += wait_ns
        self.publisher.end_wait(name)
        assert not self.gate().is_open

    def run(self, steps: int, wait_ns: int, gap_ns: int = 10 * MS) -> None:
        for _ in range(steps):
            self.publisher.begin_step(self.step_number)
            for name in ("recv", "all_reduce"):
                self.now_ns += gap_ns
                self.wait(name, wait_ns)
            self.now_ns += 10 * MS
            self.step_number += 1

    def records(self, kind: RecordKind) -> list[object]:
        return [record for _, record in self.page.records() if record.kind == kind]


@pytest.fixture
def lane(tmp_path: Path) -> str:
    return make_lane(tmp_path)


def test_a_pause_holds_for_the_jobs_next_training_process(lane: str) -> None:
    first = Rank(lane)
    assert first.page.get("owner_word") == Word.RUN
    first.page.set("owner_word", Word.HOLD)  # hydro pause
    assert Rank(lane).page.get("owner_word") == Word.HOLD


def test_gate_opens_only_once_waits_are_learned(lane: str) -> None:
    rank = Rank(lane)
    rank.run(NUM_NEEDED, 5 * MS)
    assert not any(gate.is_open for _, gate in rank.words_in_wait)
    assert rank.page.get("state") == PrimaryState.LEARNING
    rank.run(2, 5 * MS)
    opened = [gate.is_open for _, gate in rank.words_in_wait]
    assert opened[2 * NUM_NEEDED :] == [False, True, True, True]  # the job's first call is no guide
    assert rank.page.get("state") == PrimaryState.SHARING
    assert rank.wakes == 3


def test_opening_tells_when_and_for_how_long_before_it_is_seen(lane: str) -> None:
    rank = Rank(lane)
    rank.run(4, 5 * MS)
    rank.publisher.begin_step(4)
    rank.now_ns += 9 * MS
    rank.publisher.begin_wait("recv")
    rank.now_ns += MS  # of the call's own work
    rank.publisher.open()
    gate = rank.gate()
    assert gate.is_open
    assert rank.page.get("open_ns") == rank.now_ns
    assert rank.page.words[rank.page.word_index("window_us") + gate.label] == 5000
    assert rank.page.words[rank.page.word_index("late_us") + gate.label] == 0


def test_call_that_waits_twice_opens_the_gate_once(lane: str) -> None:
    rank = Rank(lane)
    rank.run(4, 5 * MS)
    rank.publisher.begin_step(4)
    rank.publisher.begin_wait("recv")
    rank.publisher.open()
    first = rank.gate()
    opened_ns = rank.now_ns
    rank.now_ns += MS
    rank.publisher.open()
    assert rank.gate() == first
    assert first.is_open
    rank.publisher.end_wait("recv")
    rank.publisher.close()
    assert rank.records(RecordKind.WAIT)[-1].start_ns == opened_ns  # type: ignore[attr-defined]


def test_short_waits_are_never_opened(lane: str, capsys: pytest.CaptureFixture[str]) -> None:
    rank = Rank(lane)
    rank.run(STEPS_UNTIL_NOT_PIPELINED + 1, 1 * MS)
    assert rank.wakes == 0
    assert rank.page.get("state") == PrimaryState.NOT_PIPELINED
    assert "never waits 2 ms" in rank.page.get_text("reason")
    rank.run(30, 1 * MS)
    assert capsys.readouterr().err.count("hydro: nothing is lent") == 1


def test_a_few_steps_without_bubbles_send_no_trial_away(
    lane: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rank = Rank(lane)
    rank.run(60, 5 * MS)
    rank.run(STEPS_UNTIL_NOT_PIPELINED - 1, 0)
    assert rank.page.get("state") == PrimaryState.SHARING
    rank.run(20, 5 * MS)
    assert rank.page.get("state") == PrimaryState.SHARING
    assert capsys.readouterr().err == ""
    rank.run(2 * STEPS_UNTIL_NOT_PIPELINED, 0)
    assert rank.page.get("state") == PrimaryState.NOT_PIPELINED
    assert capsys.readouterr().err.count("hydro: nothing is lent") == 1


def test_steps_are_no_evidence_while_the_owner_holds(lane: str) -> None:
    rank = Rank(lane, dense_steps=1000)
    rank.page.set("owner_word", Word.HOLD)
    rank.run(60, 5 * MS)
    assert rank.guard.estimate().num_pairs == 0
    rank.page.set("owner_word", Word.RUN)
    rank.run(60, 5 * MS)
    assert rank.guard.estimate().num_pairs > 10


def test_shut_steps_open_nothing_and_do_not_count_as_bubble_time(lane: str) -> None:
    rank = Rank(lane, dense_steps=1000)
    rank.run(100, 5 * MS)
    settings = rank.guard.settings
    opened = {step for step, gate in rank.words_in_wait if gate.is_open}
    assert opened == {step for step in range(NUM_NEEDED, 100) if not is_shut(step, settings)}
    shut_steps = [r.step for r in rank.records(RecordKind.STEP) if r.value == 1]  # type: ignore[attr-defined]
    assert shut_steps == [step for step in range(99) if is_shut(step, settings)]
    open_steps = sum(not is_shut(step, settings) for step in range(100))
    assert rank.page.get("bubble_ns") == pytest.approx(open_steps * 10 * MS, abs=10 * MS)


def test_held_guard_opens_nothing_and_says_so_on_the_page(lane: str) -> None:
    rank = Rank(lane)
    rank.run(19, 5 * MS)
    rank.guard.is_holding = True
    rank.guard._retry_at_step = 10**9
    rank.run(2, 5 * MS)
    wakes = rank.wakes
    rank.run(3, 5 * MS)
    assert rank.wakes == wakes
    assert rank.page.get("guard_word") == Word.HOLD


def test_waits_with_tiny_gaps_are_one_bubble(lane: str) -> None:
    rank = Rank(lane)
    rank.run(2, 5 * MS, gap_ns=MS // 10)
    rank.publisher.close()
    waits = rank.records(RecordKind.WAIT)
    assert len(waits) == 2
    first = waits[0]
    assert first.end_ns - first.start_ns == 10 * MS + MS // 10  # type: ignore[attr-defined]


def test_records_tell_prediction_and_opening(lane: str) -> None:
    rank = Rank(lane)
    rank.run(6, 5 * MS)
    record = rank.records(RecordKind.WAIT)[-1]
    assert record.value == 5 * MS  # type: ignore[attr-defined]
    assert record.extra == record.start_ns  # type: ignore[attr-defined]


def test_close_shuts_the_gate_and_says_ended(lane: str) -> None:
    rank = Rank(lane)
    rank.run(5, 5 * MS)
    rank.publisher.begin_step(5)
    rank.publisher.begin_wait("recv")
    rank.publisher.open()
    assert rank.gate().is_open
    rank.publisher.close()
    assert not rank.gate().is_open
    assert rank.page.get("state") == PrimaryState.ENDED


def test_full_page_is_never_waited_for(lane: str) -> None:
    """Nobody reads the ring, and the primary goes on: it wraps."""
    rank = Rank(lane)
    rank.run(9000, 3 * MS)
    copy = StagePage.read_copy(page_path(lane, PageKind.STAGE), PageKind.STAGE)
    assert copy.get("num_steps") == 8999


def test_memory_is_published_from_the_start_its_peak_after_every_step(lane: str) -> None:
    rank = Rank(lane)
    assert rank.page.get("memory_limit_bytes") == 4000  # the job's, by the node's two lanes
    rank.memory.hold(3000)
    rank.memory.hold(1000)
    rank.run(2, 5 * MS)
    assert rank.page.get("memory_peak_bytes") == 3000


def test_changed_memory_limit_is_seen_in_the_end(lane: str) -> None:
    rank = Rank(lane)
    rank.memory.total_bytes = 10_000
    rank.run(LIMIT_EVERY_STEPS + 1, 5 * MS)
    assert rank.page.get("memory_limit_bytes") == 5000
