"""What a study says of its surrogates: how narrow they are, and how their target is trained."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from hydro_hpc.errors import StudyError

WIDTH: Final = "width"  # the argument of a model's factory; its default is the target's width


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrow:
    """Trials train the study's model at this `width`, or at the target's divided `by` this, by the
    rules of muP. `target_epochs` and `target_batch_size` are how the target will be trained, where
    that is not as its surrogates are. `also` names hyperparameters that are searched though their
    best value is not known to transfer, such as "weight_decay".
    """

    width: int | None = None
    by: int | None = None
    target_epochs: int | None = None
    target_batch_size: int | None = None
    also: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.width is None) == (self.by is None):
            raise StudyError("Narrow() takes width= or by=, one of them: Narrow(width=64)")
        for name, least in (
            ("width", 2),
            ("by", 1),
            ("target_epochs", 1),
            ("target_batch_size", 1),
        ):
            value = getattr(self, name)
            if value is not None and (not _is_integer(value) or value < least):
                raise StudyError(
                    f"Narrow({name}={value!r}): it must be an integer of {least} or more"
                )
        also: object = self.also
        if not isinstance(also, tuple) or not all(isinstance(name, str) for name in also):
            raise StudyError(
                f"Narrow(also={self.also!r}): give names of hyperparameters, as ('weight_decay',)"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """What a factory is called with, and its default."""

    surrogate: int
    target: int


def widths_of(narrow: Narrow, model: Callable[..., Any]) -> Widths:
    """Raises StudyError unless the model can be built at the widths that are asked for."""
    argument = inspect.signature(model).parameters.get(WIDTH)
    target = None if argument is None else argument.default
    if not _is_integer(target):
        # Here models without such an argument will be shrunk by following one forward call.
        raise StudyError(
            f"the study has a surrogate and its model has no argument {WIDTH}= with the target's "
            "width as its default; write def model(width=512), so that model() is the target"
        )
    assert isinstance(target, int)
    if narrow.width is not None:
        return Widths(surrogate=narrow.width, target=target)
    assert narrow.by is not None
    if target % narrow.by or target // narrow.by < 2:  # one unit learns nothing
        raise StudyError(
            f"Narrow(by={narrow.by}) leaves {target / narrow.by:g} of the target's width of "
            f"{target}; name the width itself, as in Narrow(width={max(2, target // narrow.by)})"
        )
    return Widths(surrogate=target // narrow.by, target=target)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
