"""The trial binder: F models written for one trial each train as one bundle, exactly."""

from hydro_hpc.fusion.binding import bind
from hydro_hpc.fusion.bundle import Bundle
from hydro_hpc.fusion.executor import ExecutorKind
from hydro_hpc.fusion.losses import losses
from hydro_hpc.fusion.parking import ParkedTrial
from hydro_hpc.fusion.report import BundleReport, Candidate
from hydro_hpc.nn.randomness import trial_stream

__all__ = [
    "Bundle",
    "BundleReport",
    "Candidate",
    "ExecutorKind",
    "ParkedTrial",
    "bind",
    "losses",
    "trial_stream",
]
