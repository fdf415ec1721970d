"""Dropout whose masks come from each trial's own stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from hydro_hpc.nn.fused import Fused
from hydro_hpc.nn.members import Members
from hydro_hpc.nn.randomness import SlotStreams


class Dropout(Fused):
    """[F, ...] -> the same; `probabilities` has one per slot; equals F `torch.nn.Dropout`, each
    inside its `trial_stream`.

    On the CPU. Elsewhere torch draws in an order of its own, verification says so, and the loop is
    used.
    """

    def __init__(self, probabilities: Sequence[float], streams: SlotStreams) -> None:
        super().__init__()
        self.probabilities, self.streams = list(probabilities), streams

    @classmethod
    def of(cls, members: Members) -> Dropout:
        members.require("inplace", False)
        return cls([float(module.p) for module in members.modules], members.streams)  # type: ignore[arg-type]

    def adopt(self, fresh: Self) -> None:
        self.probabilities = fresh.probabilities

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not any(self.probabilities):
            return x
        scale = torch.empty_like(x, memory_format=torch.contiguous_format)
        for slot, probability in enumerate(self.probabilities):
            self._fill(scale[slot], probability, slot)
        return x * scale

    def _fill(self, scale: Tensor, probability: float, slot: int) -> None:
        """0 where dropped, 1 / (1 - p) where kept; p of 0 or 1 draws nothing, as in torch."""
        if probability in (0.0, 1.0):
            scale.fill_(1.0 - probability)
        else:
            scale.bernoulli_(1.0 - probability, generator=self.streams.generator(slot))
            scale.div_(1.0 - probability)
