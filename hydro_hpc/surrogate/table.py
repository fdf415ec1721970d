"""The rules of maximal update parametrization (muP): what a parameter gets, by its kind.

The target trains as its owner wrote it; each factor here is of a surrogate against the target, and
1 at the target's own width. `m` is a surrogate's width over the target's, so mostly below 1.

Sources: G. Yang et al., "Tensor Programs V", arXiv 2203.03466, table 8 (with a multiplier on the
output, which is `in_mult` here; table 3 has the same rules without: BARE_OUTPUT) and appendix B
(the families); microsoft/mup 1.0.0, `MuSGD` and `MuAdam`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from hydro_hpc.errors import ShrinkError


class Kind(Enum):
    """What a parameter is, by which of its axes grow with the width."""

    INPUT = "input weight"  # from features, pixels, tokens or positions to the width
    HIDDEN = "hidden weight"  # from width to width
    OUTPUT = "output weight"  # from the width to classes, tokens or values
    VECTOR = "vector"  # a bias or a norm's gain or shift along the width
    FIXED = "fixed"  # no axis grows: an output's bias, a scalar
    BARE_OUTPUT = "output weight that is of no layer"  # so there is no input to multiply
    TIED = "tied embedding and readout"


class Family(Enum):
    """Optimizers whose steps scale alike with the gradient: in proportion to it, or not at all."""

    SGD = "SGD"
    ADAM = "Adam"


FAMILIES: Final[dict[str, Family]] = {
    "sgd": Family.SGD,
    "adam": Family.ADAM,
    "adamw": Family.ADAM,
    "rmsprop": Family.ADAM,
    "adagrad": Family.ADAM,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """m_in ** `into` * m_out ** `out`."""

    into: float = 0.0
    out: float = 0.0

    def of(self, m_in: float, m_out: float) -> float:
        return float(m_in**self.into * m_out**self.out)


ONE: Final = Power()


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`in_mult` is on the input of the layer, so that its bias is not scaled. Weight decay has the
    inverse of the rate's factor: by their product a weight decays in a step, and that stays.
    """

    init_std: Power = ONE
    in_mult: Power = ONE
    sgd_lr: Power = ONE
    adam_lr: Power = ONE


TABLE: Final[dict[Kind, Row]] = {
    Kind.INPUT: Row(sgd_lr=Power(out=1)),
    Kind.HIDDEN: Row(
        init_std=Power(into=-0.5), sgd_lr=Power(into=-1, out=1), adam_lr=Power(into=-1)
    ),
    Kind.OUTPUT: Row(in_mult=Power(into=-1), sgd_lr=Power(into=1)),
    # Of OUTPUT by the symmetry of Tensor Programs V, lemma J.1: a weight w, multiplied by a, trains
    # as a * w does with its spread times a and its rate times a ** 2 (SGD) or a (Adam).
    Kind.BARE_OUTPUT: Row(init_std=Power(into=-1), sgd_lr=Power(into=-1), adam_lr=Power(into=-1)),
    Kind.VECTOR: Row(sgd_lr=Power(out=1)),
    Kind.FIXED: Row(),
    Kind.TIED: Row(in_mult=Power(into=-1), sgd_lr=Power(out=1)),  # the multiplier on the readout
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """Of one parameter under one family, against the target's."""

    lr: float
    weight_decay: float
    init_std: float
    in_mult: float


def factors(kind: Kind, family: Family, *, m_in: float = 1.0, m_out: float = 1.0) -> Factors:
    """`m_in` and `m_out` are the ratios of the axes that a weight takes and gives; of a vector and
    of an embedding the wide axis is `m_out`, of a tied weight it is both.
    """
    row = TABLE[kind]
    rate = {Family.SGD: row.sgd_lr, Family.ADAM: row.adam_lr}[family].of(m_in, m_out)
    return Factors(
        lr=rate,
        weight_decay=1.0 / rate,
        init_std=row.init_std.of(m_in, m_out),
        in_mult=row.in_mult.of(m_in, m_out),
    )


def family_of(optimizer: str) -> Family:
    """ShrinkError if there is no rule for this optimizer."""
    family = FAMILIES.get(optimizer.lower()) if isinstance(optimizer, str) else None
    if family is None:
        known = ", ".join(FAMILIES)
        raise ShrinkError(
            f"how the steps of {optimizer!r} scale with the width is not known: a surrogate's "
            f"optimizer is one of {known}"
        )
    return family
