"""The shared pages: layout rules, who may act on them, and the flight recorder's ring."""

from __future__ import annotations

import itertools
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydro_hpc.page import BadPageError, Page, page_path
from hydro_hpc.page_layout import (
    LINE_BYTES,
    NUM_LABELS,
    RECORD,
    RING_OFFSET,
    RING_RECORDS,
    SIZES,
    Gate,
    PageKind,
    Record,
    layout,
)
from tests.hydro_hpc.lanes import make_lane, stage_page


@pytest.mark.parametrize("kind", list(PageKind))
def test_fields_are_aligned_and_do_not_overlap(kind: PageKind) -> None:
    spans = []
    for name, field in layout(kind).items():
        size = struct.calcsize(field.code)
        if not field.code.endswith("s"):
            assert field.offset % struct.calcsize(field.code[-1]) == 0, name
        spans.append((field.offset, field.offset + size, name))
    spans.sort()
    for (_, end, name), (start, _, following) in itertools.pairwise(spans):
        assert end <= start, f"{name} runs into {following}"
    assert spans[-1][1] <= RING_OFFSET


def test_words_that_others_wait_for_have_a_cache_line_to_themselves() -> None:
    fields = layout(PageKind.STAGE)
    lines = [
        fields[name].offset // LINE_BYTES for name in ("gate_word", "guard_word", "owner_word")
    ]
    others = [f.offset // LINE_BYTES for n, f in fields.items() if not n.endswith("_word")]
    assert len(set(lines)) == 3
    assert not set(lines) & set(others)


def test_every_label_has_a_row_in_the_window_table() -> None:
    assert struct.calcsize(layout(PageKind.STAGE)["window_us"].code) == 4 * NUM_LABELS
    assert RECORD.size == LINE_BYTES


@given(epoch=st.integers(0, 2**24 - 1), label=st.integers(0, 63), is_open=st.booleans())
def test_gate_word_survives_packing(epoch: int, label: int, is_open: bool) -> None:
    word = Gate(epoch, label, is_open).pack()
    assert 0 <= word < 2**32
    assert Gate.unpack(word) == Gate(epoch, label, is_open)


@given(st.integers(0, 2**32 - 1))
def test_anything_but_a_well_formed_open_reads_as_closed(word: int) -> None:
    assert Gate.unpack(word).is_open == (word & 3 == 1)


def test_empty_page_has_no_writer(tmp_path: Path) -> None:
    path = page_path(make_lane(tmp_path), PageKind.STAGE)
    page = Page.map_for_reading(path, PageKind.STAGE)
    assert "no process" in page.writer_problem()


def test_page_of_another_boot_is_refused(tmp_path: Path) -> None:
    page = stage_page(make_lane(tmp_path))
    assert page.writer_problem() == ""
    page.set("boot_id", b"x" * 16)
    assert "not running" in page.writer_problem()


def test_page_of_another_start_of_the_same_pid_is_refused(tmp_path: Path) -> None:
    page = stage_page(make_lane(tmp_path))
    page.set("start_ticks", page.get("start_ticks") + 1)
    assert "not running" in page.writer_problem()


def test_page_of_another_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    page = stage_page(make_lane(tmp_path))
    page.set("version", 99)
    assert "use one release on all nodes" in page.writer_problem()


def test_truncated_page_is_refused_before_it_is_mapped(tmp_path: Path) -> None:
    path = page_path(make_lane(tmp_path), PageKind.STAGE)
    with open(path, "r+b") as file:
        file.truncate(100)
    with pytest.raises(BadPageError, match="has 100 bytes"):
        Page.map_for_reading(path, PageKind.STAGE)
    with pytest.raises(BadPageError, match="has 100 bytes"):
        Page.read_copy(path, PageKind.STAGE)


def test_link_in_place_of_a_page_is_not_followed(tmp_path: Path) -> None:
    path = Path(page_path(make_lane(tmp_path), PageKind.STAGE))
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    with pytest.raises(BadPageError):
        Page.map_for_writing(str(path), PageKind.STAGE)


def test_ring_keeps_the_newest_records_in_order(tmp_path: Path) -> None:
    page = stage_page(make_lane(tmp_path))
    count = RING_RECORDS + 10
    for number in range(count):
        page.append(Record(kind=1, start_ns=number, end_ns=number + 1, microbatch=-1))
    found = list(page.records())
    assert [number for number, _ in found] == list(range(10, count))
    assert all(record.start_ns == number for number, record in found)
    assert [number for number, _ in page.records(since=count - 2)] == [count - 2, count - 1]


def test_record_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    page = stage_page(make_lane(tmp_path))
    for number in range(3):
        page.append(Record(kind=1, start_ns=number, end_ns=number))
    page.quads[(RING_OFFSET + RECORD.size) // 8] = 0  # as its writer leaves it in between
    assert [number for number, _ in page.records()] == [0, 2]


def test_copy_shows_what_was_written_through_a_mapping(tmp_path: Path) -> None:
    lane = make_lane(tmp_path)
    page = stage_page(lane)
    page.set_text("reason", "é" * 200)
    copy = Page.read_copy(page_path(lane, PageKind.STAGE), PageKind.STAGE)
    assert copy.get_text("reason").startswith("éé")
    assert copy.get("pid") == page.get("pid")
    assert len(copy.get_bytes("reason")) < SIZES[PageKind.STAGE]


def test_text_cannot_steer_the_terminal_of_who_reads_it(tmp_path: Path) -> None:
    page = stage_page(make_lane(tmp_path))
    page.set_text("reason", "\x1b[2J no\nn9 device 0: lent")
    assert page.get_text("reason") == "?[2J no?n9 device 0: lent"
