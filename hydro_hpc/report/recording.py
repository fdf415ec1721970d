"""What the flight recorders of a job's lanes have seen, as plain data, and how it is collected.

A ring holds the last 16384 records and goes with its lane when the job ends, so a recorder reads
what is new every second or so: a copy of the page (1 MiB, under a millisecond), never a mapping.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hydro_hpc.identity import Identity
from hydro_hpc.page import BadPageError, Page, page_path
from hydro_hpc.page_layout import PageKind, PrimaryState, Record, RecordKind
from hydro_hpc.report.lanes import LanePlace


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """A wait of the primary in communication calls, CLOCK_MONOTONIC nanoseconds of the host."""

    start_ns: int
    end_ns: int
    step: int
    predicted_ns: int
    opened_ns: int  # when the gate was opened; 0 = it was not


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    start_ns: int
    end_ns: int
    number: int
    is_shut: bool  # the guard's schedule kept the gate shut


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A trial's time between two pauses. `device_ns` of it was used on the device."""

    start_ns: int
    end_ns: int
    device_ns: int
    samples: int
    is_training: bool  # else evaluation, checkpoint, the start of a trial


@dataclass(frozen=True, slots=True, kw_only=True)
class Slowdown:
    """The guard's own account: of paired open and shut steps, with its 95% interval."""

    value: float  # 0.01 = 1%; negative: open steps were the faster ones
    low: float
    high: float
    pairs: int
    bound: float
    step_open_ns: int
    step_shut_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFacts:
    """The counters of a stage page when it was last read."""

    job_id: int
    stage: int
    num_stages: int
    num_steps: int
    state: PrimaryState
    trips: int
    slowdown: Slowdown | None  # None: fewer than three pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialFacts:
    """The counters of a trial page when it was last read."""

    num_slots: int
    num_samples: int
    num_overruns: int
    overrun_max_ns: int
    trials_done: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneRecording:
    """All that was recorded of one lane, in order of time."""

    place: LanePlace
    stage: StageFacts | None
    trial: TrialFacts | None
    waits: Sequence[Wait] = ()
    steps: Sequence[Step] = ()
    runs: Sequence[Run] = ()


@dataclass(slots=True)
class _Ring:
    """How far a page has been read; another writer starts its ring afresh."""

    writer: Identity | None = None
    next_number: int = 0

    def new_records(self, page: Page) -> list[Record]:
        writer = page.writer()
        if writer != self.writer:
            self.writer, self.next_number = writer, 0
        found = list(page.records(since=self.next_number))
        if found:
            self.next_number = found[-1][0] + 1
        return [record for _, record in found]


@dataclass(slots=True)
class LaneRecorder:
    """Collects one lane. Call `read` at least once per 500 steps, or records are overwritten."""

    place: LanePlace
    stage: StageFacts | None = None
    trial: TrialFacts | None = None
    _stage_ring: _Ring = field(default_factory=_Ring)
    _trial_ring: _Ring = field(default_factory=_Ring)
    _waits: list[Wait] = field(default_factory=list)
    _steps: list[Step] = field(default_factory=list)
    _runs: list[Run] = field(default_factory=list)

    def read(self) -> None:
        """Takes what is new. A lane that is not lent, or not any more, has nothing new."""
        if stage := read_written(self.place, PageKind.STAGE):
            self.stage = stage_facts(stage)
            for record in self._stage_ring.new_records(stage):
                self._take_primary(record)
        if trial := read_written(self.place, PageKind.TRIAL):
            self.trial = trial_facts(trial)
            self._runs += map(_run, self._trial_ring.new_records(trial))

    def recording(self) -> LaneRecording:
        """Returns all that was collected so far."""
        return LaneRecording(
            place=self.place,
            stage=self.stage,
            trial=self.trial,
            waits=tuple(self._waits),
            steps=tuple(self._steps),
            runs=tuple(self._runs),
        )

    def _take_primary(self, record: Record) -> None:
        if record.kind == RecordKind.WAIT:
            self._waits.append(
                Wait(
                    start_ns=record.start_ns,
                    end_ns=record.end_ns,
                    step=record.step,
                    predicted_ns=record.value,
                    opened_ns=record.extra,
                )
            )
        elif record.kind == RecordKind.STEP:
            self._steps.append(
                Step(
                    start_ns=record.start_ns,
                    end_ns=record.end_ns,
                    number=record.step,
                    is_shut=record.value == 1,
                )
            )


def read_written(place: LanePlace, kind: PageKind) -> Page | None:
    """Returns a copy of a page that some process has written, None if there is none."""
    try:
        page = Page.read_copy(page_path(place.path, kind), kind)
    except BadPageError:
        return None
    return page if page.has_writer() else None


def stage_facts(page: Page) -> StageFacts:
    slowdown = None
    if page.get("step_shut_ns"):
        slowdown = Slowdown(
            value=page.get("slowdown_ppm") / 1e6,
            low=page.get("slowdown_low_ppm") / 1e6,
            high=page.get("slowdown_high_ppm") / 1e6,
            pairs=page.get("guard_pairs"),
            bound=page.get("guard_bound_ppm") / 1e6,
            step_open_ns=page.get("step_open_ns"),
            step_shut_ns=page.get("step_shut_ns"),
        )
    return StageFacts(
        job_id=page.get("job_id"),
        stage=page.get("stage"),
        num_stages=page.get("num_stages"),
        num_steps=page.get("num_steps"),
        state=PrimaryState(page.get("state")),
        trips=page.get("guard_trips"),
        slowdown=slowdown,
    )


def trial_facts(page: Page) -> TrialFacts:
    return TrialFacts(
        num_slots=page.get("num_slots"),
        num_samples=page.get("num_samples"),
        num_overruns=page.get("num_overruns"),
        overrun_max_ns=page.get("overrun_max_ns"),
        trials_done=page.get("trials_done"),
    )


def _run(record: Record) -> Run:
    return Run(
        start_ns=record.start_ns,
        end_ns=record.end_ns,
        device_ns=record.value,
        samples=record.extra,
        is_training=record.kind == RecordKind.RUN,
    )
