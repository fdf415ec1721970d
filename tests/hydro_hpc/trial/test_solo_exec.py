"""`hydro-trial --exec` as a real process, alone on a lane."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hydro_hpc.errors import EXIT_FAILED, EXIT_NOT_FOUND, EXIT_TRY_LATER
from hydro_hpc.page import Page, page_path
from hydro_hpc.page_layout import GATE_OPEN, PageKind, RecordKind, TrialState, Word
from hydro_hpc.trial.process_tree import descendants
from tests.hydro_hpc.lanes import make_lane, set_site_word
from tests.hydro_hpc.trial.solo import (
    PlayedPrimary,
    children,
    finish,
    start_trial,
    wait_until,
)

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

GRACE_MS = 100
TWO_LOOPS = "while :; do :; done & setsid sh -c 'while :; do :; done' & wait"


def start_exec(lane: str, *words: str, **settings: str) -> subprocess.Popen[str]:
    return start_trial(
        ["--exec", "--", *words], lane, **{"HYDRO_GRACE_MS": str(GRACE_MS), **settings}
    )


def trial_page(lane: str) -> Page:
    return Page.map_for_reading(page_path(lane, PageKind.TRIAL), PageKind.TRIAL)


def wait_until_closed(primary: PlayedPrimary) -> None:
    primary.is_shut.set()
    wait_until(lambda: not primary.page.get("gate_word") & GATE_OPEN)


def used_ticks(pids: list[int]) -> int:
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks


@pytest.fixture
def looping(lane: str, primary: PlayedPrimary) -> Iterator[subprocess.Popen[str]]:
    """Two loops in two sessions that have run in a window, and are paused now."""
    process = start_exec(lane, "sh", "-c", TWO_LOOPS)
    page = trial_page(lane)
    wait_until(lambda: page.get("run_ns") > 50_000_000)
    wait_until_closed(primary)
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate()


def test_loops_in_two_sessions_use_less_than_the_grace_time_while_the_gate_is_closed(
    looping: subprocess.Popen[str],
) -> None:
    pids = descendants(looping.pid)
    loops = [pid for pid in pids if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sh\0")]
    assert len(loops) == 3
    before = used_ticks(loops)
    time.sleep(0.5)
    assert (used_ticks(loops) - before) / os.sysconf("SC_CLK_TCK") * 1000 < GRACE_MS
    looping.send_signal(signal.SIGTERM)
    code, errors = finish(looping)
    assert code == 128 + signal.SIGTERM
    assert errors == "hydro-trial: stopped by SIGTERM; started again, the command begins anew\n"
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_lane_that_goes_away_ends_the_command_with_75_and_leaves_nothing(
    looping: subprocess.Popen[str], lane: str
) -> None:
    pids = descendants(looping.pid)
    set_site_word(lane, Word.GONE)  # nobody sends a signal
    code, errors = finish(looping)
    assert code == EXIT_TRY_LATER
    assert "the job that lent it has ended" in errors
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.mark.parametrize("victim", ["supervisor", "pauser"])
def test_killed_supervisor_or_pauser_leaves_no_process_behind(
    looping: subprocess.Popen[str], victim: str
) -> None:
    pids = descendants(looping.pid)
    [pauser] = [pid for pid, line in children(looping.pid) if "trial.pauser" in line]
    os.kill(looping.pid if victim == "supervisor" else pauser, signal.SIGKILL)
    looping.communicate(timeout=60)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), timeout_s=20)


@pytest.mark.usefixtures("primary")
def test_runs_are_recorded_as_a_workers_are(lane: str) -> None:
    work = f"{sys.executable} -c 'sum(range(3_000_000))'"
    process = start_exec(lane, "sh", "-c", f"{work}; {work}")
    assert finish(process) == (0, "")
    page = trial_page(lane)
    records = [record for _, record in page.records()]
    assert records
    assert {record.kind for record in records} == {RecordKind.RUN}
    assert page.get("run_ns") == sum(record.value for record in records) > 0
    assert page.get("num_runs") == len(records)
    assert page.get("state") == TrialState.ENDED


@pytest.mark.usefixtures("primary")
@pytest.mark.parametrize(
    ("script", "expected"),
    [("exit 0", 0), ("exit 7", 7), ("exit 75", 75), ("kill -KILL $$", 128 + signal.SIGKILL)],
)
def test_exit_code_is_the_commands(lane: str, script: str, expected: int) -> None:
    assert finish(start_exec(lane, "sh", "-c", script)) == (expected, "")


@pytest.mark.usefixtures("primary")
def test_binary_that_is_no_script_runs_with_its_output_passed_on(lane: str) -> None:
    binary = shutil.which("seq")
    assert binary is not None
    output, errors = start_exec(lane, binary, "3").communicate(timeout=60)
    assert (output, errors) == ("1\n2\n3\n", "")


@pytest.mark.usefixtures("primary")
def test_daemon_that_the_command_leaves_is_ended_with_it(tmp_path: Path, lane: str) -> None:
    note = tmp_path / "pid"
    script = f"setsid sh -c 'echo $$ > {note}; sleep 60' & while ! [ -s {note} ]; do :; done"
    assert finish(start_exec(lane, "sh", "-c", script)) == (0, "")
    assert not Path(f"/proc/{note.read_text().strip()}").exists()


@pytest.mark.usefixtures("primary")
def test_command_that_ignores_sigterm_is_killed(tmp_path: Path, lane: str) -> None:
    ready = tmp_path / "ready"
    process = start_exec(lane, "sh", "-c", f"trap '' TERM; touch {ready}; while :; do :; done")
    wait_until(ready.exists)
    process.send_signal(signal.SIGTERM)
    code, _ = finish(process, timeout_s=60)
    assert code == 128 + signal.SIGTERM


@pytest.mark.usefixtures("primary")
def test_file_that_cannot_be_executed_is_one_sentence(tmp_path: Path, lane: str) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    code, errors = finish(start_exec(lane, str(broken)))
    assert code == EXIT_NOT_FOUND
    assert errors == f"hydro-trial: {broken} cannot be run: No such file or directory\n"


@pytest.mark.usefixtures("primary")
def test_users_signals_reach_the_command(tmp_path: Path, lane: str) -> None:
    told = tmp_path / "told"
    script = f"trap 'echo USR1 > {told}; exit 3' USR1; touch {told}.ready; while :; do :; done"
    process = start_exec(lane, "bash", "-c", script)
    wait_until(lambda: Path(f"{told}.ready").exists())
    process.send_signal(signal.SIGUSR1)
    code, _ = finish(process)
    assert code == 3
    assert told.read_text() == "USR1\n"


@pytest.mark.usefixtures("primary")
def test_hangup_ends_the_command_as_any_end_of_the_job(lane: str) -> None:
    process = start_exec(lane, "sleep", "1000")
    page = trial_page(lane)
    wait_until(lambda: page.get("run_ns") > 0)
    process.send_signal(signal.SIGHUP)
    code, errors = finish(process)
    assert code == 128 + signal.SIGHUP
    assert "stopped by SIGHUP" in errors


def test_core_that_the_step_does_not_have_is_said_in_one_line(tmp_path: Path) -> None:
    lane = make_lane(tmp_path / "lanes", core=999)
    primary = PlayedPrimary(lane)
    code, errors = finish(start_exec(lane, "true"))
    primary.stop()
    assert code == EXIT_FAILED
    assert "core 999, which this job step may not use" in errors
    assert "Traceback" not in errors
