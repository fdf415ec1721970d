"""Which torch module has which fused form. Classes must match exactly: a subclass may differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from torch import nn

from hydro_hpc.nn.activation import ELEMENTWISE, Elementwise, Softmax
from hydro_hpc.nn.conv import Conv2d
from hydro_hpc.nn.dropout import Dropout
from hydro_hpc.nn.embedding import Embedding
from hydro_hpc.nn.fused import Fused
from hydro_hpc.nn.linear import Linear
from hydro_hpc.nn.members import Members, Refused
from hydro_hpc.nn.norm import BatchNorm, LayerNorm
from hydro_hpc.nn.pooling import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from hydro_hpc.nn.shape import Flatten, Identity

FUSED: Final[dict[type[nn.Module], Callable[[Members], Fused]]] = {
    nn.AdaptiveAvgPool2d: AdaptiveAvgPool2d.of,
    nn.AvgPool2d: AvgPool2d.of,
    nn.BatchNorm1d: BatchNorm.one_dimensional,
    nn.BatchNorm2d: BatchNorm.two_dimensional,
    nn.Conv2d: Conv2d.of,
    nn.Dropout: Dropout.of,
    nn.Embedding: Embedding.of,
    nn.Flatten: Flatten.of,
    nn.Identity: Identity.of,
    nn.LayerNorm: LayerNorm.of,
    nn.Linear: Linear.of,
    nn.LogSoftmax: Softmax.of,
    nn.MaxPool2d: MaxPool2d.of,
    nn.Softmax: Softmax.of,
    **dict.fromkeys(ELEMENTWISE, Elementwise.of),
}


def fuse(members: Members) -> Fused:
    """The fused form of one module of each slot; `Refused` where none is known to be exact."""
    maker = FUSED.get(type(members.modules[0]))
    if maker is None:
        raise Refused(f"{members.where} has no fused rule")
    fused = maker(members)
    fused.train(members.modules[0].training)
    return fused
