"""How raw parameters are used, which no module of torch says: as a forward call shows."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate.layouts import TABLES, Place, RawUse, Uses, places_of
from hydro_hpc.surrogate.reading import Use, use_of
from hydro_hpc.surrogate.tracing.trace import Trace
from hydro_hpc.surrogate.tracing.uses import How
from hydro_hpc.surrogate.tracing.uses import Use as SeenUse


def raw_uses(model: nn.Module, seen: Trace) -> Uses:
    """By full name, of parameters that are of no layer of torch's. ShrinkError if one is used in
    ways for which there is no rule.
    """
    return dict(_raw_uses(model, seen))


def _raw_uses(model: nn.Module, seen: Trace) -> Iterator[tuple[str, RawUse | None]]:
    for name, places in places_of(model).items():
        uses = seen.uses.get(name, frozenset())
        _refuse_bare_tie(places, uses)
        for place in places:
            if place.is_of_torch or place.source is not None or not uses:
                continue
            if any(use.how is How.COMPOSED for use in uses):
                raise ShrinkError(
                    f"'{name}' is multiplied with another parameter before any input is, and how "
                    "such a product scales with the width is not known; multiply the input with "
                    "one after the other"
                )
            products = {use for use in uses if use.how is How.PRODUCT}
            found = {(use.out, use.into) for use in products}
            if len(found) > 1:
                raise ShrinkError(
                    f"'{name}' is used in products that take and give different axes of it, and "
                    "their rules differ; let each product have a parameter of its own"
                )
            for out, into in found:
                if into is not None:
                    yield place.full_name, (out, into)
            if not found and use_of(place.module, place.name) is not Use.CONTRACTED:
                yield place.full_name, None


def _refuse_bare_tie(places: list[Place], uses: frozenset[SeenUse]) -> None:
    """A table that is also a factor of a product, where no layer takes the product's input."""
    is_table = all(isinstance(place.module, TABLES) for place in places)
    if is_table and any(use.how is How.PRODUCT for use in uses):
        raise ShrinkError(
            f"'{places[0].full_name}' is an embedding and a readout at once, and the readout is no "
            "layer whose input could be multiplied: make it an nn.Linear without bias that shares "
            "the weight"
        )
