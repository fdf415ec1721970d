from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from hydro_hpc.report.intervals import Intervals, intersection, length_ns, overlap_ns, union

intervals = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=8)


def instants(several: Intervals) -> set[int]:
    return {instant for start, end in several for instant in range(start, end)}


@given(intervals)
def test_union_covers_the_same_instants_and_is_disjoint(some: Intervals) -> None:
    joined = union(some)
    assert instants(joined) == instants(some)
    assert all(start < end for start, end in joined)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(joined))
    assert length_ns(joined) == len(instants(some))


@given(intervals, intervals)
def test_intersection_is_what_both_cover(a: Intervals, b: Intervals) -> None:
    assert instants(intersection(union(a), union(b))) == instants(a) & instants(b)


@given(st.tuples(st.integers(0, 40), st.integers(0, 40)).filter(lambda i: i[0] <= i[1]), intervals)
def test_overlap_of_one_interval_with_many(one: tuple[int, int], many: Intervals) -> None:
    assert overlap_ns(one, union(many)) == len(instants([one]) & instants(many))
