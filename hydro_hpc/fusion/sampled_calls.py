"""Which calls of a bundle are compared with separate models once more, while it trains."""

from __future__ import annotations

from typing import Final

FIRST: Final = 1000  # early enough to save a study, late enough to cost little
FACTOR: Final = 4


class SampledCalls:
    """Call 1,000, 4,000, 16,000 and so on: what a change of the weights or of something that Python
    reads can make wrong shows sooner or later, for a hundredth of the time of a long training.
    """

    def __init__(self) -> None:
        self._num_calls, self._next = 0, FIRST

    def is_next(self) -> bool:
        """Counts a call."""
        self._num_calls += 1
        if self._num_calls < self._next:
            return False
        self._next *= FACTOR
        return True
