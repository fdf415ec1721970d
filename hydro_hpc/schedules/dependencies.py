"""What each action of a schedule needs from others before it can go on.

Where a schedule says its transfers, they are blocking: `SEND_F` of one stage and `RECV_F` of the
next go on together, as `torch.distributed.send` and `recv` do. Where it does not, they are
implied, and a sender does not wait.
"""

from __future__ import annotations

from dataclasses import dataclass

from hydro_hpc.errors import ScheduleError
from hydro_hpc.schedules.schedule import COLLECTIVES, Action, Kind, Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Another action, and how far it must be."""

    action: Action
    only_begun: bool = False  # it is the other end of a transfer, or of a collective
    has_transfer: bool = False  # its result is on another rank, and no action fetches it


class Dependencies:
    """The needs of one schedule's actions. What is not in the schedule can be needed, too."""

    def __init__(self, schedule: Schedule) -> None:
        self._rank_of = schedule.rank_of_stages()
        self._last = len(self._rank_of) - 1
        self._present = frozenset(action for actions in schedule.ranks for action in actions)
        self._collectives = [action for action in self._present if action.kind in COLLECTIVES]

    def __contains__(self, action: Action) -> bool:
        return action in self._present

    def needs_of(self, action: Action) -> list[Need]:
        """Returns all that `action` needs besides its own rank's turn."""
        kind, stage, microbatch = action.kind, action.stage, action.microbatch
        if kind in COLLECTIVES:
            return [
                Need(action=other, only_begun=True)
                for other in self._collectives
                if other.kind == kind and other != action
            ]
        assert microbatch is not None
        if kind == Kind.FORWARD:
            return self._activation(stage, microbatch)
        if kind in (Kind.BACKWARD, Kind.INPUT_GRAD):
            forward = Action(kind=Kind.FORWARD, stage=stage, microbatch=microbatch)
            return [Need(action=forward), *self._gradient(stage, microbatch)]
        if kind == Kind.WEIGHT_GRAD:
            gradient = Action(kind=Kind.INPUT_GRAD, stage=stage, microbatch=microbatch)
            return [Need(action=gradient)]
        return self._transfer(action, microbatch)

    def _activation(self, stage: int, microbatch: int) -> list[Need]:
        if stage == 0:
            return []
        received = Action(kind=Kind.RECV_ACTIVATION, stage=stage, microbatch=microbatch)
        if received in self._present:
            return [Need(action=received)]
        before = Action(kind=Kind.FORWARD, stage=stage - 1, microbatch=microbatch)
        return [Need(action=before, has_transfer=self._is_apart(stage, stage - 1))]

    def _gradient(self, stage: int, microbatch: int) -> list[Need]:
        if stage == self._last:
            return []
        received = Action(kind=Kind.RECV_GRAD, stage=stage, microbatch=microbatch)
        if received in self._present:
            return [Need(action=received)]
        after = self._backward(stage + 1, microbatch)
        return [Need(action=after, has_transfer=self._is_apart(stage, stage + 1))]

    def _transfer(self, action: Action, microbatch: int) -> list[Need]:
        """Both ends of a transfer go on when both have begun."""
        kind, stage = action.kind, action.stage
        sent: list[Need] = []
        if kind == Kind.SEND_ACTIVATION:
            peer_kind, peer = Kind.RECV_ACTIVATION, stage + 1
            forward = Action(kind=Kind.FORWARD, stage=stage, microbatch=microbatch)
            sent.append(Need(action=forward))
        elif kind == Kind.RECV_ACTIVATION:
            peer_kind, peer = Kind.SEND_ACTIVATION, stage - 1
        elif kind == Kind.SEND_GRAD:
            peer_kind, peer = Kind.RECV_GRAD, stage - 1
            sent.append(Need(action=self._backward(stage, microbatch)))
        else:
            peer_kind, peer = Kind.SEND_GRAD, stage + 1
        if not 0 <= peer <= self._last:
            raise ScheduleError(f"schedule: {action} has no stage at its other end; leave it out")
        other = Action(kind=peer_kind, stage=peer, microbatch=microbatch)
        return [*sent, Need(action=other, only_begun=True)]

    def _backward(self, stage: int, microbatch: int) -> Action:
        """Returns what makes the gradient of a stage's input."""
        split = Action(kind=Kind.INPUT_GRAD, stage=stage, microbatch=microbatch)
        if split in self._present:
            return split
        return Action(kind=Kind.BACKWARD, stage=stage, microbatch=microbatch)

    def _is_apart(self, stage: int, other: int) -> bool:
        return self._rank_of[stage] != self._rank_of[other]
