"""The shared pages of a lane: offsets, units, writers. Nothing else in the project knows them.

A lane is a directory `<page dir>/gpu<index>/` that root makes for one device. Its page files have
a fixed size from the start and one writer each (`PageKind`). Words are aligned and have one
writer, so a reader needs no lock; everything wider than a word is either written while nobody may
act on it (the window table, while the gate is closed) or checked afterwards (a ring record's
sequence number, a gate's epoch). Times are CLOCK_MONOTONIC nanoseconds of the node unless a name
says otherwise.

Standard library only, any Python from 3.9: root's part (`slurm_plugin/lanes.py`) runs it too.
Not covered: who may open which file. Root decides that when it makes the lane.
"""

from __future__ import annotations

import enum
import mmap
import os
import struct
from typing import Iterator, NamedTuple, Tuple, Union

from hydro_hpc.identity import Identity, is_alive, own_identity

MAGIC = b"HYDROPG\0"
VERSION = 1
LINE_BYTES = 64  # a word that another process waits for has a cache line to itself

NUM_LABELS = 64  # rows of the window table: predicted lengths in microseconds
RING_RECORDS = 16384
RECORD = struct.Struct("<Qqq IIIi qq II")  # 64 bytes, see Record
TEXT_BYTES = 128


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


class TrialState(enum.IntEnum):
    ABSENT = 0
    STARTING = 1  # imports, data, models: outside the gate, in the idle class
    TRAINING = 2
    ENDED = 3


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


_LAYOUTS: dict[PageKind, dict[str, Field]] = {
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
        "owner_word": Field(4 * LINE_BYTES, "I", "Word", "primary's owner"),
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
            ("wait_ns", "Q", "ns"),  # all waits, of all steps
            ("bubble_ns", "Q", "ns"),  # waits of 2 ms or more, in steps that were not shut
            ("open_total_ns", "Q", "ns"),  # of bubble_ns, with the gate open
            ("guard_bound_ppm", "q", "1e-6"),
            ("slowdown_ppm", "q", "1e-6"),
            ("slowdown_low_ppm", "q", "1e-6"),
            ("slowdown_high_ppm", "q", "1e-6"),
            ("guard_pairs", "Q", "count"),
            ("guard_trips", "Q", "count"),
            ("step_shut_ns", "Q", "ns"),
            ("step_open_ns", "Q", "ns"),
            ("reason", f"{TEXT_BYTES}s", "text"),  # why nothing is lent, else empty
        ),
        "window_us": Field(1024, f"{NUM_LABELS}I", "us", "primary"),
        "ring_head": Field(1024 + 4 * NUM_LABELS, "Q", "count", "primary"),
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
        ),
        "ring_head": Field(1024 + 4 * NUM_LABELS, "Q", "count", "worker"),
    },
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
    return dict(_LAYOUTS[kind])


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


class BadPageError(ValueError):
    """A page cannot be used; the text says which and why. Trials pause, reports say so."""


class Page:
    """A page in memory: mapped (writers, trials) or a copy of its bytes (root, reports).

    `words` and `quads` are the same bytes as 32- and 64-bit numbers: one aligned load or store
    each, which is what the hot paths use (`words[word_index("gate_word")]`).
    """

    def __init__(self, buffer: Union[mmap.mmap, bytes], kind: PageKind) -> None:
        self.kind = kind
        self._fields = _LAYOUTS[kind]
        self._buffer = buffer
        self._bytes = memoryview(buffer)
        self.words = self._bytes.cast("I")
        self.quads = self._bytes.cast("Q")

    @staticmethod
    def map_for_writing(path: str, kind: PageKind) -> Page:
        """Maps a page that root made, and makes this process its writer.

        Raises BadPageError if the file is missing, of another size, or not ours to write.
        """
        page = Page(_map(path, kind, mmap.PROT_READ | mmap.PROT_WRITE), kind)
        identity = own_identity()
        page._bytes[RING_OFFSET:] = bytes(len(page._bytes) - RING_OFFSET)
        page._bytes[LINE_BYTES:RING_OFFSET] = bytes(RING_OFFSET - LINE_BYTES)
        page.set("version", VERSION)
        page.set("kind", int(kind))
        page.set("boot_id", identity.boot_id)
        page.set("pid", identity.pid)
        page.set("start_ticks", identity.start_ticks)
        page.set("magic", MAGIC)
        return page

    @staticmethod
    def map_for_changing(path: str, kind: PageKind) -> Page:
        """Maps a page of another process of ours to change a word that is not that process's."""
        return Page(_map(path, kind, mmap.PROT_READ | mmap.PROT_WRITE), kind)

    @staticmethod
    def map_for_reading(path: str, kind: PageKind) -> Page:
        """Maps a page read-only, whether or not its writer is up (`writer_problem`)."""
        return Page(_map(path, kind, mmap.PROT_READ), kind)

    @staticmethod
    def read_copy(path: str, kind: PageKind) -> Page:
        """Returns a copy of a page as it is now, without mapping it: what root and reports use."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise BadPageError(f"{path}: {error.strerror}") from None
        try:
            data = os.pread(fd, SIZES[kind], 0)
        finally:
            os.close(fd)
        if len(data) != SIZES[kind]:
            raise BadPageError(f"{path}: has {len(data)} bytes, not {SIZES[kind]}")
        return Page(data, kind)

    def close(self) -> None:
        self.words.release()
        self.quads.release()
        self._bytes.release()
        if isinstance(self._buffer, mmap.mmap):
            self._buffer.close()

    def mapping(self) -> mmap.mmap:
        """Returns the mapping, whose address a futex needs."""
        assert isinstance(self._buffer, mmap.mmap)
        return self._buffer

    def word_index(self, name: str) -> int:
        return self._index(name, 4)

    def quad_index(self, name: str) -> int:
        return self._index(name, 8)

    def _index(self, name: str, size: int) -> int:
        field = self._fields[name]
        assert field.offset % size == 0
        assert struct.calcsize(field.code) % size == 0
        return field.offset // size

    def get(self, name: str) -> int:
        """Returns a number."""
        field = self._fields[name]
        return int(struct.unpack_from(field.code, self._bytes, field.offset)[0])

    def get_bytes(self, name: str) -> bytes:
        field = self._fields[name]
        return bytes(struct.unpack_from(field.code, self._bytes, field.offset)[0])

    def get_text(self, name: str) -> str:
        return self.get_bytes(name).split(b"\0", 1)[0].decode("utf-8", "replace")

    def set(self, name: str, value: Union[int, bytes]) -> None:
        field = self._fields[name]
        struct.pack_into(field.code, self._bytes, field.offset, value)

    def set_text(self, name: str, text: str) -> None:
        """Stores text, cut to what the field holds."""
        self.set(name, text.encode()[: struct.calcsize(self._fields[name].code) - 1])

    def writer(self) -> Identity:
        return Identity(self.get("pid"), self.get_bytes("boot_id"), self.get("start_ticks"))

    def has_writer(self) -> bool:
        """Says whether some process has become the writer, living or not."""
        return self.get_bytes("magic") == MAGIC

    def writer_problem(self) -> str:
        """Says why nobody may act on this page, or returns an empty text if its writer is up."""
        if not self.has_writer():
            return "no process has become its writer yet"
        if self.get("version") != VERSION or self.get("kind") != self.kind:
            found = f"{PageKind(self.kind).name} {self.get('version')}"
            wanted = f"{self.kind.name} {VERSION}"
            return f"it has layout {found}, not {wanted}; use one release on all nodes"
        if not is_alive(self.writer()):
            return f"its writer (pid {self.get('pid')}) is not running any more"
        return ""

    def append(self, record: Record) -> None:
        """Adds a record to the ring. One writer; costs about 2 us."""
        head_index = self.quad_index("ring_head")
        number = self.quads[head_index]
        offset = RING_OFFSET + number % RING_RECORDS * RECORD.size
        self.quads[offset // 8] = 0  # invalid while it is written
        RECORD.pack_into(
            self._bytes,
            offset,
            0,
            record.start_ns,
            record.end_ns,
            record.kind,
            record.label,
            record.step,
            record.microbatch,
            record.value,
            record.extra,
            0,
            0,
        )
        self.quads[offset // 8] = number + 1
        self.quads[head_index] = number + 1

    def records(self, since: int = 0) -> Iterator[Tuple[int, Record]]:
        """Yields (number, record) from number `since` on, oldest first; what was overwritten is
        left out.
        """
        head = self.quads[self.quad_index("ring_head")]
        for number in range(max(since, head - RING_RECORDS), head):
            offset = RING_OFFSET + number % RING_RECORDS * RECORD.size
            values = RECORD.unpack_from(self._bytes, offset)
            if values[0] != number + 1 or self.quads[offset // 8] != number + 1:
                continue
            _, start_ns, end_ns, kind, label, step, microbatch, value, extra, _, _ = values
            yield number, Record(kind, start_ns, end_ns, label, step, microbatch, value, extra)


def _map(path: str, kind: PageKind, protection: int) -> mmap.mmap:
    flags = os.O_RDWR if protection & mmap.PROT_WRITE else os.O_RDONLY
    try:
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise BadPageError(f"{path}: {error.strerror}") from None
    try:
        size = os.fstat(fd).st_size
        if size != SIZES[kind]:
            raise BadPageError(
                f"{path}: has {size} bytes, not {SIZES[kind]}; use one release on all nodes"
            )
        return mmap.mmap(fd, size, mmap.MAP_SHARED, protection)
    finally:
        os.close(fd)


def lane_dir(page_dir: str, index: int) -> str:
    return f"{page_dir}/gpu{index}"


def page_path(lane: str, kind: PageKind) -> str:
    return f"{lane}/{FILE_NAMES[kind]}"
