"""A trial's batches: how many rows they may have, and what a study's `augment` makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from torch import Tensor

from hydro_hpc.errors import StudyError
from hydro_hpc.nn import trial_stream
from hydro_hpc.study.space import LogUniform, Uniform, extremes

Augment = Callable[[Tensor], Tensor]

BATCH_SIZE: Final = 32  # of a study that names none
TEST_ROWS: Final = 128  # that go through a model at once, in a bundle and alone
AUGMENT_CALL: Final = -1  # of a step's random streams: a model's own calls count from 0


def batch_sizes(space: Mapping[str, Any], given: int | None) -> Sequence[int]:
    """Returns the sizes that a study's trials can have, the ends of a range for all of it.

    Raises StudyError on one that no batch can have.
    """
    if "batch_size" not in space:
        sizes: Sequence[Any] = (BATCH_SIZE if given is None else given,)
    elif given is not None:
        raise StudyError("batch_size is given twice: keep the one in the space, or the keyword")
    else:
        named = space["batch_size"]
        is_real = isinstance(named, Uniform | LogUniform)
        sizes = (named,) if is_real else extremes(named)
    for size in sizes:
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise StudyError(f"batch_size={size!r} must be an integer of at least 1")
    return sizes


def test_batches(test_x: Tensor) -> Sequence[Tensor]:
    """Returns the test set in pieces of nearly equal size: two rows or more are never cut into
    single ones, which a batch norm does not take. A model's outputs may depend on its batch, so a
    bundle and a trial alone cut alike.
    """
    return test_x.tensor_split(-(-len(test_x) // TEST_ROWS))


def augmented(augment: Augment | None, x: Tensor, *, seed: int, step: int) -> Tensor:
    """Returns one batch of one trial as its step `step` sees it, from 0: a function of the
    arguments only, whatever generator of torch, NumPy or Python `augment` draws from.

    Raises StudyError if what it returns cannot take the batch's place, and what it raises.
    """
    if augment is None:
        return x
    with trial_stream(seed, step, AUGMENT_CALL):
        found = augment(x)
    if not isinstance(found, Tensor):
        raise StudyError(f"augment returned a {type(found).__name__}; return a tensor")
    if (found.shape, found.dtype) != (x.shape, x.dtype):
        raise StudyError(
            f"augment made {_form(found)} of {_form(x)}; it must keep shape and type of a batch"
        )
    return found.detach()  # it may be made by a module, whose parameters do not train


def _form(x: Tensor) -> str:
    return f"{list(x.shape)} {str(x.dtype).removeprefix('torch.')}"
