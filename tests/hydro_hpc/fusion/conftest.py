"""Tiny tensors are fastest on one thread, and tests share their machine; no test sees a cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another test chose must not be taken over."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
