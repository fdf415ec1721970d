"""GRES text as Slurm prints and takes it: `bubble:g1:1`, `gpu:2(IDX:0-1)`, `gres:gpu:a100:2`.

The GRES `bubble` has one type per device, `g<index>`, so that a job can be given a certain device.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

BUBBLE: Final = "bubble"
GPU: Final = "gpu"
_NOTHING: Final = frozenset({"", "(null)", "N/A", "none", "gres:", "gres/"})
_ITEM: Final = re.compile(
    r"(?:gres[:/])?(?P<name>[A-Za-z_][\w.-]*)"
    r"(?::(?P<type>(?!\d+(?:[:(]|$))[\w.-]+))?"
    r"(?:[:=](?P<count>\d+))?"
    r"(?::no_consume)?"
    r"(?P<details>(?:\([^()]*\))*)",
    re.ASCII,
)
_INDEXES: Final = re.compile(r"\(IDX:([\d,-]*)\)")
_TYPE: Final = re.compile(r"g(\d{1,4})")
MAX_INDEX: Final = 4095


@dataclass(frozen=True, slots=True, kw_only=True)
class GresItem:
    """One item of a GRES text. `indexes` is None where the text does not tell them."""

    name: str
    type: str | None = None
    count: int = 1
    indexes: tuple[int, ...] | None = None

    @property
    def device_index(self) -> int | None:
        """The device that a type `g<index>` stands for, None for any other type."""
        found = _TYPE.fullmatch(self.type or "")
        return int(found[1]) if found else None

    def __str__(self) -> str:
        kind = f":{self.type}" if self.type else ""
        indexes = "" if self.indexes is None else f"(IDX:{print_indexes(self.indexes)})"
        return f"{self.name}{kind}:{self.count}{indexes}"


def parse_gres(text: str) -> tuple[GresItem, ...]:
    """Returns the items of a GRES text, in its order. Raises ValueError if it is none."""
    if text.strip() in _NOTHING:
        return ()
    return tuple(_parse_item(part) for part in _split(text.strip()))


def print_gres(items: Iterable[GresItem]) -> str:
    """Returns the text of which `parse_gres` makes `items`."""
    return ",".join(map(str, items))


def parse_indexes(text: str) -> tuple[int, ...]:
    """Returns the numbers of an index list such as `0-1,3`, sorted. Raises ValueError."""
    numbers: set[int] = set()
    for part in filter(None, text.split(",")):
        first, dash, last = part.partition("-")
        is_number = first.isdecimal() and (last.isdecimal() or not dash)
        if not (is_number and part.isascii() and len(part) <= 9):
            raise ValueError(f"not an index list: {text!r}")
        numbers |= set(range(int(first), int(last or first) + 1))
    if numbers and max(numbers) > MAX_INDEX:
        raise ValueError(f"a device index over {MAX_INDEX}: {text!r}")
    return tuple(sorted(numbers))


def print_indexes(indexes: Iterable[int]) -> str:
    """Returns an index list such as `0-1,3`, sorted."""
    runs: list[list[int]] = []
    for index in sorted(set(indexes)):
        if runs and runs[-1][1] == index - 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def device_indexes(items: Sequence[GresItem], name: str) -> tuple[int, ...] | None:
    """Returns the indexes of a GRES, sorted; None if the text does not tell them all."""
    found: set[int] = set()
    for item in items:
        if item.name != name or item.count == 0:
            continue
        if item.device_index is not None:
            found.add(item.device_index)
        elif item.indexes is not None:
            found |= set(item.indexes)
        else:
            return None
    return tuple(sorted(found))


def typed_bubbles(indexes: Iterable[int]) -> str:
    """Returns the request for certain devices: `bubble:g0:1,bubble:g2:1`."""
    return print_gres(GresItem(name=BUBBLE, type=f"g{index}") for index in indexes)


def counted_bubbles(count: int) -> str:
    """Returns the request for any `count` devices of a node: `bubble:2`."""
    return print_gres([GresItem(name=BUBBLE, count=count)])


def _split(text: str) -> list[str]:
    """Splits at the commas that are not inside parentheses."""
    return re.split(r",(?![^(]*\))", text)


def _parse_item(text: str) -> GresItem:
    found = _ITEM.fullmatch(text)
    if found is None:
        raise ValueError(f"not a GRES: {text!r}")
    indexes = _INDEXES.search(found["details"])
    return GresItem(
        name=found["name"],
        type=found["type"],
        count=int(found["count"] or 1),
        indexes=parse_indexes(indexes[1]) if indexes else None,
    )
