"""Hooks on modules that are imported later, or were before."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from hydro_hpc.primary.late_import import when_imported

NAME = "imported_by_test_late_import"


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / f"{NAME}.py").write_text("value = 1\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    finders = list(sys.meta_path)
    yield
    sys.modules.pop(NAME, None)
    assert sys.meta_path == finders


def test_hook_sees_the_module_when_it_is_imported_and_not_before() -> None:
    seen: list[ModuleType] = []
    undo = when_imported(NAME, seen.append)
    assert seen == []
    module = importlib.import_module(NAME)
    assert seen == [module]
    assert module.value == 1
    undo()


def test_hook_sees_a_module_that_is_there_at_once() -> None:
    module = importlib.import_module(NAME)
    seen: list[ModuleType] = []
    when_imported(NAME, seen.append)()
    assert seen == [module]


def test_undone_hook_sees_nothing() -> None:
    seen: list[ModuleType] = []
    when_imported(NAME, seen.append)()
    importlib.import_module(NAME)
    assert seen == []
