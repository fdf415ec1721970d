"""The initial values of a surrogate: its own factory's draws, with the spread that the rules say.

How an initialisation depends on the width by itself (mostly as one over the root of a layer's
fan-in) is found by comparing the spread of a parameter at two widths, over as many draws as it
takes to tell the laws apart that initialisations follow. So no noise of single draws comes into
the result.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from hydro_hpc.surrogate.fans import Fans, fans_of
from hydro_hpc.surrogate.kinds import Scaling
from hydro_hpc.surrogate.layouts import Uses
from hydro_hpc.surrogate.table import TABLE, Kind

SIGMAS: Final = 3.0  # of noise: a spread further than that from every law follows its owner's own
SAME_LAW: Final = 0.08  # of logarithms: laws nearer to one another than that need not be told apart

Pair = tuple[nn.Module, nn.Module]  # the target and the narrow model, of one draw


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Values of one parameter at one width, over all draws so far."""

    count: int
    squares: float
    first: complex
    is_constant: bool

    @property
    def root_mean_square(self) -> float:
        return math.sqrt(self.squares / self.count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Of one parameter, at both widths."""

    target: Sample
    narrow: Sample

    @property
    def is_constant(self) -> bool:
        """Says whether it was not drawn at one of the widths: all its values are one there."""
        return self.target.is_constant or self.narrow.is_constant

    @property
    def change(self) -> float:
        """The logarithm of the narrow one over the target's."""
        return math.log(self.narrow.root_mean_square / self.target.root_mean_square)

    @property
    def noise(self) -> float:
        """About, of `change`."""
        return math.sqrt(0.5 / self.target.count + 0.5 / self.narrow.count)


def spread_factors(
    target: nn.Module,
    narrow: nn.Module,
    scalings: Mapping[str, Scaling],
    *,
    more: Iterable[Pair] = (),
    uses: Uses | None = None,
    fixed: Mapping[str, FixedWeight] | None = None,
) -> dict[str, float]:
    """By what to multiply each parameter that the narrow factory draws, so that it spreads as the
    rules say against the target's; exactly 1 at the target's width, and for constants. Of `more`
    draws as many are taken as are needed. `uses` are those of raw parameters. Of the buffers that
    are `fixed` weights, those that change.
    """
    names = [name for name, _ in narrow.named_parameters()]
    if _have_same_sizes(target, narrow):
        return dict.fromkeys(names, 1.0)
    fixed = fixed or {}
    wide_fans, fans = fans_of(target, uses), fans_of(narrow, uses)
    known = {name: laws(wide_fans[name], fans[name]) for name in names}
    known |= {name: weight.laws for name, weight in fixed.items()}
    draws = iter(more)
    spreads = _joined({}, (target, narrow), fixed)
    while pair := _next_if(draws, any(_is_unclear(spreads[n], known[n]) for n in known)):
        spreads = _joined(spreads, pair, fixed)
    found = {
        name: 1.0
        if spreads[name].is_constant
        else wanted_spread(scalings[name]) / spread_change(spreads[name], known[name].of)
        for name in names
    }
    return found | _fixed_factors(fixed, spreads, {name: known[name].of for name in fixed})


def cut_factors(
    target: nn.Module,
    narrow: nn.Module,
    scalings: Mapping[str, Scaling],
    fixed: Mapping[str, FixedWeight] | None = None,
) -> dict[str, float]:
    """By what to multiply each parameter that is of rows and columns of the target's, and each
    `fixed` weight. These spread as the target's do, unless they follow a pattern, such as an
    identity.
    """
    fixed = fixed or {}
    wide = dict(target.named_parameters())
    found: dict[str, float] = {}
    for name, parameter in narrow.named_parameters():
        spread = Spread(target=sample_of(wide[name]), narrow=sample_of(parameter))
        wanted = wanted_spread(scalings[name])
        if wanted == 1.0 or spread.target.is_constant:
            found[name] = 1.0
        else:
            found[name] = wanted / (spread_change(spread, (1.0,)) if spread.narrow.squares else 1.0)
    spreads = _joined({}, (target, narrow), fixed)
    return found | _fixed_factors(fixed, spreads, dict.fromkeys(fixed, (1.0,)))


def _fixed_factors(
    fixed: Mapping[str, FixedWeight],
    spreads: Mapping[str, Spread],
    laws: Mapping[str, Sequence[float]],
) -> dict[str, float]:
    """Only of those that change."""
    factors = {
        name: _fixed_factor(weight.scaling, spreads[name], laws[name])
        for name, weight in fixed.items()
    }
    return {name: factor for name, factor in factors.items() if factor != 1.0}


def _fixed_factor(scaling: Scaling, spread: Spread, laws: Sequence[float]) -> float:
    """A constant sums what it is multiplied with, which must not grow with the width."""
    is_pattern = spread.is_constant and scaling.kind in (Kind.INPUT, Kind.FIXED)
    if is_pattern or not spread.target.squares or not spread.narrow.squares:
        return 1.0
    if spread.is_constant:
        return 1 / scaling.m_in / math.exp(spread.change)
    return wanted_spread(scaling) / spread_change(spread, laws)


@dataclass(frozen=True, slots=True, kw_only=True)
class Laws:
    """How a spread may change from the target's width to a narrow one, the likeliest first."""

    of: tuple[float, ...]
    is_default: bool  # the first is of torch's own initialisation, which needs less evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedWeight:
    """A buffer that is a weight, at the width of the surrogate."""

    scaling: Scaling
    laws: Laws


def laws(target: Fans, narrow: Fans) -> Laws:
    """As torch's default does; not at all; with the root of the fan-in (He, LeCun), of the sum of
    both fans (Glorot), of the fan-out; with the fan-in itself.
    """
    into, out = target.into / narrow.into, target.out / narrow.out
    both = (target.into + target.out) / (narrow.into + narrow.out)
    found = (1.0, math.sqrt(into), math.sqrt(both), math.sqrt(out), into)
    if target.default and narrow.default:
        return Laws(of=(math.sqrt(target.default / narrow.default), *found), is_default=True)
    return Laws(of=found, is_default=False)


def spread_change(spread: Spread, laws: Sequence[float]) -> float:
    """The spread at the narrow width over that at the target's, by the first law that fits."""
    near = SIGMAS * spread.noise
    fitting = (law for law in laws if abs(spread.change - math.log(law)) < near)
    return next(fitting, math.exp(spread.change))


def _is_unclear(spread: Spread, laws: Laws) -> bool:
    samples = (spread.target, spread.narrow)
    if not all(sample.squares for sample in samples):
        return False
    if spread.is_constant and all(sample.count > 1 for sample in samples):
        return False
    near = SIGMAS * spread.noise
    distances = [abs(spread.change - math.log(law)) for law in laws.of]
    if laws.is_default and distances[0] < near:
        return False
    first = laws.of[min(range(len(laws.of)), key=distances.__getitem__)]
    gaps = [abs(math.log(law / first)) for law in laws.of]
    return near > min((gap for gap in gaps if gap > SAME_LAW), default=math.inf) / 2


def wanted_spread(scaling: Scaling) -> float:
    """The spread that the rules say over the target's."""
    return TABLE[scaling.kind].init_std.of(scaling.m_in, scaling.m_out)


def _have_same_sizes(target: nn.Module, narrow: nn.Module) -> bool:
    both = zip(target.parameters(), narrow.parameters(), strict=True)
    return all(wide.shape == parameter.shape for wide, parameter in both)


def _next_if(draws: Iterator[Pair], is_needed: bool) -> Pair | None:
    return next(draws, None) if is_needed else None


def _joined(
    spreads: Mapping[str, Spread], pair: Pair, buffers: Collection[str] = ()
) -> dict[str, Spread]:
    """Of parameters, and of these buffers."""
    target, narrow = (
        {**dict(model.named_parameters()), **{name: model.get_buffer(name) for name in buffers}}
        for model in pair
    )
    found = {
        name: Spread(target=sample_of(target[name]), narrow=sample_of(narrow[name]))
        for name in narrow
    }
    if not spreads:
        return found
    return {
        name: Spread(
            target=_both(spreads[name].target, spread.target),
            narrow=_both(spreads[name].narrow, spread.narrow),
        )
        for name, spread in found.items()
    }


def sample_of(tensor: Tensor) -> Sample:
    """What cannot be scaled, having no values or whole numbers, is as a constant."""
    values = tensor.detach().flatten()
    if not values.numel() or not (values.is_floating_point() or values.is_complex()):
        return Sample(count=1, squares=0.0, first=0.0, is_constant=True)
    return Sample(
        count=values.numel(),
        squares=float((values.abs().double() ** 2).sum()),
        first=complex(values[0].item()),
        is_constant=bool((values == values[0]).all()),
    )


def _both(one: Sample, other: Sample) -> Sample:
    return Sample(
        count=one.count + other.count,
        squares=one.squares + other.squares,
        first=one.first,
        is_constant=one.is_constant and other.is_constant and one.first == other.first,
    )


@torch.no_grad()
def rescale(model: nn.Module, factors: Mapping[str, float]) -> None:
    """Multiplies each parameter and buffer, once however many names it has. A buffer may be a part
    of what the user's code keeps, so it is replaced.
    """
    for name, parameter in model.named_parameters():
        if factors[name] != 1.0:
            parameter.mul_(factors[name])
    changed = {id(x): x * factors[name] for name, x in model.named_buffers() if name in factors}
    for module in model.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = changed.get(id(buffer), buffer)
