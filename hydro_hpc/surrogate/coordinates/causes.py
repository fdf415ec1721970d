"""The likely cause of a layer's slopes, in a sentence: by what it is and which way they go."""

from __future__ import annotations

from typing import Final

from hydro_hpc.surrogate.coordinates.records import Role
from hydro_hpc.surrogate.table import Family

DRIFTS: Final = "drifts with the width in later steps, which narrow models and high rates do too"
NOISY: Final = "goes with the width by no more than noise may; a check of more seeds= tells"
NOT_SEEN: Final = "no step was seen, since how the model uses it could not be followed"
NOT_FINITE: Final = (
    "values are not finite: at some width the learning rate is too large for the training"
)
BETWEEN: Final = (
    "values grow with the width at the start, though no layer's weights make them: something "
    "between layers does, such as a factor or a sum over the width; take a mean"
)
NO_MULTIPLIER: Final = "the multiplier on the input of this output layer is missing (1 / m_in)"
INITIAL: Final[dict[Role, str]] = {
    Role.INPUT: "their spread must be the target's own",
    Role.HIDDEN: "their spread must fall as the root of the width that they take (m_in, not m_out)",
    Role.OUTPUT: NO_MULTIPLIER,
}
LOGITS_GROW: Final = (
    "logits grow with the size of a head: scale them by 1 / size, as sqrt(target's size) / size, "
    "or let the number of heads grow and keep their size"
)
LOGITS_SHRINK: Final = (
    "logits shrink with the size of a head: they are scaled by more than 1 / size"
)
TOO_LARGE: Final[dict[tuple[Role, Family], str]] = {
    (Role.HIDDEN, Family.ADAM): "the learning rate must be divided by the ratio of the width that "
    "the weight takes (m_in, not m_out)",
    (Role.HIDDEN, Family.SGD): "the learning rate must go as m_out / m_in, and not by the other "
    "axis",
    (Role.OUTPUT, Family.ADAM): NO_MULTIPLIER,
    (Role.OUTPUT, Family.SGD): NO_MULTIPLIER,
}
TOO_SMALL: Final[dict[tuple[Role, Family], str]] = {
    (Role.HIDDEN, Family.ADAM): "the learning rate is divided by more than m_in, or by another "
    "axis",
    (Role.HIDDEN, Family.SGD): "the learning rate must go as m_out / m_in, which is 1 if both are "
    "equal; it is divided by the width",
    (Role.OUTPUT, Family.SGD): "the learning rate must be multiplied by m_in",
    (Role.INPUT, Family.SGD): "the learning rate must be multiplied by m_out",
    (Role.VECTOR, Family.SGD): "the learning rate must be multiplied by the ratio of the width",
}
GROWS: Final = "the learning rate is too large for wide models here"
DIVIDED: Final = (
    "the learning rate is divided as if this were a hidden weight, and must be the target's own"
)


def cause_of_gain(role: Role, slope: float) -> str:
    """Of weights whose first values are wrong."""
    grows = slope > 0
    if role is Role.OUTPUT:
        return f"outputs grow with the width at the start: {NO_MULTIPLIER}"
    what = "grows" if grows else "shrinks"
    return f"what the initial weights give {what} with the width: {INITIAL[role]}"


def cause_of_step(role: Role, slope: float, family: Family) -> str:
    """Of a layer whose own steps are wrong."""
    grows = slope > 0
    if role is Role.LOGITS:
        return LOGITS_GROW if grows else LOGITS_SHRINK
    if grows:
        return f"steps grow with the width: {TOO_LARGE.get((role, family), GROWS)}"
    return f"steps shrink with the width: {TOO_SMALL.get((role, family), DIVIDED)}"
