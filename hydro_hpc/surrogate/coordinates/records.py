"""What the coordinate check measures, as values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

MODEL: Final = "(model)"  # the name of a whole model among its layers
BIAS: Final = "bias"  # follows the path of a layer that has weights too: these move by themselves
MORE: Final = 1.01  # of growth, than rounding makes
LOGITS: Final = "logits"  # follows the path of the module that computes attention


class Measure(Enum):
    """SIZE: mean |x|. CHANGE: mean |x - x at the start|. On inputs of unit size: GAIN, the root
    mean square of what weights make of them at the start; STEP, how far one step of a layer's own
    parameters moves what it gives, against a gradient there (`response.py`).
    """

    SIZE = "size"
    CHANGE = "change"
    GAIN = "gain"
    STEP = "step"


class Role(Enum):
    """What a layer is, by which of its sizes grow with the width."""

    INPUT = "input"  # into the width
    HIDDEN = "hidden"  # a weight from width to width
    OUTPUT = "output"  # out of the width
    VECTOR = "vector"  # a norm, a shift, a depthwise convolution
    LOGITS = "q-k-logits"  # of attention
    FIXED = "fixed"  # neither its parameters grow nor what it gives
    PLAIN = "no weights"  # or few, that are shared over the width


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """`step`: how many steps were made; 0 is the initialisation."""

    layer: str
    measure: Measure
    width: int
    seed: int
    step: int
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The shapes of a layer: its own parameters, the tensors that it takes, the one it gives."""

    parameters: tuple[tuple[int, ...], ...]
    taken: tuple[tuple[int, ...], ...]
    given: tuple[int, ...]


def roles_of(narrow: dict[str, Form], wide: dict[str, Form]) -> dict[str, Role]:
    """The role of each layer, by its form at two widths."""
    return {
        layer: _role(layer, form, wide[layer]) for layer, form in narrow.items() if layer in wide
    }


def _role(layer: str, narrow: Form, wide: Form) -> Role:
    if layer.endswith(f" {LOGITS}"):
        return Role.LOGITS
    pairs = zip(narrow.parameters, wide.parameters, strict=True)
    most = max((_num_grown(a, b) for a, b in pairs), default=0)
    takes = narrow.taken != wide.taken
    gives = narrow.given != wide.given
    if most > 1:
        return Role.HIDDEN
    if not narrow.parameters or _growth([narrow.given], [wide.given]) > MORE * _growth(
        narrow.parameters, wide.parameters
    ):
        return Role.PLAIN
    if most == 0:
        return Role.FIXED
    if takes == gives or layer.endswith(f" {BIAS}"):
        return Role.VECTOR
    return Role.INPUT if gives else Role.OUTPUT


def _num_grown(narrow: tuple[int, ...], wide: tuple[int, ...]) -> int:
    return sum(a != b for a, b in zip(narrow, wide, strict=True))


def _growth(narrow: Sequence[tuple[int, ...]], wide: Sequence[tuple[int, ...]]) -> float:
    return sum(map(math.prod, wide)) / max(1, sum(map(math.prod, narrow)))
