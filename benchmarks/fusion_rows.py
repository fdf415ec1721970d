"""The times of all ways of `benchmarks/fusion.py` for one model at one F, and that they do the
same work: a way whose losses are not those of separate models has no time."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from benchmarks.fusion_models import Case
from benchmarks.fusion_peers import PEERS
from benchmarks.fusion_ways import (
    WAYS,
    Batches,
    RefusedError,
    Step,
    Way,
    bundle_of,
    separate,
    step_of,
)
from tests.hydro_hpc.fusion.models.trials import double_precision

LEAST_S: Final = 0.02  # of one timing: several steps if one is shorter
COMPARED_STEPS: Final = 3  # what an update gets wrong shows in the next loss
TOLERANCE: Final = 1e-9  # relative, of a loss in double precision


def row_of(name: str, case: Case, slots: int, repeats: int) -> dict[str, Any]:
    """Times all ways of one model at one F, in turns.

    The batches lie ready as each way takes them: stacked, or one by one.
    """
    torch.manual_seed(0)
    batches = [case.batch() for _ in range(slots)]
    row: dict[str, Any] = {"model": name, "slots": slots}

    def ours(case: Case, models: Sequence[nn.Module], batches: Batches) -> Step:
        bundle = bundle_of(models, batches)
        kind = bundle.report.executor
        row["executor"] = None if kind is None else kind.value
        row["report"] = str(bundle.report)
        return step_of(bundle, case, batches)

    steps, refusals = agreeing({**WAYS, **PEERS, "ours": ours}, case, batches)
    row |= {f"{way}: refused": why for way, why in refusals.items()}
    taken = times_in_turns(steps, repeats)
    row["ms"] = {way: statistics.median(times) * 1e3 for way, times in taken.items()}
    row["spread"] = {way: (max(times) - min(times)) * 1e3 for way, times in taken.items()}
    against = {
        way: quartiles([p / o for p, o in zip(times, taken["ours"], strict=True)])
        for way, times in taken.items()
        if way != "ours"
    }
    row["speedup"] = against.pop("separate")
    row["against"] = against
    return row


def agreeing(
    ways: Mapping[str, Way], case: Case, batches: Batches
) -> tuple[dict[str, Step], dict[str, str]]:
    """The ways that train these trials as separate models are, and of the others why not. Compared
    in double precision: in single, rounding alone is 1e-4 of a loss after three steps of a ResNet.
    """
    steps: dict[str, Step] = {}
    refusals: dict[str, str] = {}
    expected = losses_of(separate, case, batches)
    for name, way in ways.items():
        try:
            refuse_others(losses_of(way, case, batches), expected)
            torch.manual_seed(1)
            step = way(case, [case.make() for _ in batches], batches)
        except Exception as error:  # what a peer cannot do is a result
            if name in ("separate", "ours"):
                raise
            is_plain = isinstance(error, RefusedError)
            refusals[name] = (str(error) if is_plain else f"{type(error).__name__}: {error}")[:200]
        else:
            steps[name] = step
    return steps, refusals


def losses_of(way: Way, case: Case, batches: Batches) -> list[list[float]]:
    """Of the first steps of each trial, in double precision."""
    with double_precision(seed=1):
        wide = [(x.double() if x.is_floating_point() else x, y) for x, y in batches]
        step = way(case, [case.make() for _ in wide], wide)
        return [values_of(step()) for _ in range(COMPARED_STEPS)]


def values_of(losses: Sequence[Tensor] | Tensor) -> list[float]:
    return [float(loss.detach()) for loss in losses]


def refuse_others(found: Sequence[Sequence[float]], expected: Sequence[Sequence[float]]) -> None:
    """RefusedError if a loss of a trial in a step is another's than a separate model's."""
    for step, (row, true) in enumerate(zip(found, expected, strict=True)):
        for trial, (value, wanted) in enumerate(zip(row, true, strict=True)):
            if not math.isclose(value, wanted, rel_tol=TOLERANCE):
                raise RefusedError(
                    f"in step {step + 1} the loss of trial {trial} is {value:.6g}, "
                    f"a separate model's is {wanted:.6g}"
                )


def times_in_turns(steps: Mapping[str, Step], repeats: int) -> dict[str, list[float]]:
    """Seconds of one step, `repeats` of each way; each turn begins with another way."""
    counts = {way: steps_in(step) for way, step in steps.items()}
    taken: dict[str, list[float]] = {way: [] for way in steps}
    ways = list(steps)
    with only_own_garbage():
        for turn in range(repeats):
            first = turn % len(ways)
            for way in ways[first:] + ways[:first]:
                step, count = steps[way], counts[way]
                started = time.perf_counter()
                for _ in range(count):
                    step()
                taken[way].append((time.perf_counter() - started) / count)
    return taken


def steps_in(step: Step) -> int:
    """How many steps one timing takes; warms up."""
    shortest_s = math.inf
    for _ in range(4):
        started = time.perf_counter()
        step()
        shortest_s = min(shortest_s, time.perf_counter() - started)
    return math.ceil(LEAST_S / shortest_s)


@contextmanager
def only_own_garbage() -> Iterator[None]:
    """Keeps the collector from walking, in one way's time, what building all of them left."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def quartiles(values: Sequence[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(values, n=4)
    return {"low": low, "median": median, "high": high, "n": len(values)}
