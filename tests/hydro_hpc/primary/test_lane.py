"""Who may become the writer of a stage page."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from hydro_hpc.errors import LaneError
from hydro_hpc.page import Page, page_path
from hydro_hpc.page_layout import PageKind
from hydro_hpc.primary.lane import lock_as_writer
from tests.hydro_hpc.lanes import make_lane


def test_only_one_writer_has_the_page_and_reading_it_gives_nothing_up(tmp_path: Path) -> None:
    path = page_path(make_lane(tmp_path), PageKind.STAGE)
    held = lock_as_writer(path)
    os.close(os.open(path, os.O_RDONLY))
    Page.read_copy(path, PageKind.STAGE)
    with pytest.raises(LaneError, match="already writes it"):
        lock_as_writer(path)
    os.close(held)
    os.close(lock_as_writer(path))


def test_who_may_only_read_the_page_keeps_no_writer_out(tmp_path: Path) -> None:
    path = page_path(make_lane(tmp_path), PageKind.STAGE)
    reader = os.open(path, os.O_RDONLY)
    fcntl.flock(reader, fcntl.LOCK_EX)
    os.close(lock_as_writer(path))
    with pytest.raises(OSError, match="Bad file descriptor"):
        fcntl.lockf(reader, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(reader)
