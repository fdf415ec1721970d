"""Recurrent layers as products, which have shapes for symbols; torch's own kernels take none.

For shapes and uses only: it is one step of each layer, not a recurrence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GATES: Final = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}
GATES_OF_CELLS: Final[Mapping[type[nn.Module], int]] = {
    nn.LSTMCell: 4,
    nn.GRUCell: 3,
    nn.RNNCell: 1,
}


@contextmanager
def recurrent_by_parts(model: nn.Module) -> Iterator[None]:
    """Within it the model's recurrent layers run as `forward` here."""
    kinds: tuple[type[nn.Module], ...] = (nn.RNNBase, *GATES_OF_CELLS)
    layers = [m for m in model.modules() if isinstance(m, kinds)]
    try:
        for layer in layers:
            by_parts = _Forward(layer) if isinstance(layer, nn.RNNBase) else _cell(layer)
            layer.__dict__["forward"] = by_parts
        yield
    finally:
        for layer in layers:
            del layer.__dict__["forward"]


def _cell(cell: nn.Module) -> Callable[..., Any]:
    gates = next(gates for kind, gates in GATES_OF_CELLS.items() if isinstance(cell, kind))
    own = dict(cell.named_parameters())

    def forward(x: Tensor, state: Any = None) -> Any:
        """[..., input] -> [..., hidden], and of an LSTM twice."""
        given = state[0] if isinstance(state, tuple) else state
        taken = F.linear(x, own["weight_ih"], own.get("bias_ih"))
        if given is None:
            given = torch.zeros_like(taken.chunk(gates, dim=-1)[0])
        again = F.linear(given, own["weight_hh"], own.get("bias_hh"))
        hidden = (taken + again).chunk(gates, dim=-1)[0] + given
        return (hidden, hidden) if isinstance(cell, nn.LSTMCell) else hidden

    return forward


class _Forward:
    def __init__(self, layer: nn.RNNBase) -> None:
        self.layer = layer

    def __call__(self, x: Any, state: Any = None) -> Any:
        """[..., input] -> [..., directions * hidden], and the last state of each layer and way."""
        layer, packed = self.layer, None
        if isinstance(x, nn.utils.rnn.PackedSequence):
            x, packed = x.data, x
        given = state[0] if isinstance(state, tuple) else state
        ways = 2 if layer.bidirectional else 1
        for number in range(layer.num_layers):
            suffixes = [f"_l{number}", f"_l{number}_reverse"][:ways]
            x = torch.cat([self._step(x, suffix, given) for suffix in suffixes], dim=-1)
        hidden = self._last(x, ways, packed is not None)
        outputs = x if packed is None else packed._replace(data=x)
        return outputs, ((hidden, hidden) if layer.mode == "LSTM" else hidden)

    def _step(self, x: Tensor, suffix: str, given: Tensor | None) -> Tensor:
        own = {
            name: parameter
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
            if (parameter := self.layer._parameters.get(f"{name}{suffix}")) is not None
        }
        gates = GATES[self.layer.mode]
        taken = F.linear(x, own["weight_ih"], own.get("bias_ih"))
        hidden = self._given(taken.chunk(gates, dim=-1)[0], own)
        if given is not None:
            hidden = hidden + given.flatten(0, -2).mean(0)
        again = F.linear(hidden, own["weight_hh"], own.get("bias_hh"))
        return self._given((taken + again).chunk(gates, dim=-1)[0], own)

    def _given(self, hidden: Tensor, own: Mapping[str, Tensor]) -> Tensor:
        """What a layer gives of its state: with `proj_size`, a projection."""
        return F.linear(hidden, own["weight_hr"]) if "weight_hr" in own else hidden

    def _last(self, x: Tensor, ways: int, is_flat: bool) -> Tensor:
        layer = self.layer
        time = 1 if layer.batch_first and x.ndim == 3 else 0
        one = x[0] if is_flat else x.select(time, 0)
        states = one.chunk(ways, dim=-1)
        return torch.stack([states[way] for _ in range(layer.num_layers) for way in range(ways)])
