"""Files that a reader sees whole."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from hydro_hpc.atomic_write import replacing, replacing_by_any, write_text

Replacing = Callable[[Path], AbstractContextManager[Path]]


@pytest.mark.parametrize("function", [replacing, replacing_by_any])
def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(
    tmp_path: Path, function: Replacing
) -> None:
    path = tmp_path / "facts.json"
    path.write_text("old")
    with function(path) as temporary:
        temporary.write_text("ne")
        assert path.read_text() == "old"
        assert not temporary.match("*.json")
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("function", [replacing, replacing_by_any])
def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, function: Replacing) -> None:
    path = tmp_path / "facts.json"
    path.write_text("old")

    def half() -> None:
        with function(path) as temporary:
            temporary.write_text("ne")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        half()
    assert path.read_text() == "old"


def test_what_a_killed_writer_has_left_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "3.pt"
    (tmp_path / "3.pt.new").write_text("half a")
    write_text(path, "ä")
    assert path.read_text(encoding="utf-8") == "ä"
    assert list(tmp_path.iterdir()) == [path]


def test_processes_that_write_at_once_do_not_write_to_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rules.json"
    with replacing_by_any(path) as first:
        first.write_text("first")
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: -1)
            with replacing_by_any(path) as second:
                second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
