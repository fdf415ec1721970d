"""F recurrent networks as one: a batched product per step of time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from hydro_hpc.nn import functional
from hydro_hpc.nn.fused import Fused
from hydro_hpc.nn.masks import Masks
from hydro_hpc.nn.members import Members, Refused
from hydro_hpc.nn.recurrence import STEPS, State

NETWORKS: Final = (nn.RNN, nn.LSTM, nn.GRU)
CELLS: Final = (nn.RNNCell, nn.LSTMCell, nn.GRUCell)


@dataclass(frozen=True, slots=True, kw_only=True)
class Direction:
    """One layer's parameters in one direction of time: weights_FGI and _FGH, biases_FG or None."""

    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor | None
    bias_hh: Tensor | None

    @classmethod
    def of(cls, members: Members, suffix: str) -> Direction:
        return cls(
            weight_ih=members.parameter(f"weight_ih{suffix}"),
            weight_hh=members.parameter(f"weight_hh{suffix}"),
            bias_ih=members.optional_parameter(f"bias_ih{suffix}"),
            bias_hh=members.optional_parameter(f"bias_hh{suffix}"),
        )

    def run(
        self, x_FTBI: Tensor, state: State, mode: str, *, backwards: bool
    ) -> tuple[Tensor, State]:
        """Outputs [F, T, B, H] and the last state, in the order of time in either direction."""
        step, adds_biases, _ = STEPS[mode]
        bias = self.bias_ih
        if adds_biases and bias is not None and self.bias_hh is not None:
            bias = bias + self.bias_hh
        gates = functional.linear(x_FTBI, self.weight_ih, bias).unbind(1)
        weight_FHG = self.weight_hh.transpose(1, 2)
        outputs: list[Tensor] = []
        for now in reversed(gates) if backwards else gates:
            state = step(now, state, weight_FHG, self.bias_hh)
            outputs.append(state[0])
        return torch.stack(outputs[::-1] if backwards else outputs, 1), state


class Recurrent(Fused):
    """[F, T, B, I], [F, B, T, I] or [F, T, I] -> the same with H, and the last states; equals F
    `torch.nn.RNN`, `LSTM` or `GRU`, each inside its `trial_stream`. No packed sequences."""

    masks: Masks

    def __init__(self, layers: list[list[Direction]], masks: Masks, **settings: Any) -> None:
        super().__init__(**settings)
        self.layers, self.masks = layers, masks

    @classmethod
    def of(cls, members: Members) -> Recurrent:
        members.require("proj_size", 0)
        ends = ("", "_reverse") if members.same("bidirectional") else ("",)
        layers = [
            [Direction.of(members, f"_l{layer}{end}") for end in ends]
            for layer in range(members.same("num_layers"))
        ]
        probabilities = [float(module.dropout) for module in members.modules]  # type: ignore[arg-type]
        return cls(
            layers,
            Masks(probabilities, members.streams),
            mode=members.same("mode"),
            batch_first=members.same("batch_first"),
            hidden_size=members.same("hidden_size"),
        )

    def forward(self, x: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        if not isinstance(x, Tensor):
            raise Refused("a packed sequence has no fused rule")
        without_batch = x.ndim == 3
        batch_axis = 2 if without_batch or not self.settings["batch_first"] else 1
        x_FTBI = x.unsqueeze(2) if without_batch else x.transpose(1, 2) if batch_axis == 1 else x
        y, states = self._run(x_FTBI, self._first_states(x_FTBI, hx, without_batch))
        if without_batch:
            y, states = y.squeeze(2), tuple(state.squeeze(2) for state in states)
        elif batch_axis == 1:
            y = y.transpose(1, 2)
        return y, states if self.settings["mode"] == "LSTM" else states[0]

    def _first_states(self, x_FTBI: Tensor, hx: Any, without_batch: bool) -> State:
        """Each [F, layers and directions, B, H]"""
        _, _, num_tensors = STEPS[self.settings["mode"]]
        slots, _, batch, _ = x_FTBI.shape
        if hx is None:
            rows = sum(len(directions) for directions in self.layers)
            zeros = x_FTBI.new_zeros(slots, rows, batch, self.settings["hidden_size"])
            return (zeros,) * num_tensors
        given = (hx,) if isinstance(hx, Tensor) else tuple(hx)
        given = tuple(state.unsqueeze(2) for state in given) if without_batch else given
        return tuple(state.expand(slots, *state.shape[1:]) for state in given)

    def _run(self, x_FTBI: Tensor, states: State) -> tuple[Tensor, State]:
        rows = list(zip(*(state.unbind(1) for state in states), strict=True))
        last: list[State] = []
        for number, directions in enumerate(self.layers):
            if number and self.training:
                x_FTBI = self.masks.drop(x_FTBI)
            outputs: list[Tensor] = []
            for backwards, direction in enumerate(directions):
                y, state = direction.run(
                    x_FTBI, rows[len(last)], self.settings["mode"], backwards=bool(backwards)
                )
                outputs.append(y)
                last.append(state)
            x_FTBI = outputs[0] if len(outputs) == 1 else torch.cat(outputs, 3)
        return x_FTBI, tuple(torch.stack(column, 1) for column in zip(*last, strict=True))


class Cell(Fused):
    """[F, B, I] or [F, I] and a state -> the next state; equals F `torch.nn.RNNCell`, `LSTMCell` or
    `GRUCell`."""

    def __init__(self, direction: Direction, *, mode: str) -> None:
        super().__init__(mode=mode)
        self.direction = direction

    @classmethod
    def of(cls, members: Members) -> Cell:
        kind = type(members.modules[0])
        if kind is nn.RNNCell:
            mode = f"RNN_{members.same('nonlinearity').upper()}"
        else:
            mode = "LSTM" if kind is nn.LSTMCell else "GRU"
        return cls(Direction.of(members, ""), mode=mode)

    def forward(self, x: Tensor, hx: Any = None) -> Any:
        mode = self.settings["mode"]
        _, _, num_tensors = STEPS[mode]
        without_batch = x.ndim == 2
        x_FBI = x.unsqueeze(1) if without_batch else x
        if hx is None:
            width = self.direction.weight_hh.size(2)
            state: State = (x_FBI.new_zeros(*x_FBI.shape[:2], width),) * num_tensors
        else:
            state = (hx,) if isinstance(hx, Tensor) else tuple(hx)
            state = tuple(s.unsqueeze(1) for s in state) if without_batch else state
            state = tuple(s.expand(x_FBI.size(0), *s.shape[1:]) for s in state)
        _, state = self.direction.run(x_FBI.unsqueeze(1), state, mode, backwards=False)
        state = tuple(s.squeeze(1) for s in state) if without_batch else state
        return state if mode == "LSTM" else state[0]
