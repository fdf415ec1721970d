"""How long each communication call of a step will wait, learned from the last steps. Pure.

Training steps repeat, so the n-th communication call of a step waits about as long as it did in
the steps before. The prediction is the one of the last `NUM_REMEMBERED` waits that a third of them
undercut: a window that ends before its prediction costs the primary, one that ends after it costs
harvest (docs/decisions/0001-window-prediction.md).

Not covered: a schedule known beforehand (part of the engine's labels), calls from several threads.
"""

from __future__ import annotations

from collections import deque
from typing import Final

NUM_REMEMBERED: Final = 9  # a change to longer waits is learned after two thirds of them
NUM_NEEDED: Final = 3  # waits seen before a call is predicted at all


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
                self._predicted_ns[position] = sorted(waits_ns)[len(waits_ns) // 3]
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
