"""A pipeline schedule as a value: what each rank does in one step, in order.

Text is that of `torch.distributed.pipelining`: stage, kind, microbatch (`2F0`, `2SEND_F0`), one
line per rank. A stage here is a virtual one: a rank of an interleaved schedule holds several.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from hydro_hpc.errors import ScheduleError


class Kind(StrEnum):
    """What an action does; the values are its text."""

    FORWARD = "F"
    BACKWARD = "B"  # both gradients at once
    INPUT_GRAD = "I"
    WEIGHT_GRAD = "W"
    SEND_ACTIVATION = "SEND_F"
    RECV_ACTIVATION = "RECV_F"
    SEND_GRAD = "SEND_B"
    RECV_GRAD = "RECV_B"
    TIED = "TIED"  # all-reduce among the ranks that hold tied weights
    BORDER = "STEP"  # all-reduce among all ranks of the pipeline: gradient norm, overflow


WORK: Final = frozenset({Kind.FORWARD, Kind.BACKWARD, Kind.INPUT_GRAD, Kind.WEIGHT_GRAD})
COLLECTIVES: Final = frozenset({Kind.TIED, Kind.BORDER})
TRANSFERS: Final = frozenset(Kind) - WORK - COLLECTIVES

_KINDS: Final = "|".join(Kind)
_ACTION: Final = re.compile(rf"([0-9]{{1,9}})({_KINDS})([0-9]{{0,9}})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One thing that a rank does. A collective has no microbatch: it is once in a step."""

    kind: Kind
    stage: int
    microbatch: int | None = None

    def __post_init__(self) -> None:
        if (self.microbatch is None) != (self.kind in COLLECTIVES):
            has = "no microbatch" if self.kind in COLLECTIVES else "a microbatch"
            raise ScheduleError(f"schedule: the action '{self}' must have {has}")

    def __str__(self) -> str:
        microbatch = "" if self.microbatch is None else self.microbatch
        return f"{self.stage}{self.kind}{microbatch}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Returns the action that `str` shows as `text`."""
        found = _ACTION.fullmatch(text)
        if found is None:
            raise ScheduleError(
                f"schedule: '{text}' is no action; write stage, kind, microbatch, such as 2F0, "
                f"with one of the kinds {', '.join(Kind)}"
            )
        stage, kind, microbatch = found.groups()
        return cls(
            kind=Kind(kind),
            stage=int(stage),
            microbatch=int(microbatch) if microbatch else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The actions of one step, by rank. Each is there once; each stage is on one rank."""

    ranks: tuple[tuple[Action, ...], ...]

    def __post_init__(self) -> None:
        if not self.ranks:
            raise ScheduleError("schedule: it has no rank; write one line of actions per rank")
        for rank, actions in enumerate(self.ranks):
            if not actions:
                raise ScheduleError(f"schedule: rank {rank} does nothing; write its actions")
        self._check_once()
        self._check_stages()

    def _check_once(self) -> None:
        seen: set[Action] = set()
        for rank, actions in enumerate(self.ranks):
            for action in actions:
                if action in seen:
                    raise ScheduleError(f"schedule: {action} is there twice; leave one of them out")
                seen.add(action)
            for kind in COLLECTIVES:
                if sum(action.kind == kind for action in actions) > 1:
                    raise ScheduleError(
                        f"schedule: rank {rank} has {kind} twice; leave one of them out"
                    )

    def _check_stages(self) -> None:
        rank_of: dict[int, int] = {}
        for rank, actions in enumerate(self.ranks):
            for action in actions:
                if rank_of.setdefault(action.stage, rank) != rank:
                    raise ScheduleError(
                        f"schedule: stage {action.stage} is on rank {rank_of[action.stage]} and on "
                        f"rank {rank}; a stage is on one rank"
                    )
        for stage in range(len(rank_of)):
            if stage not in rank_of:
                raise ScheduleError(
                    f"schedule: stage {stage} is on no rank, but stage {max(rank_of)} is on one; "
                    "number the stages from 0"
                )

    def __str__(self) -> str:
        return "\n".join(" ".join(map(str, actions)) for actions in self.ranks)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Returns the schedule that `str` shows as `text`."""
        lines = text.strip().splitlines()
        return cls(ranks=tuple(tuple(map(Action.parse, line.split())) for line in lines))

    @property
    def num_stages(self) -> int:
        """How many virtual stages all ranks hold together."""
        return len({action.stage for actions in self.ranks for action in actions})

    def rank_of_stages(self) -> tuple[int, ...]:
        """Returns which rank holds each virtual stage."""
        rank_of = {action.stage: rank for rank, own in enumerate(self.ranks) for action in own}
        return tuple(rank_of[stage] for stage in range(len(rank_of)))

    def without_transfers(self) -> Schedule:
        """Returns the same schedule with transfers implied: sent when ready, taken when needed."""
        return Schedule(
            ranks=tuple(
                tuple(action for action in actions if action.kind not in TRANSFERS)
                for actions in self.ranks
            )
        )
