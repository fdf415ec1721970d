"""GRES text, device indexes and hostlists."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_plugin.gres import (
    GresItem,
    counted_bubbles,
    device_indexes,
    parse_gres,
    parse_indexes,
    print_gres,
    print_indexes,
    typed_bubbles,
)

NAMES = st.sampled_from(["gpu", "bubble", "shard"])
TYPES = st.none() | st.sampled_from(["g0", "g1", "g12", "a100", "1g.5gb", "tesla-v100"])
INDEXES = st.none() | st.lists(st.integers(0, 300), max_size=8).map(lambda i: tuple(sorted({*i})))
ITEMS = st.lists(
    st.builds(GresItem, name=NAMES, type=TYPES, count=st.integers(0, 99), indexes=INDEXES),
    max_size=4,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bubble:g0:1,bubble:g1:1", [("bubble", "g0", 1, None), ("bubble", "g1", 1, None)]),
        ("bubble:2", [("bubble", None, 2, None)]),
        ("gpu:2(IDX:0-1)", [("gpu", None, 2, (0, 1))]),
        ("gres/gpu:2", [("gpu", None, 2, None)]),
        ("gres/gpu=2", [("gpu", None, 2, None)]),
        ("gres:gpu:a100:2", [("gpu", "a100", 2, None)]),
        ("gpu:1g.5gb:2", [("gpu", "1g.5gb", 2, None)]),
        (
            "gres:bubble:g0:1,gres:bubble:g1:1",
            [("bubble", "g0", 1, None), ("bubble", "g1", 1, None)],
        ),
        (
            "bubble:g0:1(IDX:0),bubble:g1:0(IDX:)",
            [("bubble", "g0", 1, (0,)), ("bubble", "g1", 0, ())],
        ),
        ("gpu:a100:8(IDX:0-3,5,7)", [("gpu", "a100", 8, (0, 1, 2, 3, 5, 7))]),
        ("gpu:2(S:0-1)", [("gpu", None, 2, None)]),
        ("gpu:2(IDX:N/A)", [("gpu", None, 2, None)]),
        ("gpu", [("gpu", None, 1, None)]),
        ("(null)", []),
        ("gres:", []),
        ("", []),
    ],
)
def test_reads_what_slurm_prints(
    text: str, expected: list[tuple[str, str | None, int, tuple[int, ...] | None]]
) -> None:
    assert [(i.name, i.type, i.count, i.indexes) for i in parse_gres(text)] == expected


@pytest.mark.parametrize("text", ["gpu:", ":2", "gpu:2(IDX:0-1", "gpu 2", "gpu:2:3:4", "a\nb", "9"])
def test_refuses_what_is_no_gres(text: str) -> None:
    with pytest.raises(ValueError, match="not a GRES"):
        parse_gres(text)


@given(items=ITEMS)
def test_prints_what_it_reads(items: list[GresItem]) -> None:
    assert list(parse_gres(print_gres(items))) == items


@given(indexes=st.sets(st.integers(0, 4095), max_size=40))
def test_index_lists_survive_the_round_trip(indexes: set[int]) -> None:
    assert parse_indexes(print_indexes(indexes)) == tuple(sorted(indexes))


@pytest.mark.parametrize("text", ["a", "1-", "-1", "1-b", "0-99999999", "5000", "\u0664"])
def test_refuses_what_is_no_index_list(text: str) -> None:
    with pytest.raises(ValueError, match="index"):
        parse_indexes(text)


def test_index_list_is_as_short_as_slurm_writes_it() -> None:
    assert print_indexes([3, 0, 1, 5]) == "0-1,3,5"


def test_device_indexes_come_from_types_else_from_index_lists() -> None:
    text = "bubble:g1:1(IDX:1),bubble:g0:0(IDX:),gpu:a100:2(IDX:2-3)"
    assert device_indexes(parse_gres(text), "bubble") == (1,)
    assert device_indexes(parse_gres(text), "gpu") == (2, 3)
    assert device_indexes(parse_gres(text), "shard") == ()


def test_device_indexes_are_unknown_without_type_or_list() -> None:
    assert device_indexes(parse_gres("gpu:2"), "gpu") is None


def test_requests_are_what_slurm_takes() -> None:
    assert typed_bubbles([0, 2]) == "bubble:g0:1,bubble:g2:1"
    assert counted_bubbles(2) == "bubble:2"
