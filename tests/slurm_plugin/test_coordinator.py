"""The coordinator against a Slurm in memory: one thing after the other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slurm_plugin.slurm import JobState
from tests.slurm_plugin.coordinators import N1, N2, make_coordinator, make_slurm, waiting


def test_a_gang_is_pinned_released_and_runs_on_what_is_lent() -> None:
    slurm = make_slurm()
    slurm.submit_lender([N1, N2])
    gang = slurm.submit_gang("2")
    make_coordinator(slurm).step()
    assert slurm.story == [f"pin {gang} bubble:1 on n1,n2", f"release {gang}"]
    slurm.advance()
    assert slurm.jobs[gang].devices == (N1, N2)


def test_nothing_is_done_twice() -> None:
    slurm = make_slurm()
    slurm.submit_lender([N1, N2])
    slurm.submit_gang("2")
    slurm.submit_gang("1")
    coordinator = make_coordinator(slurm)
    coordinator.step()
    slurm.advance()
    coordinator.step()
    story = list(slurm.story)
    slurm.advance(1)
    coordinator.step()
    assert slurm.story == story


def test_a_waiting_gang_says_why_and_forgets_it_when_it_is_placed() -> None:
    slurm = make_slurm()
    gang = slurm.submit_gang("2")
    coordinator = make_coordinator(slurm)
    coordinator.step()
    assert waiting(slurm, gang) == "no running job lends its bubbles"
    slurm.submit_lender([N1, N2])
    coordinator.step()
    assert waiting(slurm, gang) == ""
    assert slurm.jobs[gang].admin_comment == "hydro:want=2-2"


def test_a_gang_that_leaves_is_placed_again_after_its_delay() -> None:
    slurm = make_slurm()
    slurm.submit_lender([N1, N2])
    gang = slurm.submit_gang("2")
    coordinator = make_coordinator(slurm)
    coordinator.step()
    slurm.advance()
    for delay_s in (5, 10, 20):
        slurm.leave(gang, reason="guard-tripped")
        slurm.advance(delay_s - 1)
        coordinator.step()
        assert slurm.jobs[gang].state is JobState.HELD
        assert "guard-tripped" in waiting(slurm, gang)
        slurm.advance(1)
        coordinator.step()
        slurm.advance(2)
        assert slurm.jobs[gang].state is JobState.RUNNING, "soon, not in two minutes"


def test_a_gang_that_slurm_requeued_starts_soon() -> None:
    slurm = make_slurm()
    slurm.submit_lender([N1, N2])
    gang = slurm.submit_gang("2")
    coordinator = make_coordinator(slurm)
    coordinator.step()
    slurm.advance()
    slurm.requeue(gang)
    slurm.advance()
    assert slurm.jobs[gang].state is JobState.RELEASED
    coordinator.step()
    coordinator.step()
    slurm.advance(2)
    assert slurm.jobs[gang].state is JobState.RUNNING
    assert len(slurm.story) == 3, slurm.story


@pytest.mark.parametrize("is_held", [True, False])
def test_a_requeued_gang_is_not_started_in_the_second_of_its_end(is_held: bool) -> None:
    slurm = make_slurm()
    slurm.submit_lender([N1, N2])
    gang = slurm.submit_gang("2")
    coordinator = make_coordinator(slurm)
    coordinator.step()
    slurm.advance()
    if is_held:
        slurm.requeue_held(gang)
    else:
        slurm.requeue(gang)
    coordinator.step()
    slurm.advance()
    assert not slurm.lost
    slurm.advance(2)
    assert slurm.jobs[gang].state is JobState.RUNNING


def test_a_released_gang_whose_lender_ended_is_called_back() -> None:
    slurm = make_slurm()
    lender = slurm.submit_lender([N1])
    gang = slurm.submit_gang("1")
    coordinator = make_coordinator(slurm)
    coordinator.step()
    slurm.end(lender)
    coordinator.step()
    assert slurm.jobs[gang].state is JobState.RELEASED, "not at the first look"
    slurm.now_s += 5
    coordinator.step()
    assert slurm.jobs[gang].state is JobState.HELD
    slurm.submit_lender([N2])
    coordinator.step()
    slurm.advance()
    assert slurm.jobs[gang].devices == (N2,)


def test_a_released_gang_whose_room_was_taken_is_called_back_and_told() -> None:
    slurm = make_slurm()
    slurm.submit_lender([N1])
    gang = slurm.submit_gang("1", memory_per_cpu_mib=100)
    coordinator = make_coordinator(slurm)
    coordinator.step()
    slurm.nodes["n1"] = replace(slurm.nodes["n1"], memory_free_mib=99)
    coordinator.step()
    slurm.advance(5)
    coordinator.step()
    coordinator.step()
    assert slurm.jobs[gang].state is JobState.HELD
    assert waiting(slurm, gang) == "n1 has 99 MiB of memory left and the gang needs 100"


def test_a_running_gang_without_a_lender_is_requeued_held_after_its_grace() -> None:
    slurm = make_slurm()
    lender = slurm.submit_lender([N1, N2])
    gang = slurm.submit_gang("2")
    coordinator = make_coordinator(slurm)
    coordinator.step()
    slurm.advance()
    slurm.end(lender)
    coordinator.step()
    slurm.advance(29)
    coordinator.step()
    assert slurm.jobs[gang].state is JobState.RUNNING
    slurm.advance(1)
    coordinator.step()
    assert slurm.jobs[gang].state is JobState.HELD


def test_a_gang_whose_lender_comes_back_in_time_is_left_alone() -> None:
    slurm = make_slurm()
    lender = slurm.submit_lender([N1])
    gang = slurm.submit_gang("1")
    coordinator = make_coordinator(slurm)
    coordinator.step()
    slurm.advance()
    slurm.end(lender)
    coordinator.step()
    slurm.advance(20)
    slurm.submit_lender([N1])
    coordinator.step()
    slurm.advance(20)
    coordinator.step()
    assert slurm.jobs[gang].state is JobState.RUNNING


@pytest.mark.parametrize(
    ("state", "reason"), [("inactive", ""), ("down", "partition bubble is down")]
)
def test_nothing_is_placed_while_the_partition_is_not_up(
    state: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    slurm = make_slurm()
    slurm.submit_lender([N1, N2])
    first, second = slurm.submit_gang("1"), slurm.submit_gang("1")
    coordinator = make_coordinator(slurm)
    slurm.partition_state = state
    coordinator.step()
    assert waiting(slurm, first) == waiting(slurm, second) == reason
    assert "event=refused" not in caplog.text
    slurm.partition_state = "up"
    coordinator.step()
    slurm.advance()
    assert {slurm.jobs[job].devices for job in (first, second)} == {(N1,), (N2,)}
