"""Calling a model on an example, and what its call raises, in one sentence."""

from __future__ import annotations

import copy
import inspect
import logging
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from hydro_hpc.errors import ShrinkError

NOT_USERS: Final = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


class FailedCallError(ShrinkError):
    """A model cannot be called on the example."""


class UnfollowedError(ShrinkError):
    """A call does what shapes do not say, though it is one that the model takes."""


class ValueAskedError(UnfollowedError):
    """A call goes by a tensor's values, which shapes do not say."""


def called(model: nn.Module, example: Any) -> Any:
    """A tuple has several arguments, and a dict those by name, if all its keys are names of
    `forward`'s; anything else is the one argument.
    """
    if isinstance(example, tuple):
        return model(*example)
    if isinstance(example, Mapping) and example.keys() <= _names(model):
        return model(**example)
    return model(example)


def copied(model: nn.Module) -> nn.Module:
    """Also one that keeps tensors that it computed, as the old torch.nn.utils.weight_norm does."""
    kept = [x for m in model.modules() for x in vars(m).values() if isinstance(x, torch.Tensor)]
    computed = {id(tensor): tensor.detach().clone() for tensor in kept if not tensor.is_leaf}
    return copy.deepcopy(model, computed)


def _names(model: nn.Module) -> set[str]:
    wrapped = getattr(model, "module", None) if isinstance(model, nn.DataParallel) else model
    return {*inspect.signature(wrapped.forward).parameters}  # type: ignore[union-attr]


@contextmanager
def said_by_line(model: nn.Module | None = None, example: Any = None) -> Iterator[None]:
    """What a forward call raises while it is followed becomes one sentence with its line, another
    one if a plain call of this model does not take the example. Torch's own log of it is not
    written.
    """
    log = logging.getLogger("torch._subclasses.fake_tensor")
    was_disabled, log.disabled = log.disabled, True
    try:
        yield
    except ShrinkError:
        raise
    except Exception as error:
        at = _line_of(error) or "the model"
        if isinstance(error, GuardOnDataDependentSymNode):
            raise ValueAskedError(
                f"the widths cannot be followed through {at}, which goes by the values of a "
                "tensor: give a function with an argument width= instead of a model"
            ) from error
        if isinstance(error, TypeError) and "unhashable type: non-nested SymInt" in str(error):
            raise ShrinkError(
                f"the widths cannot be followed through {at}, which looks a size up in a dict or "
                "set: compute what depends on it, or keep it in the module, or give a function "
                "with an argument width= instead of a model"
            ) from error
        if model is not None and (own := _own_error(model, example)):
            raise FailedCallError(
                f"example= does not fit the model, a call of which fails{at_line(own)} "
                f"({said_of(own)}); give what one forward call takes, such as "
                "a batch, or a tuple of its arguments"
            ) from error
        raise UnfollowedError(
            f"the widths cannot be followed through {at} ({_said(error)}); give a function with an "
            "argument width= instead of a model"
        ) from error
    finally:
        log.disabled = was_disabled


def at_line(error: Exception) -> str:
    """Of the user's code."""
    line = _line_of(error)
    return line and f" at {line}"


def said_of(error: Exception) -> str:
    return f"{type(error).__name__}: {_said(error)}"


def _line_of(error: Exception) -> str:
    """Of the user's code; empty if the error is of the layers that it is made of."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(NOT_USERS)]
    return f"{Path(own[-1].filename).name}, line {own[-1].lineno}" if own else ""


def _said(error: Exception) -> str:
    """The first sentence of it."""
    if "INTERNAL ASSERT FAILED" in str(error):
        return "an operation of torch's that has no shapes of symbols"
    first = str(error).strip().partition("\n")[0].partition(". ")[0]
    return first.rstrip(".;: ") or type(error).__name__


def _own_error(model: nn.Module, example: Any) -> Exception | None:
    """What a plain call of a copy of the model raises, if it does."""
    try:
        with torch.random.fork_rng(), torch.no_grad():
            called(copied(model), example)
    except Exception as error:
        return error
    return None
