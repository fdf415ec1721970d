"""What the worker knows of memory: the room it has, what its bundles take, whether to shrink.

The room is the smaller of what the lender leaves of its device (its limit minus its peak) and
what this process may hold under its own job's limit (docs/decisions/0007-memory.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Final

from hydro_hpc.devices.memory import DeviceMemory
from hydro_hpc.errors import LaneError
from hydro_hpc.page import Page
from hydro_hpc.trial.footprint import Footprint, Look, Size, choose_slots, decide, fit
from hydro_hpc.wait import Waiter

LOOK_NS: Final = 500_000_000  # between two looks, of about 0.3 ms each


class MemoryShortError(LaneError):
    """The bundle must give memory back. A LaneError, so that a step under way comes to its end."""


class Room:
    """Measures builds, looks at memory a few times a second, and says what fits."""

    def __init__(
        self,
        memory: DeviceMemory,
        *,
        spare_bytes: Callable[[], int | None],
        page: Page,
        patience_ns: int,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`spare_bytes`: what the lender leaves, None if it has not said. `page`: the trial's.
        `patience_ns`: how long there must be room before a bundle grows that has never shrunk.
        """
        self._memory = memory
        self._spare_bytes = spare_bytes
        self._page = page
        self.wanted = 0  # how many slots the bundle shall have where memory allows
        self._now_ns = now_ns
        self._idle_bytes = 0
        self._built_bytes: dict[int, int] = {}  # peaks of builds of the present kind, by slots
        self._kinds: dict[Hashable, dict[int, int]] = {}
        self._size = Size(slots=0, patience_ns=patience_ns)
        self._next_look_ns = 0
        self.slots_to_grow_to = 0  # more than there are: there has been room for a while

    @property
    def slots(self) -> int:
        return self._size.slots

    def room_bytes(self) -> int:
        """The most that this process may hold."""
        own_bytes, spare_bytes = self._memory.room_bytes(), self._spare_bytes()
        return own_bytes if spare_bytes is None else min(own_bytes, spare_bytes)

    def fitting(self, wanted: int) -> int:
        """Returns how many slots of `wanted` can be built."""
        return choose_slots(self.room_bytes(), self._footprint(), wanted)

    def take_up(self, kind: Hashable) -> bool:
        """From now on bundles are of this kind; what one takes says nothing of another. Returns
        whether this kind has been built before.
        """
        self._built_bytes = self._kinds.setdefault(kind, {})
        return bool(self._built_bytes)

    def note_idle(self) -> None:
        """The process has no bundle (any more): what it freed goes back to the device.

        Raises LaneError if even so it holds more than it may.
        """
        self._memory.give_back()
        self._memory.forget_peak()
        self._idle_bytes = self._memory.used_bytes()
        self._set_slots(0)
        self._require_idle_fits(self.room_bytes())

    def note_built(self, slots: int) -> None:
        """A bundle of `slots` has been built; what only its build took goes back."""
        before_bytes = self._built_bytes.get(slots, 0)
        self._built_bytes[slots] = max(before_bytes, self._memory.peak_bytes())
        self._memory.give_back()
        self._memory.forget_peak()
        self._set_slots(slots)

    def look(self) -> None:
        """Cheap if the last look is recent. Raises MemoryShortError if the bundle has to shrink,
        LaneError if there is no bundle and even that is too much.
        """
        now_ns = self._now_ns()
        if now_ns < self._next_look_ns or not self._idle_bytes:
            return
        self._next_look_ns = now_ns + LOOK_NS
        room_bytes = self.room_bytes()
        look = Look(
            at_ns=now_ns,
            room_bytes=room_bytes,
            running_bytes=self._memory.peak_bytes(),
            footprint=self._footprint(),
            wanted=self.wanted,
        )
        self._page.set("memory_room_bytes", room_bytes)
        self._page.set("memory_need_bytes", self._need_bytes(look))
        size = decide(self._size, look)
        if size.slots > self._size.slots:  # for as long as there is room
            self.slots_to_grow_to = size.slots
            return
        self.slots_to_grow_to = 0
        self._size = replace(size, slots=self._size.slots)
        if size.slots < self._size.slots:
            raise MemoryShortError(self.sentence())
        if not self._size.slots:
            self._require_idle_fits(room_bytes)

    def sentence(self) -> str:
        """Says what is there and what is needed, in MB."""
        need_mb = self._footprint().bytes_for(max(1, self._size.slots)) // 1_000_000
        return (
            f"too little memory: a bundle of {max(1, self._size.slots)} needs {need_mb} MB and "
            f"{self.room_bytes() // 1_000_000} MB are left by the job that lends this device and "
            "by the limit of this one; ask for more memory, or make model or batch smaller"
        )

    def _footprint(self) -> Footprint:
        return fit(self._built_bytes, self._idle_bytes)

    def _need_bytes(self, look: Look) -> int:
        return look.running_bytes if self._size.slots else look.footprint.bytes_for(1)

    def _require_idle_fits(self, room_bytes: int) -> None:
        if self._idle_bytes > room_bytes:
            raise LaneError(self.sentence())

    def _set_slots(self, slots: int) -> None:
        self._size = replace(self._size, slots=slots, roomy_since_ns=None)
        self.slots_to_grow_to = 0
        self._page.set("num_slots", slots)


class LookingWaiter:
    """Another waiter that looks at something meanwhile: a gate may stay shut for long, and memory
    is needed back all the same. What `look` raises comes through.
    """

    def __init__(
        self,
        waiter: Waiter,
        look: Callable[[], None],
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._waiter = waiter
        self._look = look
        self._now_ns = now_ns

    def wait_change(self, seen: int, timeout_s: float) -> None:
        end_ns = self._now_ns() + int(timeout_s * 1e9)
        while True:
            started_ns = self._now_ns()
            slice_ns = min(LOOK_NS, end_ns - started_ns)
            self._waiter.wait_change(seen, slice_ns / 1e9)
            woken_ns = self._now_ns()
            if woken_ns - started_ns < slice_ns:  # a window, likely: every instruction is its time
                return
            self._look()
            if woken_ns >= end_ns:
                return
