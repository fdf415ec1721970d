"""Files that are written whole: a reader sees the old one or the new one, never half of one.

Not flushed to the disk: what was written last may be lost with the machine, though not with the
process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path beside it to write to, which takes its place at the end, unless that failed.

    For one writer at a time: what a killed one has left is written over by the next.
    """
    temporary = path.with_name(f"{path.name}.new")
    yield temporary
    temporary.replace(path)


@contextmanager
def replacing_by_any(path: Path) -> Iterator[Path]:
    """As `replacing`, for processes of several nodes that may write at once; the last one stays."""
    temporary = path.with_name(f"{path.name}.{os.uname().nodename}.{os.getpid()}")
    yield temporary
    temporary.replace(path)


def write_text(path: Path, text: str) -> None:
    """Of one writer at a time."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
