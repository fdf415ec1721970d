"""An admin's switch over one lender: Slurm suspends, or resumes, the gangs that hold its devices.

Who they are is read from Slurm's facts, as the coordinator reads them; Slurm refuses the change to
anyone but root and its operators. Not covered: a study inside the lender's own allocation, which
is a part of that job and its owner's to pause; gangs that are placed there later.
"""

from __future__ import annotations

from typing import Final, Protocol

from hydro_hpc.errors import SlurmError
from slurm_plugin.slurm import Facts, JobState

STATES: Final = {"pause": JobState.RUNNING, "resume": JobState.SUSPENDED}  # before the switch


class Switchable(Protocol):
    """What a switch needs of Slurm. Every method raises SlurmError."""

    def observe(self) -> Facts: ...

    def suspend(self, job_id: int) -> None: ...

    def resume(self, job_id: int) -> None: ...


def switch_gangs(slurm: Switchable, verb: str, job_id: int) -> list[int]:
    """Suspends (`pause`) or resumes the gangs on a lender's devices; returns which they are."""
    change = {"pause": slurm.suspend, "resume": slurm.resume}[verb]
    gangs = gangs_on(slurm.observe(), job_id, STATES[verb])
    for gang in gangs:
        change(gang)
    return gangs


def gangs_on(facts: Facts, job_id: int, state: JobState) -> list[int]:
    """Returns the gangs in `state` that hold a device of this lender; pure.

    Raises SlurmError if the job does not lend, or there is no such gang.
    """
    devices = next((it.devices for it in facts.lenders if it.job_id == job_id), ())
    if devices is None:
        raise SlurmError(
            f"Slurm does not tell which devices job {job_id} holds; look for its gangs by: squeue "
            f"--partition={facts.partition}, and suspend them by: scontrol suspend GANG"
        )
    if not devices:
        raise SlurmError(f"job {job_id} is not yours and lends no device; see: hydro status")
    on_it = [gang for gang in facts.gangs if set(gang.devices) & set(devices)]
    found = sorted(gang.job_id for gang in on_it if gang.state is state)
    if not found:
        name = state.name.lower()
        raise SlurmError(f"no {name} gang holds a device of job {job_id}; see: hydro status")
    return found
