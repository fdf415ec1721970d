"""Overruns are device time after a close; who merely does not run is never punished."""

from __future__ import annotations

from hydro_hpc.trial.events import (
    Action,
    AskToEnd,
    BuildSeen,
    DeviceUsed,
    End,
    Event,
    GateSeen,
    Leave,
    LeaveOrdered,
    Pause,
    PrimaryGone,
    Report,
    Run,
    StopSeen,
)
from hydro_hpc.trial.residency import (
    FORGIVEN_NS,
    LEAVE_DEVICE_NS,
    STOP_REPORTED_NS,
    STRIKES_UNTIL_END,
    Residency,
    advance,
)

GRACE_NS = 10
LEAVE_NS = 1000


def worker() -> Residency:
    return Residency(grace_ns=GRACE_NS, leave_ns=LEAVE_NS, pauses_itself=True)


def command() -> Residency:
    return Residency(grace_ns=GRACE_NS, leave_ns=LEAVE_NS, pauses_itself=False)


def play(state: Residency, *events: Event) -> list[Action]:
    done: list[Action] = []
    for event in events:
        state, actions = advance(state, event)
        done += actions
    return done


def shut(word: int = 1, at_ns: int = 0) -> GateSeen:
    return GateSeen(at_ns=at_ns, word=word, is_open=False)


def opened(word: int = 2, at_ns: int = 0, *, is_held: bool = False) -> GateSeen:
    return GateSeen(at_ns=at_ns, word=word, is_open=True, is_held=is_held)


def used(used_ns: int, at_ns: int = 0) -> DeviceUsed:
    return DeviceUsed(at_ns=at_ns, used_ns=used_ns)


def overrun(number: int, at_ns: int = 0) -> list[Event]:
    """One closed window in which too much was used, and the next open one."""
    before_ns = 100 * number
    looks = [shut(number), used(before_ns), shut(number), used(before_ns + GRACE_NS + 1, at_ns)]
    return [*looks, opened(number + 1000)]


def test_who_runs_on_after_the_close_is_paused_and_continued_in_the_next_window() -> None:
    assert play(worker(), *overrun(1)) == [Pause(), Run()]


def test_small_overruns_add_up_while_the_gate_stays_shut() -> None:
    events = [shut(), used(0), shut(), used(6), shut(), used(12)]
    assert play(worker(), *events) == [Pause()]


def test_what_a_build_uses_is_not_held_against_the_worker() -> None:
    building = BuildSeen(at_ns=1)
    before = DeviceUsed(at_ns=0, used_ns=0, open_ns=0)
    after = DeviceUsed(at_ns=2, used_ns=500, open_ns=0)
    more = DeviceUsed(at_ns=3, used_ns=500 + GRACE_NS + 1, open_ns=0)
    assert play(worker(), shut(), before, shut(), after) == [Pause()]
    assert play(worker(), shut(), before, building, shut(), after) == []
    assert play(worker(), shut(), before, building, shut(), after, shut(), more) == [Pause()]


def test_time_used_while_a_window_may_have_been_open_is_not_held_against_the_worker() -> None:
    assert play(worker(), shut(1), used(0), shut(2), used(500), shut(2), used(505)) == []


def test_window_that_guard_owner_or_site_hold_is_a_closed_one() -> None:
    held = opened(is_held=True)
    assert play(worker(), held, used(0), held, used(11)) == [Pause()]
    assert play(command(), opened(), held, opened()) == [Pause(), Run()]


def test_worker_that_sleeps_in_a_system_call_is_left_alone() -> None:
    assert play(worker(), *[shut(1), used(7)] * 50) == []


def test_command_is_paused_at_every_close_and_continued_at_every_opening() -> None:
    assert play(command(), shut(1), shut(1), opened(2), shut(2), opened(3)) == [
        Pause(),
        Run(),
        Pause(),
        Run(),
    ]


def test_paused_one_that_still_uses_the_device_is_paused_again() -> None:
    events = [shut(), used(0), shut(), used(11), shut(), used(22)]
    assert play(worker(), *events) == [Pause(), Pause()]


def test_who_overruns_again_and_again_is_ended_with_a_reason() -> None:
    events = [event for number in range(1, 30) for event in overrun(number)]
    done = play(worker(), *events)
    assert done.count(Pause()) == STRIKES_UNTIL_END - 1
    [end] = [action for action in done if isinstance(action, End)]
    assert "outside its windows again and again" in end.reason
    assert done[-1] == end


def test_overruns_far_apart_are_forgiven() -> None:
    events = [event for number in range(1, 30) for event in overrun(number, number * FORGIVEN_NS)]
    assert Pause() in play(worker(), *events)
    late = [e for number in range(1, 30) for e in overrun(number, number * (FORGIVEN_NS + 1))]
    assert End not in {type(action) for action in play(worker(), *late)}


def test_who_was_stopped_by_somebody_else_is_reported_once_and_left_to_him() -> None:
    seen = [StopSeen(at_ns=at, is_stopped=True) for at in (0, 5, STOP_REPORTED_NS, 2**40, 2**41)]
    [report] = play(worker(), *seen)
    assert isinstance(report, Report)
    assert play(worker(), *seen, opened()) == [report]


def test_stop_of_ours_or_a_short_one_is_not_reported() -> None:
    ours = [*overrun(1)[:-1], *(StopSeen(at_ns=at, is_stopped=True) for at in (0, 2**40))]
    assert play(worker(), *ours) == [Pause()]
    short = [
        StopSeen(at_ns=at, is_stopped=at % 2 == 0) for at in range(0, 2**40, STOP_REPORTED_NS // 3)
    ]
    assert play(worker(), *short[:50]) == []


def test_lane_that_is_gone_is_told_once() -> None:
    gone = PrimaryGone(at_ns=0, reason="gone")
    assert play(worker(), gone, gone) == [Leave(reason="gone")]


def test_who_is_to_leave_may_run_outside_windows_and_is_killed_when_it_is_late() -> None:
    leaving = [shut(), LeaveOrdered(at_ns=0), used(0), shut(), used(LEAVE_DEVICE_NS), shut()]
    assert play(worker(), *leaving) == [AskToEnd()]
    assert play(worker(), *leaving, shut(at_ns=LEAVE_NS + 1)) == [AskToEnd(), End()]


def test_who_is_to_leave_and_only_burns_the_device_is_killed_early() -> None:
    leaving = [LeaveOrdered(at_ns=0), used(5), used(5 + LEAVE_DEVICE_NS + 1)]
    assert play(worker(), *leaving) == [AskToEnd(), End()]


def test_time_used_in_an_open_window_is_never_counted() -> None:
    assert play(worker(), opened(), used(0), used(500), used(900)) == []


def test_more_device_time_than_windows_held_is_an_overrun_whatever_the_gate_says_now() -> None:
    """Looks are far apart, and windows come and go between them."""
    second_ns = 1_000_000_000
    state = Residency(grace_ns=10_000_000, leave_ns=LEAVE_NS, pauses_itself=True)
    honest = DeviceUsed(at_ns=second_ns, used_ns=230_000_000, open_ns=215_000_000)
    greedy = DeviceUsed(at_ns=second_ns, used_ns=250_000_000, open_ns=215_000_000)
    start = DeviceUsed(at_ns=0, used_ns=0, open_ns=0)
    assert play(state, shut(1), start, shut(9, second_ns), honest) == []
    assert play(state, shut(1), start, shut(9, second_ns), greedy) == [Pause()]
    assert play(state, shut(1), start, opened(9, second_ns), greedy) == []  # it may run now
    state, _ = advance(advance(advance(state, shut(1))[0], start)[0], opened(9, second_ns))
    assert advance(state, greedy)[0].strikes == 1
