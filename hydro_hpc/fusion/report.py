"""Which executor a bundle uses, and why: kept with the bundle, written down by the study."""

from __future__ import annotations

from dataclasses import dataclass

from hydro_hpc.fusion.executor import ExecutorKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One executor as it did at binding: `refusal` is why it may not be used, None if it equalled
    the untouched models; `step_ms` is one forward and backward of all slots, None if not timed."""

    kind: ExecutorKind
    refusal: str | None
    step_ms: float | None = None

    def __str__(self) -> str:
        verdict = self.refusal or "equals separate models"
        timing = "" if self.step_ms is None else f", {self.step_ms:.3g} ms a step"
        return f"{self.kind.value}: {verdict}{timing}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleReport:
    """`executor` is None until the first call, if the bundle was bound without an example."""

    slots: int
    executor: ExecutorKind | None
    reason: str
    candidates: tuple[Candidate, ...] = ()

    def __str__(self) -> str:
        chosen = "not chosen yet" if self.executor is None else self.executor.value
        first = f"{self.slots} slots, {chosen}: {self.reason}"
        return "\n".join([first, *(f"  {candidate}" for candidate in self.candidates)])
