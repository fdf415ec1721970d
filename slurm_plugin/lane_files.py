"""The page directory as root handles it: no path that a user could redirect, no half-made file.

The directory, its lanes and all that root reads back are root's own, opened with O_NOFOLLOW
relative to a directory that is already open. A page file is made at its full size under another
name, given to its owner and renamed into place, so that a mapping of the old file cannot reach
the new owner. Standard library only, any Python from 3.9: it runs as root in prologs."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from hydro_hpc.identity import read_boot_id
from hydro_hpc.page import Page
from hydro_hpc.page_layout import (
    FILE_NAMES,
    LEASE_FILE_NAME,
    MAGIC,
    SIZES,
    VERSION,
    DeviceKind,
    PageKind,
    Word,
)
from slurm_plugin.step_processes import Step

LOCK_S = 2.0  # it is held for milliseconds
LOG_BYTES = 256 * 1024
ROLES = ("lender", "tenant")


class LaneFileError(Exception):
    """One sentence: the thing, what is wrong with it, what to do."""


class Site(NamedTuple):
    """What the site page says: who lends the device."""

    word: int  # page.Word
    job_id: int
    generation: int

    def is_lent(self) -> bool:
        return self.word in (Word.RUN, Word.HOLD)


class Tenant(NamedTuple):
    """What the tenant page says: whose step has the lane."""

    job_id: int
    step_id: int
    step: Step


class Device(NamedTuple):
    """A device as the site page describes it."""

    number: int
    kind: DeviceKind
    cpu_core: int  # -1: a GPU
    path: str
    gpu_uuid: str  # "" if it is not known


class PageDir:
    """The page directory, open. Raises LaneFileError unless root alone can write it."""

    def __init__(self, path: str) -> None:
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise LaneFileError(f"{path}: {error.strerror}; mount the page directory") from None
        _require_own(self.fd, path)
        self.path = path

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds root's one lock; LaneFileError if it is not free within LOCK_S."""
        fd = os.open(
            "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self.fd
        )
        deadline = time.monotonic() + LOCK_S
        try:
            while not _try_lock(fd):
                if time.monotonic() > deadline:
                    raise LaneFileError(
                        f"{self.path}/lock: another of root's programs holds it; try again"
                    )
                time.sleep(0.005)
            yield
        finally:
            os.close(fd)

    def lanes(self) -> list[Lane]:
        """Returns the lanes that have ever been made, by index."""
        names = [name for name in os.listdir(self.fd) if re.fullmatch(r"gpu[0-9]{1,4}", name)]
        return [Lane(self, index) for index in sorted(int(name[3:]) for name in names)]

    def lane(self, index: int) -> Lane:
        """Returns a lane, made if it is missing."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(f"gpu{index}", 0o755, dir_fd=self.fd)
        return Lane(self, index)

    def write_role(self, job_id: int, role: str) -> None:
        """Says what a job may do, for the SPANK plugin and `lend` and `take`."""
        assert role in ROLES
        with contextlib.suppress(FileExistsError):
            os.mkdir("jobs", 0o755, dir_fd=self.fd)
        name = f"jobs/{job_id}"
        self.remove_role(job_id)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(name, flags, 0o644, dir_fd=self.fd)
        try:
            os.write(fd, f"{role}\n".encode())
        except OSError as error:
            self.remove_role(job_id)
            raise LaneFileError(
                f"{self.path}/{name}: {error.strerror}; enlarge the tmpfs of the page directory"
            ) from None
        finally:
            os.close(fd)

    def read_role(self, job_id: int) -> str:
        """Returns `lender`, `tenant` or "" for a job that is not ours."""
        try:
            word = _read_own(f"jobs/{job_id}", 16, self.fd).decode("ascii", "replace").strip()
        except FileNotFoundError:
            return ""
        return word if word in ROLES else ""

    def remove_role(self, job_id: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"jobs/{job_id}", dir_fd=self.fd)

    def append_log(self, line: str) -> None:
        """Adds a line to `log`, which keeps about the last LOG_BYTES; never raises OSError."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with contextlib.suppress(OSError):
            fd = os.open("log", flags, 0o644, dir_fd=self.fd)
            try:
                os.write(fd, line.encode("utf-8", "replace") + b"\n")
                if os.fstat(fd).st_size > LOG_BYTES:
                    os.rename("log", "log.1", src_dir_fd=self.fd, dst_dir_fd=self.fd)
            finally:
                os.close(fd)


class Lane:
    """One lane's directory. The caller holds the page directory's lock for all but reading."""

    def __init__(self, page_dir: PageDir, index: int) -> None:
        self.index = index
        self.name = f"gpu{index}"
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self.name, flags, dir_fd=page_dir.fd)
        _require_own(self._fd, f"{page_dir.path}/{self.name}")

    def site(self) -> Site:
        """Returns who lends the device; a missing or foreign page says that nobody does."""
        page = self._read(PageKind.SITE)
        if page is None:
            return Site(Word.GONE, 0, 0)
        return Site(page.get("site_word"), page.get("job_id"), page.get("generation"))

    def tenant(self) -> Tenant | None:
        page = self._read(PageKind.TENANT)
        if page is None or page.get("job_id") == 0:
            return None
        step = Step(page.get_text("cgroup"), page.get("first_pid"), page.get("first_start_ticks"))
        return Tenant(page.get("job_id"), page.get("step_id"), step)

    def _read(self, kind: PageKind) -> Page | None:
        try:
            data = _read_own(FILE_NAMES[kind], SIZES[kind], self._fd)
        except FileNotFoundError:
            return None
        if len(data) != SIZES[kind]:
            return None
        page = Page(data, kind)
        facts = (page.get_bytes("magic"), page.get("version"), page.get_bytes("boot_id"))
        return page if facts == (MAGIC, VERSION, read_boot_id()) else None

    def lend(self, device: Device, *, job_id: int, uid: int) -> None:
        """Makes a new lender's lane: no tenant, an empty stage page of his, then the site page."""
        generation = self.site().generation + 1
        self.vacate()
        self._make_file(FILE_NAMES[PageKind.STAGE], bytes(SIZES[PageKind.STAGE]), uid, 0o644)

        def fill(page: Page) -> None:
            page.set("site_word", Word.RUN)
            page.set("job_id", job_id)
            page.set("uid", uid)
            page.set("generation", generation)
            page.set("device_kind", device.kind)
            page.set("device_index", device.number)
            page.set("cpu_core", device.cpu_core)
            page.set_text("device_path", device.path)
            page.set_text("gpu_uuid", device.gpu_uuid)

        self._make_page(PageKind.SITE, fill)

    def admit(self, tenant: Tenant, *, uid: int) -> None:
        """Gives the lane to a tenant: his fresh lease and trial page, then root's note of him."""
        self.vacate()
        try:
            self._admit(tenant, uid)
        except LaneFileError:
            self.vacate()
            raise

    def _admit(self, tenant: Tenant, uid: int) -> None:
        self._make_file(LEASE_FILE_NAME, b"", uid, 0o600)
        self._make_file(FILE_NAMES[PageKind.TRIAL], bytes(SIZES[PageKind.TRIAL]), uid, 0o644)

        def fill(page: Page) -> None:
            page.set("job_id", tenant.job_id)
            page.set("step_id", tenant.step_id)
            page.set("uid", uid)
            page.set("first_pid", tenant.step.first_pid)
            page.set("first_start_ticks", tenant.step.first_start_ticks)
            page.set("taken_ns", time.monotonic_ns())
            page.set_text("cgroup", tenant.step.cgroup)

        self._make_page(PageKind.TENANT, fill)

    def vacate(self) -> None:
        """Takes the lane from its ended tenant; `lease.lock` exists exactly while there is one.

        Also what a program of root's left unfinished when it was killed.
        """
        for name in (FILE_NAMES[PageKind.TENANT], FILE_NAMES[PageKind.TRIAL], LEASE_FILE_NAME):
            for left in (name, f"{name}.new"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(left, dir_fd=self._fd)

    def set_gone(self) -> None:
        """Tells everyone who maps the site page that its lender is gone: one aligned store."""
        fd = os.open(
            FILE_NAMES[PageKind.SITE], os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd
        )
        try:
            with contextlib.closing(mmap.mmap(fd, SIZES[PageKind.SITE])) as mapping:
                page = Page(mapping, PageKind.SITE)
                page.words[page.word_index("site_word")] = Word.GONE
                page.words.release()
                page.quads.release()
                page._bytes.release()
        finally:
            os.close(fd)

    def _make_page(self, kind: PageKind, fill: Callable[[Page], None]) -> None:
        memory = mmap.mmap(-1, SIZES[kind])
        page = Page(memory, kind)
        page.set("version", VERSION)
        page.set("kind", int(kind))
        page.set("boot_id", read_boot_id())
        page.set("magic", MAGIC)
        fill(page)
        self._make_file(FILE_NAMES[kind], memory[:], os.geteuid(), 0o644)

    def _make_file(self, name: str, data: bytes, uid: int, mode: int) -> None:
        """Puts a new file in place, whole or not at all; LaneFileError if there is no room."""
        fresh = f"{name}.new"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with contextlib.suppress(FileNotFoundError):  # a killed program's; its user may hold it
            os.unlink(fresh, dir_fd=self._fd)
        try:
            fd = os.open(fresh, flags, 0o600, dir_fd=self._fd)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise self._no_room(name, error) from None
        try:
            if data:
                os.posix_fallocate(fd, 0, len(data))
                os.pwrite(fd, data, 0)
            os.fchmod(fd, mode)
            os.fchown(fd, uid, -1)
            os.rename(fresh, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except OSError as error:
            os.unlink(fresh, dir_fd=self._fd)
            raise self._no_room(name, error) from None
        finally:
            os.close(fd)

    def _no_room(self, name: str, error: OSError) -> LaneFileError:
        return LaneFileError(
            f"{self.name}/{name}: {error.strerror}; enlarge the tmpfs of the page directory"
        )


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _require_own(fd: int, path: str) -> None:
    facts = os.fstat(fd)
    if facts.st_uid != os.geteuid() or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise LaneFileError(f"{path}: others than root can write it; chown root, chmod 0755")


def _read_own(name: str, size: int, dir_fd: int) -> bytes:
    """Reads a file that root wrote; a file of anybody else reads as empty."""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=dir_fd)
    try:
        return os.pread(fd, size, 0) if os.fstat(fd).st_uid == os.geteuid() else b""
    finally:
        os.close(fd)


def device_at(index: int, path: str, cpu_cores: Sequence[int]) -> Device:
    """Returns what is known of a device: a CPU core if the node's devices are cores, else a GPU."""
    if cpu_cores:
        return Device(index, DeviceKind.CPU_CORE, cpu_cores[index], path, "")
    return Device(index, DeviceKind.GPU, -1, path, _gpu_uuid(index))


def _gpu_uuid(minor: int, folder: str = "/proc/driver/nvidia/gpus") -> str:
    """Returns the UUID of /dev/nvidia<minor> as the driver tells it, or "" without that driver."""
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        with (
            contextlib.suppress(OSError),
            open(f"{folder}/{name}/information", encoding="utf-8") as file,
        ):
            facts = dict(line.split(":", 1) for line in file if ":" in line)
            if facts.get("Device Minor", "").strip() == str(minor):
                return facts.get("GPU UUID", "").strip()
    return ""
