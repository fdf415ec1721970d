"""What Hydro writes into job comments: `hydro:lend`, `hydro:want=2-4`, `hydro:failed=…;count=2`.

The admin comment is written by the job-submit plugin and the coordinator only, so it is the truth
about a job. The job comment is its user's text: what it says can delay that user's own gang and
nothing else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

PREFIX: Final = "hydro:"
MAX_WANT: Final = 1_000_000
MAX_WAITING_CHARS: Final = 200
_WANT: Final = re.compile(r"(\d{1,7})(?:-(\d{1,7}))?", re.ASCII)
_REASON: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_COUNT: Final = re.compile(r"\d{1,6}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """How many devices a gang wants in all: `low` at least, `high` at most."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high <= MAX_WANT:
            raise ValueError(f"not a range of devices: {self.low}-{self.high}")

    def __str__(self) -> str:
        return f"{self.low}-{self.high}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What a gang reported when it left a place: why, and how often in a row."""

    reason: str
    count: int


def is_lender(admin_comment: str) -> bool:
    """Says whether the job lends its bubbles."""
    return "lend" in _items(admin_comment)


def parse_wish(admin_comment: str) -> Wish | None:
    """Returns a gang's wish, None if the job is no gang."""
    found = _WANT.fullmatch(_items(admin_comment).get("want", ""))
    if found is None:
        return None
    try:
        return Wish(low=int(found[1]), high=int(found[2] or found[1]))
    except ValueError:
        return None


def parse_waiting(admin_comment: str) -> str:
    """Returns why a gang waits, as last written there."""
    return _items(admin_comment).get("waiting", "")


def print_gang_mark(wish: Wish, waiting: str = "") -> str:
    """Returns a gang's admin comment. `waiting` is cut to a bounded, single line without `;`."""
    reason = " ".join(waiting.replace(";", ",").split())[:MAX_WAITING_CHARS]
    return f"{PREFIX}want={wish}" + (f";waiting={reason}" if reason else "")


def parse_failure(comment: str) -> Failure | None:
    """Returns the failure that a gang reported in its job comment; None if there is none."""
    items = _items(comment)
    reason, count = items.get("failed", ""), items.get("count", "1")
    if not _REASON.fullmatch(reason) or not _COUNT.fullmatch(count):
        return None
    return Failure(reason=reason, count=max(1, int(count)))


def _items(text: str) -> dict[str, str]:
    """Returns the `key=value` items of a mark; the first of equal keys counts."""
    if not text.startswith(PREFIX):
        return {}
    items: dict[str, str] = {}
    for item in text.removeprefix(PREFIX).split(";"):
        key, _, value = item.partition("=")
        items.setdefault(key.strip(), value.strip())
    return items
