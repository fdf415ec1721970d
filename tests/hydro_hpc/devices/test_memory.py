"""What every port to a device's memory promises, the real one under a real limit."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hydro_hpc.cgroup import Cgroup
from hydro_hpc.devices.cpu_memory import CpuMemory, node_memory
from hydro_hpc.devices.memory import DeviceMemory, InMemoryDevice
from hydro_hpc.devices.memory_cgroup import limiting
from tests.hydro_hpc.memory_limit import limited_cgroup

MIB = 1 << 20
SIZE = 64 * MIB
SLACK = 8 * MIB  # what Python and the kernel do meanwhile

Hold = Callable[[int], None]
"""Makes this process hold so many bytes, beside what it held at first."""


class Real:
    def __init__(self) -> None:
        self.memory = CpuMemory()
        self._held: list[bytes] = []
        self._others: list[subprocess.Popen[str]] = []

    def hold(self, num_bytes: int) -> None:
        # Pieces below glibc's threshold for mappings: freed, they stay with the allocator.
        self._held = [b"x" * 65536 for _ in range(num_bytes // 65536)]

    def let_others_hold(self, num_bytes: int) -> None:
        code = f"x = b'x' * {num_bytes}; print('held', flush=True); input()"
        other = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._others.append(other)
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"

    def close(self) -> None:
        for other in self._others:
            other.kill()
            other.communicate()


class Played:
    def __init__(self) -> None:
        self.memory = InMemoryDevice(limit_bytes=1024 * MIB, others_bytes=10 * MIB)
        self.hold(0)

    def hold(self, num_bytes: int) -> None:
        self.memory.hold(20 * MIB + num_bytes)

    def let_others_hold(self, num_bytes: int) -> None:
        self.memory.others_bytes += num_bytes

    def close(self) -> None:
        pass


Side = Real | Played


def holding_counts_as_used_and_as_peak(side: Side) -> None:
    memory: DeviceMemory = side.memory
    memory.forget_peak()
    before = memory.used_bytes()
    side.hold(SIZE)
    assert memory.used_bytes() == pytest.approx(before + SIZE, abs=SLACK)
    assert memory.peak_bytes() == pytest.approx(before + SIZE, abs=SLACK)
    assert memory.peak_bytes() < memory.limit_bytes()


def room_is_what_others_leave_whatever_this_process_holds(side: Side) -> None:
    memory: DeviceMemory = side.memory
    before = memory.room_bytes()
    assert 0 < before <= memory.limit_bytes()
    side.hold(SIZE)
    assert memory.room_bytes() == pytest.approx(before, abs=SLACK)
    side.let_others_hold(SIZE)
    assert memory.room_bytes() == pytest.approx(before - SIZE, abs=2 * SLACK)


def what_is_given_back_is_used_no_more_and_peak_forgets_it(side: Side) -> None:
    memory: DeviceMemory = side.memory
    before = memory.used_bytes()
    side.hold(SIZE)
    side.hold(0)
    memory.give_back()
    assert memory.used_bytes() == pytest.approx(before, abs=SLACK)
    assert memory.peak_bytes() > before + SIZE - SLACK
    memory.forget_peak()
    assert memory.peak_bytes() == pytest.approx(before, abs=SLACK)


PROMISES = [
    holding_counts_as_used_and_as_peak,
    room_is_what_others_leave_whatever_this_process_holds,
    what_is_given_back_is_used_no_more_and_peak_forgets_it,
]


@pytest.mark.parametrize("promise", PROMISES)
def test_played_memory_keeps_the_promise(promise: Callable[[Side], None]) -> None:
    promise(Played())


@pytest.mark.processes
@pytest.mark.parametrize("promise", PROMISES)
def test_real_memory_keeps_the_promise(promise: Callable[[Side], None]) -> None:
    """In a process of its own, below a limit of its own."""
    with limited_cgroup(512 * MIB) as cgroup, in_a_process(promise, cgroup.join) as process:
        process.join(60)
        assert process.exitcode == 0


@contextmanager
def in_a_process(
    promise: Callable[[Side], None], join: Callable[[], None]
) -> Iterator[multiprocessing.process.BaseProcess]:
    process = multiprocessing.get_context("spawn").Process(target=_keep, args=(promise, join))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def _keep(promise: Callable[[Side], None], join: Callable[[], None]) -> None:
    join()
    side = Real()
    try:
        assert side.memory.limit_bytes() == 512 * MIB
        promise(side)
    finally:
        side.close()


def test_every_cgroup_on_the_path_counts() -> None:
    top = Path("/cg/memory")
    job = top / "job_7"
    cgroup = Cgroup(version=1, path="/job_7/step_0", mount=top, directory=job / "step_0")
    assert [found.path for found in limiting([cgroup])] == [job / "step_0", job, top]


def test_first_version_counts_where_there_are_both_and_names_its_own_files() -> None:
    top = Path("/cg")
    v1 = Cgroup(version=1, path="/", mount=top, directory=top)
    v2 = Cgroup(version=2, path="/", mount=top, directory=top)
    assert [found.limit_file for found in limiting([v1, v2])] == ["memory.limit_in_bytes"]
    assert [found.limit_file for found in limiting([v2])] == ["memory.max"]


def test_process_outside_every_mount_has_no_limit_but_the_nodes() -> None:
    assert limiting([]) == []


def test_nodes_memory_is_in_bytes() -> None:
    total_bytes, available_bytes = node_memory()
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert total_bytes == pytest.approx(pages, rel=0.05)
    assert 0 < available_bytes <= total_bytes
