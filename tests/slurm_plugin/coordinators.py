"""A coordinator over a Slurm in memory, for tests."""

from __future__ import annotations

from slurm_plugin.coordinator import Coordinator
from slurm_plugin.in_memory_client import InMemorySlurm
from slurm_plugin.placement import Patience
from slurm_plugin.reconcile import Grace
from slurm_plugin.slurm import Device, Node

N1, N2 = Device("n1", 0), Device("n2", 0)


def make_slurm(*, nodes: int = 2, devices: int = 1) -> InMemorySlurm:
    return InMemorySlurm(
        Node(
            name=f"n{number}",
            devices=tuple(range(devices)),
            cpus_free=16,
            memory_free_mib=1000,
        )
        for number in range(1, nodes + 1)
    )


def make_coordinator(slurm: InMemorySlurm) -> Coordinator:
    return Coordinator(
        slurm,
        clock=lambda: slurm.now_s,
        patience=Patience(first_delay_s=5, longest_delay_s=300, hoards_after_s=600),
        grace=Grace(unlent_s=30, stranded_s=5),
    )


def waiting(slurm: InMemorySlurm, job_id: int) -> str:
    (gang,) = (gang for gang in slurm.observe().gangs if gang.job_id == job_id)
    return gang.waiting
