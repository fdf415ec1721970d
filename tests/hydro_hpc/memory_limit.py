"""A real memory limit for tests: a memory cgroup of its own, v1 or v2, made by root."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitedCgroup:
    path: Path
    limit_file: str
    events_file: str

    def join(self) -> None:
        """The calling process and its children are bound from now on; for `preexec_fn`."""
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def set_limit(self, limit_bytes: int) -> None:
        (self.path / self.limit_file).write_text(str(limit_bytes))

    def num_killed(self) -> int:
        """How many processes the kernel has ended here because memory ran out."""
        lines = (self.path / self.events_file).read_text().splitlines()
        return int(dict(line.split(" ") for line in lines)["oom_kill"])


@contextmanager
def limited_cgroup(limit_bytes: int) -> Iterator[LimitedCgroup]:
    """Skips where no memory cgroup can be made."""
    name = f"hydro-test-{os.getpid()}-{os.urandom(3).hex()}"
    if (ROOT / "memory/memory.limit_in_bytes").exists():
        made = LimitedCgroup(
            path=ROOT / "memory" / name,
            limit_file="memory.limit_in_bytes",
            events_file="memory.oom_control",
        )
    else:
        made = LimitedCgroup(path=ROOT / name, limit_file="memory.max", events_file="memory.events")
    try:
        made.path.mkdir()
        made.set_limit(limit_bytes)
    except OSError as error:
        with contextlib.suppress(OSError):
            made.path.rmdir()
        pytest.skip(f"no memory cgroup can be made: {error}")
    try:
        yield made
    finally:
        _until(lambda: not (made.path / "cgroup.procs").read_text().split())
        made.path.rmdir()


def _until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < give_up, "a process of the test still runs in its cgroup"
        time.sleep(0.02)
