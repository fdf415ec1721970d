"""Parameters that no rule of the table is for, each with what to do about it."""

from __future__ import annotations

import itertools
from collections.abc import Collection

from torch import nn

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate.axes import Axes, Axis
from hydro_hpc.surrogate.layouts import (
    CONVOLUTIONS,
    RECURRENT,
    TABLES,
    TRANSPOSED,
    Place,
    places_of,
)
from hydro_hpc.surrogate.table import Kind
from hydro_hpc.surrogate.weight_norm import Part


def refuse_beyond(place: Place, wide: list[int]) -> None:
    if isinstance(place.module, nn.Bilinear):
        if {1, 2} <= {*wide}:
            raise ShrinkError(
                f"both inputs of '{place.path}' grow with the width, and for a product of two wide "
                "inputs there is no rule; keep the size of one, of a model itself by keep= and "
                "the name of what gives it"
            )
        return
    if width_along_kernel(place, wide) is not None:
        return
    out_in = place.out_in or ()
    if beyond := [number for number in wide if number not in out_in]:
        raise ShrinkError(
            f"axis {beyond[0]} of '{place.full_name}' grows with the width, which is no axis of "
            f"channels in {place.class_name}; let kernels keep their sizes"
        )
    if isinstance(place.module, TABLES) and 0 in wide:
        raise ShrinkError(
            f"'{place.full_name}' has more rows at another width, and tokens must stay as many; "
            "let the width change the size of each row alone"
        )


def width_along_kernel(place: Place, wide: list[int]) -> int | None:
    """The axis of a convolution's kernel that the width lies along, as where words are rows of an
    image; then that is what it takes. None if channels are wide too, or no axis is.
    """
    along = [number for number in wide if number > 1]
    is_image = isinstance(place.module, CONVOLUTIONS) and 1 not in wide
    return along[0] if is_image and len(along) == 1 else None


def refuse_known(uses: Collection[str], model: nn.Module) -> None:
    """Of what `uses=` says of a layer's weight."""
    for place in itertools.chain.from_iterable(places_of(model).values()):
        if place.full_name in uses and place.out_in is not None:
            raise ShrinkError(
                f"'{place.full_name}' in uses= is the weight of a layer, {place.class_name}, whose "
                "use is known: uses= is of raw parameters; take it out"
            )


def refuse_parametrized(place: Place) -> None:
    """Of what a weight is computed from in a way that no rule is for."""
    if place.source is not None and place.source.part is Part.UNKNOWN:
        raise ShrinkError(
            f"'{place.path}' computes its '{place.source.weight}' from '{place.full_name}', and "
            "how that scales with the width is not known: of parametrizations there are rules for "
            "weight norm along axis 0 alone; take it off, or, in a function of the width, keep "
            "that layer's sizes"
        )


def refuse_unmultiplied(place: Place) -> None:
    """An output weight needs a multiplier on what it takes, and only there."""
    if place.source is not None:
        raise ShrinkError(
            f"'{place.full_name}' is of a layer that leads out of the width and has weight norm, "
            "for which there is no rule; take the weight norm off that layer"
        )
    layers = (nn.Linear, nn.Bilinear, *CONVOLUTIONS, *TRANSPOSED)
    is_first = isinstance(place.module, RECURRENT) and place.name.startswith("weight_ih")
    if not is_first and not isinstance(place.module, layers):
        raise ShrinkError(
            f"'{place.full_name}' leads from the width to a size that stays, inside of "
            f"{place.class_name}, where what it takes cannot be multiplied; let that size grow too"
        )


def refuse_bypassed(places: list[Place], kind: Kind) -> None:
    """Of what is a factor of a product in the model's own code, where no layer takes the input."""
    layers = [place for place in places if place.is_of_torch]
    if layers and all(isinstance(place.module, TABLES) for place in places):
        raise ShrinkError(
            f"'{places[0].full_name}' is an embedding and a readout at once, and the readout is no "
            "layer whose input could be multiplied: make it an nn.Linear without bias that shares "
            "the weight"
        )
    if layers and kind in (Kind.OUTPUT, Kind.TIED):
        place = next(place for place in layers if not isinstance(place.module, TABLES))
        raise ShrinkError(
            f"'{place.full_name}' leads out of the width, and the model's code multiplies with it "
            f"beside its layer, whose input is what a surrogate multiplies; call '{place.path}'"
        )


def refuse_uncalled(path: str) -> None:
    """Of a layer whose input is multiplied, by a hook that runs where the layer is called."""
    is_name = all(part.isidentifier() for part in path.split("."))
    raise ShrinkError(
        f"'{path}' leads out of the width, and a surrogate multiplies what it takes where it is "
        "called, but the model uses its weight or its forward() without a call: call it as "
        f"{f'self.{path}' if is_name else 'layer'}(x)"
    )


def refuse_empty(place: Place, number: int, axis: Axis) -> None:
    if not axis.size or not axis.target:
        raise ShrinkError(
            f"axis {number} of '{place.full_name}' has {axis.size} values left of {axis.target}; "
            "take a larger width"
        )


def refuse_single(place: Place, axes: Axes) -> None:
    """One unit is no layer. Groups of one channel are, where groups stay as many."""
    is_grouped = int(getattr(place.module, "groups", 1)) > 1
    for number in place.out_in or ():
        axis = axes[number]
        if axis.is_wide and axis.size == 1 < axis.target and not is_grouped:
            raise ShrinkError(
                f"axis {number} of '{place.full_name}' has 1 value left of {axis.target}, with "
                "which nothing is learned as by its target; take a larger width"
            )
