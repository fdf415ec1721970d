"""How long each communication call of a step will wait, learned from the last steps. Pure.

Training steps repeat, so the n-th communication call of a step waits about as long as it did in
the steps before. The prediction is the one of its last waits that was worth most as a deadline: a
window that ends before it costs the primary, one that ends after it costs harvest
(docs/decisions/0001-window-prediction.md).

Not covered: a schedule known beforehand (part of the engine's labels), calls from several threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

NUM_REMEMBERED: Final = 9
NUM_NEEDED: Final = 3  # waits seen before a call is predicted at all
USED_FROM_NS: Final = 600_000  # of a window: before that a trial is not awake
EARLY_END_NS: Final = 4_000_000  # harvest that one window which ends too early must bring


def best_deadline_ns(waits_ns: Iterable[int]) -> int:
    """Returns the wait that would have been worth most as everybody's deadline, 0 if none was.

    Worth: the time used up to the deadline, less `EARLY_END_NS` for each wait that had begun to be
    used and ended before. So calls that wait evenly get a low quantile, uneven ones a high one.
    The longest wait is no candidate: it may be an outlier.
    """
    ordered = sorted(waits_ns)
    best_ns, most_ns = 0, 0
    used_ns = cost_ns = 0  # of the waits before this one
    for position, wait_ns in enumerate(ordered[:-1]):
        gain_ns = max(0, wait_ns - USED_FROM_NS)
        worth_ns = used_ns + gain_ns * (len(ordered) - position) - cost_ns
        if worth_ns > most_ns:
            best_ns, most_ns = wait_ns, worth_ns
        used_ns += gain_ns
        cost_ns += EARLY_END_NS if gain_ns else 0
    return best_ns


class Windows:
    """Predictions for the calls of one step, by the call's position in the step and its name."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._waits_ns: list[deque[int]] = []
        self._predicted_ns: list[int] = []
        self._num_calls = 0

    def predict_ns(self, name: str) -> int:
        """Returns how long the step's next call will wait, 0 when nothing is known about it."""
        position = self._num_calls
        if position < len(self._names) and self._names[position] == name:
            return self._predicted_ns[position]
        return 0

    def observe(self, name: str, wait_ns: int) -> None:
        """Takes the wait of the step's next call. A call of another name forgets the rest of the
        step.
        """
        position = self._num_calls
        self._num_calls = position + 1
        if position < len(self._names) and self._names[position] != name:
            del self._names[position:], self._waits_ns[position:], self._predicted_ns[position:]
        if position == len(self._names):
            self._names.append(name)
            self._waits_ns.append(deque(maxlen=NUM_REMEMBERED))
            self._predicted_ns.append(0)
        if position < len(self._names):
            self._waits_ns[position].append(wait_ns)

    def end_step(self) -> None:
        """Makes the next call the first of a step, and brings the predictions up to date."""
        for position in range(min(self._num_calls, len(self._names))):
            waits_ns = self._waits_ns[position]
            if len(waits_ns) >= NUM_NEEDED:
                self._predicted_ns[position] = best_deadline_ns(waits_ns)
        self._num_calls = 0

    @property
    def position(self) -> int:
        """How many calls this step has made."""
        return self._num_calls

    def longest_ns(self) -> int:
        """Returns the longest prediction of a step."""
        return max(self._predicted_ns, default=0)

    def is_learned(self) -> bool:
        """Says whether at least one call has been seen often enough to be predicted."""
        return any(len(waits_ns) >= NUM_NEEDED for waits_ns in self._waits_ns)
