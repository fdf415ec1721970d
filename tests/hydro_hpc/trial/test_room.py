"""What the worker does about memory, without a worker: played device, real page, fake clock."""

from __future__ import annotations

from pathlib import Path

import pytest

from hydro_hpc.devices.memory import InMemoryDevice
from hydro_hpc.errors import LaneError
from hydro_hpc.page import Page, page_path
from hydro_hpc.page_layout import PageKind
from hydro_hpc.trial.room import LOOK_NS, LookingWaiter, MemoryShortError, Room
from tests.hydro_hpc.lanes import make_lane

MB = 1_000_000
PATIENCE_NS = 10_000_000_000
IDLE, SLOT_BUILT, SLOT_RUNS = 300 * MB, 50 * MB, 15 * MB


class Process:
    """A worker that has bundles: to build one takes 50 MB a slot, to run it 15."""

    def __init__(self, folder: Path, *, limit_mb: int = 2000) -> None:
        path = page_path(make_lane(folder), PageKind.TRIAL)
        self.page = Page.map_for_writing(path, PageKind.TRIAL)
        self.memory = InMemoryDevice(limit_bytes=limit_mb * MB)
        self.now_ns = 1
        self.spare_bytes: int | None = None
        self.room = Room(
            self.memory,
            spare_bytes=lambda: self.spare_bytes,
            page=self.page,
            patience_ns=PATIENCE_NS,
            now_ns=lambda: self.now_ns,
        )
        self.room.wanted = 16
        self.drop()

    def build(self, slots: int) -> None:
        self.memory.hold(IDLE + slots * SLOT_BUILT)
        self.memory.hold(IDLE + slots * SLOT_RUNS)
        self.room.note_built(slots)

    def drop(self) -> None:
        self.memory.hold(IDLE)
        self.room.note_idle()

    def look(self, after_ns: int = LOOK_NS) -> None:
        self.now_ns += after_ns
        self.room.look()


@pytest.fixture
def process(tmp_path: Path) -> Process:
    return Process(tmp_path)


def test_one_small_build_tells_how_many_slots_fit(process: Process) -> None:
    process.build(1)
    process.drop()
    process.memory.total_bytes = int((IDLE + 4 * SLOT_BUILT) * 1.1) + 10
    assert process.room.fitting(16) == 4


def test_smaller_of_lenders_spare_and_own_room_counts(process: Process) -> None:
    assert process.room.room_bytes() == 2000 * MB
    process.spare_bytes = 700 * MB
    assert process.room.room_bytes() == 700 * MB
    process.memory.others_bytes = 1500 * MB
    assert process.room.room_bytes() == 500 * MB


def test_bundle_that_runs_with_room_is_let_alone_and_says_what_it_needs(process: Process) -> None:
    process.build(16)
    process.look()
    assert process.page.get("memory_need_bytes") == IDLE + 16 * SLOT_RUNS
    assert process.page.get("memory_room_bytes") == 2000 * MB
    assert process.page.get("num_slots") == 16


def test_lender_that_grows_makes_the_bundle_shrink(process: Process) -> None:
    process.build(16)
    process.spare_bytes = IDLE + 16 * SLOT_RUNS
    with pytest.raises(MemoryShortError, match="too little memory: a bundle of 16 needs"):
        process.look()
    process.drop()
    assert process.room.fitting(16) == 3


def test_memory_is_looked_at_a_few_times_a_second_only(process: Process) -> None:
    process.build(16)
    process.look()
    process.spare_bytes = 1
    process.look(LOOK_NS - 1)
    with pytest.raises(MemoryShortError):
        process.look(1)


def test_bundle_grows_when_there_has_been_room_for_a_while(process: Process) -> None:
    process.build(4)
    process.look()
    assert process.room.slots_to_grow_to == 0
    process.look(PATIENCE_NS)
    process.look()
    assert process.room.slots_to_grow_to == 16  # trials for it have to be asked for first
    process.spare_bytes = IDLE + 7 * SLOT_RUNS
    process.look()
    assert process.room.slots_to_grow_to == 0


def test_worker_that_is_too_much_even_empty_leaves(process: Process) -> None:
    process.spare_bytes = IDLE - 1
    with pytest.raises(LaneError, match="299 MB are left") as raised:
        process.look()
    assert not isinstance(raised.value, MemoryShortError)


class Clock:
    """Each sleep lasts as long as it may, unless the word is said to change."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.wakes_at_ns = 1 << 60
        self.looked_at_ns: list[int] = []

    def wait_change(self, seen: int, timeout_s: float) -> None:
        del seen
        self.now_ns = min(self.now_ns + int(timeout_s * 1e9), max(self.wakes_at_ns, self.now_ns))

    def look(self) -> None:
        self.looked_at_ns.append(self.now_ns)


def test_long_sleep_is_one_sleep_with_looks_in_it() -> None:
    clock = Clock()
    LookingWaiter(clock, clock.look, lambda: clock.now_ns).wait_change(1, 1.0)
    assert clock.now_ns == 1_000_000_000
    assert clock.looked_at_ns == [500_000_000, 1_000_000_000]


def test_change_ends_the_sleep_at_once() -> None:
    clock = Clock()
    clock.wakes_at_ns = 700_000_000
    LookingWaiter(clock, clock.look, lambda: clock.now_ns).wait_change(1, 1.0)
    assert clock.looked_at_ns == [500_000_000]  # none at the change: a window's first instructions
    assert clock.now_ns == clock.wakes_at_ns
