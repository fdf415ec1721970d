"""Reads the schedule objects of DeepSpeed's pipeline engine. Nothing of DeepSpeed is imported.

An instruction names a buffer, not a microbatch: the k-th instruction of a kind is that of
microbatch k, as TrainSchedule and InferenceSchedule have it.

Not covered: DualPipeV, whose stages are two per rank and whose transfers are batched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Final, Protocol

from hydro_hpc.errors import ScheduleError
from hydro_hpc.schedules.schedule import COLLECTIVES, Action, Kind, Schedule

KIND_OF: Final = {
    "ForwardPass": Kind.FORWARD,
    "BackwardPass": Kind.BACKWARD,
    "SendActivation": Kind.SEND_ACTIVATION,
    "RecvActivation": Kind.RECV_ACTIVATION,
    "SendGrad": Kind.SEND_GRAD,
    "RecvGrad": Kind.RECV_GRAD,
    "ReduceTiedGrads": Kind.TIED,
    "OptimizerStep": Kind.BORDER,
}
OWN_STAGE: Final = frozenset({"LoadMicroBatch", "ReduceGrads"})  # wait for no other stage


class PipeSchedule(Protocol):
    """What is used of `deepspeed.runtime.pipe.schedule.PipeSchedule`, of one stage."""

    @property
    def micro_batches(self) -> int: ...
    @property
    def stages(self) -> int: ...
    @property
    def stage_id(self) -> int: ...
    def steps(self) -> Iterable[Sequence[object]]: ...


def of_all_stages(own: PipeSchedule) -> list[PipeSchedule]:
    """Returns new schedule objects of all stages, like `own`, which is not used up."""
    make: Callable[..., PipeSchedule] = type(own)
    try:
        return [
            make(micro_batches=own.micro_batches, stages=own.stages, stage_id=stage)
            for stage in range(own.stages)
        ]
    except TypeError as error:
        raise ScheduleError(
            f"schedule: {type(own).__name__} cannot be made for the other stages ({error}); "
            "it must take micro_batches, stages and stage_id, as DeepSpeed's do"
        ) from None


def read_instructions(
    stages: Sequence[PipeSchedule], *, tied_stages: Collection[int] = ()
) -> Schedule:
    """Returns the schedule with its transfers. `tied_stages`: those that share weights."""
    return Schedule(
        ranks=tuple(
            tuple(_actions(schedule, stage, stage in tied_stages))
            for stage, schedule in enumerate(stages)
        )
    )


def _actions(schedule: PipeSchedule, stage: int, is_tied: bool) -> Iterator[Action]:
    num_seen: Counter[Kind] = Counter()
    for commands in schedule.steps():
        for command in commands:
            name = type(command).__name__
            if name in OWN_STAGE:
                continue
            kind = KIND_OF.get(name)
            if kind is None:
                raise ScheduleError(
                    f"schedule of stage {stage}: the instruction {name} is not known; "
                    f"known are {', '.join(sorted([*KIND_OF, *OWN_STAGE]))}"
                )
            if kind in COLLECTIVES:
                if kind == Kind.BORDER or is_tied:
                    yield Action(kind=kind, stage=stage)
                continue
            yield Action(kind=kind, stage=stage, microbatch=num_seen[kind])
            num_seen[kind] += 1
