"""Fused modules: F trials' modules as one, slot dimension first everywhere.

Each equals F separate `torch.nn` modules, one per slot: outputs, gradients and buffers. `fuse`
makes one from the F modules at one path of F models, or raises `Refused` with the reason; there is
no module that shares anything between slots.
"""

from hydro_hpc.nn.fused import Fused
from hydro_hpc.nn.members import Members, Refused
from hydro_hpc.nn.norm import BatchNorm
from hydro_hpc.nn.randomness import SlotStreams, trial_stream
from hydro_hpc.nn.registry import fuse

__all__ = [
    "BatchNorm",
    "Fused",
    "Members",
    "Refused",
    "SlotStreams",
    "fuse",
    "trial_stream",
]
