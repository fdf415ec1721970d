"""Residency over random orders of events, against a process that does what signals make it do."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hydro_hpc.trial.events import (
    AskToEnd,
    DeviceUsed,
    End,
    Event,
    GateSeen,
    LeaveOrdered,
    Pause,
    PrimaryGone,
    Run,
    StopSeen,
)
from hydro_hpc.trial.residency import STRIKES_UNTIL_END, Residency, advance

GRACE_NS = 10


class Played(RuleBasedStateMachine):
    """A process that runs whenever it is not stopped, by us or by somebody else, or dead."""

    @initialize(pauses_itself=st.booleans())
    def begin(self, pauses_itself: bool) -> None:
        self.state = Residency(grace_ns=GRACE_NS, leave_ns=500, pauses_itself=pauses_itself)
        self.is_paused = self.is_stopped = self.is_dead = self.is_leaving = False
        self.now_ns = self.used_ns = 0
        self.gate = GateSeen(at_ns=0, word=0, is_open=False)
        self.used_shut_ns = 0  # known to have been used outside windows and not answered yet
        self.was_measured = False  # since the gate was first seen so
        self.overruns = 0
        self.tell(self.gate)

    def tell(self, event: Event) -> None:
        self.state, actions = advance(self.state, event)
        assert not (self.is_dead and actions)
        for action in actions:
            assert not (self.is_leaving and not isinstance(action, End))
            if isinstance(action, Pause):
                self.is_paused, self.used_shut_ns = True, 0
            elif isinstance(action, Run):
                assert self.is_paused
                assert self.gate.permits
                self.is_paused = False
            elif isinstance(action, AskToEnd):
                self.is_paused = self.is_stopped = False
                self.is_leaving = True
            elif isinstance(action, End):
                self.is_dead = True
                assert self.is_leaving or (action.reason and self.overruns >= STRIKES_UNTIL_END)

    @rule(word=st.integers(0, 2), is_open=st.booleans(), is_held=st.booleans())
    def gate_moves(self, word: int, is_open: bool, is_held: bool) -> None:
        """Seen at once: what is used under a gate is used under this one."""
        before = self.gate
        self.gate = GateSeen(at_ns=self.now_ns, word=word, is_open=is_open, is_held=is_held)
        if (before.word, before.is_open, before.is_held) != (word, is_open, is_held):
            self.used_shut_ns, self.was_measured = 0, False
        self.tell(self.gate)

    @rule(used_ns=st.integers(0, 30), answers=st.booleans())
    def time_passes(self, used_ns: int, answers: bool) -> None:
        """`answers`: also a paused one may use the device (somebody else continued it)."""
        self.now_ns += 10
        runs = not self.is_dead and (answers or not (self.is_paused or self.is_stopped))
        grown_ns = used_ns if runs else 0
        self.used_ns += grown_ns
        if not self.gate.permits and self.was_measured and not self.is_dead:
            self.used_shut_ns += grown_ns
            self.overruns += self.used_shut_ns > GRACE_NS
        self.was_measured = not self.gate.permits
        self.tell(self.gate)
        self.tell(DeviceUsed(at_ns=self.now_ns, used_ns=self.used_ns))

    @rule(is_stopped=st.booleans())
    def somebody_else_signals(self, is_stopped: bool) -> None:
        self.now_ns += 2_000_000_000 * is_stopped
        self.is_stopped = is_stopped and not self.is_leaving
        self.tell(StopSeen(at_ns=self.now_ns, is_stopped=self.is_stopped or self.is_paused))

    @rule()
    def primary_goes(self) -> None:
        self.tell(PrimaryGone(at_ns=self.now_ns, reason="gone"))

    @rule()
    def gang_leaves(self) -> None:
        self.tell(LeaveOrdered(at_ns=self.now_ns))

    @invariant()
    def nobody_runs_outside_windows_for_longer_than_grace(self) -> None:
        runs = not (self.is_paused or self.is_dead or self.is_leaving)
        assert not (runs and not self.gate.permits and self.used_shut_ns > GRACE_NS)

    @invariant()
    def nobody_stays_paused_in_a_window(self) -> None:
        assert not (self.is_paused and self.gate.permits and not self.is_dead)

    @invariant()
    def a_command_never_runs_while_the_gate_is_seen_shut(self) -> None:
        if not (self.state.pauses_itself or self.gate.permits or self.is_leaving or self.is_dead):
            assert self.is_paused

    @invariant()
    def nobody_is_paused_once_he_was_told_to_leave(self) -> None:
        assert not (self.is_leaving and self.is_paused)


TestPlayed = Played.TestCase

SEEN = st.tuples(st.integers(0, 5), st.booleans(), st.booleans(), st.integers(0, 10**12))


@given(st.lists(SEEN, max_size=50))
def test_worker_that_uses_no_device_time_is_never_punished(
    seen: list[tuple[int, bool, bool, int]],
) -> None:
    state = Residency(grace_ns=0, leave_ns=0, pauses_itself=True)
    for word, is_open, is_held, at_ns in seen:
        gate = GateSeen(at_ns=at_ns, word=word, is_open=is_open, is_held=is_held)
        for event in (gate, DeviceUsed(at_ns=at_ns, used_ns=7)):
            state, actions = advance(state, event)
            assert actions == ()
