"""Sets of instants as sorted, disjoint, half-open intervals (start_ns, end_ns). Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from operator import itemgetter

Interval = tuple[int, int]
Intervals = list[Interval]


def union(intervals: Iterable[Interval]) -> Intervals:
    """Returns what any of them covers."""
    merged: Intervals = []
    for start, end in sorted(interval for interval in intervals if interval[0] < interval[1]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def intersection(a: Intervals, b: Intervals) -> Intervals:
    """Returns what is in both."""
    common: Intervals = []
    i = j = 0
    while i < len(a) and j < len(b):
        start, end = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if start < end:
            common.append((start, end))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return common


def length_ns(intervals: Intervals) -> int:
    return sum(end - start for start, end in intervals)


def overlap_ns(interval: Interval, others: Intervals) -> int:
    """Returns how much of `interval` lies in `others`; fast for a short one among many."""
    start, end = interval
    total = 0
    for index in range(bisect_right(others, start, key=itemgetter(1)), len(others)):
        other_start, other_end = others[index]
        if other_start >= end:
            break
        total += min(end, other_end) - max(start, other_start)
    return total
