"""What a study says of its surrogates: how narrow they are, and how their target is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from hydro_hpc.errors import ShrinkError, StudyError
from hydro_hpc.surrogate.width import LEAST, NOT_AT_A_WIDTH, WIDTH, divided, width_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrow:
    """Trials train the study's model at this `width`, or at about the target's divided `by` this,
    by the rules of muP. A model without an argument `width` is narrowed `by` following its widths
    through one forward call; what the modules and parameters give that `keep` names stays.

    `target_epochs` and `target_batch_size` are how the target will be trained, where that is not as
    its surrogates are. `also` names hyperparameters that are searched though their best value is
    not known to transfer, such as "weight_decay". `unproven` lets trials start though the
    coordinate check of the surrogates failed.
    """

    width: int | None = None
    by: int | None = None
    target_epochs: int | None = None
    target_batch_size: int | None = None
    also: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    unproven: bool = False

    def __post_init__(self) -> None:
        if (self.width is None) == (self.by is None):
            raise StudyError("Narrow() takes width= or by=, one of them: Narrow(width=64)")
        for name, least in (
            ("width", LEAST),
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
        if not isinstance(self.unproven, bool):
            raise StudyError(f"Narrow(unproven={self.unproven!r}): it must be True or False")
        if self.keep and self.width is not None:
            raise StudyError(f"Narrow(keep=) {NOT_AT_A_WIDTH}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """What a factory is called with, and its default."""

    surrogate: int
    target: int

    def __str__(self) -> str:
        return f"width {self.surrogate} of {self.target}"

    @property
    def is_target(self) -> bool:
        return self.surrogate == self.target


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """By what all widths are divided that can be, but for what `keep` names give."""

    by: int
    keep: tuple[str, ...] = ()

    def __str__(self) -> str:
        kept = f" ({', '.join(self.keep)} kept)" if self.keep else ""
        return f"1/{self.by} of the target's widths{kept}"

    @property
    def is_target(self) -> bool:
        return self.by == 1


Narrowness: TypeAlias = Widths | Ratio


def narrowness_of(narrow: Narrow, model: Callable[..., Any]) -> Narrowness:
    """Widths, where the model has an argument for them. Raises StudyError if it cannot be built at
    those that are asked for, or they are no narrower than the target.
    """
    target = width_of(model)
    if target is None:
        if narrow.by is not None:
            return Ratio(by=narrow.by, keep=narrow.keep)
        raise StudyError(
            f"Narrow(width={narrow.width}), and the model has no argument {WIDTH}= with the "
            "target's width as its default; write def model(width=512), so that model() is the "
            "target, or Narrow(by=8), which follows the widths of any model"
        )
    if narrow.keep:
        raise StudyError(f"Narrow(keep=) {NOT_AT_A_WIDTH}")
    if narrow.width is None:
        assert narrow.by is not None
        try:
            return Widths(surrogate=divided(target, narrow.by), target=target)
        except ShrinkError as error:
            raise StudyError(f"Narrow(): {error}") from None
    if narrow.width > target:
        raise StudyError(
            f"Narrow(width={narrow.width}) is wider than the target, whose width is {target} by "
            "the model's default: a surrogate is narrower; give a smaller width, or the model the "
            "target's as its default"
        )
    return Widths(surrogate=narrow.width, target=target)


def _check_names(what: str, names: object, example: str) -> None:
    if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
        raise StudyError(f"Narrow({what}={names!r}): give names of {example}")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
