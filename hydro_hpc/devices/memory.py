"""The memory of a device, as one process sees it: what it may hold, what it holds.

`limit` is what the process's job may use of the device's memory; `room` is the part of it that
others do not use, so the most that this process may ever hold. On a CPU device memory is resident
size (`cpu_memory`); a GPU's port would report what its allocator has reserved.
"""

from __future__ import annotations

from typing import Protocol


class DeviceMemory(Protocol):
    """Every number is of this moment; reading blocks on nothing."""

    def limit_bytes(self) -> int:
        """The most that all processes of this job together may hold."""

    def room_bytes(self) -> int:
        """The limit, less what others hold of it: does not depend on what this process holds."""

    def used_bytes(self) -> int:
        """What this process holds now."""

    def peak_bytes(self) -> int:
        """The most that it held since `forget_peak`, or ever where that cannot be forgotten."""

    def forget_peak(self) -> None: ...

    def give_back(self) -> None:
        """Returns to the device what this process has freed and its allocator still keeps."""


class InMemoryDevice:
    """A device without hardware; a test plays both sides of it with `hold` and `others_bytes`."""

    def __init__(self, *, limit_bytes: int, others_bytes: int = 0) -> None:
        self.total_bytes = limit_bytes
        self.others_bytes = others_bytes
        self._held_bytes = self._kept_bytes = self._peak_bytes = 0

    def hold(self, held_bytes: int) -> None:
        """This process needs so much from now on; what it needs less stays with its allocator."""
        self._held_bytes = held_bytes
        self._kept_bytes = max(self._kept_bytes, held_bytes)
        self._peak_bytes = max(self._peak_bytes, held_bytes)

    def limit_bytes(self) -> int:
        return self.total_bytes

    def room_bytes(self) -> int:
        return max(0, self.total_bytes - self.others_bytes)

    def used_bytes(self) -> int:
        return self._kept_bytes

    def peak_bytes(self) -> int:
        return self._peak_bytes

    def forget_peak(self) -> None:
        self._peak_bytes = self._kept_bytes

    def give_back(self) -> None:
        self._kept_bytes = self._held_bytes
