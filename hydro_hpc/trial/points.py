"""What a trial passes many times in each step: the points of the step, and the passage to the gate.

A trial comes here every 0.1 to 0.3 ms with caches full of its own tensors, where each Python
function takes 5 to 10 us, and here it finds that its window has closed, while its primary waits for
the device. So both exist in C too (`_points.c`), and are used from there where it was built; what
the C part does is what the classes here do (docs/decisions/0009-points-in-c.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from hydro_hpc.devices.cpu_core import could_run
from hydro_hpc.page import Page
from hydro_hpc.page_layout import GATE_OPEN, Word
from hydro_hpc.wait import Waiter

try:
    from hydro_hpc.trial import _points
except ImportError:  # no C compiler where this was installed
    _points = None  # type: ignore[assignment]

HAS_C: Final = _points is not None
FIRST_SLEEP_NS: Final = 500_000_000  # then whoever is asked sleeps in his own way
LOOK_EVERY_NS: Final = 500_000  # at whether the primary wants its device
NAP_S: Final = 60e-6
NUM_NAPS: Final = 20
NEVER_NS: Final = 2**63 - 1


class Passage(Protocol):
    """The fast half of a gate. The slow half (`ask`) says what is admitted, in nanoseconds of
    CLOCK_MONOTONIC: until `deadline_ns` while the gate word is `word`, guard, owner and site say
    RUN and the primary does not want the device, which is looked at every LOOK_EVERY_NS, and each
    time from `careful_ns` on. With `deadline_ns` 0 every call goes to `ask`.
    """

    word: int
    deadline_ns: int
    careful_ns: int
    late_ns: int  # when the same window may be used again
    is_leaving: bool
    has_ended: bool  # a run has, as the next four say
    ended_ns: int
    ended_device_ns: int
    was_closed: bool  # its window had, at `closed_ns`
    closed_ns: int

    def __call__(self, need_ns: int, /) -> None:
        """Returns at once if `need_ns` of device time is admitted. If the run is over, notes its
        end and sleeps: until the late start of a window that has one and is still open then, else
        until the gate word changes, FIRST_SLEEP_NS at most. Then asks.
        """

    def is_permitted(self) -> bool:
        """Says whether guard, owner and site all say RUN."""

    def note_end(self) -> None:
        """Notes that the run ends now."""


class Points(Protocol):
    """The points of one kind of step. Silent between `end` and `begin`."""

    def named(self, key: str) -> Callable[..., None]:
        """Returns the point `key` as a function of whatever a hook gets."""

    def pass_(self, key: str, /) -> None:
        """Passes a point: admits the group that it begins, or lets its length be learned."""

    def group(self, needs_ns: Sequence[int], /) -> None:
        """Takes what each point of a step asks for, 0: nothing. Empty: lengths are learned."""

    def begin(self) -> None: ...

    def end(self) -> None: ...


class ThreadLook(Protocol):
    """Says whether the thread whose `/proc/<pid>/task/<tid>/stat` is open as `fd` has a core or
    waits for one; -1: there is no thread."""

    fd: int

    def __call__(self) -> bool: ...

    def let_block(self) -> None:
        """Sleeps while the thread could run and its gate word does not change, 2 ms at most.

        A primary opens the gate right before it waits, and on a core it still has to get there: a
        trial that starts at once was measured to keep it from its core for up to 6 ms
        (docs/decisions/0006-sharing-a-core.md). A GPU's stream has reached its wait when the gate
        opens; this is the same for a core.
        """


class PlainThreadLook:
    """`ThreadLook` in Python."""

    def __init__(self, stage: Page) -> None:
        self.fd = -1
        self._words, self._gate = stage.words, stage.word_index("gate_word")

    def __call__(self) -> bool:
        return could_run(self.fd)

    def let_block(self) -> None:
        seen = self._words[self._gate]
        for _ in range(NUM_NAPS):
            if self._words[self._gate] != seen or not self():
                return
            time.sleep(NAP_S)


class PlainPassage:
    """`Passage` in Python, with any clocks and waiter."""

    def __init__(
        self,
        stage: Page,
        site: Page,
        *,
        ask: Callable[[int], None],
        wants: Callable[[], bool],
        waiter: Waiter,
        now_ns: Callable[[], int],
        device_ns: Callable[[], int],
    ) -> None:
        self.word = self.deadline_ns = self.careful_ns = 0
        self.late_ns = NEVER_NS
        self.is_leaving = self.has_ended = self.was_closed = False
        self.ended_ns = self.ended_device_ns = self.closed_ns = 0
        self._words, self._quads = stage.words, stage.quads
        self._gate, self._closed = stage.word_index("gate_word"), stage.quad_index("close_ns")
        self._guard, self._owner = stage.word_index("guard_word"), stage.word_index("owner_word")
        self._site_words, self._site = site.words, site.word_index("site_word")
        self._ask, self._wants = ask, wants
        self._waiter = waiter
        self._looked_ns = 0
        self._now_ns, self._device_ns = now_ns, device_ns

    def __call__(self, need_ns: int, /) -> None:
        now_ns = self._now_ns()
        end_ns = now_ns + need_ns
        seen = self._words[self._gate]
        if seen != self.word:
            is_over = seen & 3 != GATE_OPEN
        else:
            is_over = end_ns > self.deadline_ns
            if not is_over and self.is_permitted() and not self._primary_wants(now_ns, end_ns):
                return
        if self.deadline_ns and is_over:
            self.note_end()
            if not self.is_leaving:
                self._sleep_outside(seen, now_ns)
        self._ask(need_ns)

    def is_permitted(self) -> bool:
        return (
            self._words[self._guard] == Word.RUN
            and self._words[self._owner] == Word.RUN
            and self._site_words[self._site] == Word.RUN
        )

    def _primary_wants(self, now_ns: int, end_ns: int) -> bool:
        if end_ns <= self.careful_ns and now_ns - self._looked_ns < LOOK_EVERY_NS:
            return False
        self._looked_ns = now_ns
        return self._wants()

    def _sleep_outside(self, seen: int, now_ns: int) -> None:
        late_in_ns = self.late_ns - now_ns
        if seen == self.word and late_in_ns < FIRST_SLEEP_NS:
            if late_in_ns > 0:
                self._waiter.wait_change(seen, late_in_ns / 1e9)
            seen = self._words[self._gate]
            if self.is_leaving or seen & 3 == GATE_OPEN:
                return
        self._waiter.wait_change(seen, FIRST_SLEEP_NS / 1e9)

    def note_end(self) -> None:
        self.was_closed = self._words[self._gate] != self.word
        self.closed_ns = self._quads[self._closed]
        self.ended_ns, self.ended_device_ns = self._now_ns(), self._device_ns()
        self.has_ended = True
        self.deadline_ns = 0


class _PlainPoint:
    """A place where a step may pause, as a hook."""

    is_pause_point = True  # tells our hooks from a user's

    def __init__(self, points: PlainPoints, key: str) -> None:
        self._points, self._key = points, key

    def __call__(self, *_: object) -> None:
        self._points.pass_(self._key)

    def __deepcopy__(self, memo: object) -> _PlainPoint:
        return self


class PlainPoints:
    """`Points` in Python."""

    def __init__(
        self, *, admit: Callable[[int], None], learn: Callable[[str], None], rest_ns: int
    ) -> None:
        self._admit, self._learn = admit, learn
        self._rest_ns = rest_ns
        self._needs_ns: tuple[int, ...] = ()
        self._position = 0
        self._is_silent = True

    def named(self, key: str) -> Callable[..., None]:
        return _PlainPoint(self, key)

    def pass_(self, key: str, /) -> None:
        if self._is_silent:
            return
        if not self._needs_ns:
            self._learn(key)
            return
        position = self._position
        self._position = position + 1
        is_known = position < len(self._needs_ns)
        need_ns = self._needs_ns[position] if is_known else self._rest_ns
        if need_ns > 0:
            self._admit(need_ns)

    def group(self, needs_ns: Sequence[int], /) -> None:
        self._needs_ns = tuple(needs_ns)

    def begin(self) -> None:
        self._position = 0
        self._is_silent = False

    def end(self) -> None:
        self._is_silent = True


def fast_thread_look(stage: Page) -> ThreadLook:
    """Returns a look, in C where it was built, of somebody who waits for this page's gate."""
    if not HAS_C:
        return PlainThreadLook(stage)
    return _points.ThreadLook(stage.mapping(), gate_index=stage.word_index("gate_word"))


def fast_passage(
    stage: Page,
    site: Page,
    *,
    ask: Callable[[int], None],
    wants: Callable[[], bool],
    waiter: Waiter,
    now_ns: Callable[[], int],
    device_ns: Callable[[], int],
) -> Passage:
    """Returns the passage in C, which has the system's clocks and futex, where it was built."""
    if not HAS_C:
        return PlainPassage(
            stage, site, ask=ask, wants=wants, waiter=waiter, now_ns=now_ns, device_ns=device_ns
        )
    return _points.Passage(
        stage.mapping(),
        site.mapping(),
        gate_index=stage.word_index("gate_word"),
        guard_index=stage.word_index("guard_word"),
        owner_index=stage.word_index("owner_word"),
        site_index=site.word_index("site_word"),
        closed_index=stage.quad_index("close_ns"),
        first_sleep_ns=FIRST_SLEEP_NS,
        look_every_ns=LOOK_EVERY_NS,
        ask=ask,
        wants=wants,
    )


def make_points(
    *, admit: Callable[[int], None], learn: Callable[[str], None], rest_ns: int
) -> Points:
    """Returns the points of a step. `admit` is asked for each group, `rest_ns` where a step has
    more points than it had, and `learn` is called while lengths are not known."""
    made = _points.Points if HAS_C else PlainPoints
    return made(admit=admit, learn=learn, rest_ns=rest_ns)
