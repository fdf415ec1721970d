"""The result of a coordinate check: a verdict per layer, as values, as text and as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from hydro_hpc.surrogate.coordinates.records import BIAS
from hydro_hpc.surrogate.coordinates.slopes import Curve
from hydro_hpc.surrogate.coordinates.verdict import Evidence, LayerVerdict
from hydro_hpc.surrogate.structure import Finding

UNCLEAR: Final = Evidence.UNCLEAR


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """`notes`: what the check could not do or see. `structure`: what is not set up as the table
    says. `curves`: what was measured, for a picture.
    """

    layers: tuple[LayerVerdict, ...]
    optimizer: str
    lr: float
    widths: tuple[int, ...]
    seeds: tuple[int, ...]
    steps: int
    notes: tuple[str, ...] = ()
    structure: tuple[Finding, ...] = ()
    curves: tuple[Curve, ...] = field(default=(), repr=False)

    @property
    def passed(self) -> bool:
        return not self.structure and all(verdict.passed for verdict in self.layers)

    @property
    def culprits(self) -> tuple[LayerVerdict, ...]:
        """The layers to which the most direct evidence points; other failures follow from them."""
        failed = [verdict for verdict in self.layers if not verdict.passed]
        most_direct = min((verdict.evidence for verdict in failed), default=None)
        return tuple(verdict for verdict in failed if verdict.evidence is most_direct)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        longest = max(len(verdict.layer) for verdict in self.layers)
        yield (
            f"{self.optimizer}, lr {self.lr:.3g}, widths {', '.join(map(str, self.widths))}, "
            f"{len(self.seeds)} seeds, {self.steps} steps; powers of the width"
        )
        yield f"      {'layer':{longest}}  {'kind':10}   step   start    size  change"
        for verdict in self.layers:
            if not (verdict.passed and verdict.layer.endswith(f" {BIAS}")):
                yield _line(verdict, longest)
        for note in self.notes:
            yield f"note: {note}"
        if self.passed and (drifting := [v for v in self.layers if v.evidence is UNCLEAR]):
            named = ", ".join(f"'{verdict.layer}'" for verdict in drifting)
            yield (
                f"note: {named} drift with the width in later steps, though no layer's own steps "
                "do: narrow models and high rates do that too"
            )
        if self.passed:
            yield "passed: all layers behave alike at every width"
        for failure in self.failed:
            yield f"failed: {failure}"

    @property
    def failed(self) -> tuple[str, ...]:
        """A sentence for each fault: what is not set up as the table says, then each cause."""
        return (*map(_not_as_the_table, self.structure), *self._causes())

    def _causes(self) -> Iterator[str]:
        for cause in dict.fromkeys(culprit.cause for culprit in self.culprits):
            named = [f"'{culprit.layer}'" for culprit in self.culprits if culprit.cause == cause]
            yield f"{', '.join(named)}: {cause}"

    def to_json(self) -> str:
        return json.dumps(
            {
                "passed": self.passed,
                "failed": self.failed,
                "optimizer": self.optimizer,
                "lr": self.lr,
                "widths": self.widths,
                "seeds": self.seeds,
                "steps": self.steps,
                "notes": self.notes,
                "structure": [dataclasses.asdict(finding) for finding in self.structure],
                "culprits": [verdict.layer for verdict in self.culprits],
                "layers": [_as_json(verdict) for verdict in self.layers],
            },
            indent=1,
        )


def _not_as_the_table(finding: Finding) -> str:
    return (
        f"'{finding.path}': its {finding.what} is {finding.found:.4g}, and the table says "
        f"{finding.expected:.4g}"
    )


def _line(verdict: LayerVerdict, longest: int) -> str:
    slopes = verdict.slopes
    numbers = (slopes.step, slopes.start, slopes.size, slopes.change)
    text = "  ".join(f"{'-' if x is None else f'{x:+.2f}':>6}" for x in numbers)
    mark = "FAIL" if not verdict.passed else "?   " if verdict.evidence is UNCLEAR else "ok  "
    return f"{mark}  {verdict.layer:{longest}}  {verdict.role.value:10} {text}"


def _as_json(verdict: LayerVerdict) -> dict[str, Any]:
    slopes = verdict.slopes
    found = {"step": slopes.step, "start": slopes.start, "size": slopes.size}
    found["change"] = slopes.change
    return {
        "layer": verdict.layer,
        "kind": verdict.role.value,
        "passed": verdict.passed,
        "cause": verdict.cause,
        "slopes": {n: None if x is None or math.isnan(x) else x for n, x in found.items()},
    }
