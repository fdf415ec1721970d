"""What an optimizer keeps of one block: state tensors, step counts, coefficients.

F slots, P columns of a block (all parameters of one dtype), N parameters of it, G parameter groups
of the optimizer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from hydro_hpc.fusion.state import Block


class Moments:
    """A block's optimizer state: tensors laid out like the block, and steps per slot and
    parameter (parameters without a gradient do not step)."""

    def __init__(self, block: Block, group_of: Mapping[str, int]) -> None:
        self.block = block
        self.tensors: dict[str, Tensor] = {}
        shape = (block.values_FP.size(0), len(block.columns))
        self.steps_FN = torch.zeros(shape, dtype=torch.int64)
        self.is_even = True  # all parameters of a slot have made the same number of steps
        self.constants: dict[str, Tensor] = {}  # coefficients, until a setting changes
        self._widths = torch.tensor([column.stop - column.start for column in block.columns])
        self.groups = [group_of[column.name] for column in block.columns]
        self.is_one_group = len(set(self.groups)) == 1

    def of_slots(self, sources: Sequence[int], block: Block) -> Moments:
        """The same state in other slots, of the resized block; `sources[new]` is the old slot."""
        other = copy.copy(self)
        other.block, other.constants = block, {}
        other.tensors = {name: tensor[list(sources)] for name, tensor in self.tensors.items()}
        other.steps_FN = self.steps_FN[list(sources)]
        return other

    def widened(self) -> Moments:
        """The same in float32, to compute a step in: settings of 16 bits would have three digits,
        and a step is rounded once so, not in each operation. `round_from` takes it back.
        """
        other = copy.copy(self)
        other.block = copy.copy(self.block)
        other.block.values_FP = self.block.values_FP.float()
        other.tensors = {name: tensor.float() for name, tensor in self.tensors.items()}
        return other

    def as_real(self) -> Moments:
        """The same memory as real numbers, two for each complex one: what torch steps."""
        other = copy.copy(self)
        other.block = copy.copy(self.block)
        other.block.values_FP = torch.view_as_real(self.block.values_FP).flatten(1)
        other.tensors = {n: torch.view_as_real(x).flatten(1) for n, x in self.tensors.items()}
        other._widths = self._widths * 2
        return other

    def round_from(self, wide: Moments) -> None:
        """Takes over what was computed."""
        self.block.values_FP.copy_(wide.block.values_FP)
        for name, tensor in wide.tensors.items():
            self.tensors[name].copy_(tensor)
        self.steps_FN, self.is_even = wide.steps_FN, wide.is_even

    @property
    def steps(self) -> Tensor:
        """[F, 1] steps per slot if they are even, else [F, N]."""
        return self.steps_FN[:, :1] if self.is_even else self.steps_FN

    def keep(self, names: Iterable[str]) -> None:
        """State tensors of these names are there, zero where they are new."""
        for name in names:
            if name not in self.tensors:
                self.tensors[name] = torch.zeros_like(self.block.values_FP)

    def of(self, setting_FG: Tensor) -> Tensor:
        """A setting as [F, 1] if the block's parameters are all in one group, else [F, N]."""
        if setting_FG.size(1) == 1:
            return setting_FG
        return setting_FG[:, self.groups[:1] if self.is_one_group else self.groups]

    def coefficient(self, values: Tensor) -> Tensor:
        """[F, 1] or [F, N] numbers as [F, 1] or [F, P], in the block's dtype on its device."""
        if values.size(1) == self.steps_FN.size(1) > 1:
            values = values.repeat_interleave(self._widths, dim=1)
        return values.to(self.block.values_FP)

    def constant(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """[F, 1] or [F, P] from [F, G] numbers that only a changed setting changes."""
        if name not in self.constants:
            self.constants[name] = self.coefficient(self.of(make()))
        return self.constants[name]

    def count_even(self) -> None:
        """Steps have been set from outside."""
        self.is_even = bool((self.steps_FN == self.steps_FN[:, :1]).all())
