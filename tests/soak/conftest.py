"""One world for the faults of a module: it is started once, heals after each, and ends with them,
since its training takes most of a core from whoever comes next.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.soak.world import World


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()
