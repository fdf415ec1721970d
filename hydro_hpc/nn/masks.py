"""Dropout masks from each trial's own stream, drawn as torch draws them.

On the CPU. Elsewhere torch draws in an order of its own, verification says so, and the loop is
used.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hydro_hpc.nn.randomness import SlotStreams


class Masks:
    """Bernoulli noise for all slots; `probabilities` of dropping has one per slot."""

    def __init__(self, probabilities: Sequence[float], streams: SlotStreams) -> None:
        self.probabilities, self.streams = [float(p) for p in probabilities], streams

    def __bool__(self) -> bool:
        """Whether any slot drops anything."""
        return any(self.probabilities)

    def scale(self, like_F: Tensor, shape: Sequence[int]) -> Tensor:
        """[F, *shape]: 0 where dropped, 1 / (1 - p) where kept; p of 0 or 1 draws nothing, as in
        torch."""
        scale = self._empty(like_F, shape)
        for slot, probability in enumerate(self.probabilities):
            self._fill(scale[slot], probability, slot)
        return scale

    def kept(self, like_F: Tensor, shape: Sequence[int]) -> Tensor:
        """[F, *shape]: 0 where dropped, 1 where kept."""
        kept = self._empty(like_F, shape)
        for slot, probability in enumerate(self.probabilities):
            self._draw(kept[slot], probability, slot)
        return kept

    def drop(self, x: Tensor) -> Tensor:
        """Plain dropout."""
        return x * self.scale(x, x.shape[1:]) if self else x

    def _empty(self, like_F: Tensor, shape: Sequence[int]) -> Tensor:
        """[F, *shape], each row with its axes in memory as those of `like_F`: torch draws noise in
        the order of the memory."""
        slots, axes = len(self.probabilities), range(len(shape))
        strides = like_F.stride()[1:]
        order = sorted(axes, key=lambda axis: -strides[axis])
        if order == list(axes) or not _is_noise_of(like_F, shape):
            return like_F.new_empty(slots, *shape)
        places = [order.index(axis) + 1 for axis in axes]
        return like_F.new_empty(slots, *[shape[axis] for axis in order]).permute(0, *places)

    def _draw(self, kept: Tensor, probability: float, slot: int) -> None:
        if probability in (0.0, 1.0):
            kept.fill_(1.0 - probability)
        else:
            kept.bernoulli_(1.0 - probability, generator=self.streams.generator(slot))

    def _fill(self, scale: Tensor, probability: float, slot: int) -> None:
        self._draw(scale, probability, slot)
        if probability not in (0.0, 1.0):
            scale.div_(1.0 - probability)


def _is_noise_of(x_F: Tensor, shape: Sequence[int]) -> bool:
    """Noise for whole channels is drawn in the order of its own axes."""
    return tuple(shape) == tuple(x_F.shape[1:])
