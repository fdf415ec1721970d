"""What initialisations go by: how many values a layer takes and gives."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from hydro_hpc.surrogate.layouts import RECURRENT, TABLES, Place, Uses, places_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Fans:
    """How many values a parameter's module takes for each that it gives, and the reverse, kernels
    counted. A bias has those of its weight. `default` is what torch's own initialisation of the
    module goes by, one over its root being the spread; 0 where torch has none.
    """

    into: int
    out: int
    default: int


def fans_of(model: nn.Module, uses: Uses | None = None) -> dict[str, Fans]:
    """By first name, of every parameter at its first place; `uses` are those of raw ones."""
    return {name: _fans_at(places[0], uses or {}) for name, places in places_of(model).items()}


def _fans_at(place: Place, uses: Uses) -> Fans:
    own = dict(place.module.named_parameters(remove_duplicate=False))
    weight: Tensor = own[place.name]
    layout = place.out_in
    beside = replace(place, name=place.name.replace("bias", "weight"))
    other = getattr(place.module, beside.name, None)  # not a parameter if it is computed from some
    if layout is None and beside.out_in is not None and isinstance(other, Tensor):
        weight, layout = other, beside.out_in
    if not weight.numel():
        return Fans(into=1, out=1, default=0)
    use = uses.get(place.full_name)
    if layout is None and use is not None and use[0] is not None and weight.ndim > 1:
        given, taken = weight.size(use[0]), weight.size(use[1])
        return Fans(into=taken, out=given, default=0)
    if layout is None or weight.ndim < 2:
        return Fans(into=weight.numel(), out=weight.numel(), default=0)
    out, into = layout
    kernel = weight.numel() // (weight.size(0) * weight.size(1))
    return Fans(
        into=weight.size(into) * kernel,
        out=weight.size(out) * kernel,
        default=_default(place.module, weight, kernel),
    )


def _default(module: nn.Module, weight: Tensor, kernel: int) -> int:
    if isinstance(module, RECURRENT):
        return int(module.hidden_size)
    if isinstance(module, TABLES):
        return 1
    if isinstance(module, nn.MultiheadAttention):
        return weight.size(0) + weight.size(1)
    if isinstance(module, nn.Bilinear):
        return weight.size(1)
    return weight.size(1) * kernel  # also of transposed convolutions, where it is what they give
