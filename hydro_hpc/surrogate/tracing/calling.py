"""Calling a model on an example, and what its call raises, in one sentence."""

from __future__ import annotations

import inspect
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


class ValueAskedError(ShrinkError):
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


def _names(model: nn.Module) -> set[str]:
    wrapped = getattr(model, "module", None) if isinstance(model, nn.DataParallel) else model
    return {*inspect.signature(wrapped.forward).parameters}  # type: ignore[union-attr]


@contextmanager
def said_by_line() -> Iterator[None]:
    """What a forward call raises while it is followed becomes one sentence with its line."""
    try:
        yield
    except ShrinkError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if not f.filename.startswith(NOT_USERS)]
        at = f"{Path(own[-1].filename).name}, line {own[-1].lineno}" if own else "the model"
        if isinstance(error, GuardOnDataDependentSymNode):
            raise ValueAskedError(
                f"the widths cannot be followed through {at}, which goes by the values of a "
                "tensor: give a function with an argument width= instead of a model"
            ) from error
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ShrinkError(
            f"the widths cannot be followed through {at}: {said}; give a function with an argument "
            "width= instead of a model"
        ) from error
