"""The loss of a trial's step, inside the trial's own random stream: what it draws is a function of
(seed, step), in a bundle as alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from torch import Tensor
from torch.nn import functional

from hydro_hpc.nn import trial_stream
from hydro_hpc.nn.randomness import (
    python_random_state,
    seed_globally,
    stream_key,
    torch_randomness_restored,
)
from hydro_hpc.study.metrics import Loss

LOSS_CALL: Final = -2  # of a step's random streams: a model's own calls count from 0
TORCHS_CLASSES: Final = "torch.nn.modules.loss"


def loss_in_stream(loss: Loss, outputs: Any, targets: Tensor, *, seed: int, step: int) -> Tensor:
    """Calls the study's function in the stream of one trial's step."""
    if draws_nothing(loss):
        return loss(outputs, targets)
    with trial_stream(seed, step, LOSS_CALL):
        return loss(outputs, targets)


def draws_nothing(loss: Loss) -> bool:
    """Says whether a loss is torch's own, which needs no stream, and which bundles know."""
    is_function = getattr(functional, getattr(loss, "__name__", ""), None) is loss
    return is_function or type(loss).__module__ == TORCHS_CLASSES


def repeatable(loss: Loss) -> Loss:
    """The same with the same draws in every call, so that two of its values can be compared."""
    return loss if draws_nothing(loss) else partial(loss_in_stream, loss, seed=0, step=0)


class SlotLosses:
    """A study's loss for the slots of a bundle. Python's and NumPy's generators take longer to seed
    than many a loss, so it does so only if the first step's losses have drawn from them.
    """

    def __init__(self, loss: Loss) -> None:
        self._loss = loss
        self._is_plain = draws_nothing(loss)
        self._uses_python: bool | None = None  # not known yet

    @contextmanager
    def of_step(
        self, seeds: Sequence[int], steps: Sequence[int]
    ) -> Iterator[Loss | Sequence[Loss]]:
        """What `losses` takes for one step, inside."""
        if self._is_plain:
            yield self._loss
            return
        call: Callable[..., Tensor] = self._in_torchs_stream
        if self._uses_python is not False:
            call = self._in_whole_stream
        functions = [
            partial(call, seed=seed, step=step) for seed, step in zip(seeds, steps, strict=True)
        ]
        with torch_randomness_restored():
            yield functions
        self._uses_python = bool(self._uses_python)

    def _in_torchs_stream(self, outputs: Any, targets: Tensor, *, seed: int, step: int) -> Tensor:
        seed_globally(stream_key(seed, step, LOSS_CALL, training=True))
        return self._loss(outputs, targets)

    def _in_whole_stream(self, outputs: Any, targets: Tensor, *, seed: int, step: int) -> Tensor:
        with trial_stream(seed, step, LOSS_CALL):
            before = python_random_state() if self._uses_python is None else None
            try:
                return self._loss(outputs, targets)
            finally:
                if before is not None and python_random_state() != before:
                    self._uses_python = True
