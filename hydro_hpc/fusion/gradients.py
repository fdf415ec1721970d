"""The gradients of a bundle as one tensor [slots, P] per block, wherever autograd left them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hydro_hpc.fusion.executor import Executor
from hydro_hpc.fusion.state import Block

Leaf = Tensor | list[Tensor]  # [slots, *shape], or one per slot


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockGradient:
    """`values` [slots, P] is laid out like the block. `present` says which parameters got a
    gradient: [slots, N], or [slots, 1] if a slot's are all alike; None if all did. An absent
    gradient is zero in `values`, which hold until gradients are gathered again."""

    values: Tensor
    present: Tensor | None


@torch.no_grad()
def gather(
    block: Block, executors: Sequence[Executor], between: Callable[[], None] = lambda: None
) -> BlockGradient:
    """The sum of what has gathered on the leaves of these executors; `between` is called where that
    may pause.
    """
    first, *others = [
        _leaves_beside(block, executor, executors[:n]) for n, executor in enumerate(executors)
    ]
    gathered = _gather_one(block, first, between, block.room_for_gradient())
    for leaves in others:
        other = _gather_one(block, leaves, between, torch.empty_like(block.values_FP))
        present = None
        if gathered.present is not None and other.present is not None:
            present = gathered.present | other.present
        gathered = BlockGradient(values=gathered.values.add_(other.values), present=present)
    return gathered


def without(gradient: BlockGradient, slots: Collection[int]) -> BlockGradient:
    """The same, with all gradients of these slots absent."""
    if not slots:
        return gradient
    rows = [[slot not in slots] for slot in range(gradient.values.size(0))]
    present_FN = torch.tensor(rows, device=gradient.values.device)
    if gradient.present is not None:
        present_FN = present_FN & gradient.present
    return BlockGradient(values=gradient.values, present=present_FN)


def clear(block: Block, executors: Sequence[Executor]) -> None:
    """Forgets all gradients."""
    for executor in executors:
        for column in block.columns:
            for tensor in tensors_of(executor.leaf(column.name)):
                tensor.grad = None


def bearers(executors: Sequence[Executor], names: Collection[str]) -> Sequence[Executor]:
    """Those with a gradient on any of these leaves; a single one whether it has any or not."""
    if len(executors) < 2:
        return executors
    return [
        one
        for one in executors
        if any(x.grad is not None for name in names for x in tensors_of(one.leaf(name)))
    ]


def tensors_of(leaf: Leaf) -> list[Tensor]:
    """The tensors that gradients gather on."""
    return [leaf] if isinstance(leaf, Tensor) else leaf


def _leaves_beside(block: Block, executor: Executor, others: Sequence[Executor]) -> list[Leaf]:
    """Its leaves; where it shares one with the others, which have counted it, one without a
    gradient. Modules that run once per slot have theirs in common with the loop.
    """
    names = [column.name for column in block.columns]
    counted = {id(x) for other in others for name in names for x in tensors_of(other.leaf(name))}
    leaves = [executor.leaf(name) for name in names]
    if not counted:
        return leaves
    return [
        leaf if isinstance(leaf, Tensor) else [x.detach() if id(x) in counted else x for x in leaf]
        for leaf in leaves
    ]


def _gather_one(
    block: Block, leaves: Sequence[Leaf], between: Callable[[], None], room_FP: Tensor
) -> BlockGradient:
    """In `room_FP`."""
    slots = block.values_FP.size(0)
    if all(isinstance(leaf, Tensor) and leaf.grad is not None for leaf in leaves):
        present = [[True]]
        rows = [[dense(leaf.grad) for leaf in leaves if isinstance(leaf, Tensor)]]
    elif all(isinstance(leaf, list) for leaf in leaves):
        rows = [[dense(leaf[slot].grad) for leaf in leaves] for slot in range(slots)]
        present = [[grad is not None for grad in row] for row in rows]
    else:
        rows = [
            [dense(leaf.grad) if isinstance(leaf, Tensor) else _stacked(leaf) for leaf in leaves]
        ]
        present = [[_is_present(leaf, slot) for leaf in leaves] for slot in range(slots)]
    lead = slots // len(rows)  # slots that one gradient tensor holds
    between()
    for row, part in zip(rows, room_FP.split(lead), strict=True):
        columns = [
            _absent(block, lead, number) if grad is None else grad.reshape(lead, -1)
            for number, grad in enumerate(row)
        ]
        torch.cat(columns, dim=1, out=part)
    if all(map(all, present)):
        return BlockGradient(values=room_FP, present=None)
    return BlockGradient(values=room_FP, present=torch.tensor(present, device=room_FP.device))


def _is_present(leaf: Leaf, slot: int) -> bool:
    return (leaf if isinstance(leaf, Tensor) else leaf[slot]).grad is not None


def _stacked(leaf: list[Tensor]) -> Tensor:
    """The gradients of one leaf per slot; an absent one is zero."""
    rows = [dense(x.grad) for x in leaf]
    return torch.stack(
        [torch.zeros_like(x) if row is None else row for x, row in zip(leaf, rows, strict=True)]
    )


def dense(gradient: Tensor | None) -> Tensor | None:
    """The same; sparse ones, as some embeddings give, with their zeros."""
    return gradient if gradient is None or not gradient.is_sparse else gradient.to_dense()


def _absent(block: Block, slots: int, number: int) -> Tensor:
    column = block.columns[number]
    return block.values_FP.new_zeros(slots, column.stop - column.start)
