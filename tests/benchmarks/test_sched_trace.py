"""Reading the kernel's scheduling events, and what of the worker's time was outside the waits."""

from __future__ import annotations

import pytest

from benchmarks.sched_trace import Switch, Waking, outside_share, parse

TEXT = """\
# tracer: nop
          python-77      [001] d..2.   100.000010: sched_switch: prev_comm=python prev_pid=77 prev_prio=120 prev_state=S ==> next_comm=wor ker next_pid=88 next_prio=120
          <idle>-0       [000] dNh4.   100.000500: sched_waking: comm=gloo ==> x pid=77 prio=120 target_cpu=001
          worker-88      [001] d..2.   100.000600: sched_switch: prev_comm=wor ker prev_pid=88 prev_prio=120 prev_state=R+ ==> next_comm=python next_pid=77 next_prio=120
"""  # noqa: E501


def test_events_are_read_whatever_a_command_calls_itself() -> None:
    found = list(parse(TEXT.splitlines()))
    assert [type(event) for event in found] == [Switch, Waking, Switch]
    first, waking, last = found
    assert isinstance(first, Switch)
    assert (first.prev, first.is_blocked, first.next) == (77, True, 88)
    assert isinstance(waking, Waking)
    assert waking.tid == 77
    assert isinstance(last, Switch)
    assert last.is_blocked is False


def test_time_between_the_wake_up_and_the_switch_is_outside() -> None:
    share = outside_share(parse(TEXT.splitlines()), primary={77}, workers={88})
    assert share.worker_us == pytest.approx(590, abs=1)
    assert share.outside_us == pytest.approx(100, abs=1)


def test_worker_that_runs_while_any_thread_of_the_rank_wants_to_is_outside() -> None:
    events = [
        Switch(0, 1, True, 9),
        Waking(10, 2),  # a second thread of the rank, kept from running
        Switch(30, 9, False, 2),
        Switch(40, 2, True, 9),
        Switch(100, 9, True, 0),
    ]
    share = outside_share(events, primary={1, 2}, workers={9})
    assert (share.worker_us, share.outside_us) == (90, 20)


def test_preempted_primary_still_wants_to_run() -> None:
    events = [Switch(0, 1, False, 9), Switch(50, 9, False, 1), Switch(60, 1, True, 9)]
    share = outside_share([*events, Switch(70, 9, True, 0)], primary={1}, workers={9})
    assert (share.worker_us, share.outside_us) == (60, 50)
