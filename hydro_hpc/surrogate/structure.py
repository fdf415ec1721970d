"""What of a surrogate can be checked without training it: its factors against the table.

A layer's ratios are read off the sizes of the two models once more, so that wrong rules show.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate.axes import compare, shapes_of
from hydro_hpc.surrogate.initial import Spread, sample_of
from hydro_hpc.surrogate.kinds import Scaling, scaling_of
from hydro_hpc.surrogate.layouts import places_of
from hydro_hpc.surrogate.rules import Rules, factors_of, multipliers
from hydro_hpc.surrogate.surrogate import Surrogate
from hydro_hpc.surrogate.table import TABLE, Kind, family_of

What = Literal["learning rate", "weight decay", "initial spread", "forward multiplier", "value"]
TOLERANCE: Final = 1e-9  # of what is computed
SPREAD_TOLERANCE: Final = 0.05  # of what is drawn, or
SIGMAS: Final = 5.0  # of its noise where that is more
FEWEST_VALUES: Final = 8  # whose spread is judged

Groups = Sequence[Mapping[str, Any]]  # of a torch optimizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something of the surrogate that is not what it should be; NaN is what is not there."""

    path: str  # of a parameter, or of the module that has the multiplier
    what: What
    expected: float
    found: float


def findings(
    target: nn.Module,
    surrogate: Surrogate,
    optimizer: str,
    groups: Groups,
    *,
    lr: float,
    weight_decay: float,
) -> tuple[Finding, ...]:
    """Empty if all is as the table says. `target` is the user's model, drawn and not trained;
    `surrogate` neither; `groups` are those it will train with, at the target's `lr` and
    `weight_decay`.
    """
    expected = expected_scalings(target, surrogate)
    return (
        *_of_settings(surrogate, expected, optimizer, groups, lr, weight_decay),
        *_of_spreads(target, surrogate, expected),
        *_of_multipliers(surrogate, expected),
    )


def own_width_findings(
    target: nn.Module, surrogate: Surrogate, inputs: Sequence[Any] | None = None
) -> tuple[Finding, ...]:
    """Empty if a surrogate of the target's width, built from the same seed, is the target bit by
    bit: parameters, buffers and, if there are `inputs`, the outputs for these in evaluation mode.
    """
    found = [*_of_values(_tensors(target), _tensors(surrogate.module))]
    if inputs is not None:
        found += _of_values(*(_outputs(model, inputs) for model in (target, surrogate.module)))
    return tuple(found)


def expected_scalings(target: nn.Module, surrogate: Surrogate) -> Rules:
    """Of layers' weights by the models' sizes; of the rest, where a size does not say all, by the
    surrogate's own rules.
    """
    module, rules = surrogate.module, surrogate.rules
    narrow = shapes_of(module)
    axes = compare(shapes_of(target), narrow, narrow)
    found = dict(rules)
    for name, places in places_of(module).items():
        if places[0].out_in is not None and rules[name].kind not in (Kind.TIED, Kind.BARE_OUTPUT):
            try:
                found[name] = scaling_of(places[0], axes[name], target=target)
            except ShrinkError:
                continue
    return found


def _of_settings(
    surrogate: Surrogate,
    scalings: Mapping[str, Scaling],
    optimizer: str,
    groups: Groups,
    lr: float,
    weight_decay: float,
) -> Iterator[Finding]:
    family = family_of(optimizer)
    settings = {id(parameter): group for group in groups for parameter in group["params"]}
    for name, parameter in surrogate.module.named_parameters():
        if not parameter.requires_grad:
            continue
        group = settings.get(id(parameter), {})
        factors = factors_of(scalings[name], family)
        yield from _differing(name, "learning rate", lr * factors.lr, group.get("lr"))
        decay = weight_decay * factors.weight_decay
        yield from _differing(name, "weight decay", decay, group.get("weight_decay"))


def _of_spreads(
    target: nn.Module, surrogate: Surrogate, scalings: Mapping[str, Scaling]
) -> Iterator[Finding]:
    wide = dict(target.named_parameters())
    for name, parameter in surrogate.module.named_parameters():
        spread = Spread(target=sample_of(wide[name]), narrow=sample_of(parameter))
        scaling = scalings[name]
        factor = TABLE[scaling.kind].init_std.of(scaling.m_in, scaling.m_out)
        if spread.is_constant:
            factor = 1.0
        expected = spread.target.root_mean_square * factor
        found = spread.narrow.root_mean_square
        if not _is_spread_right(spread, expected, found):
            yield Finding(path=name, what="initial spread", expected=expected, found=found)


def _is_spread_right(spread: Spread, expected: float, found: float) -> bool:
    if spread.target.is_constant and spread.narrow.is_constant:
        is_judged = min(spread.target.count, spread.narrow.count) > 1
        return not is_judged or math.isclose(expected, found, rel_tol=SPREAD_TOLERANCE)
    if min(spread.target.count, spread.narrow.count) < FEWEST_VALUES:
        return True
    if not expected or not found:
        return expected == found
    band = max(SIGMAS * spread.noise, math.log1p(SPREAD_TOLERANCE))
    return abs(math.log(found / expected)) <= band


def _of_multipliers(surrogate: Surrogate, scalings: Mapping[str, Scaling]) -> Iterator[Finding]:
    for path, expected, found in multipliers(surrogate.module, scalings):
        yield from _differing(path, "forward multiplier", expected, found)


def _of_values(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Iterator[Finding]:
    """By the first values that differ; NaN where sizes do."""
    for name in sorted(expected.keys() | found.keys()):
        one, other = expected.get(name), found.get(name)
        if one is None or other is None or one.shape != other.shape:
            yield Finding(path=name, what="value", expected=math.nan, found=math.nan)
            continue
        are_both_nan = (one != one) & (other != other)
        different = ((one != other) & ~are_both_nan).flatten()
        if different.any():
            at = int(different.int().argmax())
            first, second = (abs(tensor.flatten()[at].item()) for tensor in (one, other))
            yield Finding(path=name, what="value", expected=first, found=second)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach() for name, tensor in named}


@torch.no_grad()
def _outputs(model: nn.Module, inputs: Sequence[Any]) -> dict[str, Tensor]:
    was_training = model.training
    try:
        result = model.eval()(*inputs)
    finally:
        model.train(was_training)
    leaves = torch.utils._pytree.tree_leaves(result)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    return {f"output {number}": tensor for number, tensor in enumerate(tensors)}


def _differing(path: str, what: What, expected: float, found: float | None) -> Iterator[Finding]:
    if found is None or not math.isclose(found, expected, rel_tol=TOLERANCE):
        is_there = math.nan if found is None else float(found)
        yield Finding(path=path, what=what, expected=expected, found=is_there)
