"""Overruns are device time after a close; a worker that merely does not run is never punished."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hydro_hpc.trial.watchdog import STRIKES_UNTIL_END, Action, Look, Watch, decide

GRACE_NS = 10


def play(looks: list[Look]) -> list[Action]:
    watch = Watch(grace_ns=GRACE_NS)
    actions = []
    for look in looks:
        watch, action = decide(watch, look)
        actions.append(action)
    return actions


def look(word: int, used_ns: int, *, is_open: bool = False) -> Look:
    return Look(is_open=is_open, word=word, used_ns=used_ns)


def test_worker_that_runs_on_after_the_close_is_stopped_and_continued_in_the_next_window() -> None:
    actions = play([look(1, 0), look(1, 5), look(1, 30), look(1, 30), look(2, 30, is_open=True)])
    assert actions == [Action.NONE, Action.NONE, Action.STOP, Action.NONE, Action.CONTINUE]


def test_small_overruns_add_up_while_the_gate_stays_closed() -> None:
    assert play([look(1, 0), look(1, 6), look(1, 12)])[-1] == Action.STOP


def test_time_used_while_a_window_may_have_been_open_is_not_held_against_the_worker() -> None:
    assert play([look(1, 0), look(2, 500), look(2, 505)]) == [Action.NONE] * 3


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=50))
def test_worker_that_uses_no_device_time_is_never_punished(seen: list[tuple[int, bool]]) -> None:
    actions = play([look(word, 7, is_open=is_open) for word, is_open in seen])
    assert set(actions) <= {Action.NONE}


def test_worker_that_ignores_the_gate_again_and_again_is_ended() -> None:
    looks = []
    used_ns = 0
    for strike in range(STRIKES_UNTIL_END):
        looks += [look(strike, used_ns), look(strike, used_ns + 2 * GRACE_NS)]
        used_ns += 2 * GRACE_NS
        looks.append(look(100 + strike, used_ns, is_open=True))
    actions = play(looks)
    assert actions.count(Action.STOP) == STRIKES_UNTIL_END - 1
    assert actions.count(Action.END) == 1
