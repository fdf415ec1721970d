"""lanes.py on a directory of its own: who is lent, who may take, who leaves, what is left."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hydro_hpc.page import Page
from hydro_hpc.page_layout import SIZES, DeviceKind, PageKind, Word
from slurm_plugin import lanes
from slurm_plugin.lane_files import LaneFileError, PageDir
from slurm_plugin.lane_settings import Settings, parse_settings
from slurm_plugin.lanes import Request

OWN_UID = os.getuid()
LENDER, OTHER_LENDER, TENANT, OTHER_TENANT, STRANGER = 10, 11, 20, 21, 30


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "pages").mkdir(mode=0o755)
    text = f"[lanes]\npage_dir={tmp_path}/pages\nnum_devices=4\ncpu_cores=0,1,0,1\ngrace_s=0.1\n"
    return parse_settings(text, "lanes.conf")


@pytest.fixture
def page_dir(settings: Settings) -> PageDir:
    made = PageDir(settings.page_dir)
    for job, role in ((LENDER, "lender"), (OTHER_LENDER, "lender"), (TENANT, "tenant")):
        made.write_role(job, role)
    made.write_role(OTHER_TENANT, "tenant")
    return made


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for a tenant's first one: its own session, no step cgroup."""
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def request(job: int, pid: int = 0, step: int = 0) -> Request:
    return Request(job=job, step=step, uid=OWN_UID, pid=pid or os.getpid())


def lend(page_dir: PageDir, settings: Settings, job: int, *devices: int) -> tuple[int, ...]:
    return lanes.lend(page_dir, settings, request(job), devices).lanes


def site(page_dir: PageDir, index: int) -> Page:
    return Page.read_copy(f"{page_dir.path}/gpu{index}/site", PageKind.SITE)


def files(page_dir: PageDir, index: int) -> set[str]:
    return set(os.listdir(f"{page_dir.path}/gpu{index}"))


def test_lending_makes_pages_of_full_size_for_their_owners(
    page_dir: PageDir, settings: Settings
) -> None:
    assert lend(page_dir, settings, LENDER, 1, 3) == (1, 3)
    page = site(page_dir, 3)
    assert page.get("site_word") == Word.RUN
    assert (page.get("job_id"), page.get("uid")) == (LENDER, OWN_UID)
    assert (page.get("generation"), page.get("device_index")) == (1, 3)
    assert (page.get("device_kind"), page.get("cpu_core")) == (DeviceKind.CPU_CORE, 1)
    assert page.get_text("device_path") == "/dev/nvidia3"
    for name, kind in (("site", PageKind.SITE), ("stage", PageKind.STAGE)):
        facts = os.stat(f"{page_dir.path}/gpu3/{name}")
        assert facts.st_size == SIZES[kind]
        assert facts.st_blocks * 512 >= facts.st_size, "a full tmpfs would be a fault, not an error"
        assert stat.S_IMODE(facts.st_mode) == 0o644
    assert files(page_dir, 3) == {"site", "stage"}


def test_lending_again_changes_nothing(page_dir: PageDir, settings: Settings) -> None:
    lend(page_dir, settings, LENDER, 0)
    before = os.stat(f"{page_dir.path}/gpu0/stage").st_ino
    assert lend(page_dir, settings, LENDER, 0) == (0,)
    assert os.stat(f"{page_dir.path}/gpu0/stage").st_ino == before
    assert site(page_dir, 0).get("generation") == 1


def test_a_new_lender_gets_fresh_files_and_old_mappings_see_gone(
    page_dir: PageDir, settings: Settings
) -> None:
    lend(page_dir, settings, LENDER, 0)
    old_site = Page.map_for_reading(f"{page_dir.path}/gpu0/site", PageKind.SITE)
    old_stage = os.stat(f"{page_dir.path}/gpu0/stage").st_ino
    assert lend(page_dir, settings, OTHER_LENDER, 0) == (0,)
    assert old_site.get("site_word") == Word.GONE
    assert os.stat(f"{page_dir.path}/gpu0/stage").st_ino != old_stage
    page = site(page_dir, 0)
    assert (page.get("job_id"), page.get("generation")) == (OTHER_LENDER, 2)
    old_site.close()


def test_the_generation_survives_a_closed_lane(page_dir: PageDir, settings: Settings) -> None:
    for expected in (1, 2, 3):
        page_dir.write_role(LENDER, "lender")
        lend(page_dir, settings, LENDER, 0)
        lanes.close(page_dir, LENDER)
        assert site(page_dir, 0).get("generation") == expected
        assert site(page_dir, 0).get("site_word") == Word.GONE


@pytest.mark.parametrize("job", [TENANT, STRANGER])
def test_only_lenders_lend(page_dir: PageDir, settings: Settings, job: int) -> None:
    answer = lanes.lend(page_dir, settings, request(job), [0])
    assert answer.lanes == ()
    assert f"job {job} was not submitted with --hydro-bubble" in answer.reason
    assert page_dir.lanes() == []


def test_a_tenant_takes_what_is_lent_and_nothing_else(
    page_dir: PageDir, settings: Settings
) -> None:
    lend(page_dir, settings, LENDER, 1, 2)
    answer = lanes.take(page_dir, request(TENANT), [0, 1])
    assert answer.lanes == (1,)
    assert files(page_dir, 1) == {"site", "stage", "tenant", "trial", "lease.lock"}
    modes = {name: os.stat(f"{page_dir.path}/gpu1/{name}").st_mode for name in files(page_dir, 1)}
    assert stat.S_IMODE(modes["trial"]) == 0o644
    assert stat.S_IMODE(modes["lease.lock"]) == 0o600
    page = Page.read_copy(f"{page_dir.path}/gpu1/tenant", PageKind.TENANT)
    assert (page.get("job_id"), page.get("first_pid")) == (TENANT, os.getpid())


def test_taking_without_a_lent_device_says_why(page_dir: PageDir) -> None:
    answer = lanes.take(page_dir, request(TENANT), [0])
    assert (answer.lanes, answer.reason) == ((), "gpu0 is not lent now")
    answer = lanes.take(page_dir, request(TENANT), [])
    assert (answer.lanes, answer.reason) == ((), "this step was granted no device")
    answer = lanes.take(page_dir, request(STRANGER), [0])
    assert "neither lends bubbles nor was given any" in answer.reason


def test_two_tenants_cannot_take_one_lane(
    page_dir: PageDir, settings: Settings, sleeper: subprocess.Popen[bytes]
) -> None:
    lend(page_dir, settings, LENDER, 0)
    assert lanes.take(page_dir, request(TENANT, sleeper.pid), [0]).lanes == (0,)
    inode = os.stat(f"{page_dir.path}/gpu0/trial").st_ino
    answer = lanes.take(page_dir, request(OTHER_TENANT), [0])
    assert (answer.lanes, answer.reason) == ((), f"gpu0 is held by step {TENANT}.0")
    other_step = lanes.take(page_dir, request(TENANT, step=1), [0])
    assert other_step.lanes == ()
    # another task of the step that holds it:
    assert lanes.take(page_dir, request(TENANT), [0]).lanes == (0,)
    assert os.stat(f"{page_dir.path}/gpu0/trial").st_ino == inode


def test_a_holder_that_is_gone_is_stale(
    page_dir: PageDir, settings: Settings, sleeper: subprocess.Popen[bytes]
) -> None:
    lend(page_dir, settings, LENDER, 0)
    lanes.take(page_dir, request(TENANT, sleeper.pid), [0])
    old_page = os.open(f"{page_dir.path}/gpu0/trial", os.O_RDONLY)
    sleeper.kill()
    sleeper.wait()
    assert lanes.take(page_dir, request(OTHER_TENANT), [0]).lanes == (0,)
    assert os.fstat(old_page).st_nlink == 0, "the new tenant has a file of its own"
    os.close(old_page)


def test_a_lender_takes_its_own_lanes_only(page_dir: PageDir, settings: Settings) -> None:
    lend(page_dir, settings, LENDER, 0)
    lend(page_dir, settings, OTHER_LENDER, 1)
    answer = lanes.take(page_dir, request(LENDER), [0, 1])
    assert answer.lanes == (0,)
    answer = lanes.take(page_dir, request(LENDER, step=1), [1])
    assert answer.reason == f"gpu1 is lent by job {OTHER_LENDER}, not by this one"


def test_leaving_frees_the_lane_of_an_ended_step_only(
    page_dir: PageDir, settings: Settings, sleeper: subprocess.Popen[bytes]
) -> None:
    lend(page_dir, settings, LENDER, 0)
    lanes.take(page_dir, request(TENANT, sleeper.pid), [0])
    lanes.leave(page_dir, request(OTHER_TENANT))
    lanes.leave(page_dir, request(TENANT))  # its process lives
    assert "tenant" in files(page_dir, 0)
    sleeper.kill()
    sleeper.wait()
    lanes.leave(page_dir, request(TENANT))
    assert files(page_dir, 0) == {"site", "stage"}


def test_closing_ends_lending_at_once_and_keeps_a_live_tenant_known(
    page_dir: PageDir, settings: Settings, sleeper: subprocess.Popen[bytes]
) -> None:
    lend(page_dir, settings, LENDER, 0)
    lend(page_dir, settings, OTHER_LENDER, 1)
    lanes.take(page_dir, request(TENANT, sleeper.pid), [0])
    lanes.epilog(page_dir, {"SLURM_JOB_ID": str(LENDER)})
    assert site(page_dir, 0).get("site_word") == Word.GONE
    assert site(page_dir, 1).get("site_word") == Word.RUN
    assert "tenant" in files(page_dir, 0)
    assert page_dir.read_role(LENDER) == ""
    assert lanes.take(page_dir, request(OTHER_TENANT), [0]).reason == "gpu0 is not lent now"


def test_what_an_ended_job_left_in_a_lane_is_ended(
    page_dir: PageDir, settings: Settings, sleeper: subprocess.Popen[bytes]
) -> None:
    lend(page_dir, settings, LENDER, 0)
    lanes.take(page_dir, request(TENANT, sleeper.pid), [0])
    lanes.epilog(page_dir, {"SLURM_JOB_ID": str(TENANT)})
    assert sleeper.wait(timeout=5) != 0
    assert files(page_dir, 0) == {"site", "stage"}
    assert site(page_dir, 0).get("site_word") == Word.RUN


def test_the_prolog_of_any_job_ends_tenants_whose_lender_is_gone(
    page_dir: PageDir, settings: Settings, sleeper: subprocess.Popen[bytes]
) -> None:
    lend(page_dir, settings, LENDER, 0)
    lanes.take(page_dir, request(TENANT, sleeper.pid), [0])
    environment = {"SLURM_JOB_ID": str(STRANGER), "SLURM_JOB_PARTITION": "main"}
    lanes.prolog(page_dir, settings, environment)
    assert sleeper.poll() is None, "its lender is still there"
    lanes.close(page_dir, LENDER)
    lanes.prolog(page_dir, settings, environment)
    assert sleeper.wait(timeout=5) != 0
    assert files(page_dir, 0) == {"site", "stage"}


def test_with_reliable_device_lists_only_the_jobs_devices_are_cleared(
    page_dir: PageDir, settings: Settings, sleeper: subprocess.Popen[bytes]
) -> None:
    exact = settings._replace(job_gpus=True)
    lend(page_dir, settings, LENDER, 0)
    lanes.take(page_dir, request(TENANT, sleeper.pid), [0])
    lanes.close(page_dir, LENDER)
    environment = {"SLURM_JOB_ID": str(STRANGER), "SLURM_JOB_GPUS": "1,3"}
    lanes.prolog(page_dir, exact, environment)
    assert sleeper.poll() is None
    lanes.prolog(page_dir, exact, environment | {"SLURM_JOB_GPUS": "0-1"})
    assert sleeper.wait(timeout=5) != 0


@pytest.mark.parametrize(
    ("environment", "role"),
    [
        ({"SLURM_JOB_PARTITION": "main"}, ""),
        ({"SLURM_JOB_PARTITION": "main", "SPANK_HYDRO_BUBBLE": "x;$(y)"}, "lender"),
        ({"SLURM_JOB_PARTITION": "bubble", "SPANK_HYDRO_BUBBLE": "1"}, "tenant"),
        ({"SLURM_JOB_PARTITION": "bubble"}, "tenant"),
    ],
)
def test_a_tenant_can_never_lend(
    settings: Settings, environment: dict[str, str], role: str
) -> None:
    assert lanes.role_of(environment, settings) == role


@pytest.mark.parametrize("job", ["", "x", "1/../2", "-1", "9" * 11])
def test_a_prolog_without_a_job_number_does_nothing(
    page_dir: PageDir, settings: Settings, job: str
) -> None:
    with pytest.raises(LaneFileError, match="only Slurm runs prolog and epilog"):
        lanes.prolog(page_dir, settings, {"SLURM_JOB_ID": job, "SPANK_HYDRO_BUBBLE": "1"})


@pytest.mark.parametrize(
    ("text", "indexes"),
    [("0", [0]), ("0-2,5", [0, 1, 2, 5]), ("", []), ("x,1", [1]), ("1-x", []), ("-", [])],
)
def test_device_lists_are_parsed_by_a_grammar(text: str, indexes: list[int]) -> None:
    assert lanes.gpu_indexes(text) == indexes


def test_only_devices_that_may_be_opened_count(settings: Settings) -> None:
    assert lanes.granted_devices(settings, lambda path: path in ("/dev/nvidia1", "/dev/x")) == [1]


@pytest.mark.parametrize("name", ["site", "stage.new", "lease.lock"])
def test_a_link_in_a_lane_is_never_followed(
    page_dir: PageDir, settings: Settings, tmp_path: Path, name: str
) -> None:
    """Root owns the directory, so nobody can place one; if it happens, nothing outside changes."""
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    page_dir.lane(0)
    (tmp_path / "pages/gpu0" / name).symlink_to(victim)
    try:
        lend(page_dir, settings, LENDER, 0)
        lanes.take(page_dir, request(TENANT), [0])
    except OSError:
        pass
    assert victim.read_text() == "untouched"
    assert stat.S_IMODE(victim.stat().st_mode) == 0o644


def test_a_page_directory_that_others_can_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(LaneFileError, match="others than root can write it"):
        PageDir(str(tmp_path))


def test_a_forged_role_file_reads_as_not_ours(page_dir: PageDir) -> None:
    (Path(page_dir.path) / "jobs/99").write_text("lender\nextra")
    assert page_dir.read_role(99) == ""
    (Path(page_dir.path) / "jobs/98").symlink_to(Path(page_dir.path) / f"jobs/{LENDER}")
    with pytest.raises(OSError, match="symbolic links"):
        page_dir.read_role(98)


def test_a_tenant_for_whom_there_is_no_room_leaves_nothing_behind(
    page_dir: PageDir, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    lend(page_dir, settings, LENDER, 0)

    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with pytest.raises(LaneFileError, match="enlarge the tmpfs"):
        lanes.take(page_dir, request(TENANT), [0])
    assert files(page_dir, 0) == {"site", "stage"}


def test_what_a_killed_program_of_roots_left_unfinished_goes_with_the_tenant(
    page_dir: PageDir, settings: Settings, sleeper: subprocess.Popen[bytes]
) -> None:
    lend(page_dir, settings, LENDER, 0)
    lanes.take(page_dir, request(TENANT, sleeper.pid), [0])
    (Path(page_dir.path) / "gpu0/trial.new").touch()
    sleeper.kill()
    sleeper.wait()
    lanes.leave(page_dir, request(TENANT))
    assert files(page_dir, 0) == {"site", "stage"}


def test_a_new_page_is_never_a_file_that_somebody_was_given_before(
    page_dir: PageDir, settings: Settings
) -> None:
    """Root's program was killed between giving a new file to its owner and putting it in place."""
    page_dir.lane(0)
    lane = Path(page_dir.path) / "gpu0"
    left = lane / "stage.new"
    left.touch()
    with left.open("r+b") as still_open:
        assert lend(page_dir, settings, LENDER, 0) == (0,)
        assert (lane / "stage").stat().st_ino != os.fstat(still_open.fileno()).st_ino
    assert not left.exists()


def test_the_log_does_not_grow_without_bound(page_dir: PageDir) -> None:
    for _ in range(40):
        page_dir.append_log("x" * 20_000)
    sizes = [os.stat(f"{page_dir.path}/{name}").st_size for name in ("log", "log.1")]
    assert sum(sizes) < 600_000


def test_wrong_use_prints_the_usage() -> None:
    for arguments in ([], ["lend"], ["--config", "x"], ["--config", "x", "lend", "--job", "a"]):
        with pytest.raises(SystemExit, match="usage: hydro-lanes"):
            lanes.parse_arguments(arguments)
    arguments = ["--config", "c", "take", "--job", "1", "--step", "2", "--uid", "3", "--pid", "4"]
    assert lanes.parse_arguments(arguments) == ("c", "take", Request(1, 2, 3, 4))
