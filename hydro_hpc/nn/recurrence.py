"""One step of a recurrent network for all slots. `gates` are the input's part, biases included
unless the cell's formula keeps the hidden part's apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

State = tuple[Tensor, ...]  # (h,) or (h, c), each [F, B, H]
Step = Callable[[Tensor, State, Tensor, Tensor | None], State]


def plain(activation: Callable[[Tensor], Tensor]) -> Step:
    def step(gates_FBG: Tensor, state: State, weight_FHG: Tensor, _bias: Tensor | None) -> State:
        return (activation(torch.baddbmm(gates_FBG, state[0], weight_FHG)),)

    return step


def lstm(gates_FBG: Tensor, state: State, weight_FHG: Tensor, _bias: Tensor | None) -> State:
    hidden, cell = state
    gates = torch.baddbmm(gates_FBG, hidden, weight_FHG)
    inputs, forget, new, output = gates.chunk(4, 2)
    cell = torch.addcmul(forget.sigmoid() * cell, inputs.sigmoid(), new.tanh())
    return output.sigmoid() * cell.tanh(), cell


def gru(gates_FBG: Tensor, state: State, weight_FHG: Tensor, bias_FG: Tensor | None) -> State:
    hidden = state[0]
    if bias_FG is None:
        own = torch.bmm(hidden, weight_FHG)
    else:
        own = torch.baddbmm(bias_FG.unsqueeze(1), hidden, weight_FHG)
    width = hidden.size(2)
    reset_and_update = (gates_FBG[..., : 2 * width] + own[..., : 2 * width]).sigmoid()
    reset, update = reset_and_update.chunk(2, 2)
    new = torch.addcmul(gates_FBG[..., 2 * width :], reset, own[..., 2 * width :]).tanh()
    return (torch.lerp(new, hidden, update),)


# The step of each mode of torch's, whether it adds up both biases beforehand, and its tensors.
STEPS: Final[dict[str, tuple[Step, bool, int]]] = {
    "RNN_TANH": (plain(torch.tanh), True, 1),
    "RNN_RELU": (plain(torch.relu), True, 1),
    "LSTM": (lstm, True, 2),
    "GRU": (gru, False, 1),
}
