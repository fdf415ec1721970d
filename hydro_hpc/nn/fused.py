"""What all fused modules are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from torch import nn

from hydro_hpc.nn.members import Refused


class Fused(nn.Module):
    """Takes and gives tensors [slots, *unfused shape]; all slots share its `settings`.

    Where a module's backward is its own (`has_own_backward`), it calls `before` at its start and
    `between` in its middle, if somebody gives them: places where it may pause.
    """

    has_own_backward = False

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = settings
        self.before: Callable[[], None] | None = None
        self.between: Callable[[], None] | None = None

    def adopt(self, fresh: Self) -> None:
        """A slot has another module; `fresh` was made from the present ones. `Refused` if it has
        other settings than this."""
        if fresh.settings != self.settings:
            raise Refused(f"settings {fresh.settings} of the new trial are not {self.settings}")
