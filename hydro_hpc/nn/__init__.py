"""Fused modules: F trials' modules as one, slot dimension first everywhere.

Each equals F separate `torch.nn` modules, one per slot: outputs, gradients and buffers. `fuse`
makes one from the F modules at one path of F models, or raises `Refused` with the reason; there is
no module that shares anything between slots.
"""

from hydro_hpc.nn.activation import Elementwise, Softmax
from hydro_hpc.nn.conv import Conv2d
from hydro_hpc.nn.dropout import Dropout
from hydro_hpc.nn.embedding import Embedding
from hydro_hpc.nn.fused import Fused
from hydro_hpc.nn.linear import Linear
from hydro_hpc.nn.members import Members, Refused
from hydro_hpc.nn.norm import BatchNorm, LayerNorm
from hydro_hpc.nn.pooling import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from hydro_hpc.nn.randomness import SlotStreams, trial_stream
from hydro_hpc.nn.registry import fuse
from hydro_hpc.nn.shape import Flatten, Identity

__all__ = [
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BatchNorm",
    "Conv2d",
    "Dropout",
    "Elementwise",
    "Embedding",
    "Flatten",
    "Fused",
    "Identity",
    "LayerNorm",
    "Linear",
    "MaxPool2d",
    "Members",
    "Refused",
    "SlotStreams",
    "Softmax",
    "fuse",
    "trial_stream",
]
