"""Lanes for tests that need no root: the files that root makes, in any directory."""

from __future__ import annotations

import os
from pathlib import Path

from hydro_hpc.page import Page, lane_dir, page_path
from hydro_hpc.page_layout import LEASE_FILE_NAME, SIZES, DeviceKind, PageKind, Word


def own_core() -> int:
    """Returns the core for a lane of this process: of those that pytest-xdist runs beside each
    other, each has its own as long as there are enough.
    """
    cores = sorted(os.sched_getaffinity(0))
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    return cores[int(worker) % len(cores)]


def make_lane(page_dir: Path, index: int = 0, *, core: int = 0, tenant_job: int = 0) -> str:
    """Makes a lent lane of job 1 and returns its path."""
    lane = lane_dir(str(page_dir), index)
    os.makedirs(lane)
    for kind in PageKind:
        with open(page_path(lane, kind), "wb") as file:
            file.truncate(SIZES[kind])
    site = Page.map_for_writing(page_path(lane, PageKind.SITE), PageKind.SITE)
    site.set("site_word", Word.RUN)
    site.set("job_id", 1)
    site.set("device_kind", DeviceKind.CPU_CORE)
    site.set("cpu_core", core)
    site.close()
    tenant = Page.map_for_writing(page_path(lane, PageKind.TENANT), PageKind.TENANT)
    tenant.set("job_id", tenant_job)
    tenant.close()
    Path(lane, LEASE_FILE_NAME).touch()
    return lane


def stage_page(lane: str) -> Page:
    """Returns the stage page, mapped by its writer: this process."""
    return Page.map_for_writing(page_path(lane, PageKind.STAGE), PageKind.STAGE)


def set_site_word(lane: str, word: Word) -> None:
    site = Page.map_for_writing(page_path(lane, PageKind.SITE), PageKind.SITE)
    site.set("site_word", word)
    site.close()
