"""Optimizers for bundles: every hyperparameter and step count per slot, each equal to torch's."""

from hydro_hpc.optim.adam import Adam, AdamW
from hydro_hpc.optim.optimizer import SlotOptimizer
from hydro_hpc.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "SlotOptimizer"]
