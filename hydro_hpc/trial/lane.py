"""A lane as its tenant sees it: where it is, whether its primary is up, its lock, its gate."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from hydro_hpc.config import Settings
from hydro_hpc.devices import cpu_core
from hydro_hpc.devices.cpu_core import PrimaryThread
from hydro_hpc.errors import LaneError
from hydro_hpc.page import BadPageError, Page, lane_dir, page_path
from hydro_hpc.page_layout import (
    LEASE_FILE_NAME,
    DeviceKind,
    Gate,
    PageKind,
    PrimaryState,
    TrialState,
    Word,
)
from hydro_hpc.trial.events import GateSeen
from hydro_hpc.trial.gate import LaneGate
from hydro_hpc.trial.page_head import PageHead
from hydro_hpc.trial.points import Passage, fast_passage, fast_thread_look
from hydro_hpc.trial.room import LookingWaiter
from hydro_hpc.wait import FutexWord, Waiter

READ: Final = (PageKind.SITE, PageKind.STAGE, PageKind.TRIAL)  # by a supervisor


class TenantLane:
    """The lane of one rank of a gang. Worker, search and pauser map its pages for their gates; what
    a supervisor asks is read (`page_head`), and raises LaneError if a page was truncated.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._heads = {kind: _head(path, kind) for kind in READ}
        self.site = _map(path, PageKind.SITE)
        self.stage = _map(path, PageKind.STAGE)
        self._lender = self._read(PageKind.SITE)
        self._pid_at = self.stage.word_index("pid")
        self._primary = PrimaryThread(0)
        self._look = fast_thread_look(self.stage)

    def _read(self, kind: PageKind) -> Page:
        try:
            return self._heads[kind].read()
        except BadPageError as error:
            raise LaneError(f"the lane cannot be used: {error}") from None

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
        return self._lender.get("job_id")

    def cpu_core(self) -> int | None:
        """Returns the core that this device is, None for a GPU."""
        is_core = self._lender.get("device_kind") == DeviceKind.CPU_CORE
        return self._lender.get("cpu_core") if is_core else None

    def core_problem(self) -> str:
        """Says that this process may not run on the device's core, or returns an empty text."""
        core = self.cpu_core()
        if core is None or core in os.sched_getaffinity(0):
            return ""
        return f"the lane's device is core {core}, which this job step may not use"

    def not_ready(self, *, still_ns: int) -> str:
        """Says why no bubble can be used yet, or returns an empty text. Raises LaneError if none
        ever will. `still_ns`: see `why_gone`.
        """
        if self._read(PageKind.SITE).get("site_word") == Word.GONE:
            raise LaneError("the lane is gone: the job that lent it has ended")
        stage = self._read(PageKind.STAGE)
        problem = stage.writer_problem() or _why_still(stage, still_ns=still_ns)
        if problem:
            return problem
        state = stage.get("state")
        if state == PrimaryState.NOT_PIPELINED:
            raise LaneError("no bubbles: the job that lends this device never waits 2 ms in a step")
        if state == PrimaryState.ENDED:
            raise LaneError("the job that lends this device has stopped training")
        return "" if state == PrimaryState.SHARING else "its primary has not shown a bubble yet"

    def look(self, now_ns: int) -> GateSeen:
        """Returns what gate, guard, owner and site say now."""
        stage = self._read(PageKind.STAGE)
        word = stage.get("gate_word")
        says = {stage.get("guard_word"), stage.get("owner_word")}
        is_held = says | {self._read(PageKind.SITE).get("site_word")} != {Word.RUN}
        is_open = Gate.unpack(word).is_open
        return GateSeen(at_ns=now_ns, word=word, is_open=is_open, is_held=is_held)

    def window_end_ns(self, word: int) -> int:
        """Returns when the window that `word` opened is predicted to end, 0 if it is over."""
        opened_ns = self.stage.get("open_ns")
        row = self.stage.word_index("window_us") + Gate.unpack(word).label
        window_ns = self.stage.words[row] * 1000
        return opened_ns + window_ns if self.stage.get("gate_word") == word else 0

    def open_ns(self, now_ns: int) -> int:
        """Returns how long all windows have been open so far, the present one too."""
        before_ns = self._read(PageKind.STAGE).get("open_until_now_ns")
        stage = self._read(PageKind.STAGE)  # again: a window that has closed meanwhile counts once
        if not Gate.unpack(stage.get("gate_word")).is_open:
            return before_ns
        return before_ns + max(0, now_ns - stage.get("open_ns"))

    def why_gone(self, *, still_ns: int) -> str:
        """Says why a lane that was ready will not open again, or returns an empty text.

        `still_ns`: after so long without a step or a window its primary counts as stopped, and
        after so long without a bubble as one that has none any more.
        """
        try:
            for kind in READ:
                self._heads[kind].check_in_place()
            stage = self._heads[PageKind.STAGE].read()
            site = self._heads[PageKind.SITE].read()
        except BadPageError as error:
            return f"the lane cannot be used: {error}"
        if site.get("site_word") == Word.GONE:
            return "the lane is gone: the job that lent it has ended"
        if problem := stage.writer_problem():
            return f"the lane's stage page cannot be used: {problem}"
        return _why_still(stage, still_ns=still_ns) or _why_without(stage, still_ns=still_ns)

    def trial_state(self, pid: int) -> int:
        """Returns the TrialState of the worker `pid`, as it says itself; ABSENT until it has: what
        stands there is of one that was killed.
        """
        trial = self._read(PageKind.TRIAL)
        return trial.get("state") if trial.get("pid") == pid else TrialState.ABSENT

    def has_used_device(self) -> bool:
        """Says whether a command of this rank has run in any window here, as far as its page
        tells.
        """
        return self._last_said("run_ns") > 0

    def has_trained(self) -> bool:
        """Says whether the worker of this rank has trained anything here, as far as its page
        tells.
        """
        return self._last_said("num_samples") > 0

    def _last_said(self, name: str) -> int:
        try:
            return self._read(PageKind.TRIAL).get(name)
        except LaneError:
            return 0

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

    def confine(self, settings: Settings) -> None:
        """In a child, before exec: to the device's core, behind its primary. A few system calls, no
        lock, so safe beside MPI's threads.
        """
        core = self.cpu_core()
        if core is None:
            return
        cpu_core.pin(core)
        cpu_core.sleep_exactly()
        if settings.idle_class:
            cpu_core.enter_idle_class()
        else:
            cpu_core.enter_batch_class()

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

        def make_passage(stage: Page, site: Page, **parts: Any) -> Passage:
            return fast_passage(stage, site, **{**parts, "waiter": waiter})  # `look` may raise

        return LaneGate(
            stage=self.stage,
            site=self.site,
            waiter=waiter if look is None else LookingWaiter(waiter, look),
            trial=trial,
            margin_ns=int(settings.margin_us * 1000),
            let_primary_block=no_wait if is_gpu else self.let_primary_block,
            primary_wants_device=never if is_gpu else self._look,
            make_passage=make_passage,
        )

    def let_primary_block(self) -> None:
        """On a core: sleeps until the primary has begun the wait that it announced."""
        pid = self.stage.words[self._pid_at]
        if pid != self._primary.pid:
            self._primary = PrimaryThread(pid)
            self._look.fd = self._primary.fd
        self._look.let_block()

    def trial_page(self) -> Page:
        """Maps the trial page for writing: one process per lane, the worker."""
        try:
            return Page.map_for_writing(page_path(self.path, PageKind.TRIAL), PageKind.TRIAL)
        except BadPageError as error:
            raise LaneError(f"the lane cannot be used: {error}") from None


def never() -> bool:
    """A GPU does not let a trial see that its primary waits for it."""
    return False


def no_wait() -> None:
    """On a GPU the stream itself has reached the wait when the gate opens."""


def _why_still(stage: Page, *, still_ns: int) -> str:
    """Says that a primary which has made steps makes none, or returns an empty text."""
    last_ns = max(stage.get(name) for name in ("heartbeat_ns", "open_ns", "close_ns"))
    if not stage.get("heartbeat_ns") or time.monotonic_ns() - last_ns < still_ns:
        return ""
    return f"its primary has stood still for {still_ns / 1e9:.0f} s"


def _why_without(stage: Page, *, still_ns: int) -> str:
    """Says that a primary goes on without bubbles, or returns an empty text."""
    since_ns = time.monotonic_ns() - max(stage.get("open_ns"), stage.get("close_ns"))
    if stage.get("state") != PrimaryState.NOT_PIPELINED or since_ns < still_ns:
        return ""
    return f"its primary has had no bubble for {still_ns / 1e9:.0f} s"


def _head(lane: str, kind: PageKind) -> PageHead:
    try:
        return PageHead(page_path(lane, kind), kind)
    except BadPageError as error:
        raise LaneError(f"the lane cannot be used: {error}") from None


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
