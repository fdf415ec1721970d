"""The result of a coordinate check: a verdict per layer, as values, as text and as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
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
        """The layers to which the most direct evidence points; other failures follow from them. Of
        values that grow between layers, where that shows first.
        """
        failed = [verdict for verdict in self.layers if not verdict.passed]
        most_direct = min((verdict.evidence for verdict in failed), default=None)
        found = tuple(verdict for verdict in failed if verdict.evidence is most_direct)
        return found[:1] if most_direct is Evidence.BETWEEN else found

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        longest = max(len(verdict.layer) for verdict in self.layers)
        yield (
            f"{self.optimizer}, lr {self.lr:.3g}, widths {', '.join(map(str, self.widths))}, "
            f"{len(self.seeds)} seeds, {self.steps} steps; powers of the width"
        )
        yield f"      {'layer':{longest}}  {'kind':12}   gain    step   start    size  change"
        for verdict in self.layers:
            if not (verdict.passed and verdict.layer.endswith(f" {BIAS}")):
                yield _line(verdict, longest)
        for note in self.notes:
            yield f"note: {note}"
        unclear = [verdict for verdict in self.layers if verdict.evidence is UNCLEAR]
        if self.passed:
            yield from (f"note: {cause}" for cause in _causes(unclear))
            yield "passed: all layers behave alike at every width"
        for failure in self.failed:
            yield f"failed: {failure}"

    @property
    def failed(self) -> tuple[str, ...]:
        """A sentence for each fault: what is not set up as the table says, then each cause."""
        return (*map(_not_as_the_table, self.structure), *_causes(self.culprits))

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


def _causes(verdicts: Sequence[LayerVerdict]) -> Iterator[str]:
    for cause in dict.fromkeys(verdict.cause for verdict in verdicts):
        named = [f"'{verdict.layer}'" for verdict in verdicts if verdict.cause == cause]
        yield f"{', '.join(named)}: {cause}"


def _not_as_the_table(finding: Finding) -> str:
    return (
        f"'{finding.path}': its {finding.what} is {finding.found:.4g}, and the table says "
        f"{finding.expected:.4g}"
    )


def _line(verdict: LayerVerdict, longest: int) -> str:
    slopes = verdict.slopes
    numbers = (slopes.gain, slopes.step, slopes.start, slopes.size, slopes.change)
    text = "  ".join(f"{'-' if x is None else f'{x:+.2f}':>6}" for x in numbers)
    mark = "FAIL" if not verdict.passed else "?   " if verdict.evidence is UNCLEAR else "ok  "
    return f"{mark}  {verdict.layer:{longest}}  {verdict.role.value:12} {text}"


def _as_json(verdict: LayerVerdict) -> dict[str, Any]:
    slopes = verdict.slopes
    found = {name: getattr(slopes, name) for name in ("gain", "step", "start", "size", "change")}
    return {
        "layer": verdict.layer,
        "kind": verdict.role.value,
        "passed": verdict.passed,
        "cause": verdict.cause,
        "slopes": {n: None if x is None or math.isnan(x) else x for n, x in found.items()},
    }
