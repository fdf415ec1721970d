"""How long the work of a schedule takes, and when each of its actions then happens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from hydro_hpc.errors import ScheduleError
from hydro_hpc.schedules.schedule import COLLECTIVES, WORK, Action, Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Durations:
    """How long one microbatch takes, by virtual stage. A full backward takes both gradients."""

    forward_ns: tuple[int, ...]
    input_grad_ns: tuple[int, ...]
    weight_grad_ns: tuple[int, ...]
    transfer_ns: int = 0  # from one rank to another

    def __post_init__(self) -> None:
        lengths = {len(self.forward_ns), len(self.input_grad_ns), len(self.weight_grad_ns)}
        if len(lengths) > 1:
            raise ScheduleError(
                "durations: the kinds of work have different numbers of stages; give one of each "
                "per virtual stage"
            )
        given = (*self.forward_ns, *self.input_grad_ns, *self.weight_grad_ns, self.transfer_ns)
        if min(given) < 0:
            raise ScheduleError(f"durations: {min(given)} ns is negative; give 0 or more")

    @classmethod
    def even(
        cls,
        num_stages: int,
        *,
        forward_ns: int,
        input_grad_ns: int,
        weight_grad_ns: int = 0,
        transfer_ns: int = 0,
    ) -> Self:
        """Returns the durations of stages that are all alike."""
        return cls(
            forward_ns=(forward_ns,) * num_stages,
            input_grad_ns=(input_grad_ns,) * num_stages,
            weight_grad_ns=(weight_grad_ns,) * num_stages,
            transfer_ns=transfer_ns,
        )

    @property
    def num_stages(self) -> int:
        return len(self.forward_ns)

    def of_ns(self, action: Action) -> int:
        """Returns how long an action takes once it waits for nobody."""
        stage = action.stage
        if action.kind == Kind.FORWARD:
            return self.forward_ns[stage]
        if action.kind == Kind.BACKWARD:
            return self.input_grad_ns[stage] + self.weight_grad_ns[stage]
        if action.kind == Kind.INPUT_GRAD:
            return self.input_grad_ns[stage]
        if action.kind == Kind.WEIGHT_GRAD:
            return self.weight_grad_ns[stage]
        return 0 if action.kind in COLLECTIVES else self.transfer_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One action in time, from the step's start."""

    action: Action
    begun_ns: int  # its turn on its rank
    start_ns: int  # what it needs is there
    end_ns: int

    @property
    def wait_ns(self) -> int:
        """How long the rank does nothing because of it: before work, and in all of a transfer."""
        return (self.start_ns if self.action.kind in WORK else self.end_ns) - self.begun_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One step as simulated: the spans of each rank, in its order."""

    ranks: tuple[tuple[Span, ...], ...]

    @property
    def step_ns(self) -> int:
        """When the last rank is done."""
        return max(spans[-1].end_ns for spans in self.ranks)

    def waits(self, rank: int) -> tuple[Span, ...]:
        """Returns the spans of a rank that wait, the border's among them."""
        return tuple(span for span in self.ranks[rank] if span.wait_ns > 0)

    def idle_ns(self, rank: int) -> int:
        """Returns a rank's time without work until the last rank is done."""
        waited_ns = sum(span.wait_ns for span in self.ranks[rank])
        return waited_ns + self.step_ns - self.ranks[rank][-1].end_ns

    @property
    def bubble_frac(self) -> float:
        """The share of all ranks' time in which they do nothing."""
        idle_ns = sum(self.idle_ns(rank) for rank in range(len(self.ranks)))
        return idle_ns / (len(self.ranks) * self.step_ns) if self.step_ns else 0.0
