"""What the coordinate check measures, as values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

MODEL: Final = "(model)"  # the name of a whole model among its layers
BIAS: Final = "bias"  # follows the path of a layer that has weights too: these move by themselves
LOGITS: Final = "logits"  # follows the path of the module that computes attention


class Measure(Enum):
    """SIZE: mean |x|. CHANGE: mean |x - x at the start|. STEP: how far one step of a layer's own
    parameters moves its outputs against their gradient (`response.py`); of logits, how far the
    model's step moves them.
    """

    SIZE = "size"
    CHANGE = "change"
    STEP = "step"


class Role(Enum):
    """What a layer is, by which of its sizes grow with the width."""

    INPUT = "input"  # into the width
    HIDDEN = "hidden"  # a weight from width to width
    OUTPUT = "output"  # out of the width
    VECTOR = "vector"  # a norm, a shift, a depthwise convolution
    LOGITS = "q-k-logits"  # of attention
    PLAIN = "no weights"  # none that grow


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
    if most == 0:
        return Role.PLAIN
    if most > 1:
        return Role.HIDDEN
    if layer.endswith(f" {BIAS}"):
        return Role.VECTOR
    takes = narrow.taken != wide.taken
    gives = narrow.given != wide.given
    if takes == gives:
        return Role.VECTOR
    return Role.INPUT if gives else Role.OUTPUT


def _num_grown(narrow: tuple[int, ...], wide: tuple[int, ...]) -> int:
    return sum(a != b for a, b in zip(narrow, wide, strict=True))
