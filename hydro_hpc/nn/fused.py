"""What all fused modules are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from torch import nn

from hydro_hpc.nn.members import Refused


class Fused(nn.Module):
    """Takes and gives tensors [slots, *unfused shape]; all slots share its `settings`.

    It calls what is in `entries` at the start of its forward, and `before` at that of its backward.
    Where a module's backward is its own (`has_own_backward`), that calls `between` in its middle
    too. These are places where a step may pause; torch's own hooks would take ten times as long.
    """

    has_own_backward = False

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = settings
        self.entries: list[Callable[[], None]] = []
        self.before: Callable[..., None] | None = None
        self.between: Callable[[], None] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for enter in self.entries:
            enter()
        is_hooked = self._forward_pre_hooks or self._forward_hooks
        call = super().__call__ if is_hooked else self.forward
        output = call(*args, **kwargs)
        if self.before is not None and not self.has_own_backward and output.grad_fn is not None:
            output.grad_fn.register_prehook(self.before)
        return output

    def adopt(self, fresh: Self) -> None:
        """A slot has another module; `fresh` was made from the present ones. `Refused` if it has
        other settings than this."""
        if fresh.settings != self.settings:
            raise Refused(f"settings {fresh.settings} of the new trial are not {self.settings}")
