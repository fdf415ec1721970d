"""How long each communication call of a step will wait, learned from the last steps. Pure.

Training steps repeat, so the n-th communication call of a step ends about as long after the call
before it as in the last steps: a peer begins its part when it has got ours, and our own computing
between the two calls only shortens the wait. A window is planned from those times as what would
have been worth most: until a deadline, and again from a late start on, in case the wait has
outlasted what is usual. An early end while a trial runs costs the primary, a deadline that comes
too soon costs harvest (docs/decisions/0001-window-prediction.md).

A call is known by the names of the calls before it in its step: a step of another shape (one that
begins with an evaluation, say) is learned beside the usual one. When all waits together are much
shorter or longer than they were, twice in a row, the training has changed (another number of
microbatches, another sequence length): what came before is forgotten.

Not covered: calls from several threads.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Collection
from typing import Final, NamedTuple

WORTH_OPENING_NS: Final = 2_000_000  # shorter bubbles are neither opened nor counted
NUM_REMEMBERED: Final = 9
NUM_NEEDED: Final = 2  # waits seen before a call is predicted at all
USED_FROM_NS: Final = 300_000  # of a window: before that a trial is not awake
EARLY_END_NS: Final = 3_000_000  # harvest that one window which ends too early must bring
OPENING_NS: Final = 2_000_000  # harvest that opening the gate must bring, each time
LATE_AFTER_NS: Final = 300_000  # beyond a wait that is usual
LATE_WAKE_NS: Final = 100_000  # harvest that a late start must bring for each window over before:
# the trial wakes up for nothing, in the primary's time
CHANGE_RATIO: Final = 1.5  # of all waits of a step, in either direction
STEPS_OF_CHANGE: Final = 2  # in a row, until it is believed
MOST_PLACES: Final = 5000  # calls that are known; 0.9 kB each, of the training's memory


class Call(NamedTuple):
    """What one call was seen to do: it began to wait so long after the end of the call before."""

    began_ns: int
    wait_ns: int


class Window(NamedTuple):
    """When a trial may run while a call waits: until `until_ns`, and from `late_ns` on (0: never),
    if the wait begins at `open_by_ns` at the latest. All since the end of the call before.
    """

    until_ns: int = 0
    late_ns: int = 0
    open_by_ns: int = -1
    is_worth_opening: bool = False  # if the wait begins when it usually does

    def since(self, began_ns: int) -> tuple[int, int]:
        """Returns (deadline, late start) since the beginning of a wait; (0, 0): not to be opened.
        A deadline that comes too soon is none.
        """
        if began_ns > self.open_by_ns:
            return 0, 0
        until_ns = self.until_ns - began_ns
        if until_ns < WORTH_OPENING_NS:
            until_ns = 0
        return until_ns, max(0, self.late_ns - began_ns)


_UNKNOWN: Final = Window()


def plan(calls: Collection[Call], *, early_end_ns: int = EARLY_END_NS) -> Window:
    """Returns the window that would have been worth most to a call that was seen to do this.

    Worth, for a wait that begins when it usually does: the time used, less `early_end_ns` for each
    wait that ended while it was used, and `LATE_WAKE_NS` for each that was over at the late start.
    A deadline is the end of one of the waits, not of the last; a late start lies `LATE_AFTER_NS`
    after an end that is not before the deadline. It is worth opening where it is worth `OPENING_NS`
    per opening and one early end.
    """
    count = len(calls)
    longest_ns = max((call.wait_ns for call in calls), default=0)
    if count < NUM_NEEDED or longest_ns < WORTH_OPENING_NS:
        return _UNKNOWN
    began_ns = int(statistics.median(call.began_ns for call in calls))
    ends = sorted(_end_ns(call, usually_ns=began_ns, longest_ns=longest_ns) for call in calls)
    lates = _late_starts(ends, early_end_ns)
    most_ns, late_ns = lates[0]
    until_ns = 0
    used_ns = 0  # of the waits before this one, less what their ends cost
    for position in range(count - 1):
        gain_ns = max(0, ends[position] - began_ns - USED_FROM_NS)
        late_worth_ns, start_ns = lates[position]
        worth_ns = used_ns + gain_ns * (count - position) + late_worth_ns
        if worth_ns > most_ns:
            most_ns, until_ns, late_ns = worth_ns, ends[position], start_ns
        used_ns += gain_ns - (early_end_ns if gain_ns else 0)
    spare_ns = most_ns - early_end_ns - OPENING_NS * count  # each later start costs all windows
    return Window(until_ns, late_ns, began_ns + spare_ns // count, is_worth_opening=spare_ns >= 0)


def _end_ns(call: Call, *, usually_ns: int, longest_ns: int) -> int:
    """Returns when a call's wait ended. One that began far from when it usually does (the job had
    stored a checkpoint, say) shows how long a wait is, not when a peer is ready.
    """
    is_far = abs(call.began_ns - usually_ns) > longest_ns
    return (usually_ns if is_far else call.began_ns) + call.wait_ns


def _late_starts(ends: list[int], early_end_ns: int) -> list[tuple[int, int]]:
    """Returns (worth, start) of the best late start after each end as the deadline, (0, 0) if none
    is worth anything.
    """
    found = []
    best = (0, 0)
    for position in reversed(range(len(ends))):
        start_ns = ends[position] + LATE_AFTER_NS
        worth_ns = 0
        for end_ns in ends:
            if end_ns > start_ns:
                worth_ns += max(0, end_ns - start_ns - USED_FROM_NS) - early_end_ns
            else:
                worth_ns -= LATE_WAKE_NS
        best = max(best, (worth_ns, start_ns))
        found.append(best)
    return found[::-1]


class Place:
    """A call at its place in a step: what it was seen to do, and the calls that came after it."""

    __slots__ = ("after", "calls", "window")

    def __init__(self) -> None:
        self.after: dict[str, Place] = {}  # by name
        self.calls: deque[Call] = deque(maxlen=NUM_REMEMBERED)
        self.window = _UNKNOWN


class Windows:
    """Windows for the calls of one step, by the names of the calls up to it."""

    def __init__(self) -> None:
        self.early_end_ns = EARLY_END_NS  # grows where the guard finds the primary slowed
        self.ended_ns = 0  # when the last call ended, by the caller's clock
        self._start = Place()  # before the first call of a step
        self._places = [self._start]
        self._at: Place | None = self._start  # the last call; None: it is not known
        self._path: list[Place] = []  # this step's calls, as far as they are known
        self._last_path: list[Place] = []  # and the last step's
        self._num_calls = 0
        self._step_ns = 0  # all waits of this step
        self._usual_ns: deque[int] = deque(maxlen=NUM_REMEMBERED)  # and of the last steps
        self._num_changed = 0  # steps in a row that were much shorter (negative), or longer

    def expect(self, name: str) -> Window:
        """Returns the window of the step's next call, its times since the end of the last one."""
        place = self._at.after.get(name) if self._at else None
        return place.window if place else _UNKNOWN

    def observe(self, name: str, *, started_ns: int, ended_ns: int) -> None:
        """Takes the wait of the step's next call."""
        self._num_calls += 1
        wait_ns = ended_ns - started_ns
        before_ns, self.ended_ns = self.ended_ns, ended_ns
        self._step_ns += wait_ns
        self._at = place = self._place_after(name)
        if place is None:
            return
        self._path.append(place)
        if before_ns:  # else the first call of all, which began after nothing
            place.calls.append(Call(started_ns - before_ns, wait_ns))

    def _place_after(self, name: str) -> Place | None:
        if self._at is None:
            return None
        place = self._at.after.get(name)
        if place is None and len(self._places) < MOST_PLACES:
            place = self._at.after[name] = Place()
            self._places.append(place)
        return place

    def end_step(self) -> None:
        """Makes the next call the first of a step, and brings the windows up to date."""
        if self._has_changed():
            for place in self._places:
                while len(place.calls) > STEPS_OF_CHANGE:
                    place.calls.popleft()
        for place in self._path:
            place.window = plan(place.calls, early_end_ns=self.early_end_ns)
        if len(self._places) >= MOST_PLACES and len(self._path) < MOST_PLACES // 2:
            self._start = Place()  # of many shapes of step; what comes often is soon known again
            self._places = [self._start]
        self._last_path, self._path = self._path, []
        self._at = self._start
        self._num_calls = 0
        self._step_ns = 0

    def _has_changed(self) -> bool:
        """Notes this step's waits, and says whether the last steps were all unlike those before."""
        if self._usual_ns:
            usual_ns = statistics.median(self._usual_ns)
            if self._step_ns * CHANGE_RATIO < usual_ns:
                self._num_changed = min(self._num_changed, 0) - 1
            elif self._step_ns > usual_ns * CHANGE_RATIO:
                self._num_changed = max(self._num_changed, 0) + 1
            else:
                self._num_changed = 0
        self._usual_ns.append(self._step_ns)
        if abs(self._num_changed) < STEPS_OF_CHANGE:
            return False
        self._num_changed = 0
        while len(self._usual_ns) > STEPS_OF_CHANGE:
            self._usual_ns.popleft()
        return True

    @property
    def position(self) -> int:
        """How many calls this step has made."""
        return self._num_calls

    def has_worth_opening(self) -> bool:
        """Says whether the last step had a window that is worth opening."""
        return any(place.window.is_worth_opening for place in self._last_path)
