"""The dropout family. Each equals F of torch's, each inside its `trial_stream`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hydro_hpc.nn.fused import Fused
from hydro_hpc.nn.masks import Masks
from hydro_hpc.nn.members import Members, Refused
from hydro_hpc.nn.randomness import SlotStreams

ALPHA = -1.7580993408473766  # SELU's limit for large negative values, to which a value is dropped


class Dropout(Fused):
    """[F, ...] -> the same; `probabilities` has one per slot."""

    masks: Masks

    def __init__(
        self, probabilities: Sequence[float], streams: SlotStreams, *, inplace: bool = False
    ) -> None:
        super().__init__(inplace=inplace)
        self.masks = Masks(probabilities, streams)

    @classmethod
    def of(cls, members: Members) -> Dropout:
        probabilities = [float(module.p) for module in members.modules]  # type: ignore[arg-type]
        return cls(probabilities, members.streams, inplace=members.same("inplace"))

    @property
    def streams(self) -> SlotStreams:
        return self.masks.streams

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.masks:
            return x
        scale = self.masks.scale(x, self._shape(x))
        return x.mul_(scale) if self.settings["inplace"] else x * scale

    def _shape(self, x: Tensor) -> Sequence[int]:
        """Of one slot's noise."""
        return x.shape[1:]


class ChannelDropout(Dropout):
    """[F, B, C, ...] -> the same; whole channels are dropped. `unbatched` is the unfused rank that
    has no batch, None if torch takes all for batches."""

    def __init__(
        self,
        probabilities: Sequence[float],
        streams: SlotStreams,
        *,
        inplace: bool = False,
        unbatched: int | None = None,
        ranks: Sequence[int],
    ) -> None:
        super().__init__(probabilities, streams, inplace=inplace)
        self.unbatched, self.ranks = unbatched, tuple(ranks)

    @classmethod
    def of(cls, members: Members) -> ChannelDropout:
        unbatched, ranks = CHANNEL_RANKS[type(members.modules[0])]
        plain = Dropout.of(members)
        return cls(
            plain.masks.probabilities,
            members.streams,
            inplace=plain.settings["inplace"],
            unbatched=unbatched,
            ranks=ranks,
        )

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim - 1 not in self.ranks:
            raise Refused(f"channel dropout of rank {x.ndim - 1} has no fused rule")
        return super().forward(x)

    def _shape(self, x: Tensor) -> Sequence[int]:
        return channel_noise(x, without_batch=x.ndim - 1 == self.unbatched)


class AlphaDropout(Dropout):
    """[F, ...] -> the same, keeping mean and variance of what SELU gives."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.masks:
            return x
        kept = self.masks.kept(x, self._shape(x))
        gain, offset = self._affine(x)
        dropped = (kept - 1).mul_(-ALPHA).mul_(gain).add_(offset)
        scale = kept.mul_(gain)
        return x.mul_(scale).add_(dropped) if self.settings["inplace"] else x * scale + dropped

    def _affine(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(gain, offset) per slot, broadcasting; 0 where everything is dropped, as in torch."""
        gains = [
            0.0 if p == 1.0 else 1 / math.sqrt((ALPHA**2 * p + 1) * (1 - p))
            for p in self.masks.probabilities
        ]
        offsets = [-ALPHA * g * p for g, p in zip(gains, self.masks.probabilities, strict=True)]
        found = torch.tensor([gains, offsets], dtype=x.dtype, device=x.device)
        gain, offset = found.view(2, -1, *[1] * (x.ndim - 1)).unbind(0)
        return gain, offset


class FeatureAlphaDropout(AlphaDropout):
    """[F, B, C, ...] -> the same; whole channels are dropped."""

    def _shape(self, x: Tensor) -> Sequence[int]:
        if x.ndim < 3:
            raise ValueError("feature dropout takes 2 axes or more")
        return channel_noise(x, without_batch=False)


def channel_noise(x: Tensor, *, without_batch: bool) -> list[int]:
    """The shape of one slot's noise for whole channels of `x` [F, B, C, ...], or without B."""
    kept = 1 if without_batch else 2
    return [*x.shape[1 : 1 + kept], *[1] * (x.ndim - 1 - kept)]


# The unfused rank without a batch axis, and all unfused ranks; of others torch warns.
CHANNEL_RANKS: dict[type[nn.Module], tuple[int | None, tuple[int, ...]]] = {
    nn.Dropout1d: (2, (2, 3)),
    nn.Dropout2d: (None, (4,)),
    nn.Dropout3d: (4, (4, 5)),
}
