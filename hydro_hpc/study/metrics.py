"""What a trial's value is: a metric by name, or the user's own function, on the whole test set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from torch import Tensor

from hydro_hpc.errors import StudyError
from hydro_hpc.study.description import Direction

Loss = Callable[[Any, Tensor], Tensor]
Metric = Callable[[Any, Tensor], Any]

METRIC_CALL: Final = -1  # of an evaluation's random streams: a model's own calls count from 0


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """The share of targets that are the class of the largest output: [rows, classes] and [rows], or
    [rows, tokens, classes] and [rows, tokens].
    """
    return (outputs.argmax(dim=-1) == targets).double().mean().item()


def choose_metric(metric: str | Metric, loss: Loss) -> tuple[Metric, Direction]:
    """Returns a metric and the direction in which it is better, unless the study says another."""
    if metric == "accuracy":
        return accuracy, "maximize"
    if metric == "loss":
        return loss, "minimize"
    if callable(metric):
        return metric, "maximize"
    raise StudyError(
        f"metrics={metric!r} is not known; "
        "use 'accuracy', 'loss', or a function of (outputs, targets)"
    )
