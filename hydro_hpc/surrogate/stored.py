"""What makes a surrogate of a narrow model, as plain numbers by parameter name, to build many alike
without their target and to keep in a study's folder.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from torch import nn

from hydro_hpc.errors import ShrinkError
from hydro_hpc.nn.multiplier import input_multipliers, multiply_input
from hydro_hpc.surrogate.initial import rescale
from hydro_hpc.surrogate.kinds import Scaling
from hydro_hpc.surrogate.narrow import Narrowness, Ratio, Widths
from hydro_hpc.surrogate.rules import Rules, factors_of
from hydro_hpc.surrogate.surrogate import Surrogate
from hydro_hpc.surrogate.table import Kind, family_of

SIGMAS: Final = 6.0  # of the noise of two draws of one initialisation
ROUNDING: Final = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A parameter as a narrow factory draws it: its shape and its root mean square."""

    shape: tuple[int, ...]
    size: float

    def is_like(self, other: Drawn) -> bool:
        """Says whether both may come from one initialisation."""
        if self.shape != other.shape or (self.size == 0) != (other.size == 0):
            return False
        count = max(1, math.prod(self.shape))
        near = ROUNDING + SIGMAS / math.sqrt(count)
        return self.size == 0 or abs(math.log(self.size / other.size)) < near


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """`initial` is by what drawn values are multiplied, `multipliers` (by module path) by what the
    inputs of layers are; `drawn` is what it was made for.
    """

    narrowness: Narrowness
    rules: Rules
    initial: Mapping[str, float]
    multipliers: Mapping[str, float]
    drawn: Mapping[str, Drawn]

    def apply(self, module: nn.Module) -> Surrogate:
        """The model, which is from now on a surrogate, as `shrink` would have made it. ShrinkError
        if it has other parameters or sizes.
        """
        found = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
        if wrong := _first_difference(found, {n: drawn.shape for n, drawn in self.drawn.items()}):
            raise ShrinkError(
                f"'{wrong}' is not of the size for which the surrogate's rules were made; let sizes"
                " depend on what is chosen with choice() or integer(), not on a real number"
            )
        rescale(module, self.initial)
        for path, factor in self.multipliers.items():
            multiply_input(module.get_submodule(path), factor)
        return Surrogate(module=module, rules=self.rules, initial=self.initial)

    def difference(self, drawn: Mapping[str, Drawn]) -> str:
        """The name of a parameter that a narrow model now draws otherwise; empty if none."""
        if self.drawn.keys() != drawn.keys():
            return min(self.drawn.keys() ^ drawn.keys())
        return next((n for n, one in drawn.items() if not one.is_like(self.drawn[n])), "")


def recipe_of(surrogate: Surrogate, drawn: Mapping[str, Drawn], narrowness: Narrowness) -> Recipe:
    """How one surrogate was made."""
    multipliers = {
        path: math.prod(factors)
        for path, module in surrogate.module.named_modules()
        if (factors := input_multipliers(module))
    }
    return Recipe(
        narrowness=narrowness,
        rules=dict(surrogate.rules),
        initial=dict(surrogate.initial),
        multipliers=multipliers,
        drawn=drawn,
    )


def drawn_by(module: nn.Module) -> dict[str, Drawn]:
    """Of a narrow factory's model, as it draws it."""
    return {
        name: Drawn(
            shape=tuple(parameter.shape),
            size=float(parameter.detach().abs().double().pow(2).mean().sqrt())
            if parameter.numel()
            else 0.0,
        )
        for name, parameter in module.named_parameters()
    }


def to_json(recipe: Recipe, optimizer: str) -> dict[str, Any]:
    """Plain numbers; `lr` and `weight_decay` are factors under torch's optimizer of this name."""
    family = family_of(optimizer)
    parameters = {}
    for name, scaling in recipe.rules.items():
        factors = factors_of(scaling, family)
        parameters[name] = {
            "kind": scaling.kind.value,
            "m_in": scaling.m_in,
            "m_out": scaling.m_out,
            "lr": factors.lr,
            "weight_decay": factors.weight_decay,
            "in_mult": factors.in_mult,
            "initial": recipe.initial[name],
            "shape": list(recipe.drawn[name].shape),
            "drawn_rms": recipe.drawn[name].size,
        }
    buffers = {name: by for name, by in recipe.initial.items() if name not in recipe.rules}
    return {
        "schema": 1,
        "optimizer": optimizer,
        **_narrowness_to_json(recipe.narrowness),
        "input_multipliers": dict(recipe.multipliers),
        "parameters": parameters,
        **({"buffers": buffers} if buffers else {}),
    }


def from_json(data: Mapping[str, Any]) -> Recipe:
    """ValueError, KeyError or TypeError if that is nothing which `to_json` gave, or it follows
    another table of rules than ours.
    """
    parameters: Mapping[str, Any] = data["parameters"]
    recipe = Recipe(
        narrowness=_narrowness_from_json(data),
        rules={
            name: Scaling(kind=Kind(own["kind"]), m_in=own["m_in"], m_out=own["m_out"])
            for name, own in parameters.items()
        },
        initial={
            **{name: own["initial"] for name, own in parameters.items()},
            **data.get("buffers", {}),
        },
        multipliers=data["input_multipliers"],
        drawn={
            name: Drawn(shape=tuple(own["shape"]), size=own["drawn_rms"])
            for name, own in parameters.items()
        },
    )
    if json.loads(json.dumps(to_json(recipe, data["optimizer"]))) != data:
        raise ValueError("other factors than those of the table")
    return recipe


def _narrowness_to_json(narrowness: Narrowness) -> dict[str, Any]:
    if isinstance(narrowness, Ratio):
        return {"by": narrowness.by, "keep": list(narrowness.keep)}
    return {"width": narrowness.surrogate, "target_width": narrowness.target}


def _narrowness_from_json(data: Mapping[str, Any]) -> Narrowness:
    if "by" in data:
        return Ratio(by=data["by"], keep=tuple(data["keep"]))
    return Widths(surrogate=data["width"], target=data["target_width"])


def _first_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    return next((n for n in [*one, *other] if one.get(n) != other.get(n)), "")
