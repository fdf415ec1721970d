"""Clipping of gradients, as a study's space asks for it: `clip_norm` or `clip_value`, per trial."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

from torch import nn

from hydro_hpc.errors import StudyError
from hydro_hpc.fusion import Bundle
from hydro_hpc.optim import clip_grad_norm_, clip_grad_value_
from hydro_hpc.study.space import Params, extremes, is_too_large, shortly

ClipName = Literal["clip_norm", "clip_value"]

CLIPS: Final[tuple[ClipName, ...]] = ("clip_norm", "clip_value")


def clip_name(space: Mapping[str, Any]) -> ClipName | None:
    """Returns which of the two a space names, None if neither. Raises StudyError if both, or if
    one may be what no limit is.
    """
    named = [name for name in CLIPS if name in space]
    if not named:
        return None
    if len(named) > 1:
        raise StudyError("the space names both 'clip_norm' and 'clip_value'; keep one")
    [name] = named
    for value in extremes(space[name]):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (is_number and value > 0):
            raise StudyError(
                f"{name}={shortly(value)} is in the space; it must be above 0, or None: off"
            )
        if is_too_large(value):
            raise StudyError(f"{name} is {shortly(value)} in the space; give None: off")
    return name


def limit_of(name: ClipName, params: Params) -> float:
    """Returns a trial's limit, infinite where it has none."""
    limit = params[name]
    return math.inf if limit is None else float(limit)


def clip_model(name: ClipName, model: nn.Module, limit: float) -> None:
    """Clips the gradients of one model, by torch."""
    if limit == math.inf:
        return
    if name == "clip_norm":
        nn.utils.clip_grad_norm_(model.parameters(), limit)
    else:
        nn.utils.clip_grad_value_(model.parameters(), limit)


def clip_bundle(
    name: ClipName, bundle: Bundle, limits: Sequence[float], between: Callable[[], None]
) -> None:
    """The same in every slot; `between` is called where this may pause."""
    if name == "clip_norm":
        clip_grad_norm_(bundle, limits, between=between)
    else:
        clip_grad_value_(bundle, limits, between=between)
