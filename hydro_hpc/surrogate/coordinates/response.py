"""How far one optimizer step moves what parameters give, for a gradient G of random values there.

The step is the optimizer's own, made from the parameters' gradient g that comes of G. What counts
is the part of the movement that goes against G: to first order, minus the sum of g times the step.
It is taken relative to what this optimizer makes of a gradient: a step of the Adam family has the
size of its learning rate, and one of SGD is in proportion to G, which falls as 1 / width at each
output inside the width. Under the rules the response is the same at every width, at any rate.

G is random because the batch's own says more than the rules: a step sums over rows, and how alike
their gradients are depends on the first outputs, which are larger in narrow models.
"""

from __future__ import annotations

import math
import statistics
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from hydro_hpc.surrogate.coordinates.recipe import Recipe, groups_of, make_optimizer
from hydro_hpc.surrogate.coordinates.sites import Site
from hydro_hpc.surrogate.surrogate import Surrogate
from hydro_hpc.surrogate.table import Family, family_of

# Random gradients, of which the mean is taken: more for parameters of few values.
FEWEST: Final = 4
MOST: Final = 16
ENOUGH: Final = 256  # values

Gradients = dict[str, Tensor]  # by the parameters' names


def responses(
    surrogate: Surrogate, recipe: Recipe, sites: Sequence[Site], seed: int
) -> Iterator[tuple[Site, float]]:
    """Several of each site. Steps are from gradients about as long as those at the parameters, so
    that an optimizer's epsilon plays the part that it has. Models and parameters stay as they are.
    """
    stepping = _Stepping(surrogate, recipe)
    length = _usual_length(surrogate.module, sites)
    family = family_of(recipe.optimizer)
    for together in _without_common([*sites]):
        for number in range(MOST):
            probed = [site for site in together if number < num_probes(site)]
            if not probed:
                break
            pulled = [_pulled(site, f"{seed} {number}", length) for site in probed]
            steps = stepping.from_gradients({k: g for each in pulled for k, g in each.items()})
            for site, gradients in zip(probed, pulled, strict=True):
                own = {name: steps[name] for name in gradients}
                yield site, response(gradients, own, length, math.prod(site.shape), family)


def num_probes(site: Site) -> int:
    num_values = sum(map(math.prod, site.form.parameters)) or ENOUGH
    return min(MOST, max(FEWEST, ENOUGH // num_values))


def response(
    gradients: Mapping[str, Tensor],
    steps: Mapping[str, Tensor],
    length: float,
    num_outputs: int,
    family: Family,
) -> float:
    """Of steps from gradients that come of a G of this `length` at so many outputs."""
    along = -sum(
        float((gradients[name].double() * step.double()).sum()) for name, step in steps.items()
    )
    if family is Family.ADAM:
        return along / (length * math.sqrt(num_outputs))
    return along / (length * length * num_outputs)


def _pulled(site: Site, draw: str, length: float) -> Gradients:
    """The parameters' gradients by a G of this length, which is the same at all widths where its
    shape is.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(f"{site.part} {draw}".encode()))
    drawn = torch.randn(site.shape, generator=generator).to(site.like)
    found = zip(site.names, site.pull(length * drawn / drawn.norm()), strict=True)
    return {name: g for name, g in found if g is not None}


def _usual_length(model: nn.Module, sites: Iterable[Site]) -> float:
    """Of a G whose gradients are about as long as those at the parameters: 1 if these are 0."""
    real = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    ratios = []
    for site in sites:
        ours = _pulled(site, "", 1.0)
        pairs = [(_norm(real[name]), _norm(g)) for name, g in ours.items() if name in real]
        ratios += [r / g for r, g in pairs if r > 0 and g > 0 and math.isfinite(r / g)]
    return statistics.median(ratios) if ratios else 1.0


def _norm(x: Tensor) -> float:
    return float(x.double().norm())


def _without_common(sites: list[Site]) -> Iterator[list[Site]]:
    """Sites that no parameter is at twice, until all have been."""
    while sites:
        taken, chosen, left = set[str](), list[Site](), list[Site]()
        for site in sites:
            is_free = taken.isdisjoint(site.names)
            (chosen if is_free else left).append(site)
            taken |= {*site.names} if is_free else set()
        yield chosen
        sites = left


class _Stepping:
    """An optimizer's first step of parameters that are zero: then no decay is in it, and no
    rounding.
    """

    def __init__(self, surrogate: Surrogate, recipe: Recipe) -> None:
        named = {id(p): name for name, p in surrogate.module.named_parameters()}
        self._zeros: dict[str, nn.Parameter] = {}
        groups = groups_of(surrogate, recipe)
        for group in groups:
            names = [named[id(p)] for p in group["params"]]
            own = {
                n: nn.Parameter(torch.zeros_like(p))
                for n, p in zip(names, group["params"], strict=True)
            }
            group["params"] = [*own.values()]
            self._zeros |= own
        self._optimizer = make_optimizer(groups, recipe)

    @torch.no_grad()
    def from_gradients(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self._optimizer.state.clear()
        for name, parameter in self._zeros.items():
            parameter.zero_()
            parameter.grad = gradients.get(name)
        self._optimizer.step()
        return {name: self._zeros[name].detach().clone() for name in gradients}
