"""What kind each parameter of a model is to the rules: which of its axes takes, which gives, and
which of these are wide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from torch import nn

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate.axes import Axes
from hydro_hpc.surrogate.table import Kind

# (out, in) axes of a weight: convolutions transposed have them the other way round.
OUT_IN: Final = (0, 1)
IN_OUT: Final = (1, 0)
WEIGHTS: Final[tuple[tuple[tuple[type[nn.Module], ...], str, tuple[int, int]], ...]] = (
    ((nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d), "weight", OUT_IN),
    ((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), "weight", IN_OUT),
    ((nn.Embedding, nn.EmbeddingBag), "weight", IN_OUT),
    ((nn.RNNBase, nn.RNNCellBase), "weight_", OUT_IN),
    ((nn.MultiheadAttention,), "in_proj_weight", OUT_IN),
    ((nn.MultiheadAttention,), "q_proj_weight", OUT_IN),
    ((nn.MultiheadAttention,), "k_proj_weight", OUT_IN),
    ((nn.MultiheadAttention,), "v_proj_weight", OUT_IN),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a parameter is used: the path of its module, and its name there."""

    path: str
    module: nn.Module
    name: str

    @property
    def full_name(self) -> str:
        return f"{self.path}.{self.name}" if self.path else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """A parameter's kind, and the ratios that the rules take: 1 where there is no such axis."""

    kind: Kind
    m_in: float = 1.0
    m_out: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fans:
    """How many values a parameter's module takes for each that it gives, and the reverse, kernels
    counted: what initialisations go by. A bias has those of its weight.
    """

    into: int
    out: int


def fans_of(model: nn.Module) -> dict[str, Fans]:
    """By first name, of every parameter at its first place."""
    return {name: _fans_at(places[0]) for name, places in places_of(model).items()}


def _fans_at(place: Place) -> Fans:
    own = dict(place.module.named_parameters(recurse=False, remove_duplicate=False))
    weight = own.get(place.name.replace("bias", "weight"), own[place.name])
    layout = _out_in(replace(place, name=place.name.replace("bias", "weight")))
    if layout is None or weight.ndim < 2:
        return Fans(into=weight.numel(), out=weight.numel())
    out, into = layout
    kernel = weight.numel() // (weight.size(0) * weight.size(1))
    return Fans(into=weight.size(into) * kernel, out=weight.size(out) * kernel)


def scalings_of(model: nn.Module, axes: Mapping[str, Axes]) -> dict[str, Scaling]:
    """By first name, of every parameter. ShrinkError, with its name, if one is unclear."""
    found: dict[str, Scaling] = {}
    for name, places in places_of(model).items():
        each = [scaling_at(place, axes[name]) for place in places]
        found[name] = each[0] if len({*each}) == 1 else _tied(places, each)
    return found


def places_of(model: nn.Module) -> dict[str, list[Place]]:
    """By first name, all places of every parameter; a module that is used twice is one place."""
    first: dict[int, str] = {id(p): name for name, p in model.named_parameters()}
    places: dict[str, list[Place]] = {name: [] for name in first.values()}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            places[first[id(parameter)]].append(Place(path=path, module=module, name=name))
    return places


def scaling_at(place: Place, axes: Axes) -> Scaling:
    """What a parameter is by the module that it is of."""
    wide = [number for number, axis in enumerate(axes) if axis.is_wide]
    if not wide:
        return Scaling(kind=Kind.FIXED)
    of_weight = _out_in(place)
    if of_weight is None:
        if len(wide) > 1:
            raise ShrinkError(
                f"'{place.full_name}' has {len(wide)} axes that grow with the width, and which of "
                f"them takes and which gives cannot be told of {_class_of(place)}; use nn.Linear"
            )
        return Scaling(kind=Kind.VECTOR, m_out=axes[wide[0]].ratio)
    out, into = of_weight
    if beyond := [number for number in wide if number not in of_weight]:
        raise ShrinkError(
            f"axis {beyond[0]} of '{place.full_name}' grows with the width, which is no axis of "
            f"channels in {_class_of(place)}; let kernels keep their sizes"
        )
    if out not in wide:
        return Scaling(kind=Kind.OUTPUT, m_in=axes[into].ratio)
    if into not in wide:
        return Scaling(kind=Kind.INPUT, m_out=axes[out].ratio)
    return Scaling(kind=Kind.HIDDEN, m_in=axes[into].ratio, m_out=axes[out].ratio)


def _out_in(place: Place) -> tuple[int, int] | None:
    """The axes of a weight that give and take; None of what is no weight."""
    for classes, name, out_in in WEIGHTS:
        if isinstance(place.module, classes) and place.name.startswith(name):
            return out_in
    return None


def _tied(places: list[Place], each: list[Scaling]) -> Scaling:
    kinds = {scaling.kind for scaling in each}
    ratios = {scaling.m_in * scaling.m_out for scaling in each}
    if kinds == {Kind.INPUT, Kind.OUTPUT} and len(ratios) == 1:
        ratio = ratios.pop()
        return Scaling(kind=Kind.TIED, m_in=ratio, m_out=ratio)
    names = " and ".join(_both(places, each))
    raise ShrinkError(f"one parameter is {names}, and the rules of these differ; untie them")


def _both(places: list[Place], each: list[Scaling]) -> Iterator[str]:
    for place, scaling in zip(places, each, strict=True):
        yield f"the {scaling.kind.value} '{place.full_name}'"


def _class_of(place: Place) -> str:
    return type(place.module).__name__
