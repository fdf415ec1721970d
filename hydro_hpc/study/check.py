"""Tries a study's code once on one batch, so that a mistake costs a sentence and not a night."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from torch import Tensor

from hydro_hpc.errors import StudyError
from hydro_hpc.study.data import Data
from hydro_hpc.study.randomness import seeded

if TYPE_CHECKING:
    from hydro_hpc.study.definition import Study

_T = TypeVar("_T")


def check_study(study: Study) -> None:
    """Builds a model in the middle of the space, and takes it through everything but a step.

    Raises StudyError on the first thing that does not work. Elsewhere in the space the code may
    still raise: that fails the trial.
    """
    params = {name: distribution.middle() for name, distribution in study.searched.items()}
    data = study.data()
    size = study.batch_size_of(params)
    rows, y = data.train_x[:size], data.train_y[:size]
    few = Data(rows, y, data.test_x[:size], data.test_y[:size])

    def attempt(what: str, function: Callable[[], _T]) -> _T:
        try:
            return function()
        except StudyError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())
            raise StudyError(
                f"{what} raised {type(error).__name__} with {params}: {reason}"
            ) from error

    with seeded(0):
        model = attempt("the model", lambda: study.build_model(params, 0))
        x = attempt("augment", lambda: study.inputs(rows.clone(), 0, 0))
        outputs = attempt("the model's forward", lambda: model(x))
        _check_loss(attempt("the loss", lambda: study.loss(outputs, y)))
        attempt("the optimizer", lambda: study.make_optimizer(model, params))
        attempt("the metric", lambda: study.evaluate(model, few, seed=0, step=0))


def _check_loss(loss: object) -> None:
    if not isinstance(loss, Tensor):
        raise StudyError(f"the loss returned a {type(loss).__name__}; return a scalar tensor")
    if loss.dim() != 0:
        raise StudyError(
            f"the loss returned a tensor of shape {tuple(loss.shape)}; return a scalar, "
            "as with reduction='mean'"
        )
    if not loss.requires_grad:
        raise StudyError("the loss does not depend on the model's parameters; it cannot train")
