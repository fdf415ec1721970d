"""What a bundle asks of whatever runs its models."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from enum import Enum
from typing import Any, Protocol

from torch import Tensor, nn

from hydro_hpc.fusion.inputs import InputForm


class ExecutorKind(Enum):
    """How a bundle runs: all slots in each call, or one model after the other."""

    GROUPED = "grouped"
    VMAP = "vmap"
    LOOP = "loop"


class Executor(Protocol):
    """Runs all slots of a `StackedState`; gradients gather on leaves of its own."""

    @property
    def kind(self) -> ExecutorKind: ...

    def run(self, form: InputForm) -> Any:
        """The outputs of a forward with these arguments: trees of tensors [slots, ...]."""
        ...

    def case_of(self, form: InputForm) -> Hashable:
        """What is exact for inputs of this form now is exact for all of the same case. `Refused` if
        it cannot run them.
        """
        ...

    def modules_to_gate(self) -> list[nn.Module]:
        """Its leaf modules: each forward is one uninterruptible unit."""
        ...

    def adopt_training_flags(self) -> None:
        """The slot models' training flags have changed."""
        ...

    def accept(self, slot: int, between: Callable[[str], None]) -> None:
        """The slot has another model. `between` is called, with the name of what follows, where
        this may pause. `Refused` if the newcomer would not do the same as the rest.
        """
        ...

    def leaf(self, name: str) -> Tensor | list[Tensor]:
        """The autograd leaf of a trainable parameter: one [slots, *shape], or one per slot."""
        ...
