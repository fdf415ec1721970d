"""What kind each parameter is to the rules, by how a forward call uses it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import nn

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate.axes import Axes
from hydro_hpc.surrogate.kinds import Scaling
from hydro_hpc.surrogate.table import Kind
from hydro_hpc.surrogate.tracing.trace import Uses
from hydro_hpc.surrogate.tracing.uses import How, Use


def scalings_by_use(
    model: nn.Module, axes: Mapping[str, Axes], uses: Uses, multiplied: Iterable[str]
) -> dict[str, Scaling]:
    """By first name, of every parameter. `multiplied` are those whose layer's input can take a
    multiplier. ShrinkError, with the name, if a kind is unclear or no rule is known.
    """
    takes_multiplier = frozenset(multiplied)
    return {
        name: _scaling(name, axes[name], uses.get(name, frozenset()), name in takes_multiplier)
        for name, _ in model.named_parameters()
    }


def _scaling(name: str, axes: Axes, uses: frozenset[Use], takes_multiplier: bool) -> Scaling:
    wide = [number for number, axis in enumerate(axes) if axis.is_wide]
    if not wide or not uses:
        return Scaling(kind=Kind.FIXED)
    if any(use.how is How.COMPOSED for use in uses):
        raise ShrinkError(
            f"'{name}' is multiplied with another parameter before any input is, and how such a "
            "product scales with the width is not known; leave it out of what shrinks"
        )
    layers = {_of_layer(name, axes, use) for use in uses if use.how is not How.ELEMENTWISE}
    if not layers:
        return _of_vector(name, axes, wide)
    if len(layers) == 1:
        [scaling] = layers
        if scaling.kind is Kind.OUTPUT and not takes_multiplier:
            return replace(scaling, kind=Kind.FOLDED)
        return scaling
    return _tied(name, layers, takes_multiplier)


def _of_layer(name: str, axes: Axes, use: Use) -> Scaling:
    """Of one product or look-up."""
    if beyond := [n for n, a in enumerate(axes) if a.is_wide and n not in (use.into, use.out)]:
        if use.how is How.TABLE and use.out is None and len(beyond) == 1:
            return Scaling(kind=Kind.INPUT, m_out=axes[beyond[0]].ratio)
        raise ShrinkError(
            f"axis {beyond[0]} of '{name}' grows with the width, and the product that it is used "
            "in neither takes nor gives it; let it keep its size"
        )
    m_in = axes[use.into].ratio if use.into is not None and axes[use.into].is_wide else None
    m_out = axes[use.out].ratio if use.out is not None and axes[use.out].is_wide else None
    if m_out is None:
        return Scaling(kind=Kind.FIXED if m_in is None else Kind.OUTPUT, m_in=m_in or 1.0)
    return Scaling(kind=Kind.INPUT if m_in is None else Kind.HIDDEN, m_in=m_in or 1.0, m_out=m_out)


def _of_vector(name: str, axes: Axes, wide: list[int]) -> Scaling:
    if len(wide) > 1:
        raise ShrinkError(
            f"'{name}' has {len(wide)} axes that grow with the width, and is used elementwise: how "
            "it scales is not known; use it in a layer such as nn.Linear"
        )
    return Scaling(kind=Kind.VECTOR, m_out=axes[wide[0]].ratio)


def _tied(name: str, layers: set[Scaling], takes_multiplier: bool) -> Scaling:
    ratios = {scaling.m_in * scaling.m_out for scaling in layers}
    if {scaling.kind for scaling in layers} != {Kind.INPUT, Kind.OUTPUT} or len(ratios) != 1:
        kinds = " and ".join(sorted(scaling.kind.value for scaling in layers))
        raise ShrinkError(f"'{name}' is {kinds}, and the rules of these differ; untie them")
    if not takes_multiplier:
        raise ShrinkError(
            f"'{name}' is an embedding and a readout at once, and the readout is no layer whose "
            "input could be multiplied: make it an nn.Linear without bias that shares the weight"
        )
    ratio = ratios.pop()
    return Scaling(kind=Kind.TIED, m_in=ratio, m_out=ratio)
