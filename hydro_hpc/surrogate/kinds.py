"""What kind each parameter of a model is to the rules: which of its axes takes, which gives, and
which of these are wide.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate.axes import Axes, Axis
from hydro_hpc.surrogate.expressions import Use
from hydro_hpc.surrogate.layouts import TABLES, TRANSPOSED, OutIn, Place, RawUse, Uses, places_of
from hydro_hpc.surrogate.reading import CodeUses
from hydro_hpc.surrogate.refusals import (
    refuse_beyond,
    refuse_bypassed,
    refuse_empty,
    refuse_known,
    refuse_parametrized,
    refuse_single,
    refuse_uncalled,
    refuse_unmultiplied,
    width_along_kernel,
)
from hydro_hpc.surrogate.table import TABLE, Kind
from hydro_hpc.surrogate.weight_norm import Part


class UnclearUseError(ShrinkError):
    """How a parameter is used shows in a call, and was not seen in the model's code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """A parameter's kind, and the ratios that the rules take: 1 where there is no such axis."""

    kind: Kind
    m_in: float = 1.0
    m_out: float = 1.0


def scalings_of(
    model: nn.Module,
    axes: Mapping[str, Axes],
    *,
    target: nn.Module | None = None,
    uses: Uses | None = None,
    shown: Collection[str] = (),
) -> dict[str, Scaling]:
    """By first name, of every parameter. ShrinkError, with its name, if one is unclear. `uses` says
    of raw parameters how they are used; of `target` come the groups of transposed convolutions. Of
    tables that are `shown` in a call it is known that their rows are not multiplied over the width.
    """
    uses, code = uses or {}, CodeUses(model)
    named = {place.full_name for places in places_of(model).values() for place in places}
    if unknown := sorted(uses.keys() - named):
        raise ShrinkError(f"'{unknown[0]}' in uses= is no parameter of the model; correct its name")
    refuse_known(uses, model)
    found: dict[str, Scaling] = {}
    for name, places in places_of(model).items():
        parameter = model.get_parameter(name)
        if target is not None:
            _refuse_computed_wide(places, target)
        each = [
            _raw(place, axes[name], uses[place.full_name])
            if place.full_name in uses
            else scaling_of(place, axes[name], target=target, use=code.of(parameter))
            for place in places
        ]
        found[name] = each[0] if len({*each}) == 1 else _tied(places, each)
        is_known = name in shown and all(place.is_table for place in places)
        if Use.CONTRACTED in code.beside(parameter) and not is_known:
            refuse_bypassed(places, found[name].kind)
        for place in places:
            is_multiplied = found[name].kind in (Kind.OUTPUT, Kind.TIED)
            is_layer = place.is_of_torch and not isinstance(place.module, TABLES)
            if is_multiplied and is_layer and code.calls_forward_of(place.module):
                refuse_uncalled(place.path)
    return found


def _refuse_computed_wide(places: list[Place], target: nn.Module) -> None:
    """Of a parameter that stays as it is, though the weight that is computed from it does not."""
    for place in places:
        if place.source is not None and place.source.part is Part.UNKNOWN:
            models = (place.module, target.get_submodule(place.path))
            narrow, wide = (getattr(module, place.source.weight).shape for module in models)
            if narrow != wide:
                refuse_parametrized(place)


def input_multipliers(model: nn.Module, rules: Mapping[str, Scaling]) -> dict[str, float]:
    """By module path, what the first input of a layer is multiplied with; those with 1 are not in
    it.
    """
    layers = multiplied_layers(model, rules)
    return {path: _input_factor(rules[name]) for name, paths in layers.items() for path in paths}


def multiplied_layers(model: nn.Module, rules: Mapping[str, Scaling]) -> dict[str, list[str]]:
    """The paths of layers whose first input is multiplied, by the name of the weight for which."""
    return {
        name: [place.path for place in places if not isinstance(place.module, TABLES)]
        for name, places in places_of(model).items()
        if _input_factor(rules[name]) != 1.0
    }


def _input_factor(scaling: Scaling) -> float:
    return TABLE[scaling.kind].in_mult.of(scaling.m_in, scaling.m_out)


def scaling_of(
    place: Place, axes: Axes, *, target: nn.Module | None = None, use: Use = Use.UNSEEN
) -> Scaling:
    """What a parameter is by the module that it is of, and by that of the target; a raw one also by
    the `use` that the code makes of it.
    """
    if isinstance(place.module, TRANSPOSED) and place.out_in is not None:
        before = place.module if target is None else target.get_submodule(place.path)
        return _transposed(place, axes, int(getattr(before, "groups")))  # noqa: B009
    return scaling_at(place, axes, use)


def scaling_at(place: Place, axes: Axes, use: Use = Use.UNSEEN) -> Scaling:
    """The same, of what is no transposed convolution in groups."""
    wide = [number for number, axis in enumerate(axes) if axis.is_wide]
    for number in wide:
        refuse_empty(place, number, axes[number])
    if not wide:
        return Scaling(kind=Kind.FIXED)
    refuse_parametrized(place)
    if place.out_in is None:
        return _elementwise(place, axes, wide, use)
    refuse_beyond(place, wide)
    found = _weight(_out_in(place, wide), axes)
    if found.kind is Kind.OUTPUT:
        refuse_unmultiplied(place)
    refuse_single(place, axes)
    return found


def _weight(out_in: OutIn, axes: Axes) -> Scaling:
    out, into = (axes[number] for number in out_in)
    if not out.is_wide and not into.is_wide:
        return Scaling(kind=Kind.FIXED)
    if not out.is_wide:
        return Scaling(kind=Kind.OUTPUT, m_in=into.ratio)
    if not into.is_wide:
        return Scaling(kind=Kind.INPUT, m_out=out.ratio)
    return Scaling(kind=Kind.HIDDEN, m_in=into.ratio, m_out=out.ratio)


def _elementwise(place: Place, axes: Axes, wide: list[int], use: Use) -> Scaling:
    """Of what is added or multiplied value by value. A product with a raw parameter of several long
    axes may be summed over by what comes after it.
    """
    is_long = sum(axis.target > 1 for axis in axes) > 1
    if place.is_of_torch or place.source:
        use = Use.ADDED
    if use is Use.CONTRACTED and not is_long:
        raise ShrinkError(
            f"'{place.full_name}' of {place.class_name} is a factor of a product that sums over "
            "the width, where nothing can be multiplied; use nn.Linear(width, 1, bias=False)"
        )
    if use is not Use.ADDED and (is_long or use is not Use.SCALED):
        weight = "(axis that gives, axis that takes) if it is a weight"
        raise UnclearUseError(
            f"how '{place.full_name}' of {place.class_name} is used cannot be told from its shape "
            f"({[axis.target for axis in axes]}): give example=, a batch that shows it, or uses={{"
            f"'{place.full_name}': None}} if it is only added or multiplied value by value (as "
            f"positions are), or as {weight if is_long else '(None, axis that is summed over)'}"
        )
    return _vector([axes[number] for number in wide])


def _vector(wide: list[Axis]) -> Scaling:
    """Its values are as many as all its wide axes say: a gradient of one is as small as that."""
    ratio = 1.0
    for axis in wide:
        ratio *= axis.ratio
    return Scaling(kind=Kind.VECTOR, m_out=ratio)


def _raw(place: Place, axes: Axes, use: RawUse | None) -> Scaling:
    """A parameter whose use was said; none of a layer, so no input of its can be multiplied."""
    wide = [number for number, axis in enumerate(axes) if axis.is_wide]
    if not wide:
        return Scaling(kind=Kind.FIXED)
    if use is None:
        return _vector([axes[number] for number in wide])
    out, into = use
    if out is None and wide == [into]:
        return Scaling(kind=Kind.BARE_OUTPUT, m_in=axes[into].ratio)
    if out is None or not {*use} <= {*range(len(axes))} or not {*wide} <= {*use} or len({*use}) < 2:
        raise ShrinkError(
            f"'{place.full_name}' has axes {wide} that grow with the width, of {len(axes)}, so its "
            f"axes that give and take are not {tuple(use)} alone: say others as uses={{"
            f"'{place.full_name}': (axis that gives, axis that takes)}}, or let only two of its "
            "axes grow"
        )
    found = _weight((out, into), axes)
    is_output = found.kind is Kind.OUTPUT
    return Scaling(kind=Kind.BARE_OUTPUT, m_in=found.m_in) if is_output else found


def _transposed(place: Place, axes: Axes, groups_before: int) -> Scaling:
    """A transposed convolution's weight is (in, out / groups, kernel): groups that grow with the
    width leave as many inputs to each output as there were.
    """
    groups = int(getattr(place.module, "groups"))  # noqa: B009
    is_depthwise = 1 < groups == axes[0].size
    if groups == groups_before and not is_depthwise:
        return scaling_at(place, axes)
    for number in (number for number, axis in enumerate(axes) if axis.is_wide):
        refuse_beyond(place, [number])
    given, taken = axes[1], axes[0]
    into = Axis(
        target=taken.target // groups_before,
        size=taken.size // groups,
        is_wide=taken.is_wide and taken.target * groups != taken.size * groups_before,
    )
    out = Axis(
        target=given.target * groups_before,
        size=given.size * groups,
        is_wide=given.is_wide or taken.is_wide,
    )
    return _weight((1, 0), (into, out))


def _out_in(place: Place, wide: list[int]) -> OutIn:
    assert place.out_in is not None
    is_second = isinstance(place.module, nn.Bilinear) and 2 in wide and 1 not in wide
    along = width_along_kernel(place, wide)
    if along is not None:
        return (0, along)
    return (0, 2) if is_second else place.out_in


def _tied(places: list[Place], each: list[Scaling]) -> Scaling:
    kinds = {scaling.kind for scaling in each}
    ratios = {scaling.m_in * scaling.m_out for scaling in each}
    are_tables = all(
        isinstance(place.module, TABLES)
        for place, scaling in zip(places, each, strict=True)
        if scaling.kind is Kind.INPUT
    )
    if kinds == {Kind.INPUT, Kind.OUTPUT} and len(ratios) == 1 and are_tables:
        ratio = ratios.pop()
        return Scaling(kind=Kind.TIED, m_in=ratio, m_out=ratio)
    names = " and ".join(_both(places, each))
    raise ShrinkError(f"one parameter is {names}, and the rules of these differ; untie them")


def _both(places: list[Place], each: list[Scaling]) -> Iterator[str]:
    for place, scaling in zip(places, each, strict=True):
        yield f"the {scaling.kind.value} '{place.full_name}'"
