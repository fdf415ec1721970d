"""Modules as people make them, each with the unfused shapes of its inputs. Slots, batch, channels
and lengths are all different."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from hydro_hpc.nn.activation import ELEMENTWISE


@dataclass(frozen=True, slots=True)
class Shared:
    """An argument that a fused module gets once per slot: [*shape], the same for all."""

    tensor: torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`make` gives one module, `shapes` has one unfused shape per input, `largest` is the end of
    the range of inputs that are whole numbers; `call` are arguments by name."""

    make: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    largest: int | None = None
    call: dict[str, Any] | None = None


def on(make: Callable[[], nn.Module], *shapes: tuple[int, ...], **rest: Any) -> Case:
    return Case(make=make, shapes=shapes, **rest)


LINEAR: Final = {
    "linear": on(lambda: nn.Linear(6, 4), (5, 6)),
    "linear without bias": on(lambda: nn.Linear(6, 4, bias=False), (5, 6)),
    "linear on tokens": on(lambda: nn.Linear(6, 4), (5, 7, 6)),
    "linear without batch": on(lambda: nn.Linear(6, 4), (6,)),
    "bilinear": on(lambda: nn.Bilinear(6, 4, 2), (5, 6), (5, 4)),
    "bilinear on tokens": on(lambda: nn.Bilinear(6, 4, 2), (5, 7, 6), (5, 7, 4)),
    "bilinear without bias or batch": on(lambda: nn.Bilinear(6, 4, 2, bias=False), (6,), (4,)),
}

CONVOLUTIONS: Final = {
    "conv": on(lambda: nn.Conv2d(2, 4, 3), (5, 2, 7, 6)),
    "conv with everything": on(
        lambda: nn.Conv2d(4, 6, (3, 2), stride=2, padding=1, dilation=(1, 2), groups=2),
        (5, 4, 9, 8),
    ),
    "depthwise conv without bias": on(
        lambda: nn.Conv2d(4, 4, 3, groups=4, padding="same", bias=False), (5, 4, 7, 6)
    ),
    "conv without batch": on(lambda: nn.Conv2d(2, 4, 3), (2, 7, 6)),
    "conv 1d": on(lambda: nn.Conv1d(2, 4, 3, padding="valid"), (5, 2, 7)),
    "conv 1d with everything": on(
        lambda: nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2), (5, 4, 9)
    ),
    "conv 1d without batch": on(lambda: nn.Conv1d(2, 4, 3), (2, 7)),
    "conv 3d": on(lambda: nn.Conv3d(2, 4, (3, 2, 1), padding=(0, 1, 0)), (5, 2, 4, 7, 6)),
    "conv 3d without batch": on(lambda: nn.Conv3d(2, 4, 2, groups=2), (2, 4, 7, 6)),
    "conv that reflects": on(
        lambda: nn.Conv2d(2, 4, 3, padding=(2, 1), padding_mode="reflect"), (5, 2, 7, 6)
    ),
    "conv that replicates": on(
        lambda: nn.Conv1d(2, 4, 3, padding=2, padding_mode="replicate"), (5, 2, 7)
    ),
    "conv that goes round": on(
        lambda: nn.Conv2d(2, 4, 4, padding="same", padding_mode="circular"), (5, 2, 7, 6)
    ),
    "conv that reflects without batch": on(
        lambda: nn.Conv1d(2, 4, 3, padding=2, padding_mode="reflect"), (2, 7)
    ),
    "transposed conv 1d": on(
        lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1, groups=2), (5, 4, 7)
    ),
    "transposed conv 2d": on(
        lambda: nn.ConvTranspose2d(
            4, 6, (3, 2), stride=(2, 3), padding=1, output_padding=(1, 2), groups=2, dilation=2
        ),
        (5, 4, 7, 6),
    ),
    "transposed conv 2d without bias or batch": on(
        lambda: nn.ConvTranspose2d(2, 4, 3, bias=False), (2, 7, 6)
    ),
    "transposed conv 3d": on(lambda: nn.ConvTranspose3d(2, 4, 2, stride=2), (5, 2, 4, 3, 6)),
}

NORMS: Final = {
    "batch norm 1d": on(lambda: nn.BatchNorm1d(6), (5, 6)),
    "batch norm 1d with length": on(lambda: nn.BatchNorm1d(6, momentum=0.3, eps=1e-3), (5, 6, 7)),
    "batch norm 2d": on(lambda: nn.BatchNorm2d(4), (5, 4, 7, 6)),
    "batch norm 3d": on(lambda: nn.BatchNorm3d(4), (5, 4, 2, 7, 6)),
    "batch norm without statistics": on(
        lambda: nn.BatchNorm2d(4, track_running_stats=False), (5, 4, 7, 6)
    ),
    "batch norm without affine": on(lambda: nn.BatchNorm2d(4, affine=False), (5, 4, 7, 6)),
    "batch norm that averages all": on(lambda: nn.BatchNorm1d(6, momentum=None), (5, 6)),
    "batch norm that averages nothing": on(
        lambda: nn.BatchNorm1d(6, momentum=None, track_running_stats=False), (5, 6)
    ),
    "layer norm": on(lambda: nn.LayerNorm(6), (5, 7, 6)),
    "layer norm over two axes": on(lambda: nn.LayerNorm((7, 6), eps=1e-3), (5, 7, 6)),
    "layer norm without bias": on(lambda: nn.LayerNorm(6, bias=False), (5, 6)),
    "layer norm without gain": on(lambda: nn.LayerNorm(6, elementwise_affine=False), (5, 6)),
    "rms norm": on(lambda: nn.RMSNorm(6), (5, 7, 6)),
    "rms norm over two axes": on(lambda: nn.RMSNorm((7, 6), eps=1e-3), (5, 7, 6)),
    "rms norm without gain": on(lambda: nn.RMSNorm(6, elementwise_affine=False), (5, 6)),
    "group norm": on(lambda: nn.GroupNorm(2, 6), (5, 6, 7, 4)),
    "group norm of vectors": on(lambda: nn.GroupNorm(3, 6, eps=1e-3), (5, 6)),
    "group norm without affine": on(lambda: nn.GroupNorm(2, 6, affine=False), (5, 6, 7)),
    "instance norm 1d": on(lambda: nn.InstanceNorm1d(6), (5, 6, 7)),
    "instance norm 1d without batch": on(lambda: nn.InstanceNorm1d(6, affine=True), (6, 7)),
    "instance norm 2d": on(
        lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True, momentum=0.3),
        (5, 4, 7, 6),
    ),
    "instance norm 2d with statistics": on(
        lambda: nn.InstanceNorm2d(4, track_running_stats=True), (5, 4, 7, 6)
    ),
    "instance norm 3d": on(lambda: nn.InstanceNorm3d(4, affine=True), (5, 4, 2, 7, 6)),
}

TABLES: Final = {
    "embedding": on(lambda: nn.Embedding(11, 6), (5, 7), largest=11),
    "embedding with padding": on(lambda: nn.Embedding(11, 6, padding_idx=3), (5, 7), largest=11),
    "embedding of short rows": on(
        lambda: nn.Embedding(11, 6, max_norm=0.9, norm_type=1.5), (5, 7), largest=11
    ),
    "embedding without batch": on(lambda: nn.Embedding(11, 6), (7,), largest=11),
    "bag of means": on(lambda: nn.EmbeddingBag(11, 6), (5, 7), largest=11),
    "bag of sums": on(
        lambda: nn.EmbeddingBag(11, 6, mode="sum", padding_idx=3), (5, 7), largest=11
    ),
    "bag of maxima": on(
        lambda: nn.EmbeddingBag(11, 6, mode="max", max_norm=0.9), (5, 7), largest=11
    ),
}

ACTIVATIONS: Final = {
    **{kind.__name__: on(kind, (5, 4)) for kind in ELEMENTWISE if kind is not nn.Threshold},
    "leaky relu": on(lambda: nn.LeakyReLU(0.3), (5, 4)),
    "gelu by tanh": on(lambda: nn.GELU("tanh"), (5, 4)),
    "relu in place": on(lambda: nn.ReLU(inplace=True), (5, 4)),
    "threshold": on(lambda: nn.Threshold(0.1, 0.5), (5, 4)),
    "softmax over channels": on(lambda: nn.Softmax(dim=1), (5, 4, 7)),
    "softmax over the batch": on(lambda: nn.Softmax(dim=0), (5, 4, 7)),
    "softmax over the last axis": on(lambda: nn.Softmax(dim=-1), (5, 4, 7)),
    "softmax of images": on(nn.Softmax2d, (5, 4, 7, 6)),
    "softmax of one image": on(nn.Softmax2d, (4, 7, 6)),
    "softmin": on(lambda: nn.Softmin(dim=1), (5, 4, 7)),
    "log-softmax over channels": on(lambda: nn.LogSoftmax(dim=1), (5, 4, 7)),
    "glu": on(nn.GLU, (5, 4, 6)),
    "glu over channels": on(lambda: nn.GLU(dim=1), (5, 4, 7)),
    "one slope": on(nn.PReLU, (5, 4, 7)),
    "slopes by channel": on(lambda: nn.PReLU(4), (5, 4, 7, 6)),
    "slopes of vectors": on(lambda: nn.PReLU(4), (5, 4)),
    "random slopes": on(lambda: nn.RReLU(0.1, 0.7), (5, 4)),
    "random slopes in place": on(lambda: nn.RReLU(inplace=True), (5, 4)),
}

DROPOUT: Final = {
    "dropout": on(lambda: nn.Dropout(0.4), (5, 7, 6)),
    "dropout in place": on(lambda: nn.Dropout(0.4, inplace=True), (5, 7, 6)),
    "dropout of nothing": on(lambda: nn.Dropout(0.0), (5, 6)),
    "dropout of all": on(lambda: nn.Dropout(1.0), (5, 6)),
    "dropout 1d": on(lambda: nn.Dropout1d(0.4), (5, 7, 6)),
    "dropout 1d without batch": on(lambda: nn.Dropout1d(0.4), (7, 6)),
    "dropout 2d": on(lambda: nn.Dropout2d(0.4), (5, 7, 6, 4)),
    "dropout 2d in place": on(lambda: nn.Dropout2d(0.4, inplace=True), (5, 7, 6, 4)),
    "dropout 3d": on(lambda: nn.Dropout3d(0.4), (5, 7, 6, 4, 2)),
    "dropout 3d without batch": on(lambda: nn.Dropout3d(0.4), (7, 6, 4, 2)),
    "alpha dropout": on(lambda: nn.AlphaDropout(0.4), (5, 7)),
    "alpha dropout in place": on(lambda: nn.AlphaDropout(0.4, inplace=True), (5, 7)),
    "alpha dropout of all": on(lambda: nn.AlphaDropout(1.0), (5, 7)),
    "alpha dropout of features": on(lambda: nn.FeatureAlphaDropout(0.4), (5, 7, 6)),
}

POOLS: Final = {
    "max pool": on(lambda: nn.MaxPool2d(2), (5, 4, 7, 6)),
    "max pool with everything": on(
        lambda: nn.MaxPool2d((3, 2), stride=1, padding=1, dilation=(1, 2), ceil_mode=True),
        (5, 4, 7, 6),
    ),
    "max pool without batch": on(lambda: nn.MaxPool2d(2), (4, 7, 6)),
    "max pool 1d": on(lambda: nn.MaxPool1d(3, 2, 1, ceil_mode=True), (5, 4, 8)),
    "max pool 1d without batch": on(lambda: nn.MaxPool1d(2), (4, 8)),
    "max pool 3d": on(lambda: nn.MaxPool3d(2), (5, 4, 2, 7, 6)),
    "average pool 1d": on(lambda: nn.AvgPool1d(3, 2, 1), (5, 4, 8)),
    "average pool": on(
        lambda: nn.AvgPool2d((3, 2), padding=1, count_include_pad=False), (5, 4, 7, 6)
    ),
    "average pool by a number": on(
        lambda: nn.AvgPool2d(2, ceil_mode=True, divisor_override=3), (5, 4, 7, 6)
    ),
    "average pool 3d": on(lambda: nn.AvgPool3d(2), (5, 4, 2, 7, 6)),
    "power pool 1d": on(lambda: nn.LPPool1d(2, 3, 2), (5, 4, 8)),
    "power pool 2d": on(lambda: nn.LPPool2d(2, (3, 2), stride=1, ceil_mode=True), (5, 4, 7, 6)),
    "power pool 3d": on(lambda: nn.LPPool3d(2, 2), (5, 4, 2, 7, 6)),
    "adaptive average pool 1d": on(lambda: nn.AdaptiveAvgPool1d(3), (5, 4, 8)),
    "adaptive average pool": on(lambda: nn.AdaptiveAvgPool2d((2, None)), (5, 4, 7, 6)),
    "adaptive average pool 3d": on(lambda: nn.AdaptiveAvgPool3d(2), (5, 4, 2, 7, 6)),
    "adaptive max pool 1d": on(lambda: nn.AdaptiveMaxPool1d(3), (5, 4, 8)),
    "adaptive max pool": on(lambda: nn.AdaptiveMaxPool2d((2, None)), (5, 4, 7, 6)),
    "adaptive max pool 3d": on(lambda: nn.AdaptiveMaxPool3d(2), (4, 2, 7, 6)),
}

PADDING: Final = {
    "zeros around lines": on(lambda: nn.ZeroPad1d((1, 2)), (5, 4, 7)),
    "zeros around images": on(lambda: nn.ZeroPad2d((1, 2, -1, 3)), (5, 4, 7, 6)),
    "zeros around volumes": on(lambda: nn.ZeroPad3d(1), (5, 4, 2, 7, 6)),
    "constants around lines": on(lambda: nn.ConstantPad1d((1, 2), 0.5), (5, 4, 7)),
    "constants around images": on(lambda: nn.ConstantPad2d(1, 0.5), (4, 7, 6)),
    "constants around volumes": on(lambda: nn.ConstantPad3d(1, 0.5), (5, 4, 2, 7, 6)),
    "reflected lines": on(lambda: nn.ReflectionPad1d((1, 2)), (5, 4, 7)),
    "one reflected line": on(lambda: nn.ReflectionPad1d((1, 2)), (4, 7)),
    "reflected images": on(lambda: nn.ReflectionPad2d((1, 2, 0, 3)), (5, 4, 7, 6)),
    "reflected volumes": on(lambda: nn.ReflectionPad3d(1), (5, 4, 2, 7, 6)),
    "replicated lines": on(lambda: nn.ReplicationPad1d((1, 2)), (5, 4, 7)),
    "replicated images": on(lambda: nn.ReplicationPad2d(1), (5, 4, 7, 6)),
    "replicated volumes": on(lambda: nn.ReplicationPad3d(1), (4, 2, 7, 6)),
    "circular lines": on(lambda: nn.CircularPad1d((1, 2)), (5, 4, 7)),
    "circular images": on(lambda: nn.CircularPad2d((1, 2, 0, 3)), (5, 4, 7, 6)),
    "circular volumes": on(lambda: nn.CircularPad3d(1), (5, 4, 2, 7, 6)),
}

SHAPES: Final = {
    "flatten": on(lambda: nn.Flatten(), (5, 4, 7, 6)),
    "flatten all": on(lambda: nn.Flatten(0, -1), (5, 4, 7)),
    "flatten the first": on(lambda: nn.Flatten(0, 1), (5, 4, 7)),
    "unflatten": on(lambda: nn.Unflatten(1, (2, -1)), (5, 6, 7)),
    "unflatten the last": on(lambda: nn.Unflatten(-1, (3, 2)), (5, 7, 6)),
    "identity": on(lambda: nn.Identity(), (5, 4)),
    "pixel shuffle": on(lambda: nn.PixelShuffle(2), (5, 8, 7, 6)),
    "pixel shuffle without batch": on(lambda: nn.PixelShuffle(2), (8, 7, 6)),
    "pixel unshuffle": on(lambda: nn.PixelUnshuffle(2), (5, 2, 4, 6)),
    "channel shuffle": on(lambda: nn.ChannelShuffle(2), (5, 6, 7, 4)),
    "unfold": on(lambda: nn.Unfold((2, 3), padding=1, stride=2), (5, 2, 7, 6)),
    "fold": on(lambda: nn.Fold((4, 6), 2, stride=2), (5, 8, 6)),
    "fold without batch": on(lambda: nn.Fold((4, 6), 2, stride=2), (8, 6)),
    "nearest": on(lambda: nn.Upsample(scale_factor=2), (5, 4, 7)),
    "bilinear resize": on(lambda: nn.Upsample(size=(9, 5), mode="bilinear"), (5, 4, 7, 6)),
    "bicubic resize": on(
        lambda: nn.Upsample(scale_factor=(1.5, 2), mode="bicubic", align_corners=True),
        (5, 4, 7, 6),
    ),
    "trilinear resize": on(lambda: nn.Upsample(scale_factor=2, mode="trilinear"), (5, 4, 2, 3, 6)),
    "bilinear upsampling": on(lambda: nn.UpsamplingBilinear2d(scale_factor=2), (5, 4, 7, 6)),
    "nearest upsampling": on(lambda: nn.UpsamplingNearest2d(size=(9, 8)), (5, 4, 7, 6)),
    "response norm": on(lambda: nn.LocalResponseNorm(3, alpha=0.5), (5, 4, 7, 6)),
}

DISTANCES: Final = {
    "cosine similarity": on(nn.CosineSimilarity, (5, 4, 7), (5, 4, 7)),
    "cosine similarity over the batch": on(
        lambda: nn.CosineSimilarity(dim=0, eps=0.1), (5, 4), (5, 1)
    ),
    "cosine similarity to one vector": on(lambda: nn.CosineSimilarity(dim=-1), (5, 4), (4,)),
    "pairwise distance": on(lambda: nn.PairwiseDistance(3, keepdim=True), (5, 7), (5, 7)),
    "pairwise distance to one vector": on(nn.PairwiseDistance, (5, 7), (7,)),
}

CAUSAL: Final = torch.full((7, 7), -torch.inf, dtype=torch.float64).triu(1)
HIDDEN: Final = torch.eye(7).bool().roll(1, 0)
PADDED: Final = torch.tensor([[n >= 7 - b for n in range(7)] for b in range(5)])


def attention(**settings: Any) -> Callable[[], nn.Module]:
    return lambda: nn.MultiheadAttention(8, 2, **{"batch_first": True, **settings})


ATTENTION: Final = {
    "attention": on(attention(), (5, 7, 8), (5, 6, 8), (5, 6, 8)),
    "attention in time order": on(attention(batch_first=False), (7, 5, 8), (6, 5, 8), (6, 5, 8)),
    "attention without batch": on(attention(), (7, 8), (6, 8), (6, 8)),
    "attention of other widths": on(
        attention(kdim=6, vdim=4, bias=False), (5, 7, 8), (5, 3, 6), (5, 3, 4)
    ),
    "attention by head": on(
        attention(), (5, 7, 8), (5, 6, 8), (5, 6, 8), call={"average_attn_weights": False}
    ),
    "attention without weights": on(
        attention(), (5, 7, 8), (5, 6, 8), (5, 6, 8), call={"need_weights": False}
    ),
    "attention with dropout": on(attention(dropout=0.4), (5, 7, 8), (5, 6, 8), (5, 6, 8)),
    "attention with dropout without weights": on(
        attention(dropout=0.4), (5, 7, 8), (5, 6, 8), (5, 6, 8), call={"need_weights": False}
    ),
    "attention with masks": on(
        attention(),
        (5, 7, 8),
        (5, 7, 8),
        (5, 7, 8),
        call={"attn_mask": Shared(HIDDEN), "key_padding_mask": Shared(PADDED)},
    ),
    "attention with a mask by head": on(
        attention(),
        (5, 7, 8),
        (5, 7, 8),
        (5, 7, 8),
        call={"attn_mask": Shared(HIDDEN.expand(10, 7, 7)), "need_weights": False},
    ),
    "causal attention with dropout": on(
        attention(dropout=0.4),
        (5, 7, 8),
        (5, 7, 8),
        (5, 7, 8),
        call={"attn_mask": Shared(CAUSAL), "is_causal": True, "need_weights": False},
    ),
    "attention with padding without batch": on(
        attention(), (7, 8), (7, 8), (7, 8), call={"key_padding_mask": Shared(PADDED[2])}
    ),
}


def encoder_layer(**settings: Any) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(8, 2, 12, **{"dropout": 0.3, **settings})


def decoder_layer(**settings: Any) -> nn.TransformerDecoderLayer:
    return nn.TransformerDecoderLayer(8, 2, 12, **{"dropout": 0.3, **settings})


TRANSFORMERS: Final = {
    "encoder layer": on(lambda: encoder_layer(batch_first=True), (5, 7, 8)),
    "encoder layer in time order, norm first": on(
        lambda: encoder_layer(norm_first=True, activation="gelu"), (7, 5, 8)
    ),
    "encoder layer with masks": on(
        lambda: encoder_layer(batch_first=True, activation=nn.SiLU(), bias=False),
        (5, 7, 8),
        call={"src_mask": Shared(HIDDEN), "src_key_padding_mask": Shared(PADDED)},
    ),
    "decoder layer": on(
        lambda: decoder_layer(batch_first=True),
        (5, 7, 8),
        (5, 6, 8),
        call={"tgt_mask": Shared(CAUSAL), "tgt_is_causal": True},
    ),
    "decoder layer, norm first": on(
        lambda: decoder_layer(norm_first=True, dropout=0.0),
        (7, 5, 8),
        (7, 5, 8),
        call={"memory_key_padding_mask": Shared(PADDED)},
    ),
    "encoder": on(
        lambda: nn.TransformerEncoder(
            encoder_layer(), 2, norm=nn.LayerNorm(8), enable_nested_tensor=False
        ),
        (7, 5, 8),
        call={"mask": Shared(CAUSAL), "is_causal": True},
    ),
    "decoder": on(
        lambda: nn.TransformerDecoder(decoder_layer(batch_first=True), 2),
        (5, 7, 8),
        (5, 6, 8),
        call={"tgt_key_padding_mask": Shared(PADDED)},
    ),
}

RECURRENT: Final = {
    "rnn": on(lambda: nn.RNN(6, 4), (7, 5, 6)),
    "rnn with relu": on(
        lambda: nn.RNN(6, 4, 2, nonlinearity="relu", bias=False, dropout=0.3), (7, 5, 6), (2, 5, 4)
    ),
    "lstm": on(lambda: nn.LSTM(6, 4, batch_first=True), (5, 7, 6)),
    "lstm with everything": on(
        lambda: nn.LSTM(6, 4, 3, dropout=0.3, bidirectional=True, batch_first=True), (5, 7, 6)
    ),
    "lstm without batch": on(lambda: nn.LSTM(6, 4, 2), (7, 6)),
    "gru": on(lambda: nn.GRU(6, 4, 2, bidirectional=True), (7, 5, 6), (4, 5, 4)),
    "gru without batch": on(lambda: nn.GRU(6, 4, bias=False), (7, 6), (1, 4)),
    "rnn cell": on(lambda: nn.RNNCell(6, 4), (5, 6), (5, 4)),
    "rnn cell with relu": on(lambda: nn.RNNCell(6, 4, nonlinearity="relu"), (6,)),
    "lstm cell": on(lambda: nn.LSTMCell(6, 4), (5, 6)),
    "gru cell": on(lambda: nn.GRUCell(6, 4), (5, 6), (5, 4)),
    "gru cell without bias": on(lambda: nn.GRUCell(6, 4, bias=False), (5, 6)),
}

CASES: Final[dict[str, Case]] = {
    **LINEAR,
    **CONVOLUTIONS,
    **NORMS,
    **TABLES,
    **ACTIVATIONS,
    **DROPOUT,
    **POOLS,
    **PADDING,
    **SHAPES,
    **DISTANCES,
    **ATTENTION,
    **TRANSFORMERS,
    **RECURRENT,
}
