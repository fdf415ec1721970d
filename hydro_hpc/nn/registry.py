"""Which torch module has which fused form. Classes must match exactly: a subclass may differ."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Final

from torch import nn

from hydro_hpc.nn.activation import ALONG_AN_AXIS, ELEMENTWISE, Elementwise, PReLU, RReLU, Softmax
from hydro_hpc.nn.attention import MultiheadAttention
from hydro_hpc.nn.conv import Conv, ConvTranspose
from hydro_hpc.nn.distance import CosineSimilarity, PairwiseDistance
from hydro_hpc.nn.dropout import (
    CHANNEL_RANKS,
    AlphaDropout,
    ChannelDropout,
    Dropout,
    FeatureAlphaDropout,
)
from hydro_hpc.nn.embedding import Embedding, EmbeddingBag
from hydro_hpc.nn.fused import Fused
from hydro_hpc.nn.linear import Bilinear, Linear
from hydro_hpc.nn.members import Members, Refused
from hydro_hpc.nn.norm import (
    BATCH_RANKS,
    INSTANCE_RANKS,
    BatchNorm,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    RMSNorm,
)
from hydro_hpc.nn.padding import MODES, Pad
from hydro_hpc.nn.recurrent import CELLS, NETWORKS, Cell, Recurrent
from hydro_hpc.nn.samples import PER_SAMPLE, PerSample
from hydro_hpc.nn.shape import Flatten, Identity, Unflatten
from hydro_hpc.nn.transformer import (
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
)

FUSED: Final[dict[type[nn.Module], Callable[[Members], Fused]]] = {
    nn.AlphaDropout: AlphaDropout.of,
    nn.Bilinear: Bilinear.of,
    nn.CosineSimilarity: CosineSimilarity.of,
    nn.Dropout: Dropout.of,
    nn.Embedding: Embedding.of,
    nn.EmbeddingBag: EmbeddingBag.of,
    nn.FeatureAlphaDropout: FeatureAlphaDropout.of,
    nn.Flatten: Flatten.of,
    nn.GroupNorm: GroupNorm.of,
    nn.Identity: Identity.of,
    nn.LayerNorm: LayerNorm.of,
    nn.Linear: Linear.of,
    nn.MultiheadAttention: MultiheadAttention.of,
    nn.PReLU: PReLU.of,
    nn.PairwiseDistance: PairwiseDistance.of,
    nn.RMSNorm: RMSNorm.of,
    nn.RReLU: RReLU.of,
    nn.TransformerDecoder: TransformerDecoder.of,
    nn.TransformerDecoderLayer: TransformerDecoderLayer.of,
    nn.TransformerEncoder: TransformerEncoder.of,
    nn.TransformerEncoderLayer: TransformerEncoderLayer.of,
    nn.Unflatten: Unflatten.of,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), Conv.of),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), ConvTranspose.of),
    **dict.fromkeys(ALONG_AN_AXIS, Softmax.of),
    **dict.fromkeys(BATCH_RANKS, BatchNorm.of),
    **dict.fromkeys(CELLS, Cell.of),
    **dict.fromkeys(CHANNEL_RANKS, ChannelDropout.of),
    **dict.fromkeys(ELEMENTWISE, Elementwise.of),
    **dict.fromkeys(INSTANCE_RANKS, InstanceNorm.of),
    **dict.fromkeys(MODES, Pad.of),
    **dict.fromkeys(NETWORKS, Recurrent.of),
    **dict.fromkeys(PER_SAMPLE, PerSample.of),
}


def fuse(members: Members) -> Fused:
    """The fused form of one module of each slot; `Refused` where none is known to be exact."""
    maker = FUSED.get(type(members.modules[0]))
    if maker is None:
        raise Refused(f"{members.where} has no fused rule")
    members.require_tensors()
    factors = members.input_multipliers()
    fused = maker(members)
    fused.input_names = _input_names(type(members.modules[0]))
    for factor in factors:
        fused.multiply_input(factor)
    fused.follow(members.modules[0])
    return fused


def _input_names(kind: type[nn.Module]) -> tuple[str, ...]:
    """By which its forward takes what it takes, in order."""
    return tuple(inspect.signature(kind.forward).parameters)[1:]
