"""A lane, and a primary that opens it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hydro_hpc.lanes import make_lane, own_core
from tests.hydro_hpc.trial.solo import PlayedPrimary


@pytest.fixture
def lane(tmp_path: Path) -> str:
    return make_lane(tmp_path / "lanes", core=own_core(), tenant_job=1)


@pytest.fixture
def primary(lane: str) -> Iterator[PlayedPrimary]:
    played = PlayedPrimary(lane)
    yield played
    played.stop()
