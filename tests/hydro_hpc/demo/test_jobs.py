from __future__ import annotations

from pathlib import Path

import pytest

from hydro_hpc.demo.jobs import last_lines, parse_state
from hydro_hpc.demo.road import DemoError, gang_of
from hydro_hpc.errors import SlurmError

SHOWN = "JobId=2 JobName=digits UserId=bob(1002) JobState={} Reason={} Dependency=(null)"


@pytest.mark.parametrize(
    ("state", "has_ended"),
    [("PENDING", False), ("RUNNING", False), ("COMPLETING", False), ("COMPLETED", True)],
)
def test_reads_a_jobs_state(state: str, has_ended: bool) -> None:
    found = parse_state(SHOWN.format(state, "JobHeldUser"))
    assert (found.state, found.reason, found.has_ended) == (state, "JobHeldUser", has_ended)


def test_a_line_without_state_is_an_error() -> None:
    with pytest.raises(SlurmError, match="no JobState"):
        parse_state("slurm_load_jobs error: Invalid job id specified")


def test_the_gang_that_ran_last_counts() -> None:
    output = "hydro-trial: gang of 1, none\nwarning\nhydro-trial: gang of 2, Open MPI v5.0.11\n"
    assert gang_of(output) == (2, "Open MPI v5.0.11")
    with pytest.raises(DemoError):
        gang_of("srun: error\n")


def test_last_lines_of_an_output(tmp_path: Path) -> None:
    path = tmp_path / "gpt-1.out"
    assert last_lines(path, 3) == []
    path.write_text("x\n" * 20_000 + "step 10\n\nstep 20\n")
    assert last_lines(path, 3) == ["x", "step 10", "step 20"]
