"""Which directories are covered so that users reach the interpreter and the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from hydro_hpc.devcluster.visible import (
    ModeOf,
    first_closed_ancestor,
    needed_paths,
    roots_to_cover,
    without_nested,
)
from hydro_hpc.errors import ConfigError


def closed(*paths: str) -> ModeOf:
    """Modes of a file system in which just these directories are closed to others."""
    return lambda path: 0o40700 if str(path) in paths else 0o40755


def test_open_paths_need_no_covering() -> None:
    assert roots_to_cover([Path("/opt/hydro"), Path("/usr")], closed()) == []


def test_topmost_closed_ancestor_is_covered() -> None:
    mode = closed("/root", "/root/src")
    assert first_closed_ancestor(Path("/root/src/hydro"), mode) == Path("/root")
    assert roots_to_cover([Path("/root/src/hydro"), Path("/root/.pyenv")], mode) == [Path("/root")]


def test_separate_homes_are_covered_each() -> None:
    mode = closed("/home/eva", "/root")
    paths = [Path("/home/eva/hydro"), Path("/root/python")]
    assert roots_to_cover(paths, mode) == [Path("/home/eva"), Path("/root")]


def test_a_path_that_is_closed_itself_is_refused_with_the_fix() -> None:
    with pytest.raises(ConfigError, match=r"chmod -R o\+rX /srv/hydro"):
        roots_to_cover([Path("/srv/hydro")], closed("/srv/hydro"))


def test_nested_paths_are_left_out() -> None:
    paths = [Path("/a/b/c"), Path("/a/b"), Path("/a/bc"), Path("/a/b")]
    assert without_nested(paths) == [Path("/a/b"), Path("/a/bc")]


def test_needed_paths_hold_our_packages_and_are_absolute() -> None:
    import slurm_plugin

    needed = needed_paths()
    assert all(path.is_absolute() for path in needed)
    assert any(Path(slurm_plugin.__file__).is_relative_to(path) for path in needed)
