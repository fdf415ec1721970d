"""One world for all faults: it is started once, and heals after each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.soak.world import World


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()
