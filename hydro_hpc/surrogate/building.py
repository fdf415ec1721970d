"""The models that a factory builds, at the widths and in the draws that shrinking needs.

What it draws beside the surrogate itself comes from streams of its own, and is the same each time:
so all trials of a study get the same rules, and the surrogate's values are the user's draws.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from hydro_hpc.errors import HydroError, ShrinkError
from hydro_hpc.nn.randomness import trial_stream
from hydro_hpc.surrogate.axes import Axes, compare, shapes_of
from hydro_hpc.surrogate.initial import Pair
from hydro_hpc.surrogate.layouts import places_of
from hydro_hpc.surrogate.width import NO_WIDTH, width_of

Factory = Callable[..., nn.Module]  # called with nothing it gives the target, else width=
MAX_DRAWS: Final = 8  # of each width, beside the first
FEW_VALUES: Final = (
    4  # a pattern of so many, as of an identity or of a gate's biases, is no training
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Builds:
    """`narrow` is the surrogate to be. `other` has a third width; None if the factory has none."""

    target: nn.Module
    narrow: nn.Module
    other: nn.Module | None
    again: nn.Module | None  # the target of another seed; None if the factory seeds by itself
    more: Iterator[Pair]  # further draws, made when they are asked for


def build(factory: Factory, width: int) -> Builds:
    """ShrinkError, with the width, if the factory cannot build a model that can be shrunk."""
    own = target_width(factory)
    _check_width(width)
    narrow = _built(factory, width)
    with trial_stream(0, 0):
        target = _built(factory, None)
        state = torch.get_rng_state()
    _refuse_shared(target, narrow)
    other = _another(factory, width, own)
    draws = _Draws(factory, width)
    first = draws.next()
    if torch.equal(state, draws.state_after_target):
        return Builds(target=target, narrow=narrow, other=other, again=None, more=iter(()))
    more = itertools.chain([first], draws.rest())
    return Builds(target=target, narrow=narrow, other=other, again=first[0], more=more)


def axes_of(builds: Builds) -> dict[str, Axes]:
    """Of the narrow model's parameters and buffers. ShrinkError if none grows with the width."""
    target, narrow = shapes_of(builds.target), shapes_of(builds.narrow)
    axes = compare(target, narrow, target if builds.other is None else shapes_of(builds.other))
    if not any(axis.is_wide for name, _ in builds.narrow.named_parameters() for axis in axes[name]):
        raise ShrinkError(
            "no width was found: the factory builds parameters of the same sizes whatever width= "
            "it gets; let it use its argument"
        )
    return axes


def has_width(factory: Factory) -> bool:
    """Says whether it builds by an argument `width`. ShrinkError if that has no default."""
    return width_of(factory) is not None


def target_width(factory: Factory) -> int:
    """The default of the factory's argument `width`."""
    width = width_of(factory)
    if width is None:
        raise ShrinkError(NO_WIDTH)
    return width


class _Draws:
    """Builds target and narrow model again, under one seed after another."""

    def __init__(self, factory: Factory, width: int) -> None:
        self._factory, self._width = factory, width
        self._seed = 0

    def next(self) -> Pair:
        self._seed += 1
        with trial_stream(self._seed, 0):
            target = _built(self._factory, None)
            self.state_after_target = torch.get_rng_state()
            return target, _built(self._factory, self._width)

    def rest(self) -> Iterator[Pair]:
        while self._seed < MAX_DRAWS:
            yield self.next()


def _check_width(width: int) -> None:
    if not isinstance(width, int) or isinstance(width, bool):
        raise ShrinkError(f"width={width!r} is no whole number; give a width as 64")
    if width < 1:
        raise ShrinkError(f"width={width} leaves nothing of the model; give one of 2 or more")
    if width == 1:
        raise ShrinkError(
            "width=1 leaves one unit a layer, which learns nothing as its target does; give one of "
            "2 or more"
        )


def _built(factory: Factory, width: int | None) -> nn.Module:
    """At the target's own width if `width` is None."""
    at = "at its default width" if width is None else f"at width={width}"
    try:
        module = factory() if width is None else factory(width=width)
    except HydroError:
        raise
    except Exception as error:
        said = next(iter(str(error).splitlines()), "") or "no reason given"
        raise ShrinkError(
            f"the factory fails {at} ({type(error).__name__}: {said}); let it build there, or "
            "choose a width that it takes"
        ) from error
    if not isinstance(module, nn.Module):
        raise ShrinkError(
            f"the factory gives {type(module).__name__} {at}, which is no torch module; let it "
            "return the model"
        )
    for name, parameter in module.named_parameters():
        _refuse_without_values(name, parameter)
    return module


def _refuse_without_values(name: str, parameter: nn.Parameter) -> None:
    if is_lazy(parameter):
        raise ShrinkError(
            f"'{name}' is of a lazy module and has no size before its first call; call the model "
            "once in the factory, or give the layer its sizes"
        )
    if parameter.is_meta:
        raise ShrinkError(
            f"'{name}' is on the meta device and has no values to scale; let the factory build on "
            "a device that has memory"
        )


def _refuse_shared(target: nn.Module, narrow: nn.Module) -> None:
    both = {id(parameter) for parameter in target.parameters()}
    shared = [name for name, parameter in narrow.named_parameters() if id(parameter) in both]
    if narrow is target or shared:
        what = "model" if narrow is target else f"parameter '{shared[0]}'"
        raise ShrinkError(
            f"the factory gives the same {what} each time, so a surrogate would change its target; "
            "let it make a new one in each call"
        )


def _another(factory: Factory, width: int, own: int) -> nn.Module | None:
    """At a width beside the target's and this one, to tell by which sizes follow it. A surrogate of
    another width than the target's shows that by itself, so then it may be missing.
    """
    candidates = [times * width for times in (2, 3, 4) if times * width != own]
    for candidate in candidates:
        try:
            with trial_stream(0, 0):
                return _built(factory, candidate)
        except ShrinkError:
            if width == own and candidate == candidates[-1]:
                raise
    return None


def refuse_fixed_weights(builds: Builds, axes: Mapping[str, Axes]) -> None:
    """ShrinkError if values along the width do not depend on the seed, though they are no constants
    or patterns: they were trained elsewhere. What is frozen and is looked up in or of no layer may
    be computed, as positions are, and a vector alone mostly is, as decays of many lengths are.
    """
    again = {} if builds.again is None else dict(builds.again.named_parameters())
    target = dict(builds.target.named_parameters())
    for name, places in places_of(builds.target).items():
        is_vector = sum(size > 1 for size in target[name].shape) < 2
        is_layers = places[0].out_in is not None and not all(place.is_table for place in places)
        is_weight = target[name].requires_grad or is_layers
        wide = [number for number, axis in enumerate(axes[name]) if axis.is_wide]
        is_pattern = any(_is_one_along(number, target[name]) for number in wide)
        is_open = name in again and is_weight and not is_vector and bool(wide) and not is_pattern
        if is_open and _is_fixed(target[name], again[name]):
            raise ShrinkError(
                f"the model starts from fixed weights: '{name}' has the same values under two "
                "seeds, and the rules of surrogates are about how weights are drawn; let the "
                "factory draw it, or make it a buffer if it is not trained"
            )


def _is_fixed(one: Tensor, other: Tensor) -> bool:
    values = one.detach()
    return torch.equal(values, other.detach()) and values.unique().numel() > FEW_VALUES


def _is_one_along(axis: int, values: Tensor) -> bool:
    """As of a state-space model's decays: the same for each unit."""
    return bool((values.detach() == values.detach().narrow(axis, 0, 1)).all())
