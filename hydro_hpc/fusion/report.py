"""Which executor a bundle uses, and why: kept with the bundle, written down by the study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hydro_hpc.fusion.executor import ExecutorKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One executor as it did at binding: `refusal` is why it may not be used, None if it equalled
    the untouched models; `step_ms` is one forward and backward of all slots, None if not timed."""

    name: str
    refusal: str | None
    step_ms: float | None = None

    def __str__(self) -> str:
        verdict = self.refusal or "equals separate models"
        timing = "" if self.step_ms is None else f", {self.step_ms:.3g} ms a step"
        return f"{self.name}: {verdict}{timing}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartTime:
    """One forward and backward of the modules at `path`, of class `kind`, in all slots."""

    path: str
    kind: str
    grouped_ms: float
    per_slot_ms: float

    def __str__(self) -> str:
        return (
            f"{self.grouped_ms:.3g} ms for all slots at once, {self.per_slot_ms:.3g} ms one by one"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleReport:
    """`executor` is None until the first call, if the bundle was bound without an example.

    `channels_last` says whether images are laid out so, `compiled` whether torch has compiled the
    forward. Of a grouped bundle, `per_slot` are the modules (by path) and calls that run once per
    slot, with the reason; `one_by_one` those of them that could run for all slots at once but are
    faster so; `times` what the modules took.
    """

    slots: int
    executor: ExecutorKind | None
    reason: str
    channels_last: bool = False
    compiled: bool = False
    candidates: tuple[Candidate, ...] = ()
    per_slot: Mapping[str, str] = field(default_factory=dict)
    one_by_one: Mapping[str, str] = field(default_factory=dict)
    times: tuple[PartTime, ...] = ()

    def has_verified(self, name: str) -> bool:
        """Says whether the candidate of this name was found equal to the untouched models."""
        return any(one.name == name and one.refusal is None for one in self.candidates)

    def fallen_to_loop(self, reason: str) -> BundleReport:
        """The same after the executor was found not to be exact."""
        executor = ExecutorKind.LOOP
        return replace(self, executor=executor, channels_last=False, compiled=False, reason=reason)

    def __str__(self) -> str:
        chosen = "not chosen yet" if self.executor is None else self.executor.value
        chosen += ", compiled" if self.compiled else ""
        chosen += ", channels last" if self.channels_last else ""
        lines = [f"{self.slots} slots, {chosen}: {self.reason}"]
        lines += [f"  {candidate}" for candidate in self.candidates]
        lines += [f"  once per slot: {what} ({why})" for what, why in self.per_slot.items()]
        return "\n".join(lines)
