"""Surrogates of one model at several widths, as the check asks for them: again and again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any, Final

from torch import nn

from hydro_hpc.errors import ShrinkError
from hydro_hpc.surrogate.arguments import check_keep, check_uses
from hydro_hpc.surrogate.building import Factory, target_width
from hydro_hpc.surrogate.coordinates.widths import FEWEST, NARROWEST
from hydro_hpc.surrogate.layouts import Uses
from hydro_hpc.surrogate.narrow import Widths
from hydro_hpc.surrogate.shrinking import from_factory
from hydro_hpc.surrogate.stored import Recipe, drawn_by, recipe_of
from hydro_hpc.surrogate.surrogate import Surrogate

if TYPE_CHECKING:  # sympy, which a function without an example does not need
    from hydro_hpc.surrogate.tracing.trace import Trace

RATIOS: Final = (16, 8, 4, 2, 1)  # by which a model itself is narrowed
MOST: Final = 4


class BuiltLadder:
    """Of a function of the width: its rules at a width are made once, its target followed once.
    `warnings` are those of shrinking, by width.
    """

    def __init__(self, factory: Factory, example: Any, uses: Uses | None = None) -> None:
        check_uses(uses)
        self._factory, self._example, self._uses = factory, example, uses
        self._recipes: dict[int, Recipe] = {}
        self._seen: Trace | None = None
        self.warnings: dict[int, tuple[str, ...]] = {}

    def __call__(self, width: int) -> Surrogate:
        if width not in self._recipes:
            surrogate = from_factory(
                self._factory,
                width,
                example=self._example,
                uses=self._uses,
                follow=self._follow,
            )
            widths = Widths(surrogate=width, target=target_width(self._factory))
            self._recipes[width] = recipe_of(surrogate, drawn_by(surrogate.module), widths)
            self.warnings[width] = surrogate.report.warnings
            return surrogate
        return self._recipes[width].apply(self._factory(width=width))

    def _follow(self, target: nn.Module, example: Any) -> Trace:
        from hydro_hpc.surrogate.tracing.trace import followed

        self._seen = self._seen or followed(target, example)
        return self._seen


class FollowedLadder:
    """Of a model itself. `widths` are those of the size that most of its parameters have,
    `warnings` those of shrinking, by width.
    """

    def __init__(
        self,
        make: Callable[[], nn.Module],
        example: Any,
        keep: Collection[str] = (),
        uses: Uses | None = None,
    ) -> None:
        """`make` is called for each surrogate anew, so that each has draws of its own."""
        from hydro_hpc.surrogate.by_trace import plan_from, trace_of

        check_keep(keep)
        check_uses(uses)
        self._make_target = make
        self._follow: dict[int, Callable[[nn.Module], Surrogate]] = {}
        self.warnings: dict[int, tuple[str, ...]] = {}
        target = make()
        seen = trace_of(target, example)
        for by in RATIOS:
            plan = plan_from(seen, target, by, example, keep=keep, uses=uses)
            largest = max(plan.report.widths, key=lambda width: len(width.paths))
            self._follow.setdefault(largest.size, plan.follow)
            self.warnings.setdefault(largest.size, plan.report.warnings)
        self.widths = widest(self._follow)
        if len(self.widths) < 2:
            raise ShrinkError(
                f"the model can have no width but {self.widths[0]}, and two are needed to compare"
            )

    def __call__(self, width: int) -> Surrogate:
        return self._follow[width](self._make_target())


def widest(widths: Iterable[int]) -> tuple[int, ...]:
    """The narrowest that are wide enough to say something; of narrow models, the widest."""
    ordered = sorted(widths)
    enough = [width for width in ordered if width >= NARROWEST][:MOST]
    return tuple(enough if len(enough) >= FEWEST else ordered[-FEWEST:])
