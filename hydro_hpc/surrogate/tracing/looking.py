"""What a call of the target and one of its surrogate show beside the rules of parameters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from torch import nn

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate.kinds import Scaling, multiplied_layers
from hydro_hpc.surrogate.refusals import refuse_uncalled
from hydro_hpc.surrogate.tracing.attention import findings_of
from hydro_hpc.surrogate.tracing.calling import FailedCallError, at_line, said_by_line, said_of
from hydro_hpc.surrogate.tracing.probe import Scale, Seen, seen_in
from hydro_hpc.surrogate.tracing.products import TOLERANCE, ProductFinding, paired
from hydro_hpc.surrogate.tracing.squares import sentence


def look_at(
    target: nn.Module, narrow: nn.Module, rules: Mapping[str, Scaling], example: Any
) -> tuple[str, ...]:
    """What could not be told and what may be wrong, a sentence each. ShrinkError, with the module,
    if a layer whose input is multiplied is not called, or a parameter's own factor or that of a
    product of activations is not the surrogate's to have. Neither model is changed, nor torch's
    random state.
    """
    layers = multiplied_layers(narrow, rules)
    wide = _called(target, example, {}, is_target=True)
    small = _called(narrow, example, layers, is_target=False)
    for name in small.beside:
        refuse_uncalled(layers[name][0])
    _refuse_factors(wide.factors, small.factors)
    attention = findings_of(wide, small)
    products = [
        ProductFinding(target=one, narrow=other)
        for one, other in paired(wide.products, small.products)
        if one.size != other.size
    ]
    for finding in (*attention, *products):
        if finding.is_told and not finding.is_right:
            raise ShrinkError(finding.sentence)
    untold = (finding.sentence for finding in (*attention, *products) if not finding.is_told)
    scales = _differing(wide.scales, small.scales)
    squares = [
        sentence(one, other)
        for one, other in paired(wide.squares, small.squares)
        if not math.isclose(one.growth, other.growth, rel_tol=TOLERANCE)
    ]
    return (*dict.fromkeys(untold), *dict.fromkeys(scales), *dict.fromkeys(squares))


def _refuse_factors(wide: Mapping[str, float], narrow: Mapping[str, float]) -> None:
    """ShrinkError if plain numbers that multiply a parameter follow the width."""
    for name in wide.keys() & narrow.keys():
        if not math.isclose(wide[name], narrow[name], rel_tol=TOLERANCE):
            raise ShrinkError(
                f"the model multiplies '{name}' by {wide[name]:.4g} at the target's width and by "
                f"{narrow[name]:.4g} at the surrogate's before it is used, and the rules, which "
                "are about its own values, want the same: compute it from the target's width, or "
                "give the model itself, with by= and example="
            )


def _called(
    model: nn.Module, example: Any, watched: Mapping[str, Sequence[str]], *, is_target: bool
) -> Seen:
    try:
        with said_by_line(model, example) if is_target else nullcontext():
            return seen_in(model, example, watched=watched)
    except ShrinkError as error:
        raise FailedCallError(str(error)) from error
    except Exception as error:  # the user's code at another width
        raise FailedCallError(
            f"the surrogate fails{at_line(error)} in a call on the example ({said_of(error)}), and "
            "the target does not: let the model compute from its width what depends on it"
        ) from error


def _differing(wide: Sequence[Scale], narrow: Sequence[Scale]) -> Iterator[str]:
    for giver in dict.fromkeys(scale.giver for scale in wide):
        own = [scale.factor for scale in wide if scale.giver == giver]
        others = [scale.factor for scale in narrow if scale.giver == giver]
        if len(own) != len(others):
            continue  # the widths' calls are not alike
        for factor, other in zip(own, others, strict=True):
            if not math.isclose(factor, other, rel_tol=TOLERANCE):
                what = f"what '{giver}' gives" if giver else "an activation in its own forward"
                yield (
                    f"the model multiplies {what} by {factor:.4g} at the target's width and by "
                    f"{other:.4g} at the surrogate's, and the rules want the same: compute it from "
                    "the target's width"
                )
