"""How raw parameters are used, which no module of torch says: as a forward call shows."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate.expressions import Use
from hydro_hpc.surrogate.layouts import TABLES, Place, RawUse, Uses, places_of
from hydro_hpc.surrogate.reading import CodeUses
from hydro_hpc.surrogate.refusals import refuse_bypassed
from hydro_hpc.surrogate.table import Kind
from hydro_hpc.surrogate.tracing.trace import Trace
from hydro_hpc.surrogate.tracing.uses import How


def raw_uses(model: nn.Module, seen: Trace, *, said: Uses | None = None) -> Uses:
    """By full name, of parameters that are of no layer of torch's, but for those of which it is
    `said`. ShrinkError if one is used in ways for which there is no rule.
    """
    said = said or {}
    return {**dict(_raw_uses(model, seen, said)), **said}


def _raw_uses(model: nn.Module, seen: Trace, said: Uses) -> Iterator[tuple[str, RawUse | None]]:
    code = CodeUses(model)
    for name, places in places_of(model).items():
        uses = seen.uses.get(name, frozenset())
        is_multiplied = any(use.how is How.PRODUCT and use.into != 0 for use in uses)
        if is_multiplied and _are_tables(places):  # but for sums of rows, as over a graph's nodes
            refuse_bypassed(places, Kind.INPUT)
        for place in places:
            is_open = not place.is_of_torch and place.source is None and place.full_name not in said
            if not is_open or not uses or model.get_parameter(name).numel() == 1:
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
                if into is None and out is None:
                    raise ShrinkError(
                        f"'{name}' is multiplied after its axes were joined with others', so which "
                        "of them gives and which takes is not known; let it have these axes, or "
                        "say it as "
                        f"uses={{'{place.full_name}': (axis that gives, axis that takes)}}"
                    )
                yield place.full_name, None if into is None else (out, into)
            if not found and code.of(model.get_parameter(name)) is not Use.CONTRACTED:
                yield place.full_name, None


def _are_tables(places: list[Place]) -> bool:
    return all(isinstance(place.module, TABLES) for place in places)
