"""The likely cause of a layer's slopes, in a sentence: by what it is and which way they go."""

from __future__ import annotations

from hydro_hpc.surrogate.coordinates import bounds
from hydro_hpc.surrogate.coordinates.records import Role
from hydro_hpc.surrogate.table import Family

FOLLOWS = "its own first steps are right: it follows from other layers, or comes of later steps"
NOT_FINITE = "values are not finite: at some width the learning rate is too large for the training"
ATTENTION = (
    "logits grow with the size of a head: scale them by 1 / size, as sqrt(target's size) / size, "
    "or let the number of heads grow and keep their size"
)
NO_MULTIPLIER = "the multiplier on the input of this output layer is missing (1 / m_in)"
START = {
    Role.OUTPUT: f"outputs grow with the width at the start: {NO_MULTIPLIER}",
    Role.HIDDEN: "values grow with the width at the start: initial weights must fall as the root "
    "of the width that they take (m_in, not m_out)",
}
TOO_LARGE = {
    (Role.HIDDEN, Family.ADAM): "steps grow with the width: the learning rate must be divided by "
    "the ratio of the width that the weight takes (m_in, not m_out)",
    (Role.HIDDEN, Family.SGD): "steps grow with the width: the learning rate must go as m_out / "
    "m_in, and not by the other axis",
    (Role.OUTPUT, Family.ADAM): f"steps grow with the width: {NO_MULTIPLIER}",
    (Role.OUTPUT, Family.SGD): f"steps grow with the width: {NO_MULTIPLIER}",
}
TOO_SMALL = {
    (Role.HIDDEN, Family.ADAM): "steps shrink with the width: the learning rate is divided by more "
    "than m_in, or by another axis",
    (Role.HIDDEN, Family.SGD): "steps shrink with the width: the learning rate must go as m_out / "
    "m_in, which is 1 if both are equal; it is divided by the width",
    (Role.OUTPUT, Family.SGD): "steps shrink with the width: the learning rate must be multiplied "
    "by m_in",
    (Role.INPUT, Family.SGD): "steps shrink with the width: the learning rate must be multiplied "
    "by m_out",
    (Role.VECTOR, Family.SGD): "steps shrink with the width: the learning rate must be multiplied "
    "by the ratio of the width",
}
DIVIDED = (
    "steps shrink with the width: the learning rate is divided as if this were a hidden weight; "
    "under Adam it is the target's own here"
)
GROWS = "steps grow with the width: the learning rate is too large for wide models here"


def cause_of(role: Role, start: float | None, step: float | None, family: Family) -> str:
    """Of a layer that failed, with finite values."""
    bound = bounds.STEP[family][role]
    if start is not None and start > bounds.START and role in START:
        return START[role]
    if step is None or bound.holds(step):
        return FOLLOWS
    if role is Role.LOGITS:
        return ATTENTION
    if step > bound.high:
        return TOO_LARGE.get((role, family), GROWS)
    return TOO_SMALL.get((role, family), DIVIDED)
