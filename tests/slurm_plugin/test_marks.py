"""What Hydro writes into job comments."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_plugin.marks import (
    MAX_WAITING_CHARS,
    Failure,
    Wish,
    is_lender,
    parse_failure,
    parse_waiting,
    parse_wish,
    print_gang_mark,
)

WISHES = st.tuples(st.integers(1, 999), st.integers(0, 999)).map(
    lambda pair: Wish(low=pair[0], high=pair[0] + pair[1])
)


@pytest.mark.parametrize("text", ["hydro:lend", "hydro:lend;study=/home/alice/study.py"])
def test_lender_is_told_by_its_mark(text: str) -> None:
    assert is_lender(text)
    assert parse_wish(text) is None


@pytest.mark.parametrize(
    "text", ["", "lend", " hydro:lend", "hydro:lender", "x hydro:lend", "hydro:"]
)
def test_other_text_lends_nothing(text: str) -> None:
    assert not is_lender(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hydro:lend",
        "hydro:want=",
        "hydro:want=0-2",
        "hydro:want=3-2",
        "hydro:want=1-2-3",
        "hydro:want=9999999",
        "hydro:want=-1",
        "want=2-2",
        "hydro:want=2-2x",
    ],
)
def test_other_text_is_no_wish(text: str) -> None:
    assert parse_wish(text) is None


@given(wish=WISHES, waiting=st.text())
def test_a_mark_keeps_the_wish_whatever_the_reason(wish: Wish, waiting: str) -> None:
    mark = print_gang_mark(wish, waiting)
    assert parse_wish(mark) == wish
    assert len(parse_waiting(mark)) <= MAX_WAITING_CHARS
    assert len(mark.splitlines()) == 1
    assert print_gang_mark(wish, parse_waiting(mark)) == mark


def test_the_first_of_equal_keys_counts() -> None:
    assert parse_wish("hydro:want=1-1;want=9-9") == Wish(low=1, high=1)


def test_failure_is_read_from_the_gangs_report() -> None:
    assert parse_failure("hydro:failed=lane-missing;count=3") == Failure(
        reason="lane-missing", count=3
    )


@pytest.mark.parametrize(
    "text", ["", "my study", "hydro:failed=a b;count=1", "hydro:failed=x;count=-1", "hydro:count=2"]
)
def test_other_text_is_no_failure(text: str) -> None:
    assert parse_failure(text) is None
