"""How long each communication instruction of a step will wait, known from the engine's schedule.

For what nothing was learned about yet: the first steps, and the first after a change of the
number of microbatches. Pure.

Not covered: what a transfer itself takes over a loaded network, data-parallel collectives
(ReduceGrads), stages that are not alike, schedules with instructions of their own (DualPipeV).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from hydro_hpc.schedules.instructions import (
    KIND_OF,
    PipeSchedule,
    of_all_stages,
    read_instructions,
)
from hydro_hpc.schedules.schedule import WORK
from hydro_hpc.schedules.simulation import simulate
from hydro_hpc.schedules.timing import Durations

INSTRUCTION_OF: Final = {kind: name for name, kind in KIND_OF.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedWait:
    """An instruction that communicates with other stages, the `number`-th of its name, from 0."""

    instruction: str
    number: int
    wait_ns: int


def plan_waits(
    own: PipeSchedule,
    *,
    forward_ns: int,
    backward_ns: int,
    transfer_ns: int = 0,
    tied_stages: Collection[int] = (),
) -> tuple[PlannedWait, ...]:
    """Returns this stage's waits in the order in which its instructions run.

    `own` is the schedule object that the engine is about to run; peers are taken to be as fast as
    this stage, whose forward and backward of one microbatch took so long: give the least of a
    step (in a first step their median was up to 40% too long, the least 8%). The border's wait is
    that of the first collective in OptimizerStep; with `tied_stages` (those that share weights) a
    stage among them waits for the others in ReduceTiedGrads already.

    Costs about 20 us per instruction of all stages: 4 ms for 4 stages and 8 microbatches, 0.15 s
    for 16 and 64, 2 s for 32 and 256. For changes of the shape, not for every step.

    Raises ScheduleError if the schedule is of a kind that is not known.
    """
    schedule = read_instructions(of_all_stages(own), tied_stages=tied_stages)
    durations = Durations.even(
        schedule.num_stages,
        forward_ns=forward_ns,
        input_grad_ns=backward_ns,
        transfer_ns=transfer_ns,
    )
    spans = simulate(schedule, durations).ranks[own.stage_id]
    return tuple(
        PlannedWait(
            instruction=INSTRUCTION_OF[span.action.kind],
            number=span.action.microbatch or 0,
            wait_ns=span.wait_ns,
        )
        for span in spans
        if span.action.kind not in WORK
    )
