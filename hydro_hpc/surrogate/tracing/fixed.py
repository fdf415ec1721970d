"""Weights that are not trained: buffers that activations are multiplied with over the width, as of
a reservoir or of random features. Their values spread as those of a trained weight at its start.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from torch import Tensor, nn

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate.axes import Axes, Axis
from hydro_hpc.surrogate.fans import Fans
from hydro_hpc.surrogate.initial import FixedWeight, laws
from hydro_hpc.surrogate.kinds import Scaling
from hydro_hpc.surrogate.table import Kind
from hydro_hpc.surrogate.tracing.uses import How, Use

TAKES_WIDTH: Final = (Kind.HIDDEN, Kind.BARE_OUTPUT)
ONE: Final = Axis(target=1, size=1, is_wide=False)
WAY_OUT: Final = (
    "make it a parameter with requires_grad=False, and say in uses= which of its axes gives and "
    "which takes"
)


def fixed_weights(
    seen: Mapping[str, Collection[Use]], axes: Mapping[str, Axes]
) -> dict[str, FixedWeight]:
    """By the name of a buffer, from what a call makes of each. ShrinkError if one is used in ways
    for which there is no rule.
    """
    found: dict[str, FixedWeight] = {}
    for name, uses in seen.items():
        products = {use for use in uses if use.how is How.PRODUCT}
        if not products or not any(axis.is_wide for axis in axes[name]):
            continue
        each = {_weight(name, use, axes[name]) for use in products}
        is_weight = any(weight.scaling.kind in TAKES_WIDTH for weight in each)
        if is_weight and (len(each) > 1 or _is_used_besides(uses)):
            raise ShrinkError(
                f"'{name}' is a buffer that activations are multiplied with over the width, and "
                "that is used in other ways too, whose rules differ: let each use have a buffer "
                "of its own"
            )
        if len(each) == 1:
            found |= dict.fromkeys([name], each.pop())
    return found


def said_of_fixed(fixed: Mapping[str, FixedWeight]) -> Iterator[str]:
    """A sentence for each that takes the width."""
    for name, weight in fixed.items():
        if weight.scaling.kind in TAKES_WIDTH:
            yield (
                f"'{name}' is a buffer that activations are multiplied with over the width: its "
                "values spread as those of a weight that is not trained"
            )


def said_of_unfollowed(model: nn.Module, axes: Mapping[str, Axes]) -> Iterator[str]:
    """A sentence for each buffer that may be a weight of the width, where no call shows it."""
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point() and sum(axis.is_wide for axis in axes[name]) > 1:
            yield (
                f"'{name}' is a buffer, and its values stay as they are, since the call could not "
                f"be followed: if activations are multiplied with it over the width, {WAY_OUT}"
            )


def said_of_unregistered(target: nn.Module, narrow: nn.Module) -> Iterator[str]:
    """A sentence for each tensor of two axes of the width that a module keeps as no buffer."""
    modules = dict(narrow.named_modules())
    for path, module in target.named_modules():
        for key, wide in vars(module).items():
            small = vars(modules[path]).get(key) if path in modules else None
            if isinstance(wide, Tensor) and isinstance(small, Tensor) and wide.ndim == small.ndim:
                pairs = zip(wide.shape, small.shape, strict=True)
                if wide.is_leaf and sum(one != other for one, other in pairs) > 1:
                    name = f"{path}.{key}".lstrip(".")
                    yield (
                        f"'{name}' is a tensor that is no buffer, and its values stay as they are: "
                        "if activations are multiplied with it over the width, keep it by "
                        "register_buffer, so that this can be seen"
                    )


def _weight(name: str, use: Use, axes: Axes) -> FixedWeight:
    if use.into is None and use.out is None:
        raise ShrinkError(
            f"'{name}' is a buffer that is multiplied with after its axes were joined with others'"
            ", so whether that is over the width is not known: multiply with it as it is, or "
            f"{WAY_OUT}"
        )
    out, into = (ONE if number is None else axes[number] for number in (use.out, use.into))
    wide, narrow = (
        Fans(into=taken, out=given, default=0)
        for taken, given in ((into.target, out.target), (into.size, out.size))
    )
    return FixedWeight(scaling=_scaling(out, into), laws=laws(wide, narrow))


def _scaling(out: Axis, into: Axis) -> Scaling:
    if into.is_wide and out.is_wide:
        return Scaling(kind=Kind.HIDDEN, m_in=into.ratio, m_out=out.ratio)
    if into.is_wide:
        return Scaling(kind=Kind.BARE_OUTPUT, m_in=into.ratio)
    if out.is_wide:
        return Scaling(kind=Kind.INPUT, m_out=out.ratio)
    return Scaling(kind=Kind.FIXED)


def _is_used_besides(uses: Collection[Use]) -> bool:
    """A product that is a sum of single ones uses it value by value."""
    is_sum = all(use.out is None for use in uses if use.how is How.PRODUCT)
    others = {use.how for use in uses} - {How.PRODUCT}
    return bool(others - ({How.ELEMENTWISE} if is_sum else set()))
