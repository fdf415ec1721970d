"""What a search may choose from: one small distribution per hyperparameter.

Values, not samplers: they cross to the search's process as JSON, and only `search.py` turns them
into Optuna's. No torch and no Optuna is imported here.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from hydro_hpc.errors import StudyError

Value = None | bool | int | float | str
"""What a hyperparameter can be: what JSON and Optuna both keep as it is."""

Params = dict[str, Any]

LONGEST: Final = 80  # characters of a value in a sentence
_LARGEST: Final = int(sys.float_info.max)


@dataclass(frozen=True, slots=True)
class Uniform:
    """A real number, low <= x <= high."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_bounds("uniform", self.low, self.high)

    def middle(self) -> float:
        return (self.low + self.high) / 2


@dataclass(frozen=True, slots=True)
class LogUniform:
    """A positive real number whose logarithm is uniform, low <= x <= high."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_bounds("log_uniform", self.low, self.high)
        if self.low <= 0:
            raise StudyError(f"log_uniform({self.low}, {self.high}): the low bound must be above 0")

    def middle(self) -> float:
        return math.sqrt(self.low * self.high)


@dataclass(frozen=True, slots=True)
class Integer:
    """An integer, low <= x <= high; with `log`, small ones as likely as large ones."""

    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        _check_bounds("integer", self.low, self.high)
        if not (_is_integer(self.low) and _is_integer(self.high)):
            raise StudyError(f"integer({self.low}, {self.high}): both bounds must be integers")
        if self.log and self.low < 1:
            raise StudyError(
                f"integer({self.low}, {self.high}, log=True): the low bound must be >= 1"
            )

    def middle(self) -> int:
        return round(math.sqrt(self.low * self.high)) if self.log else (self.low + self.high) // 2


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few values, among which the search knows no order."""

    options: tuple[Value, ...]

    def __post_init__(self) -> None:
        if not self.options:
            raise StudyError("choice(): give at least one option, as in choice('relu', 'tanh')")
        for option in self.options:
            if isinstance(option, list | tuple):
                raise StudyError(
                    f"choice(): {shortly(option)} is one option, a {type(option).__name__}; give "
                    "options one by one, as in choice(16, 32), or choice(*options)"
                )
            if not isinstance(option, bool | int | float | str | None):
                raise StudyError(
                    f"choice(): {option!r} is neither a number, a text, a truth value nor None; "
                    "choose by name and look the object up in the model"
                )
            if is_too_large(option):
                raise StudyError(f"choice(): {shortly(option)} is too large for a number")

    def middle(self) -> Value:
        return self.options[0]


Distribution = Uniform | LogUniform | Integer | Choice
Space = dict[str, Distribution]


def uniform(low: float, high: float) -> Uniform:
    """Any real number between the bounds, both included."""
    return Uniform(low, high)


def log_uniform(low: float, high: float) -> LogUniform:
    """Any real number between two positive bounds, each order of magnitude equally likely."""
    return LogUniform(low, high)


def integer(low: int, high: int, *, log: bool = False) -> Integer:
    """Any integer between the bounds, both included."""
    return Integer(low, high, log)


def choice(*options: Value) -> Choice:
    """One of the options: numbers, texts, truth values or None."""
    return Choice(options)


def extremes(given: Any) -> Sequence[Any]:
    """Returns the ends of a distribution or what there is to choose from; of a constant itself."""
    match given:
        case Uniform(low, high) | LogUniform(low, high) | Integer(low, high):
            return (low, high)
        case Choice(options):
            return options
    return (given,)


def is_too_large(value: object) -> bool:
    """Says whether it is an integer beyond every floating-point number."""
    return isinstance(value, int) and abs(value) > _LARGEST


def shortly(value: object) -> str:
    """A value as a sentence can hold it."""
    if is_too_large(value):
        assert isinstance(value, int)
        return f"an integer of {value.bit_length()} bits"
    text = " ".join(repr(value).split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


_KINDS: Final[dict[str, type[Distribution]]] = {
    "uniform": Uniform,
    "log_uniform": LogUniform,
    "integer": Integer,
    "choice": Choice,
}


def distribution_to_json(distribution: Distribution) -> dict[str, Any]:
    """Returns what `json.dumps` takes, and `distribution_from_json` takes back."""
    kind = next(name for name, cls in _KINDS.items() if isinstance(distribution, cls))
    return {"kind": kind, **asdict(distribution)}


def distribution_from_json(data: Mapping[str, Any]) -> Distribution:
    fields = {key: value for key, value in data.items() if key != "kind"}
    if data["kind"] == "choice":
        return Choice(tuple(fields["options"]))
    return _KINDS[data["kind"]](**fields)


def _is_integer(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)


def _check_bounds(name: str, low: float, high: float) -> None:
    for bound in (low, high):
        if isinstance(bound, bool) or not isinstance(bound, int | float):
            raise StudyError(f"{name}({low!r}, {high!r}): bounds are numbers, not {bound!r}")
        if is_too_large(bound):
            raise StudyError(f"{name}(): {shortly(bound)} is too large for a bound")
        if not math.isfinite(bound):
            raise StudyError(f"{name}({low}, {high}): bounds must be finite")
    if low >= high:
        raise StudyError(f"{name}({low}, {high}): the low bound must be below the high bound")
