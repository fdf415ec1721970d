"""Ordinary torch code that may pause in its middle: before each of torch's operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from torch import Tensor
from torch.overrides import TorchFunctionMode

from hydro_hpc.trial.gate import Cut

ATTRIBUTE: Final = "__get__"  # of a tensor, such as its shape: no work


class CutBeforeOperations(TorchFunctionMode):
    """Within it, a piece of work ends before each operation and another begins, by the `cut` that
    `Gate.work` yields: so a model is built layer by layer, each for the time that the draws of one
    so large took before. What Python does in between is not cut.

    LeaveRequested or LaneError would come out of the code inside; `Gate.unbroken` holds them back.
    """

    def __init__(self, cut: Cut) -> None:
        super().__init__()
        self._cut = cut

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        del types
        name = getattr(func, "__name__", "operation")
        if name != ATTRIBUTE:
            given = [*args, *(kwargs or {}).values()]
            size = max((each.numel() for each in given if isinstance(each, Tensor)), default=0)
            self._cut(f"{name} of {size}")
        return func(*args, **(kwargs or {}))
