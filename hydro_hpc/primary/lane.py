"""How a rank finds its lane and becomes the one writer of its stage page."""

from __future__ import annotations

import atexit
import fcntl
import os
import struct
from typing import Final

from hydro_hpc.config import load_settings
from hydro_hpc.devices.cpu_memory import CpuMemory
from hydro_hpc.errors import LaneError
from hydro_hpc.page import BadPageError, Page, lane_dir, page_path
from hydro_hpc.page_layout import DeviceKind, PageKind
from hydro_hpc.primary.guard import Guard, GuardSettings
from hydro_hpc.primary.publisher import Publisher
from hydro_hpc.wait import FutexWord

# A lock that only who may write the file can take (flock would let everybody who may read it), and
# that, unlike a plain POSIX lock, does not end when this process closes the file elsewhere.
_WHOLE_FILE: Final = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


def become_writer() -> Publisher:
    """Locks this rank's stage page and returns its publisher. Raises LaneError or BadPageError.

    The lock is held until the process ends. A forked child (a data loader's worker) must not use
    the publisher, and does not close it at its end.
    """
    import torch.distributed as dist

    settings = load_settings(os.environ)
    lane = own_lane(os.environ)
    path = page_path(lane, PageKind.STAGE)
    site = Page.read_copy(page_path(lane, PageKind.SITE), PageKind.SITE)
    lock_as_writer(path)
    page = Page.map_for_writing(path, PageKind.STAGE)
    page.set("rank", dist.get_rank())
    page.set("world_size", dist.get_world_size())
    page.set("stage", dist.get_rank())  # an engine that knows better says so
    page.set("num_stages", dist.get_world_size())
    page.set("job_id", int(os.environ.get("SLURM_JOB_ID", "0")))
    page.set("step_id", int(os.environ.get("SLURM_STEP_ID", "0")) & 0xFFFFFFFF)
    if site.get("device_kind") == DeviceKind.CPU_CORE:
        os.sched_setaffinity(0, {site.get("cpu_core")})
    publisher = Publisher(
        page,
        guard=Guard(
            GuardSettings(bound=settings.guard_bound, dense_steps=settings.guard_dense_steps)
        ),
        read_tenant=lambda: _tenant_job(lane),
        wake_all=FutexWord(page, "gate_word").wake_all,
        memory=CpuMemory(),
        num_lanes=len(_lent_lanes(os.environ)),
    )
    atexit.register(_close_own, publisher, os.getpid())
    return publisher


def lock_as_writer(path: str) -> int:
    """Returns the descriptor that holds the lock while it is open. Raises LaneError if another
    process has it.
    """
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _WHOLE_FILE)
    except BlockingIOError:
        os.close(fd)
        raise LaneError(f"{path}: another process of this job already writes it") from None
    return fd


def _close_own(publisher: Publisher, pid: int) -> None:
    if os.getpid() == pid:
        publisher.close()


def _tenant_job(lane: str) -> int:
    """Returns the job that root let into the lane, 0 when it is free."""
    try:
        page = Page.read_copy(page_path(lane, PageKind.TENANT), PageKind.TENANT)
    except BadPageError:
        return 0
    return page.get("job_id")


def own_lane(environment: os._Environ[str] | dict[str, str]) -> str:
    """Returns the directory of this rank's lane: of those lent to the step, the LOCAL_RANK-th."""
    lanes = _lent_lanes(environment)
    local_rank = int(environment.get("LOCAL_RANK", environment.get("SLURM_LOCALID", "0")))
    if local_rank >= len(lanes):
        raise LaneError(
            f"local rank {local_rank} has no lane: this step was lent {len(lanes)}; "
            "start one rank per device"
        )
    return lane_dir(environment["HYDRO_PAGE_DIR"], int(lanes[local_rank]))


def _lent_lanes(environment: os._Environ[str] | dict[str, str]) -> list[str]:
    return [index for index in environment.get("HYDRO_LANES", "").split(",") if index]
