"""Which executor a bundle uses: the fastest of those that equal separate models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from torch import nn

from hydro_hpc.fusion.executor import Executor, ExecutorKind
from hydro_hpc.fusion.grouped import Graphs, GroupedExecutor
from hydro_hpc.fusion.loop import LoopExecutor
from hydro_hpc.fusion.report import BundleReport, Candidate
from hydro_hpc.fusion.sample import Sample
from hydro_hpc.fusion.state import StackedState
from hydro_hpc.fusion.timing import step_times_ms
from hydro_hpc.fusion.verify import MakeExecutor, refusal
from hydro_hpc.nn.randomness import SlotStreams

FASTER: Final = 0.95  # of the other's time; less is noise


def makers(num_inputs: int) -> dict[ExecutorKind, MakeExecutor]:
    """How each executor is made from a state, for copies of the same models."""
    traced: Graphs = {}

    def grouped(state: StackedState, streams: SlotStreams) -> Executor:
        return GroupedExecutor(state, streams, num_inputs=num_inputs, traced=traced)

    return {ExecutorKind.GROUPED: grouped, ExecutorKind.LOOP: LoopExecutor}


def choose(
    known: Mapping[ExecutorKind, MakeExecutor],
    models: Sequence[nn.Module],
    sample: Sample,
    seeds: Sequence[int],
    *,
    wanted: ExecutorKind | None,
) -> BundleReport:
    """The executor to use and why; `wanted` is taken if it is exact, so that a resumed study gives
    the values that it gave."""
    refusals = {kind: refusal(make, models, sample, seeds) for kind, make in known.items()}
    exact = [kind for kind, reason in refusals.items() if reason is None]
    times: dict[ExecutorKind, float] = {}
    if len(exact) > 1 and wanted not in exact:
        taken = step_times_ms([known[kind] for kind in exact], models, sample, seeds)
        times = dict(zip(exact, taken, strict=True))
    kind, reason = decide(refusals, times, wanted)
    candidates = tuple(
        Candidate(kind=k, refusal=r, step_ms=times.get(k)) for k, r in refusals.items()
    )
    return BundleReport(slots=len(models), executor=kind, reason=reason, candidates=candidates)


def decide(
    refusals: dict[ExecutorKind, str | None],
    times: dict[ExecutorKind, float],
    wanted: ExecutorKind | None,
) -> tuple[ExecutorKind, str]:
    """The choice and its reason. The loop is the floor: it is real models, whatever they do."""
    if wanted is not None and refusals[wanted] is None:
        return wanted, "asked for"
    grouped_reason = refusals[ExecutorKind.GROUPED]
    if grouped_reason is not None:
        return ExecutorKind.LOOP, grouped_reason
    if refusals[ExecutorKind.LOOP] is not None:
        return ExecutorKind.GROUPED, "the only one that equals separate models"
    grouped_ms, loop_ms = times[ExecutorKind.GROUPED], times[ExecutorKind.LOOP]
    fastest = ExecutorKind.LOOP if loop_ms < FASTER * grouped_ms else ExecutorKind.GROUPED
    return fastest, "the fastest that equals separate models"
