"""No test sees a cache."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another test chose must not be taken over."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
