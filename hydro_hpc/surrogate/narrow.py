"""What a study says of its surrogates: how narrow they are, and how their target is trained."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from hydro_hpc.errors import StudyError

WIDTH: Final = "width"  # the argument of a model's factory; its default is the target's width

_KEPT_AT_A_WIDTH: Final = (
    f"Narrow(keep=) is of models whose widths are followed; this one has {WIDTH}=, and its code "
    "says what that changes"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrow:
    """Trials train the study's model at this `width`, or at the target's divided `by` this, by the
    rules of muP. A model without an argument `width` is narrowed `by` following its widths through
    one forward call; what the modules and parameters give that `keep` names stays.

    `target_epochs` and `target_batch_size` are how the target will be trained, where that is not as
    its surrogates are. `also` names hyperparameters that are searched though their best value is
    not known to transfer, such as "weight_decay".
    """

    width: int | None = None
    by: int | None = None
    target_epochs: int | None = None
    target_batch_size: int | None = None
    also: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()

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
        _check_names("also", self.also, "hyperparameters, as ('weight_decay',)")
        _check_names("keep", self.keep, "modules or parameters, as ('encoder.latent',)")
        if self.keep and self.width is not None:
            raise StudyError(_KEPT_AT_A_WIDTH)


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """What a factory is called with, and its default."""

    surrogate: int
    target: int

    def __str__(self) -> str:
        return f"width {self.surrogate} of {self.target}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """By what all widths are divided that can be, but for what `keep` names give."""

    by: int
    keep: tuple[str, ...] = ()

    def __str__(self) -> str:
        kept = f" ({', '.join(self.keep)} kept)" if self.keep else ""
        return f"1/{self.by} of the target's widths{kept}"


Narrowness: TypeAlias = Widths | Ratio


def narrowness_of(narrow: Narrow, model: Callable[..., Any]) -> Narrowness:
    """Widths, where the model has an argument for them. Raises StudyError if it cannot be built at
    those that are asked for.
    """
    argument = inspect.signature(model).parameters.get(WIDTH)
    target = None if argument is None else argument.default
    if not _is_integer(target):
        if narrow.by is not None:
            return Ratio(by=narrow.by, keep=narrow.keep)
        raise StudyError(
            f"Narrow(width={narrow.width}), and the model has no argument {WIDTH}= with the "
            "target's width as its default; write def model(width=512), so that model() is the "
            "target, or Narrow(by=8), which follows the widths of any model"
        )
    if narrow.keep:
        raise StudyError(_KEPT_AT_A_WIDTH)
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


def _check_names(what: str, names: object, example: str) -> None:
    if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
        raise StudyError(f"Narrow({what}={names!r}): give names of {example}")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
