"""What stands where in the shared pages of a lane: kinds, words, fields, records, units, writers.

A lane is a directory `<page dir>/gpu<index>/` that root makes for one device. Its page files have
a fixed size from the start and one writer each (`PageKind`). Times are CLOCK_MONOTONIC
nanoseconds of the node unless a name says otherwise.

Standard library only, any Python from 3.9: root's part (`slurm_plugin/lanes.py`) runs it too.
"""

from __future__ import annotations

import enum
import struct
from typing import NamedTuple, Tuple

MAGIC = b"HYDROPG\0"
VERSION = 2
LINE_BYTES = 64  # a word that another process waits for has a cache line to itself

NUM_LABELS = 64  # rows of the window tables, in microseconds after the opening
RING_RECORDS = 16384
RECORD = struct.Struct("<Qqq IIIi qq II")  # 64 bytes, see Record
TEXT_BYTES = 128
OWNER = "primary's owner"  # a writer of his own, beside the page's: `hydro pause`


class PageKind(enum.IntEnum):
    """Which page of a lane a file is; in brackets its name, its one writer, its mode."""

    SITE = 1  # (site, root, 0644)
    STAGE = 2  # (stage, the primary's process, 0644)
    TENANT = 3  # (tenant, root, 0644)
    TRIAL = 4  # (trial, the tenant's worker, 0644)


FILE_NAMES = {
    PageKind.SITE: "site",
    PageKind.STAGE: "stage",
    PageKind.TENANT: "tenant",
    PageKind.TRIAL: "trial",
}
LEASE_FILE_NAME = "lease.lock"


class Word(enum.IntEnum):
    """A permission: of the site (root), of the owner (`hydro pause`), of the guard."""

    RUN = 1  # not 0, so that an empty page permits nothing
    HOLD = 2
    GONE = 3  # site only: the lender's job has ended


class DeviceKind(enum.IntEnum):
    GPU = 1
    CPU_CORE = 2


class PrimaryState(enum.IntEnum):
    ABSENT = 0  # no process has become the writer yet
    STARTING = 1  # a writer, no pipeline step seen yet
    LEARNING = 2  # steps run, no prediction yet
    SHARING = 3  # windows are opened
    NOT_PIPELINED = 4  # several steps without one bubble worth opening
    ENDED = 5

    @classmethod
    def _missing_(cls, value: object) -> PrimaryState:  # noqa: ARG003
        """A page may hold anything: what is no state reads as ABSENT."""
        return cls.ABSENT


class TrialState(enum.IntEnum):
    ABSENT = 0
    STARTING = 1  # imports, data, models: outside the gate, in the idle class
    TRAINING = 2
    ENDED = 3
    SKIPPING = 4  # no slot fits into the memory that is left: bubbles pass unused

    @classmethod
    def _missing_(cls, value: object) -> TrialState:  # noqa: ARG003
        """See PrimaryState."""
        return cls.ABSENT


class RecordKind(enum.IntEnum):
    WAIT = 1  # stage: one wait of the primary in a communication call (gaps merged)
    STEP = 2  # stage: one optimizer step, border to border
    RUN = 3  # trial: one run of the worker between two pauses
    OTHER = 4  # trial: gated work that is not training (evaluation, checkpoint, search)


class Field(NamedTuple):
    """One value of a page. `code` is a struct code; `writer` and `unit` are documentation that
    tests read.
    """

    offset: int
    code: str
    unit: str
    writer: str


class Record(NamedTuple):
    """One interval of a ring.

    `value` is the predicted length (WAIT), 1 for a shut step (STEP), or the device time (RUN,
    OTHER), all but the STEP's in ns. `extra` is when the gate was opened inside the interval
    (WAIT, 0 = not opened) or the number of samples trained (RUN).
    """

    kind: int
    start_ns: int
    end_ns: int
    label: int = 0
    step: int = 0
    microbatch: int = -1
    value: int = 0
    extra: int = 0


def _header() -> dict[str, Field]:
    return {
        "magic": Field(0, "8s", "text", "file owner"),
        "version": Field(8, "I", "count", "file owner"),
        "kind": Field(12, "I", "PageKind", "file owner"),
        "boot_id": Field(16, "16s", "bytes", "file owner"),
        "pid": Field(32, "I", "pid", "file owner"),
        "start_ticks": Field(40, "Q", "clock ticks", "file owner"),
    }


def _sequence(offset: int, writer: str, *fields: Tuple[str, str, str]) -> dict[str, Field]:
    """Lays out (name, code, unit) one after the other, each aligned to its size."""
    laid = {}
    for name, code, unit in fields:
        size = struct.calcsize(code)
        align = 1 if code.endswith("s") else size
        offset = -(-offset // align) * align
        laid[name] = Field(offset, code, unit, writer)
        offset += size
    return laid


LAYOUTS: dict[PageKind, dict[str, Field]] = {
    PageKind.SITE: {
        **_header(),
        "site_word": Field(1 * LINE_BYTES, "I", "Word", "root"),
        **_sequence(
            2 * LINE_BYTES,
            "root",
            ("job_id", "I", "job"),  # the lender's
            ("uid", "I", "uid"),
            ("generation", "I", "count"),  # grows by one each time the device is lent
            ("device_kind", "I", "DeviceKind"),
            ("device_index", "I", "index"),
            ("cpu_core", "i", "core"),  # -1: a GPU
            ("device_path", f"{TEXT_BYTES}s", "text"),
            ("gpu_uuid", f"{TEXT_BYTES}s", "text"),
        ),
    },
    PageKind.STAGE: {
        **_header(),
        "gate_word": Field(1 * LINE_BYTES, "I", "Gate", "primary"),
        "open_ns": Field(2 * LINE_BYTES, "Q", "ns", "primary"),
        "close_ns": Field(2 * LINE_BYTES + 8, "Q", "ns", "primary"),  # of the last window
        "guard_word": Field(3 * LINE_BYTES, "I", "Word", "primary"),
        "owner_word": Field(4 * LINE_BYTES, "I", "Word", OWNER),
        **_sequence(
            5 * LINE_BYTES,
            "primary",
            ("state", "I", "PrimaryState"),
            ("rank", "I", "rank"),
            ("world_size", "I", "count"),
            ("stage", "I", "index"),
            ("num_stages", "I", "count"),
            ("step", "I", "count"),
            ("job_id", "I", "job"),
            ("step_id", "I", "step"),
            ("heartbeat_ns", "Q", "ns"),
            ("memory_peak_bytes", "Q", "bytes"),
            ("memory_limit_bytes", "Q", "bytes"),
            ("num_steps", "Q", "count"),
            ("num_windows", "Q", "count"),  # opened
            ("wait_ns", "Q", "ns"),  # all waits, of all steps; near ones with what is between
            ("bubble_ns", "Q", "ns"),  # waits of 2 ms or more, in steps that were not shut
            ("open_total_ns", "Q", "ns"),  # of bubble_ns, with the gate open
            ("open_until_now_ns", "Q", "ns"),  # all windows that have closed
            ("guard_bound_ppm", "q", "1e-6"),
            ("slowdown_ppm", "q", "1e-6"),
            ("slowdown_low_ppm", "q", "1e-6"),
            ("slowdown_high_ppm", "q", "1e-6"),
            ("guard_pairs", "Q", "count"),
            ("guard_trips", "Q", "count"),
            ("guard_caution", "Q", "count"),  # how often what an early end counts was doubled
            ("step_shut_ns", "Q", "ns"),
            ("step_open_ns", "Q", "ns"),
            ("reason", f"{TEXT_BYTES}s", "text"),  # why nothing is lent, else empty
        ),
        "window_us": Field(1024, f"{NUM_LABELS}I", "us", "primary"),  # a trial may run until then
        "late_us": Field(1024 + 4 * NUM_LABELS, f"{NUM_LABELS}I", "us", "primary"),  # and from
        # then on, if the window is still open; 0: not
        "ring_head": Field(1024 + 8 * NUM_LABELS, "Q", "count", "primary"),
    },
    PageKind.TENANT: {
        **_header(),
        **_sequence(
            1 * LINE_BYTES,
            "root",
            ("job_id", "I", "job"),  # 0: the lane has no tenant
            ("step_id", "I", "step"),
            ("uid", "I", "uid"),
            ("first_pid", "I", "pid"),
            ("first_start_ticks", "Q", "clock ticks"),
            ("taken_ns", "Q", "ns"),
            ("cgroup", "1024s", "text"),  # as /proc/<pid>/cgroup says it, relative to its hierarchy
        ),
    },
    PageKind.TRIAL: {
        **_header(),
        "ack_word": Field(1 * LINE_BYTES, "I", "Gate", "worker"),  # last gate word acted on
        **_sequence(
            2 * LINE_BYTES,
            "worker",
            ("state", "I", "TrialState"),
            ("num_slots", "I", "count"),
            ("heartbeat_ns", "Q", "ns"),
            ("run_ns", "Q", "ns"),  # device time of training
            ("other_ns", "Q", "ns"),  # device time of other gated work
            ("num_runs", "Q", "count"),
            ("num_samples", "Q", "count"),
            ("num_overruns", "Q", "count"),
            ("overrun_max_ns", "Q", "ns"),
            ("margin_ns", "Q", "ns"),
            ("trials_done", "Q", "count"),
            ("memory_need_bytes", "Q", "bytes"),  # of the worker: its peak, or what one slot takes
            ("memory_room_bytes", "Q", "bytes"),  # the most that it may hold
        ),
        "ring_head": Field(1024 + 8 * NUM_LABELS, "Q", "count", "worker"),
    },
}

# Where the lines are that a page's writer must leave as they are.
OWNER_LINES = {
    kind: {field.offset for field in fields.values() if field.writer == OWNER}
    for kind, fields in LAYOUTS.items()
}

RING_OFFSET = 4096
SIZES = {
    PageKind.SITE: 4096,
    PageKind.TENANT: 4096,
    PageKind.STAGE: RING_OFFSET + RING_RECORDS * RECORD.size,
    PageKind.TRIAL: RING_OFFSET + RING_RECORDS * RECORD.size,
}


def layout(kind: PageKind) -> dict[str, Field]:
    """Returns the fields of a page by name."""
    return dict(LAYOUTS[kind])


GATE_OPEN = 1
GATE_CLOSED = 2
EPOCH_MASK = 0xFFFFFF


class Gate(NamedTuple):
    """The gate word taken apart: `[epoch:24 | label:6 | state:2]`."""

    epoch: int
    label: int
    is_open: bool

    def pack(self) -> int:
        state = GATE_OPEN if self.is_open else GATE_CLOSED
        return (self.epoch & EPOCH_MASK) << 8 | (self.label & 0x3F) << 2 | state

    @staticmethod
    def unpack(word: int) -> Gate:
        """Anything but a well-formed OPEN reads as closed."""
        return Gate(word >> 8, word >> 2 & 0x3F, word & 3 == GATE_OPEN)
