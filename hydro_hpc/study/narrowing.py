"""The two ways to a study's surrogates: its model is built at their width, or its own is followed.

Their rules are made once for each set of arguments that sizes follow.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from torch import Tensor, nn

from hydro_hpc.nn import trial_stream
from hydro_hpc.study.randomness import seeded
from hydro_hpc.study.space import Distribution, LogUniform, Params, Uniform
from hydro_hpc.surrogate import Surrogate, shrink
from hydro_hpc.surrogate.axes import keeps_of_width
from hydro_hpc.surrogate.kinds import UnclearUseError
from hydro_hpc.surrogate.narrow import Ratio, Widths
from hydro_hpc.surrogate.report import NOT_CALLED, Report
from hydro_hpc.surrogate.stored import Recipe, drawn_by, recipe_of
from hydro_hpc.surrogate.width import WIDTH

if TYPE_CHECKING:
    from hydro_hpc.surrogate.by_trace import Plan

Model = Callable[..., nn.Module]


class Arguments:
    """What a model is built from. Its sizes follow those that are chosen (numbers and names); those
    of a continuous distribution are taken not to change them, which is checked.
    """

    def __init__(self, searched: Mapping[str, Distribution]) -> None:
        """`searched` are the model's own hyperparameters that are."""
        self._chosen = sorted(n for n, d in searched.items() if not _is_continuous(d))
        self._middles = {n: d.middle() for n, d in searched.items() if _is_continuous(d)}

    def key(self, arguments: Params) -> str:
        """JSON of those that sizes follow."""
        return json.dumps({name: arguments[name] for name in self._chosen}, sort_keys=True)

    def typical(self, arguments: Params) -> Params:
        """The same for all of one key."""
        return {**arguments, **self._middles}


class Narrowing(Protocol):
    """`make` and `build` raise ShrinkError."""

    def make(self, arguments: Params) -> Recipe:
        """The same each time."""

    def difference(self, before: Recipe, arguments: Params) -> str:
        """What is otherwise now than when this was made, in words; empty if nothing."""

    def build(self, recipe: Recipe, arguments: Params, seed: int) -> Surrogate:
        """Its weights are a function of the arguments and the seed."""

    def said(self, arguments: Params) -> list[str]:
        """Lines about what shrinks and what stays, and what to know of it."""

    def warned(self) -> list[str]:
        """What to know of the surrogates whose rules this process has made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AtWidth:
    """By a model's own argument for its width. Rules take models of the target's width to make, and
    once they are known, surrogates take none.
    """

    model: Model
    arguments: Arguments
    widths: Widths
    example: Callable[[], Tensor]
    reports: dict[str, Report] = field(default_factory=dict)  # by the key of arguments

    def make(self, arguments: Params) -> Recipe:
        factory = functools.partial(self.model, **self.arguments.typical(arguments))
        surrogate = self._shrunk(factory)
        self.reports[self.arguments.key(arguments)] = surrogate.report
        return recipe_of(surrogate, drawn_by(self._drawn(arguments)), self.widths)

    def _shrunk(self, factory: Callable[..., nn.Module]) -> Surrogate:
        """A call is followed where sizes and code do not say all, which takes longer than one."""
        width = self.widths.surrogate
        try:
            with trial_stream(0, 0):
                surrogate = shrink(factory, width=width)
        except UnclearUseError:
            with trial_stream(0, 0):
                return shrink(factory, width=width, example=self.example())
        return self._looked_at(surrogate, factory) if surrogate.report.widths else surrogate

    def _looked_at(self, surrogate: Surrogate, factory: Callable[..., nn.Module]) -> Surrogate:
        """By one call of it and one of its target."""
        from hydro_hpc.surrogate.tracing.calling import FailedCallError
        from hydro_hpc.surrogate.tracing.looking import look_at

        example = self.example()
        with trial_stream(0, 0):
            target = require_module(factory())
        try:
            if keeps_of_width(target, surrogate.module):
                with trial_stream(0, 0):
                    return shrink(factory, width=self.widths.surrogate, example=example)
            said = look_at(target, surrogate.module, surrogate.rules, example)
        except FailedCallError as error:
            said = (f"{NOT_CALLED}: {error}",)
        return replace(surrogate, report=replace(surrogate.report, warnings=said))

    def difference(self, before: Recipe, arguments: Params) -> str:
        if before.narrowness != self.widths:
            return "its widths"
        return _quoted(before.difference(drawn_by(self._drawn(arguments))))

    def build(self, recipe: Recipe, arguments: Params, seed: int) -> Surrogate:
        with seeded(seed):
            return recipe.apply(self._narrow(arguments))

    def said(self, arguments: Params) -> list[str]:
        key = self.arguments.key(arguments)
        if key not in self.reports:  # the rules were found in the study's folder
            self.make(arguments)
        return str(self.reports[key]).splitlines()

    def warned(self) -> list[str]:
        return _warnings(self.reports.values())

    def _drawn(self, arguments: Params) -> nn.Module:
        with trial_stream(0, 0):
            return self._narrow(self.arguments.typical(arguments))

    def _narrow(self, arguments: Params) -> nn.Module:
        return require_module(self.model(**{WIDTH: self.widths.surrogate}, **arguments))


class Followed:
    """By one forward call of the target. Each surrogate is made of a model of the target's size,
    which is built on the CPU and dropped at once (at the next collection of garbage, if its modules
    lead back to themselves): that is the memory of the target's parameters and the time of its
    initialisation, per trial, in each process, beside the time to follow it once per process. No
    step is taken and no gradient made at that size. A trial that begins while others train is built
    in windows, layer by layer (`trial.interruptible`), and the target's memory is held until then.
    """

    def __init__(
        self, model: Model, arguments: Arguments, ratio: Ratio, example: Callable[[], Tensor]
    ) -> None:
        self._model = model
        self._arguments = arguments
        self._ratio = ratio
        self._example = example
        self._plans: dict[str, Plan] = {}

    def make(self, arguments: Params) -> Recipe:
        plan = self._plan(arguments)
        with trial_stream(0, 0):
            surrogate = plan.follow(self._target(self._arguments.typical(arguments)))
        return recipe_of(surrogate, drawn_by(surrogate.module), self._ratio)

    def difference(self, before: Recipe, arguments: Params) -> str:
        return difference(before, self.make(arguments))

    def build(self, recipe: Recipe, arguments: Params, seed: int) -> Surrogate:
        del recipe
        plan = self._plan(arguments)
        with seeded(seed):
            return plan.follow(self._target(arguments))

    def said(self, arguments: Params) -> list[str]:
        return str(self._plan(arguments).report).splitlines()

    def warned(self) -> list[str]:
        return _warnings(plan.report for plan in self._plans.values())

    def _plan(self, arguments: Params) -> Plan:
        from hydro_hpc.surrogate.by_trace import plan_of  # sympy, which no other study needs

        key = self._arguments.key(arguments)
        if key not in self._plans:
            example, ratio = self._example(), self._ratio
            with trial_stream(0, 0):
                model = self._target(self._arguments.typical(arguments))
                self._plans[key] = plan_of(model, ratio.by, example, keep=ratio.keep)
        return self._plans[key]

    def _target(self, arguments: Params) -> nn.Module:
        return require_module(self._model(**arguments))


def difference(stored: Recipe, made: Recipe) -> str:
    """Between recipes for the same arguments, in words; empty if there is none."""
    if stored.narrowness != made.narrowness:
        return "its widths"
    if name := stored.difference(made.drawn):
        return _quoted(name)
    other: Iterable[str] = (n for n, rule in made.rules.items() if stored.rules[n] != rule)
    return _quoted(next(iter(other), ""))


def require_module(model: object) -> nn.Module:
    """TypeError if a study's model gives something else."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"the model is a {type(model).__name__}, not an nn.Module")
    return model


def _warnings(reports: Iterable[Report]) -> list[str]:
    return [*dict.fromkeys(line for report in reports for line in report.warnings)]


def _quoted(name: str) -> str:
    return f"'{name}'" if name else ""


def _is_continuous(distribution: Distribution) -> bool:
    return isinstance(distribution, Uniform | LogUniform)
