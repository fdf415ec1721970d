from __future__ import annotations

from pathlib import Path

from hydro_hpc.page import Page, page_path
from hydro_hpc.page_layout import RING_RECORDS, PageKind, PrimaryState, Record, RecordKind
from hydro_hpc.report.lanes import LanePlace, lanes_below
from hydro_hpc.report.recording import LaneRecorder
from tests.hydro_hpc.lanes import make_lane


def place(lane: str) -> LanePlace:
    return LanePlace(node="n1", device=0, path=lane)


def writer(lane: str, kind: PageKind) -> Page:
    return Page.map_for_writing(page_path(lane, kind), kind)


def test_collects_what_is_new_at_each_look(tmp_path: Path) -> None:
    lane = make_lane(tmp_path)
    stage, trial = writer(lane, PageKind.STAGE), writer(lane, PageKind.TRIAL)
    recorder = LaneRecorder(place=place(lane))
    stage.append(Record(RecordKind.WAIT, 10, 20, step=3, value=9, extra=11))
    stage.append(Record(RecordKind.STEP, 0, 30, step=3, value=1))
    recorder.read()
    trial.append(Record(RecordKind.RUN, 12, 18, value=5, extra=64))
    trial.append(Record(RecordKind.OTHER, 19, 20, value=1))
    stage.append(Record(RecordKind.WAIT, 40, 50, step=4, value=9))
    recorder.read()
    recorder.read()
    seen = recorder.recording()
    assert [(w.start_ns, w.step, w.predicted_ns, w.opened_ns) for w in seen.waits] == [
        (10, 3, 9, 11),
        (40, 4, 9, 0),
    ]
    assert [(s.number, s.is_shut) for s in seen.steps] == [(3, True)]
    assert [(r.device_ns, r.samples, r.is_training) for r in seen.runs] == [
        (5, 64, True),
        (1, 0, False),
    ]


def test_another_writer_starts_its_ring_afresh(tmp_path: Path) -> None:
    lane = make_lane(tmp_path)
    trial = writer(lane, PageKind.TRIAL)
    recorder = LaneRecorder(place=place(lane))
    for number in range(3):
        trial.append(Record(RecordKind.RUN, number, number + 1))
    recorder.read()
    again = writer(lane, PageKind.TRIAL)
    again.set("start_ticks", again.get("start_ticks") + 1)  # a restarted worker
    again.append(Record(RecordKind.RUN, 100, 101))
    recorder.read()
    assert [r.start_ns for r in recorder.recording().runs] == [0, 1, 2, 100]


def test_what_was_overwritten_between_two_looks_is_left_out(tmp_path: Path) -> None:
    lane = make_lane(tmp_path)
    stage = writer(lane, PageKind.STAGE)
    recorder = LaneRecorder(place=place(lane))
    for number in range(RING_RECORDS + 5):
        stage.append(Record(RecordKind.WAIT, number, number + 1))
    recorder.read()
    waits = recorder.recording().waits
    assert (waits[0].start_ns, len(waits)) == (5, RING_RECORDS)


def test_keeps_what_it_saw_when_the_lane_goes(tmp_path: Path) -> None:
    lane = make_lane(tmp_path)
    stage = writer(lane, PageKind.STAGE)
    stage.append(Record(RecordKind.STEP, 0, 30, step=3))
    stage.set("state", PrimaryState.SHARING)
    stage.set("guard_pairs", 4)
    stage.set("step_shut_ns", 100)
    stage.set("slowdown_low_ppm", -2000)
    recorder = LaneRecorder(place=place(lane))
    recorder.read()
    for kind in (PageKind.STAGE, PageKind.TRIAL):
        Path(page_path(lane, kind)).unlink()
    recorder.read()
    seen = recorder.recording()
    assert len(seen.steps) == 1
    assert seen.stage is not None
    assert seen.stage.slowdown is not None
    assert seen.stage.slowdown.low == -0.002
    assert seen.trial is None


def test_a_lane_without_writers_is_empty(tmp_path: Path) -> None:
    recorder = LaneRecorder(place=place(make_lane(tmp_path)))
    recorder.read()
    assert recorder.recording().stage is None


def test_finds_the_lanes_of_a_page_directory(tmp_path: Path) -> None:
    for index in (10, 2):
        make_lane(tmp_path, index)
    (tmp_path / "jobs").mkdir()
    assert [lane.device for lane in lanes_below(tmp_path, node="n1")] == [2, 10]
    assert lanes_below(tmp_path / "none", node="n1") == []
