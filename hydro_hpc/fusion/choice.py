"""Which executor a bundle uses: the fastest of those that equal separate models."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from torch import nn

from hydro_hpc.fusion.copying import own_copy
from hydro_hpc.fusion.executor import Executor, ExecutorKind
from hydro_hpc.fusion.grouped import GroupedExecutor, Occasion, Traced
from hydro_hpc.fusion.inputs import InputForm
from hydro_hpc.fusion.loop import LoopExecutor
from hydro_hpc.fusion.part_timing import time_parts
from hydro_hpc.fusion.report import BundleReport, Candidate, PartTime
from hydro_hpc.fusion.sample import Sample
from hydro_hpc.fusion.state import StackedState
from hydro_hpc.fusion.timing import step_times_ms
from hydro_hpc.fusion.verify import MakeExecutor, Verification
from hydro_hpc.fusion.vmapped import VmapExecutor
from hydro_hpc.nn.randomness import SlotStreams

FASTER: Final = 0.95  # of the other's time; less is noise
ONE_BY_ONE_FASTER: Final = 0.8  # the same for a single part, which is timed less well
BUDGET_S: Final = 10.0  # for verifying and timing; afterwards what is verified has to do
NO_TIME: Final = f"not tried: verifying and timing others took {BUDGET_S:.0f} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """An executor; of a grouped one also the modules that run once per slot since that is faster,
    by path, with what was measured.
    """

    kind: ExecutorKind
    one_by_one: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        number = len(self.one_by_one)
        return f"{self.kind.value}, {number} modules one by one" if number else self.kind.value


def way_of(report: BundleReport) -> Way:
    """What was chosen then."""
    assert report.executor is not None
    return Way(kind=report.executor, one_by_one=report.one_by_one)


class Workshop:
    """Makes executors for the models of a bundle, or copies of them, and a sample of inputs. All
    share what was traced, so what is verified of one holds for the others.
    """

    def __init__(self, models: Sequence[nn.Module], seeds: Sequence[int], sample: Sample) -> None:
        self.models, self.seeds = models, seeds
        self.uses_python = False  # the models draw from Python's or NumPy's generators
        self._traced: dict[frozenset[str], dict[Occasion, Traced]] = {}
        self.take(sample)

    def take(self, sample: Sample) -> None:
        """From now on this is the sample."""
        self.sample = sample
        self.form = InputForm.of(sample.args, sample.kwargs).without_values()

    def maker(self, way: Way) -> MakeExecutor:
        """A function that makes this executor from a state."""
        if way.kind is ExecutorKind.LOOP:
            return LoopExecutor
        if way.kind is ExecutorKind.VMAP:
            return VmapExecutor
        traced = self._traced.setdefault(frozenset(way.one_by_one), {})
        form, closed = self.form, way.one_by_one

        def grouped(state: StackedState, streams: SlotStreams) -> Executor:
            return GroupedExecutor(state, streams, form=form, traced=traced, closed=closed)

        return grouped

    def times_of_parts(self) -> list[PartTime]:
        """Of a grouped executor on copies."""
        state = StackedState([own_copy(model, "trial") for model in self.models])
        executor = self.maker(Way(kind=ExecutorKind.GROUPED))(state, SlotStreams(self.seeds))
        assert isinstance(executor, GroupedExecutor)
        return time_parts(executor, self.sample)


def choose(workshop: Workshop, *, wanted: Way | None) -> tuple[Way, BundleReport]:
    """The executor to use and why; `wanted` is taken if it is exact, so that a resumed study gives
    the values that it gave.
    """
    deadline_s = time.monotonic() + BUDGET_S
    ways = [Way(kind=kind) for kind in ExecutorKind]
    if wanted is not None:
        ways = [wanted, *(way for way in ways if way != wanted)]
    tried = refusals_of(workshop, ways, stop_at=wanted, deadline_s=deadline_s)
    parts: tuple[PartTime, ...] = ()
    times: dict[str, float] = {}
    if wanted is None or tried[0][1] is not None:
        grouped = next(reason for way, reason in tried if way.kind is ExecutorKind.GROUPED)
        if grouped is None and time.monotonic() < deadline_s:
            parts = tuple(workshop.times_of_parts())
            if one_by_one := faster_one_by_one(parts):
                mixed = Way(kind=ExecutorKind.GROUPED, one_by_one=one_by_one)
                tried = [*refusals_of(workshop, [mixed], deadline_s=deadline_s), *tried]
        exact = [way for way, reason in tried if reason is None]
        if len(exact) > 1 and time.monotonic() < deadline_s:
            makers = [workshop.maker(way) for way in exact]
            taken = step_times_ms(makers, workshop.models, workshop.sample, workshop.seeds)
            times = {way.name: ms for way, ms in zip(exact, taken, strict=True)}
    way, reason = decide(tried, times, wanted)
    candidates = tuple(
        Candidate(name=w.name, refusal=why, step_ms=times.get(w.name)) for w, why in tried
    )
    report = BundleReport(
        slots=len(workshop.models),
        executor=way.kind,
        reason=reason,
        candidates=candidates,
        one_by_one=way.one_by_one,
        times=parts,
    )
    return way, report


def faster_one_by_one(parts: Sequence[PartTime]) -> dict[str, str]:
    """The modules that run faster once per slot, with what was measured."""
    return {
        part.path: f"faster: {part}"
        for part in parts
        if part.per_slot_ms < ONE_BY_ONE_FASTER * part.grouped_ms
    }


def refusals_of(
    workshop: Workshop,
    ways: Sequence[Way],
    *,
    stop_at: Way | None = None,
    deadline_s: float | None = None,
) -> list[tuple[Way, str | None]]:
    """Why each of these may not be used for the models and the sample; None: it may. A model that
    raises gives the same reason to all. If `stop_at` may be used, the rest is not tried.
    """
    try:
        verification = _verification(workshop)
    except Exception as error:  # of the user's model
        why = f"raised {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return [(way, why) for way in ways]
    workshop.uses_python = verification.uses_python
    tried: list[tuple[Way, str | None]] = []
    for way in ways:
        if deadline_s is not None and tried and time.monotonic() > deadline_s:
            tried.append((way, NO_TIME))
            continue
        tried.append((way, verification.refusal(workshop.maker(way))))
        if way == stop_at and tried[-1][1] is None:
            break
    return tried


def _verification(workshop: Workshop) -> Verification:
    models, sample, seeds = workshop.models, workshop.sample, workshop.seeds
    try:
        return Verification(models, sample, seeds)
    except Exception:  # of the user's model
        if sample.unrotated is None:
            raise
        workshop.take(sample.unrotated)
        return Verification(models, sample.unrotated, seeds)


def decide(
    tried: Sequence[tuple[Way, str | None]], times: Mapping[str, float], wanted: Way | None
) -> tuple[Way, str]:
    """The choice and its reason. The loop is the floor: it is real models, whatever they do."""
    exact = [way for way, reason in tried if reason is None]
    if wanted is not None and wanted in exact:
        return wanted, "asked for"
    why_not_grouped = next((r for way, r in tried if way == Way(kind=ExecutorKind.GROUPED)), None)
    loop = Way(kind=ExecutorKind.LOOP)
    if exact == [loop]:
        return loop, why_not_grouped or "the only one there is"
    if not exact:  # real models all the same, whatever they do
        why_not_loop = next((reason for way, reason in tried if way == loop), None)
        return loop, f"none equals separate models; loop: {why_not_loop}"
    but = f"; grouped: {why_not_grouped}" if why_not_grouped else ""
    if len(exact) == 1:
        return exact[0], f"the only one that equals separate models{but}"
    if not times:
        return loop if loop in exact else exact[0], f"there was no time to time any{but}"
    fastest = exact[0]
    for way in exact[1:]:  # in the order in which they are preferred
        if times[way.name] < FASTER * times[fastest.name]:
            fastest = way
    return fastest, f"the fastest that equals separate models{but}"
