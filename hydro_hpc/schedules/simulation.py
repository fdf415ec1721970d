"""When each action of a schedule happens: it starts when its rank and all that it needs are there.

Only dependencies count, never the slot that a schedule's author drew an action in. The result does
not depend on the order in which ranks are looked at: each start is a maximum over known times.

Not covered: work that overlaps on one rank, steps that are not separated by a border.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from hydro_hpc.errors import ScheduleError
from hydro_hpc.schedules.dependencies import Dependencies, Need
from hydro_hpc.schedules.schedule import Action, Schedule
from hydro_hpc.schedules.timing import Durations, Span, Timing

NUM_TOLD: Final = 4  # ranks that an error names


def simulate(schedule: Schedule, durations: Durations) -> Timing:
    """Returns the timing of one step that all ranks begin at 0.

    Raises ScheduleError, naming the actions, if the schedule cannot run to its end.
    """
    if durations.num_stages != schedule.num_stages:
        raise ScheduleError(
            f"durations: they are for {durations.num_stages} stages, but the schedule has "
            f"{schedule.num_stages}; give one of each kind per virtual stage"
        )
    simulation = _Simulation(schedule, durations)
    runnable = list(range(len(schedule.ranks)))
    while runnable:
        runnable += simulation.advance(runnable.pop())
    simulation.check_done()
    return Timing(ranks=tuple(map(tuple, simulation.spans)))


class _Simulation:
    """How far each rank is, and who waits for what."""

    def __init__(self, schedule: Schedule, durations: Durations) -> None:
        self._schedule = schedule
        self._durations = durations
        self._dependencies = Dependencies(schedule)
        self._begun_ns: dict[Action, int] = {}
        self._ended_ns: dict[Action, int] = {}
        self._waiting: defaultdict[tuple[Action, bool], list[int]] = defaultdict(list)
        self._needs: list[list[Need]] = [[] for _ in schedule.ranks]  # of each rank's next action
        self.spans: list[list[Span]] = [[] for _ in schedule.ranks]

    def advance(self, rank: int) -> list[int]:
        """Takes a rank as far as it can go, and returns the ranks that waited for that."""
        woken: list[int] = []
        while (action := self._next(rank)) is not None:
            if action not in self._begun_ns:
                self._begun_ns[action] = self._free_ns(rank)
                self._needs[rank] = self._dependencies.needs_of(action)
                woken += self._waiting.pop((action, True), [])
            missing = self._missing(rank)
            if missing is not None:
                self._waiting[missing.action, missing.only_begun].append(rank)
                break
            self._run(rank, action)
            woken += self._waiting.pop((action, False), [])
        return woken

    def check_done(self) -> None:
        """Raises if a rank did not get to its end, for the first action that nobody will do."""
        stuck = [rank for rank in range(len(self._schedule.ranks)) if self._next(rank) is not None]
        if not stuck:
            return
        reasons = []
        for rank in stuck:
            missing = self._missing(rank)
            assert missing is not None
            is_absent = missing.action not in self._dependencies
            what = f"rank {rank} waits at {self._next(rank)} for {missing.action}"
            reasons.append((not is_absent, what + (", which no rank does" if is_absent else "")))
        reasons.sort(key=lambda reason: reason[0])
        told = "; ".join(text for _, text in reasons[:NUM_TOLD])
        raise ScheduleError(f"schedule: it cannot run to its end: {told}; change their order")

    def _next(self, rank: int) -> Action | None:
        actions = self._schedule.ranks[rank]
        position = len(self.spans[rank])
        return actions[position] if position < len(actions) else None

    def _free_ns(self, rank: int) -> int:
        return self.spans[rank][-1].end_ns if self.spans[rank] else 0

    def _missing(self, rank: int) -> Need | None:
        """Returns the first thing that a rank's next action still needs."""
        for need in self._needs[rank]:
            known = self._begun_ns if need.only_begun else self._ended_ns
            if need.action not in known:
                return need
        return None

    def _run(self, rank: int, action: Action) -> None:
        start_ns = begun_ns = self._begun_ns[action]
        for need in self._needs[rank]:
            known = self._begun_ns if need.only_begun else self._ended_ns
            lag_ns = self._durations.transfer_ns if need.has_transfer else 0
            start_ns = max(start_ns, known[need.action] + lag_ns)
        end_ns = start_ns + self._durations.of_ns(action)
        self._ended_ns[action] = end_ns
        self.spans[rank].append(
            Span(action=action, begun_ns=begun_ns, start_ns=start_ns, end_ns=end_ns)
        )
