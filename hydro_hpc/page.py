"""The shared pages of a lane in memory. Where things stand in them: `page_layout`.

Words are aligned and have one writer, so a reader needs no lock; everything wider than a word is
either written while nobody may act on it (the window table, while the gate is closed) or checked
afterwards (a ring record's sequence number, a gate's epoch).

Standard library only, any Python from 3.9: root's part (`slurm_plugin/lanes.py`) runs it too.
Not covered: who may open which file. Root decides that when it makes the lane.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import Iterator, Tuple, Union

from hydro_hpc.identity import Identity, is_alive, own_identity
from hydro_hpc.page_layout import (
    FILE_NAMES,
    LAYOUTS,
    LINE_BYTES,
    MAGIC,
    OWNER_LINES,
    RECORD,
    RING_OFFSET,
    RING_RECORDS,
    SIZES,
    VERSION,
    PageKind,
    Record,
)


class BadPageError(ValueError):
    """A page cannot be used; the text says which and why. Trials pause, reports say so."""


class Page:
    """A page in memory: mapped (writers, trials) or a copy of its bytes (root, reports).

    `words` and `quads` are the same bytes as 32- and 64-bit numbers: one aligned load or store
    each, which is what the hot paths use (`words[word_index("gate_word")]`).
    """

    def __init__(self, buffer: Union[mmap.mmap, bytes], kind: PageKind) -> None:
        self.kind = kind
        self._fields = LAYOUTS[kind]
        self._buffer = buffer
        self._bytes = memoryview(buffer)
        self.words = self._bytes.cast("I")
        self.quads = self._bytes.cast("Q")

    @staticmethod
    def map_for_writing(path: str, kind: PageKind) -> Page:
        """Maps a page that root made, and makes this process its writer; what the primary's owner
        wrote outlives the writers.

        Raises BadPageError if the file is missing, of another size, or not ours to write.
        """
        page = Page(_map(path, kind, mmap.PROT_READ | mmap.PROT_WRITE), kind)
        identity = own_identity()
        page._bytes[RING_OFFSET:] = bytes(len(page._bytes) - RING_OFFSET)
        for offset in range(LINE_BYTES, RING_OFFSET, LINE_BYTES):
            if offset not in OWNER_LINES[kind]:
                page._bytes[offset : offset + LINE_BYTES] = bytes(LINE_BYTES)
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
        """Returns text with `?` for what could steer a terminal: the writer may be anybody."""
        text = self.get_bytes(name).split(b"\0", 1)[0].decode("utf-8", "replace")
        return "".join(letter if letter.isprintable() else "?" for letter in text)

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
