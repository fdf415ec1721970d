"""Optimizers for bundles and what goes with them, per slot, each slot equal to torch's."""

from hydro_hpc.optim.adagrad import Adagrad
from hydro_hpc.optim.adam import Adam, AdamW
from hydro_hpc.optim.average import SlotAverage
from hydro_hpc.optim.clipping import clip_grad_norm_, clip_grad_value_
from hydro_hpc.optim.groups import ParameterGroup
from hydro_hpc.optim.optimizer import SlotOptimizer
from hydro_hpc.optim.rmsprop import RMSprop
from hydro_hpc.optim.scaler import SlotGradScaler
from hydro_hpc.optim.schedule import SlotSchedule
from hydro_hpc.optim.sgd import SGD

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "ParameterGroup",
    "RMSprop",
    "SlotAverage",
    "SlotGradScaler",
    "SlotOptimizer",
    "SlotSchedule",
    "clip_grad_norm_",
    "clip_grad_value_",
]
