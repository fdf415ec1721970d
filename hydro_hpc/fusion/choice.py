"""Which executor a bundle uses: the fastest of those that equal separate models."""

from __future__ import annotations

import functools
import gc
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from torch import nn

from hydro_hpc.devices.cpu_memory import trim_heaps
from hydro_hpc.fusion import layout
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
from hydro_hpc.fusion.verify import MakeExecutor, Thoroughness, Verification, as_it_is
from hydro_hpc.fusion.vmapped import VmapExecutor
from hydro_hpc.nn.randomness import SlotStreams

# Which to verify first and, the loop apart, which of two equally fast ones to take.
PREFERRED: Final = (ExecutorKind.GROUPED, ExecutorKind.LOOP, ExecutorKind.VMAP)
ALONE: Final = (ExecutorKind.LOOP, ExecutorKind.GROUPED, ExecutorKind.VMAP)  # nothing to group
FASTER: Final = 0.95  # of the other's time; less is noise
ONE_BY_ONE_FASTER: Final = 0.8  # the same for a single part, which is timed less well
VERIFYING_S: Final = 6.0  # afterwards what is verified has to do, and is timed
FASTEST: Final = "the fastest that equals separate models"
NO_TIME: Final = f"not tried: verifying others took {VERIFYING_S:.0f} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """An executor, and whether images are laid out for it with their channels last; of a grouped
    one also whether torch has compiled its graphs, and the modules that run once per slot since
    that is faster, by path, with what was measured.
    """

    kind: ExecutorKind
    channels_last: bool = False
    compiled: bool = False
    one_by_one: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        number = len(self.one_by_one)
        one_by_one = [f"{number} modules one by one"] if number else []
        channels_last = ["channels last"] if self.channels_last else []
        compiled = ["compiled"] if self.compiled else []
        return ", ".join([self.kind.value, *compiled, *channels_last, *one_by_one])


GROUPED: Final = Way(kind=ExecutorKind.GROUPED)
LOOP: Final = Way(kind=ExecutorKind.LOOP)


def way_of(report: BundleReport) -> Way:
    """What was chosen then."""
    assert report.executor is not None
    return Way(
        kind=report.executor,
        channels_last=report.channels_last,
        compiled=report.compiled,
        one_by_one=report.one_by_one,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """`way` is taken if it is exact, so that a resumed study gives the values that it gave. With
    `compiles`, what was chosen is compiled too, and kept so where that is exact and faster.
    """

    way: Way | None = None
    compiles: bool = False


class Workshop:
    """Makes executors for the models of a bundle, or copies of some or all of them, and a sample of
    inputs. All share what was traced, so what is verified of one holds for the others.
    """

    def __init__(self, models: Sequence[nn.Module], seeds: Sequence[int], sample: Sample) -> None:
        self.models, self.seeds = models, seeds
        self.uses_python = False  # the models draw from Python's or NumPy's generators
        self._traced: dict[tuple[frozenset[str], int], dict[Occasion, Traced]] = {}
        self.take(sample)

    def take(self, sample: Sample) -> None:
        """From now on this is the sample."""
        self.sample = sample
        self._verifications: dict[Thoroughness, Verification] = {}
        self.form = InputForm.of(sample.args, sample.kwargs).without_values()

    def maker(self, way: Way) -> MakeExecutor:
        """A function that makes this executor from a state."""
        if way.kind is ExecutorKind.LOOP:
            return functools.partial(LoopExecutor, channels_last=way.channels_last)
        if way.kind is ExecutorKind.VMAP:
            return VmapExecutor
        form, closed = self.form, way.one_by_one

        def grouped(state: StackedState, streams: SlotStreams) -> Executor:
            traced = self._traced.setdefault((frozenset(closed), state.slots), {})
            return GroupedExecutor(
                state,
                streams,
                form=form,
                traced=traced,
                closed=closed,
                channels_last=way.channels_last,
                compiled=way.compiled,
            )

        return grouped

    def verification(self, way: Way) -> Verification:
        """What untouched copies give for the sample. What they raise comes through."""
        thoroughness = _thoroughness(way)
        if thoroughness not in self._verifications:
            try:
                found = self._verification(thoroughness)
            except Exception:  # of the user's model
                if self.sample.unrotated is None:
                    raise
                self.take(self.sample.unrotated)
                return self.verification(way)
            self._verifications[thoroughness] = found
            self.uses_python = found.uses_python
        return self._verifications[thoroughness]

    def _verification(self, thoroughness: Thoroughness) -> Verification:
        """With the weights as they are where slightly different ones raise."""
        given = self.models, self.sample, self.seeds, thoroughness
        try:
            return Verification(*given)
        except Exception:  # of the user's model
            return Verification(*given, as_it_is)

    def refusal_again(self, way: Way, *, in_passing: bool) -> str | None:
        """Why a way that was exact at binding is not for the sample; None: it is. In passing models
        that raise say nothing.
        """
        if not in_passing:
            [(_, reason)] = refusals_of(self, [way])
            return reason
        try:
            thoroughness = _thoroughness(way, in_passing=True)
            verification = self._verification(thoroughness)
        except Exception:  # of the user's model
            return None
        return verification.refusal(self.maker(way))

    def tidy(self) -> None:
        """Gives back the memory of the copies, which is more than training takes."""
        self._verifications = {}
        gc.collect()  # graphs refer to themselves
        trim_heaps()

    def times_ms(self, ways: Sequence[Way]) -> dict[str, float]:
        """By name, one step of each, on copies."""
        makers = [self.maker(way) for way in ways]
        taken = step_times_ms(makers, self.models, self.sample, self.seeds)
        return {way.name: ms for way, ms in zip(ways, taken, strict=True)}

    def times_of_parts(self) -> list[PartTime]:
        """Of a grouped executor on copies."""
        state = StackedState([own_copy(model, "trial") for model in self.models])
        executor = self.maker(GROUPED)(state, SlotStreams(self.seeds))
        assert isinstance(executor, GroupedExecutor)
        return time_parts(executor, self.sample)


def _thoroughness(way: Way, *, in_passing: bool = False) -> Thoroughness:
    """Compiling takes a minute, and twice that in two precisions: the same graph was verified in
    both before.
    """
    if way.compiled:
        return Thoroughness.IN_OWN_PRECISION
    return Thoroughness.IN_PASSING if in_passing else Thoroughness.FULL


def choose(workshop: Workshop, wish: Wish) -> tuple[Way, BundleReport]:
    """The executor to use and why."""
    wanted = wish.way
    tried = refusals_of(workshop, [wanted]) if wanted is not None else []
    parts: tuple[PartTime, ...] = ()
    times: dict[str, float] = {}
    if not tried or tried[0][1] is not None:
        others, parts = try_all(workshop, but=wanted)
        tried += others
        exact = [way for way, reason in tried if reason is None]
        if len(exact) > 1:
            times = workshop.times_ms(exact)
    way, reason = decide(tried, times, wanted)
    if all(refusal for _, refusal in tried):
        warn_of_loop(workshop, dict(tried).get(LOOP))
    if wish.compiles and way != wanted and way.kind is ExecutorKind.GROUPED:
        compiled = replace(way, compiled=True)
        tried += refusals_of(workshop, [compiled])
        if tried[-1] == (compiled, None):
            times |= workshop.times_ms([way, compiled])
            if times[compiled.name] < FASTER * times[way.name]:
                way, reason = compiled, f"faster than uncompiled, which was {reason}"
    candidates = tuple(
        Candidate(name=w.name, refusal=why, step_ms=times.get(w.name)) for w, why in tried
    )
    report = BundleReport(
        slots=len(workshop.models),
        executor=way.kind,
        reason=reason,
        candidates=candidates,
        channels_last=way.channels_last,
        compiled=way.compiled,
        one_by_one=way.one_by_one,
        times=parts,
    )
    return way, report


def warn_of_loop(workshop: Workshop, refusal: str | None) -> None:
    """That not even the loop trains as separate models do; not where models raise, which is seen
    without, or never give the same twice, as those that draw from a generator of the script's.
    """
    try:
        verification = workshop.verification(LOOP)
    except Exception:  # of the user's model
        return
    if refusal not in (None, NO_TIME) and verification.is_repeatable():
        warnings.warn(
            f"no executor trains these models as they train alone (the loop {refusal}): train them "
            "one by one, or let forward read nothing but its inputs, parameters and buffers",
            stacklevel=2,
        )


def try_all(
    workshop: Workshop, *, but: Way | None
) -> tuple[list[tuple[Way, str | None]], tuple[PartTime, ...]]:
    """Why each way there is may not be used (None: it may), and how long the modules take."""
    is_alone = len(workshop.models) == 1
    has_images = layout.has_images(workshop.form.tensors)
    parts: tuple[PartTime, ...] = ()
    tried: list[tuple[Way, str | None]] = []
    deadline_s = time.monotonic() + VERIFYING_S
    attempt = functools.partial(refusals_of, workshop, deadline_s=deadline_s)
    for kind in ALONE if is_alone else PREFERRED:
        plain, images_last = Way(kind=kind), Way(kind=kind, channels_last=True)
        if has_images and kind is ExecutorKind.VMAP and (GROUPED, None) in tried:
            break  # its convolutions are grouped ones
        if plain != but:
            tried += attempt([plain])
        is_exact = (plain, None) in tried
        if plain == GROUPED and is_exact and not is_alone:
            parts = tuple(workshop.times_of_parts())
            if one_by_one := faster_one_by_one(parts):
                tried[-1:-1] = attempt([Way(kind=kind, one_by_one=one_by_one)])
        if has_images and is_exact and images_last != but:
            tried += attempt([images_last])
    return tried, parts


def faster_one_by_one(parts: Sequence[PartTime]) -> dict[str, str]:
    """The modules that run faster once per slot, with what was measured; none if that would not
    show in the whole.
    """
    faster = [part for part in parts if part.per_slot_ms < ONE_BY_ONE_FASTER * part.grouped_ms]
    gain = sum(part.grouped_ms - part.per_slot_ms for part in faster)
    if gain < (1.0 - FASTER) * sum(part.grouped_ms for part in parts):
        return {}
    return {part.path: f"faster: {part}" for part in faster}


def refusals_of(
    workshop: Workshop, ways: Sequence[Way], *, deadline_s: float = math.inf
) -> list[tuple[Way, str | None]]:
    """Why each of these may not be used for the models and the sample; None: it may. A model that
    raises gives the same reason to all.
    """
    tried: list[tuple[Way, str | None]] = []
    for way in ways:
        try:
            verification = workshop.verification(way)
        except Exception as error:  # of the user's model
            why = f"raised {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            return [(way, why) for way in ways]
        is_late = time.monotonic() > deadline_s
        tried.append((way, NO_TIME if is_late else verification.refusal(workshop.maker(way))))
    return tried


def decide(
    tried: Sequence[tuple[Way, str | None]], times: Mapping[str, float], wanted: Way | None
) -> tuple[Way, str]:
    """The choice and its reason. The loop is the floor: it is real models, whatever they do, so
    what is to run instead has to be faster by more than noise.
    """
    exact = [way for way, reason in tried if reason is None]
    if wanted is not None and wanted in exact:
        return wanted, "asked for"
    why_not_grouped = next((r for way, r in tried if way == GROUPED), None)
    if exact == [LOOP]:
        return LOOP, why_not_grouped or "the only one there is"
    if not exact:  # real models all the same, whatever they do
        why_not_loop = next((reason for way, reason in tried if way == LOOP), None)
        return LOOP, f"none equals separate models; loop: {why_not_loop}"
    but = f"; grouped: {why_not_grouped}" if why_not_grouped else ""
    if len(exact) == 1:
        return exact[0], f"the only one that equals separate models{but}"
    fastest, *others = sorted(exact, key=lambda way: way != LOOP)  # else as they are preferred
    for way in others:
        if times[way.name] < FASTER * times[fastest.name]:
            fastest = way
    return fastest, f"{FASTEST}{but}"
