"""How long each communication call of a step will wait, learned from the last steps. Pure.

Training steps repeat, so the n-th communication call of a step waits about as long as it did in
the steps before. A window is planned from those waits as what would have been worth most: until a
deadline, and again from a late start on, in case the wait has outlasted what is usual. An early
end while a trial runs costs the primary, a deadline that comes too soon costs harvest
(docs/decisions/0001-window-prediction.md).

When all waits together are much shorter or longer than they were, twice in a row, the training has
changed (another number of microbatches, another sequence length): what came before is forgotten.

Not covered: calls from several threads.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

WORTH_OPENING_NS: Final = 2_000_000  # shorter bubbles are neither opened nor counted
NUM_REMEMBERED: Final = 9
NUM_NEEDED: Final = 2  # waits seen before a call is predicted at all
USED_FROM_NS: Final = 300_000  # of a window: before that a trial is not awake
EARLY_END_NS: Final = 2_000_000  # harvest that one window which ends too early must bring
OPENING_NS: Final = 200_000  # harvest that opening the gate must bring, each time
LATE_AFTER_NS: Final = 300_000  # beyond a wait that is usual
LATE_WAKE_NS: Final = 100_000  # harvest that a late start must bring for each window over before:
# the trial wakes up for nothing, in the primary's time
CHANGE_RATIO: Final = 1.5  # of all waits of a step, in either direction
STEPS_OF_CHANGE: Final = 2  # in a row, until it is believed


class Window(NamedTuple):
    """When a trial may run after the opening of a wait: until `until_ns`, and from `late_ns` on."""

    until_ns: int = 0
    late_ns: int = 0  # 0: never
    is_worth_opening: bool = False


_UNKNOWN: Final = Window()


def plan(waits_ns: Iterable[int], *, early_end_ns: int = EARLY_END_NS) -> Window:
    """Returns the window that would have been worth most to a call that waited this long before.

    Worth: the time used, less `early_end_ns` for each wait that ended while it was used, and
    `LATE_WAKE_NS` for each that was over at the late start. A deadline is
    one of the waits, not the longest; a late start lies `LATE_AFTER_NS` after a wait that is not
    before the deadline.
    """
    ordered = sorted(waits_ns)
    count = len(ordered)
    if count < NUM_NEEDED or ordered[-1] < WORTH_OPENING_NS:
        return _UNKNOWN
    lates = _late_starts(ordered, early_end_ns)
    most_ns, late_ns = lates[0]
    until_ns = 0
    used_ns = 0  # of the waits before this one, less what their ends cost
    for position in range(count - 1):
        wait_ns = ordered[position]
        gain_ns = max(0, wait_ns - USED_FROM_NS)
        if wait_ns >= WORTH_OPENING_NS:
            late_worth_ns, start_ns = lates[position]
            worth_ns = used_ns + gain_ns * (count - position) + late_worth_ns
            if worth_ns > most_ns:
                most_ns, until_ns, late_ns = worth_ns, wait_ns, start_ns
        used_ns += gain_ns - (early_end_ns if gain_ns else 0)
    return Window(until_ns, late_ns, is_worth_opening=most_ns >= early_end_ns + OPENING_NS * count)


def _late_starts(ordered: list[int], early_end_ns: int) -> list[tuple[int, int]]:
    """Returns (worth, start) of the best late start after each wait as the deadline, (0, 0) if none
    is worth anything.
    """
    found = []
    best = (0, 0)
    for position in reversed(range(len(ordered))):
        start_ns = ordered[position] + LATE_AFTER_NS
        worth_ns = 0
        for wait_ns in ordered:
            if wait_ns > start_ns:
                worth_ns += max(0, wait_ns - start_ns - USED_FROM_NS) - early_end_ns
            else:
                worth_ns -= LATE_WAKE_NS
        best = max(best, (worth_ns, start_ns))
        found.append(best)
    return found[::-1]


class Windows:
    """Windows for the calls of one step, by the call's position in the step and its name."""

    def __init__(self) -> None:
        self.early_end_ns = EARLY_END_NS  # grows where the guard finds the primary slowed
        self._names: list[str] = []
        self._waits_ns: list[deque[int]] = []
        self._windows: list[Window] = []
        self._num_calls = 0
        self._step_ns = 0  # all waits of this step
        self._usual_ns: deque[int] = deque(maxlen=NUM_REMEMBERED)  # and of the last steps
        self._num_changed = 0  # steps in a row that were much shorter (negative), or longer

    def expect(self, name: str) -> Window:
        """Returns the window of the step's next call."""
        position = self._num_calls
        if position < len(self._names) and self._names[position] == name:
            return self._windows[position]
        return _UNKNOWN

    def observe(self, name: str, wait_ns: int) -> None:
        """Takes the wait of the step's next call. A call of another name forgets the rest of the
        step.
        """
        position = self._num_calls
        self._num_calls = position + 1
        self._step_ns += wait_ns
        if position < len(self._names) and self._names[position] != name:
            del self._names[position:], self._waits_ns[position:], self._windows[position:]
        if position == len(self._names):
            self._names.append(name)
            self._waits_ns.append(deque(maxlen=NUM_REMEMBERED))
            self._windows.append(_UNKNOWN)
        self._waits_ns[position].append(wait_ns)

    def end_step(self) -> None:
        """Makes the next call the first of a step, and brings the windows up to date."""
        if self._has_changed():
            for waits_ns in self._waits_ns:
                while len(waits_ns) > STEPS_OF_CHANGE:
                    waits_ns.popleft()
        for position in range(self._num_calls):
            self._windows[position] = plan(self._waits_ns[position], early_end_ns=self.early_end_ns)
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
        """Says whether a step has a window that is worth opening."""
        return any(window.is_worth_opening for window in self._windows)

    def is_learned(self) -> bool:
        """Says whether at least one call has been seen often enough to be predicted."""
        return any(len(waits_ns) >= NUM_NEEDED for waits_ns in self._waits_ns)
