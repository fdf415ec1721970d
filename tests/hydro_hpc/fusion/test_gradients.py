"""Gradients of a block from wherever autograd left them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hydro_hpc.fusion.gradients import clear, gather, without
from hydro_hpc.fusion.state import Block

BLOCK = Block([nn.Linear(2, 3), nn.Linear(2, 3)], ["weight", "bias"])


class Leaves:
    """An executor with nothing but leaves."""

    def __init__(self, leaves: dict[str, Tensor | list[Tensor]]) -> None:
        self.leaves = leaves

    def leaf(self, name: str) -> Tensor | list[Tensor]:
        return self.leaves[name]


def with_gradient(value: float | None, *shape: int) -> Tensor:
    leaf = torch.zeros(shape, requires_grad=True)
    leaf.grad = None if value is None else torch.full(shape, value)
    return leaf


def grouped(weight: float | None, bias: float | None) -> Leaves:
    return Leaves({"weight": with_gradient(weight, 2, 3, 2), "bias": with_gradient(bias, 2, 3)})


def loop(weights: list[float | None], biases: list[float | None]) -> Leaves:
    return Leaves(
        {
            "weight": [with_gradient(value, 3, 2) for value in weights],
            "bias": [with_gradient(value, 3) for value in biases],
        }
    )


def row(weight: float, bias: float) -> list[float]:
    return [weight] * 6 + [bias] * 3


def test_stacked_leaves_give_a_row_per_slot() -> None:
    found = gather(BLOCK, [grouped(2.0, 5.0)])
    assert found.values.tolist() == [row(2, 5)] * 2
    assert found.present is None


def test_absent_gradients_are_zero_and_said_to_be_absent() -> None:
    found = gather(BLOCK, [grouped(None, 5.0)])
    assert found.values.tolist() == [row(0, 5)] * 2
    assert found.present is not None
    assert found.present.tolist() == [[False, True]] * 2


def test_each_slot_of_the_loop_may_lack_its_own() -> None:
    found = gather(BLOCK, [loop([1.0, None], [2.0, 3.0])])
    assert found.values.tolist() == [row(1, 2), row(0, 3)]
    assert found.present is not None
    assert found.present.tolist() == [[True, True], [False, True]]


def test_what_two_executors_gathered_is_added() -> None:
    found = gather(BLOCK, [grouped(None, 5.0), loop([1.0, None], [2.0, None])])
    assert found.values.tolist() == [row(1, 7), row(0, 5)]
    assert found.present is not None
    assert found.present.tolist() == [[True, True], [False, True]]
    assert gather(BLOCK, [grouped(1.0, 1.0), loop([1.0, None], [2.0, None])]).present is None


def test_slots_can_be_left_out() -> None:
    found = without(gather(BLOCK, [grouped(2.0, 5.0)]), {1})
    assert found.present is not None
    assert found.present.tolist() == [[True], [False]]
    both = without(gather(BLOCK, [grouped(None, 5.0)]), {1})
    assert both.present is not None
    assert both.present.tolist() == [[False, True], [False, False]]


def test_cleared_gradients_are_absent() -> None:
    executors = [grouped(2.0, 5.0), loop([1.0, None], [2.0, None])]
    clear(BLOCK, executors)
    found = gather(BLOCK, executors)
    assert found.present is not None
    assert not found.present.any()
