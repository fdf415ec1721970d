"""A lane as its tenant sees it: where it is, whether its primary is up, its lock, its gate."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from filelock import FileLock, Timeout

from hydro_hpc.config import Settings
from hydro_hpc.devices import cpu_core
from hydro_hpc.errors import LaneError
from hydro_hpc.page import BadPageError, Page, lane_dir, page_path
from hydro_hpc.page_layout import LEASE_FILE_NAME, DeviceKind, PageKind, PrimaryState, Word
from hydro_hpc.trial.gate import LaneGate
from hydro_hpc.trial.residency import LookingWaiter
from hydro_hpc.wait import FutexWord, Waiter


class TenantLane:
    """The lane of one rank of a gang; pages are mapped when they are first needed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.site = _map(path, PageKind.SITE)
        self.stage = _map(path, PageKind.STAGE)
        self._trial = _map(path, PageKind.TRIAL)

    @staticmethod
    def granted(environment: Mapping[str, str]) -> TenantLane:
        """Returns the lane that root granted to this task: the i-th for local task i."""
        if environment.get("HYDRO_ROLE") not in ("take", "lend") or not environment.get(
            "HYDRO_LANES"
        ):
            raise LaneError(
                "this step holds no lane: submit it with sbatch --bubbles=N, or start it with "
                "srun --overlap inside a job that was submitted with --hydro-bubble"
            )
        lanes = environment["HYDRO_LANES"].split(",")
        local = int(environment.get("SLURM_LOCALID", "0"))
        if local >= len(lanes):
            raise LaneError(
                f"local task {local} has no lane: this step took {len(lanes)}; "
                "start one task per device"
            )
        return TenantLane(lane_dir(environment["HYDRO_PAGE_DIR"], int(lanes[local])))

    def lender_job(self) -> int:
        return self.site.get("job_id")

    def cpu_core(self) -> int | None:
        """Returns the core that this device is, None for a GPU."""
        is_core = self.site.get("device_kind") == DeviceKind.CPU_CORE
        return self.site.get("cpu_core") if is_core else None

    def not_ready(self) -> str:
        """Says why no bubble can be used yet, or returns an empty text. Raises LaneError if none
        ever will.
        """
        if self.site.get("site_word") == Word.GONE:
            raise LaneError("the lane is gone: the job that lent it has ended")
        problem = self.stage.writer_problem()
        if problem:
            return problem
        state = PrimaryState(self.stage.get("state"))
        if state == PrimaryState.NOT_PIPELINED:
            raise LaneError("no bubbles: the job that lends this device never waits 2 ms in a step")
        if state == PrimaryState.ENDED:
            raise LaneError("the job that lends this device has stopped training")
        return "" if state == PrimaryState.SHARING else "its primary has not shown a bubble yet"

    def trial_state(self) -> int:
        """Returns the worker's TrialState, as it says itself."""
        return self._trial.get("state")

    def has_trained(self) -> bool:
        """Says whether the worker of this rank has trained anything here."""
        return self._trial.get("num_samples") > 0

    def lease(self) -> FileLock:
        """Returns the held lock on this lane. Raises LaneError if another process of ours holds
        it.
        """
        lock = FileLock(Path(self.path) / LEASE_FILE_NAME, timeout=0, mode=0o600)
        try:
            lock.acquire()
        except Timeout:
            raise LaneError(
                f"{self.path} is already leased by another process of this gang"
            ) from None
        except OSError as error:
            raise LaneError(f"{self.path}: the lease cannot be taken: {error.strerror}") from None
        return lock

    def spare_bytes(self) -> int | None:
        """Returns what the primary leaves of its device's memory: its limit minus its peak; None
        if it has not said yet.
        """
        limit_bytes = self.stage.get("memory_limit_bytes")
        if not limit_bytes:
            return None
        return max(0, limit_bytes - self.stage.get("memory_peak_bytes"))

    def gate(
        self, settings: Settings, *, trial: Page | None, look: Callable[[], None] | None = None
    ) -> LaneGate:
        """`look` is called every now and then while the gate is waited for."""
        is_gpu = self.cpu_core() is None
        waiter: Waiter = FutexWord(self.stage, "gate_word")
        return LaneGate(
            stage=self.stage,
            site=self.site,
            waiter=waiter if look is None else LookingWaiter(waiter, look),
            trial=trial,
            margin_ns=int(settings.margin_us * 1000),
            let_primary_block=no_wait if is_gpu else self._let_primary_block,
        )

    def _let_primary_block(self) -> None:
        cpu_core.let_block(self.stage.get("pid"))

    def trial_page(self) -> Page:
        """Maps the trial page for writing: one process per lane, the worker."""
        try:
            return Page.map_for_writing(page_path(self.path, PageKind.TRIAL), PageKind.TRIAL)
        except BadPageError as error:
            raise LaneError(f"the lane cannot be used: {error}") from None


def no_wait() -> None:
    """On a GPU the stream itself has reached the wait when the gate opens."""


def _map(lane: str, kind: PageKind) -> Page:
    try:
        return Page.map_for_reading(page_path(lane, kind), kind)
    except BadPageError as error:
        raise LaneError(f"the lane cannot be used: {error}") from None


def local_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment for a child: one compute thread, and none of MPI's variables.

    A child that carried PMIX_* and OMPI_* would be taken for the rank itself.
    """
    kept = {
        name: value
        for name, value in environment.items()
        if not name.startswith(("PMIX_", "OMPI_", "PRTE_", "PMI_"))
    }
    return {**kept, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def is_own_allocation(lane: TenantLane) -> bool:
    """Says whether the lender of this lane is the job that this process belongs to."""
    return lane.lender_job() == int(os.environ.get("SLURM_JOB_ID", "-1"))
