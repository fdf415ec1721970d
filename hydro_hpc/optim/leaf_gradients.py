"""A bundle's gradients where autograd left them, to be changed in place, slot by slot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from hydro_hpc.fusion.bundle import Bundle
from hydro_hpc.fusion.gradients import Leaf, tensors_of


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafGradients:
    """`stacked` has gradients [slots, *shape] of all slots, `rows[slot]` those of one slot alone.
    Absent gradients are in neither. Changing these tensors changes what the optimizer sees.
    """

    stacked: list[Tensor]
    rows: list[list[Tensor]]
    between: Callable[[], None]

    def of_slots(self) -> Iterator[Tensor]:
        """Each stacked gradient as [slots, columns], with places to pause."""
        for grad in self.stacked:
            self.between()
            yield grad.view(len(self.rows), -1)

    def of_one_slot(self) -> Iterator[tuple[int, list[Tensor]]]:
        """Each slot that has gradients of its own, and these, with places to pause."""
        for slot, row in enumerate(self.rows):
            if row:
                self.between()
                yield slot, row

    def multiply_(self, factors_F: Tensor) -> None:
        """Multiplies all gradients of each slot by its factor."""
        for grad_FP in self.of_slots():
            grad_FP.mul_(factors_F.to(grad_FP.device)[:, None])  # in the more precise dtype of both
        for slot, row in self.of_one_slot():
            torch._foreach_mul_(row, factors_F[slot])


def leaf_gradients(bundle: Bundle, between: Callable[[], None] = lambda: None) -> LeafGradients:
    """What backward has left since `zero_grad`, each slot's in one place. `between` is called where
    work on it may pause."""
    executors = bundle.executors_with_gradients()
    stacked: list[Tensor] = []
    rows: list[list[Tensor]] = [[] for _ in range(bundle.slots)]
    for block in bundle.state.blocks:
        for column in block.columns:
            home = _gathered([executor.leaf(column.name) for executor in executors])
            if not isinstance(home, Tensor):
                for row, leaf in zip(rows, home, strict=True):
                    row += [] if leaf.grad is None else [leaf.grad]
            elif home.grad is not None:
                home.grad = home.grad.contiguous()
                stacked.append(home.grad)
    return LeafGradients(stacked=stacked, rows=rows, between=between)


def _gathered(leaves: list[Leaf]) -> Leaf:
    """That of a parameter's leaves on which the sum of all their gradients is now: one with a part
    per slot, if there is one, since a slot's gradient may be absent there."""
    home = next((leaf for leaf in leaves if not isinstance(leaf, Tensor)), leaves[0])
    for leaf in leaves:
        if leaf is not home:
            _move(leaf, home)
    return home


def _move(leaf: Leaf, home: Leaf) -> None:
    """Adds the gradient of one leaf to another's and forgets it where it was."""
    if isinstance(home, Tensor):
        assert isinstance(leaf, Tensor)
        pairs = [(home, leaf.grad)]
    elif isinstance(leaf, Tensor):
        grads = [None] * len(home) if leaf.grad is None else list(leaf.grad)
        pairs = list(zip(home, grads, strict=True))
    else:
        both = zip(home, leaf, strict=True)
        pairs = [(own, other.grad) for own, other in both if own is not other]
    for own, grad in pairs:
        if grad is not None:
            own.grad = grad if own.grad is None else own.grad + grad
    kept = {id(own) for own in tensors_of(home)}
    for tensor in tensors_of(leaf):
        if id(tensor) not in kept:  # modules that run once per slot share theirs with the loop
            tensor.grad = None
