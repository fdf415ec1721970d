"""Slurm's hostlists, such as `n[1-2,05],login` or `rack[1-2]n[1-4]`: text to names, in order."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from typing import Final

MAX_HOSTS: Final = 100_000
_ITEM: Final = re.compile(r"((?:[\w.-]|\[[0-9,-]+\])+)(?:,|$)", re.ASCII)
_PART: Final = re.compile(r"([\w.-]+)|\[([0-9,-]+)\]")
_RANGE: Final = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?", re.ASCII)


def expand_hostlist(text: str) -> tuple[str, ...]:
    """Returns the names in `text`, none if it is empty. Raises ValueError if it is no hostlist."""
    names: list[str] = []
    position = 0
    while position < len(text):
        item = _ITEM.match(text, position)
        if item is None:
            raise ValueError(f"not a hostlist: {text[:80]!r}")
        position = item.end()
        for name in _expand_item(item[1]):
            names.append(name)
            if len(names) > MAX_HOSTS:
                raise ValueError(f"a hostlist of more than {MAX_HOSTS} names: {text[:80]!r}")
    return tuple(names)


def _expand_item(item: str) -> Iterator[str]:
    parts = [_numbers(ranges) if ranges else [word] for word, ranges in _PART.findall(item)]
    return map("".join, product(*parts))


def _numbers(ranges: str) -> list[str]:
    numbers: list[str] = []
    for part in ranges.split(","):
        found = _RANGE.fullmatch(part)
        if found is None:
            raise ValueError(f"not a range of numbers: {part!r}")
        first, last = int(found[1]), int(found[2] or found[1])
        if last - first >= MAX_HOSTS:
            raise ValueError(f"a range of more than {MAX_HOSTS} hosts: {part!r}")
        numbers += [f"{number:0{len(found[1])}d}" for number in range(first, last + 1)]
    return numbers
