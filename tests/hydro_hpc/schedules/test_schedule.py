"""The text of schedules, and what is no schedule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydro_hpc.errors import ScheduleError
from hydro_hpc.schedules.schedule import COLLECTIVES, Action, Kind, Schedule

actions = st.builds(
    lambda kind, stage, microbatch: Action(
        kind=kind, stage=stage, microbatch=None if kind in COLLECTIVES else microbatch
    ),
    st.sampled_from(Kind),
    st.integers(0, 999),
    st.integers(0, 999),
)


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Any order of any actions; most of them could not run."""
    ranks = []
    for stage in range(draw(st.integers(1, 4))):
        texts = st.tuples(st.sampled_from(sorted(set(Kind) - COLLECTIVES)), st.integers(0, 20))
        work = draw(st.lists(texts, unique=True, min_size=1))
        own = [Action(kind=kind, stage=stage, microbatch=number) for kind, number in work]
        if draw(st.booleans()):
            own.append(Action(kind=Kind.BORDER, stage=stage))
        ranks.append(tuple(own))
    return Schedule(ranks=tuple(ranks))


@given(actions)
def test_an_action_is_what_its_text_says(action: Action) -> None:
    assert Action.parse(str(action)) == action


@given(schedules())
def test_a_schedule_is_what_its_text_says(schedule: Schedule) -> None:
    assert Schedule.parse(str(schedule)) == schedule


@pytest.mark.parametrize(
    ("text", "kind", "stage", "microbatch"),
    [
        ("2F0", Kind.FORWARD, 2, 0),
        ("0B13", Kind.BACKWARD, 0, 13),
        ("10I2", Kind.INPUT_GRAD, 10, 2),
        ("0W2", Kind.WEIGHT_GRAD, 0, 2),
        ("1SEND_F3", Kind.SEND_ACTIVATION, 1, 3),
        ("1RECV_B3", Kind.RECV_GRAD, 1, 3),
        ("3STEP", Kind.BORDER, 3, None),
    ],
)
def test_texts_are_those_of_torch(
    text: str, kind: Kind, stage: int, microbatch: int | None
) -> None:
    action = Action(kind=kind, stage=stage, microbatch=microbatch)
    assert str(action) == text
    assert Action.parse(text) == action


@pytest.mark.parametrize("text", ["", "F0", "2X0", "2F-1", "2F0 ", "-2F0", "2f0", "²F0", "2F" * 9])
def test_what_is_no_action_is_said_with_an_example(text: str) -> None:
    with pytest.raises(ScheduleError, match=r"is no action; write stage, kind, microbatch, such"):
        Action.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it has no rank"),
        ("0F0\n\n1F0", "rank 1 does nothing"),
        ("0F0 0F0", "0F0 is there twice"),
        ("0F0 1F0 0STEP 1STEP", "rank 0 has STEP twice"),
        ("0F0 1F0\n1B0", "stage 1 is on rank 0 and on rank 1"),
        ("0F0\n2F0", "stage 1 is on no rank, but stage 2 is on one"),
        ("0F", "'0F' must have a microbatch"),
        ("0STEP1", "'0STEP1' must have no microbatch"),
    ],
)
def test_what_is_no_schedule_is_said(text: str, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        Schedule.parse(text)


def test_ranks_of_stages_are_known() -> None:
    v_shape = Schedule.parse("0F0 3F0\n1F0 2F0")
    assert v_shape.rank_of_stages() == (0, 1, 1, 0)
    assert v_shape.num_stages == 4
