"""How many slots fit into memory. Pure: measurements and the room of this moment in, slots out.

To *build* a bundle takes more memory than to *run* it: binding compares it with untouched copies
of its models. Both grow linearly with the slots, so a few measured builds tell about the others;
what the present bundle needs to run is simply measured.

Building decides what is chosen, running decides what must go: that gap, a margin, and a patience
that doubles with each shrinking keep the size from flapping.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

MARGIN: Final = 0.1  # of a footprint, kept free beyond it when a size is chosen
SHRINK_MARGIN: Final = 0.05  # and what is left of it when a running bundle has to shrink
PATIENCE_MAX_NS: Final = 1_280_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """The memory to build a bundle, of the whole process: `fixed + slots * slot`."""

    fixed_bytes: int
    slot_bytes: int

    def bytes_for(self, slots: int) -> int:
        return self.fixed_bytes + slots * self.slot_bytes


def fit(built_bytes: Mapping[int, int], idle_bytes: int) -> Footprint:
    """Returns a line that no measured build lies above.

    `built_bytes`: peaks of builds by slots; `idle_bytes`: the process without a bundle. One build
    alone books all of its cost to its slots, so larger ones are overestimated.
    """
    if not built_bytes:
        return Footprint(fixed_bytes=idle_bytes, slot_bytes=0)
    slot_bytes = _slope(built_bytes, idle_bytes)
    fixed_bytes = max(
        idle_bytes, *(size_bytes - slots * slot_bytes for slots, size_bytes in built_bytes.items())
    )
    return Footprint(fixed_bytes=fixed_bytes, slot_bytes=slot_bytes)


def _slope(built_bytes: Mapping[int, int], idle_bytes: int) -> int:
    """Least squares; from the idle process on where only one size was built."""
    known = {0: idle_bytes, **built_bytes} if len(built_bytes) == 1 else built_bytes
    mean_slots = sum(known) / len(known)
    mean_bytes = sum(known.values()) / len(known)
    spread = sum((slots - mean_slots) ** 2 for slots in known)
    joint = sum((slots - mean_slots) * (size - mean_bytes) for slots, size in known.items())
    return max(0, int(joint / spread))


def choose_slots(
    spare_bytes: int, footprint: Footprint, wanted: int, margin: float = MARGIN
) -> int:
    """Returns the most slots up to `wanted` that fit with `margin`; 0: none does."""
    free_bytes = int(spare_bytes / (1 + margin)) - footprint.fixed_bytes
    if free_bytes < footprint.slot_bytes:
        return 0
    if not footprint.slot_bytes:
        return wanted if free_bytes >= 0 else 0
    return min(wanted, free_bytes // footprint.slot_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How many slots the bundle has (0: bubbles are skipped), and since when more would fit."""

    slots: int
    patience_ns: int  # how long there must be room before it grows
    roomy_since_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Memory at one moment; `running_bytes` is the present bundle's peak since it runs."""

    at_ns: int
    room_bytes: int
    running_bytes: int
    footprint: Footprint
    wanted: int


def decide(size: Size, look: Look) -> Size:
    """Returns the size that the bundle should have from now on."""
    if size.slots and look.running_bytes * (1 + SHRINK_MARGIN) > look.room_bytes:
        fitting = choose_slots(look.room_bytes, look.footprint, min(look.wanted, size.slots - 1))
        patience_ns = min(2 * size.patience_ns, PATIENCE_MAX_NS)
        return Size(slots=fitting, patience_ns=patience_ns)
    fitting = choose_slots(look.room_bytes, look.footprint, look.wanted)
    if fitting <= size.slots:
        return replace(size, roomy_since_ns=None)
    if size.roomy_since_ns is None:
        return replace(size, roomy_since_ns=look.at_ns)
    if look.at_ns - size.roomy_since_ns < size.patience_ns:
        return size
    return Size(slots=fitting, patience_ns=size.patience_ns)
