"""What the tests of schedules share."""

from __future__ import annotations

import os
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def engine() -> ModuleType:
    """DeepSpeed's schedule module."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    module = pytest.importorskip("deepspeed.runtime.pipe.schedule")
    assert isinstance(module, ModuleType)
    return module
