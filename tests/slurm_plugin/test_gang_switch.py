"""Which gangs an admin's switch over a lender suspends or resumes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hydro_hpc.errors import SlurmError
from slurm_plugin.gang_switch import switch_gangs
from slurm_plugin.slurm import Device, Facts, JobState
from tests.slurm_plugin.facts import facts, gang, lender, node

RUNNING, SUSPENDED = JobState.RUNNING, JobState.SUSPENDED
ON_N1, ON_N2, ON_BOTH = (
    {"devices": tuple(Device(name, 0) for name in names)}
    for names in (("n1",), ("n2",), ("n1", "n2"))
)
SEEN = facts(
    [node("n1"), node("n2"), node("n3")],
    [lender(1, "n1/0"), lender(2, "n2/0"), lender(3, "n3/0")],
    gang(10, 1, state=RUNNING, **ON_N1),
    gang(11, 1, state=RUNNING, **ON_N2),
    gang(12, 2, state=RUNNING, **ON_BOTH),
    gang(13, 1, state=SUSPENDED, **ON_N1),
    gang(14, 1),  # held
)


class Switched:
    def __init__(self, seen: Facts) -> None:
        self._seen = seen
        self.story: list[str] = []

    def observe(self) -> Facts:
        return self._seen

    def suspend(self, job_id: int) -> None:
        self.story.append(f"suspend {job_id}")

    def resume(self, job_id: int) -> None:
        self.story.append(f"resume {job_id}")


@pytest.mark.parametrize(
    ("verb", "story"), [("pause", ["suspend 10", "suspend 12"]), ("resume", ["resume 13"])]
)
def test_all_gangs_on_the_lender_and_no_others(verb: str, story: list[str]) -> None:
    slurm = Switched(SEEN)
    switch_gangs(slurm, verb, 1)
    assert slurm.story == story


@pytest.mark.parametrize(
    ("seen", "job", "words"),
    [
        (SEEN, 9, "job 9 is not yours and lends no device"),
        (SEEN, 3, "no running gang holds a device of job 3"),
        (
            replace(SEEN, lenders=(replace(SEEN.lenders[0], devices=None),)),
            1,
            "Slurm does not tell which devices job 1 holds",
        ),
    ],
)
def test_why_nothing_is_switched_is_one_sentence(seen: Facts, job: int, words: str) -> None:
    slurm = Switched(seen)
    with pytest.raises(SlurmError, match=words):
        switch_gangs(slurm, "pause", job)
    assert slurm.story == []
