"""How many slots fit: measured builds, monotone choices, and a size that does not flap."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hydro_hpc.trial.footprint import (
    MARGIN,
    PATIENCE_MAX_NS,
    Footprint,
    Look,
    Size,
    choose_slots,
    decide,
    fit,
)

MB = 1_000_000
SECOND_NS = 1_000_000_000
PATIENCE_NS = 10 * SECOND_NS
BUILT = {1: 399, 2: 461, 4: 554, 8: 780, 16: 1170}  # MB, an MLP of 0.7 M parameters, idle 324

sizes_bytes = st.integers(min_value=0, max_value=10**12)
counts = st.integers(min_value=1, max_value=64)
footprints = st.builds(
    Footprint, fixed_bytes=st.integers(0, 10**10), slot_bytes=st.integers(0, 10**9)
)


@given(sizes_bytes, footprints, counts, st.floats(0, 2))
@settings(deadline=None)  # a busy machine
def test_choice_never_passes_the_spare_memory(
    spare: int, footprint: Footprint, wanted: int, margin: float
) -> None:
    slots = choose_slots(spare, footprint, wanted, margin)
    assert 0 <= slots <= wanted
    if slots:
        assert footprint.bytes_for(slots) * (1 + margin) <= spare * (1 + 1e-9)


@given(sizes_bytes, footprints, counts, st.floats(0, 2))
@settings(deadline=None)  # a busy machine
def test_choice_leaves_no_slot_out_that_fits(
    spare: int, footprint: Footprint, wanted: int, margin: float
) -> None:
    slots = choose_slots(spare, footprint, wanted, margin)
    if slots < wanted:
        assert (footprint.bytes_for(slots + 1) + 1) * (1 + margin) > spare * (1 - 1e-9)


@given(sizes_bytes, sizes_bytes, footprints, counts)
@settings(deadline=None)  # a busy machine
def test_more_memory_is_never_fewer_slots(
    one: int, other: int, footprint: Footprint, wanted: int
) -> None:
    less, more = sorted((one, other))
    assert choose_slots(less, footprint, wanted) <= choose_slots(more, footprint, wanted)


@given(st.dictionaries(counts, sizes_bytes, min_size=1), sizes_bytes)
@settings(deadline=None)  # a busy machine
def test_no_measured_build_lies_above_the_line(built: dict[int, int], idle: int) -> None:
    footprint = fit(built, idle)
    assert footprint.bytes_for(0) >= idle
    assert all(footprint.bytes_for(slots) >= size for slots, size in built.items())


@pytest.mark.parametrize("known", [[1], [1, 2], [1, 2, 4], [1, 2, 8]])
def test_small_builds_foretell_large_ones_on_the_safe_side(known: list[int]) -> None:
    footprint = fit({slots: BUILT[slots] * MB for slots in known}, 324 * MB)
    for slots, size in BUILT.items():
        assert size * MB <= (1 + MARGIN) * footprint.bytes_for(slots) <= 1.5 * size * MB


FOOTPRINT = Footprint(fixed_bytes=300 * MB, slot_bytes=50 * MB)


def looks(rooms_mb: Iterable[float], *, running_mb: int = 400, wanted: int = 16) -> list[Look]:
    """One a second."""
    return [
        Look(
            at_ns=second * SECOND_NS,
            room_bytes=int(room * MB),
            running_bytes=running_mb * MB,
            footprint=FOOTPRINT,
            wanted=wanted,
        )
        for second, room in enumerate(rooms_mb)
    ]


def follow(size: Size, seen: list[Look]) -> list[int]:
    slots = []
    for look in seen:
        size = decide(size, look)
        slots.append(size.slots)
    return slots


def test_bundle_shrinks_at_once_to_what_can_be_built() -> None:
    assert follow(Size(slots=16, patience_ns=PATIENCE_NS), looks([1000, 415])) == [16, 1]
    assert decide(Size(slots=16, patience_ns=PATIENCE_NS), looks([415])[0]).slots == choose_slots(
        415 * MB, FOOTPRINT, 16
    )


def test_bubbles_are_skipped_when_no_slot_fits() -> None:
    assert follow(Size(slots=16, patience_ns=PATIENCE_NS), looks([340])) == [0]


def test_bundle_that_runs_keeps_its_slots_though_it_could_not_be_built_again() -> None:
    room = 1.05 * 400 + 1
    assert choose_slots(int(room * MB), FOOTPRINT, 16) < 16
    assert follow(Size(slots=16, patience_ns=PATIENCE_NS), looks([room])) == [16]


def test_bundle_grows_only_after_memory_has_been_there_for_a_while() -> None:
    seconds = PATIENCE_NS // SECOND_NS
    slots = follow(Size(slots=2, patience_ns=PATIENCE_NS), looks([2000] * (seconds + 1)))
    assert slots == [2] * seconds + [16]
    interrupted = [2000] * seconds + [430] + [2000] * seconds
    assert follow(Size(slots=2, patience_ns=PATIENCE_NS), looks(interrupted)) == [2] * (
        2 * seconds + 1
    )


@given(st.lists(st.tuples(st.floats(0, 3000), st.integers(1, 90)), max_size=40))
@settings(deadline=None)  # a busy machine
def test_size_does_not_flap_however_memory_comes_and_goes(phases: list[tuple[float, int]]) -> None:
    rooms = [room for room, seconds in phases for _ in range(seconds)]
    slots = [16, *follow(Size(slots=16, patience_ns=PATIENCE_NS), looks(rooms))]
    changes = [after - before for before, after in itertools.pairwise(slots) if after != before]
    turns = sum(before > 0 > after for before, after in itertools.pairwise(changes))
    # A bundle that grew and has to shrink waits twice as long the next time.
    assert turns <= math.log2(len(rooms) * SECOND_NS / PATIENCE_NS + 1)


@given(st.floats(0.97, 1.03))
@settings(deadline=None)  # a busy machine
def test_noise_within_the_margin_moves_nothing(noise: float) -> None:
    """The room at which `slots` were chosen, a little more, a little less."""
    for slots in range(1, 16):
        room = FOOTPRINT.bytes_for(slots) * (1 + MARGIN) / MB
        running = FOOTPRINT.bytes_for(slots) // MB
        seen = looks([room * noise] * 30, running_mb=running, wanted=slots)
        assert set(follow(Size(slots=slots, patience_ns=PATIENCE_NS), seen)) == {slots}


def test_patience_has_an_end() -> None:
    size = Size(slots=16, patience_ns=PATIENCE_MAX_NS)
    assert decide(size, looks([340])[0]).patience_ns == PATIENCE_MAX_NS
