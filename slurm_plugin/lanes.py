"""Root's side of a lane: lend, take, leave, evict, close; and what prolog and epilog do.

Who may do what comes from what Slurm signed. The prolog writes each job's role: tenant if it
runs in the tenant partition, else lender if it was submitted with --hydro-bubble. `lend` and
`take` run inside a step's device cgroup, where access(2) tells exactly which devices the job was
granted. Nothing here reads a path, an environment variable or a file that a user can write;
values are parsed by a grammar. Installed as one zipapp (build_lanes.py). Standard library only,
any Python from 3.9."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import syslog
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from slurm_plugin.eviction import end_steps
from slurm_plugin.lane_files import Lane, LaneFileError, PageDir, Tenant, device_at
from slurm_plugin.lane_settings import Settings, SettingsError, constraint_problem, read_settings
from slurm_plugin.step_processes import members, step_of

VERBS = ("lend", "take", "leave", "close", "evict", "prolog", "epilog")
USAGE = (
    f"usage: hydro-lanes --config FILE {'|'.join(VERBS)} [--job J] [--step S] [--uid U] [--pid P]"
)
STEP_KILL_S = 1.5  # in a step the plugin waits for us, 5 s at most
PROLOG_KILL_S = 10.0


class Request(NamedTuple):
    """Facts from the SPANK plugin: whose step asks."""

    job: int
    step: int
    uid: int
    pid: int


class Answer(NamedTuple):
    """The lanes that a step was lent or took; `reason` says why none, if that is worth telling."""

    lanes: tuple[int, ...]
    reason: str


def granted_devices(settings: Settings, may_open: Callable[[str], bool]) -> list[int]:
    """Returns the indexes of the devices that this process's device cgroup lets it open."""
    return [index for index in range(settings.num_devices) if may_open(settings.device % index)]


def may_open(path: str) -> bool:
    """Asks the device cgroup by access(2), which opens nothing; root meets no other refusal."""
    return os.access(path, os.R_OK | os.W_OK)


def lend(page_dir: PageDir, settings: Settings, request: Request, devices: Sequence[int]) -> Answer:
    """Makes this lender's lanes on its devices; does nothing for those that it lends already."""
    if page_dir.read_role(request.job) != "lender":
        return Answer(
            (), f"job {request.job} was not submitted with --hydro-bubble, so nothing is lent"
        )
    with page_dir.locked():
        ours = [page_dir.lane(index) for index in devices]
        changing = [lane for lane in ours if not _is_lent_by(lane, request.job)]
        for lane in changing:
            _close_lane(lane)
    evict(page_dir, changing, grace_s=settings.grace_s, kill_s=STEP_KILL_S)
    with page_dir.locked():
        for lane in changing:
            if not _is_lent_by(lane, request.job):  # another task of this job may have been faster
                device = device_at(lane.index, settings.device % lane.index, settings.cpu_cores)
                lane.lend(device, job_id=request.job, uid=request.uid)
    return Answer(tuple(lane.index for lane in ours), "")


def take(page_dir: PageDir, request: Request, devices: Sequence[int]) -> Answer:
    """Admits this step to those lanes of its devices that are lent and free, or its own."""
    role = page_dir.read_role(request.job)
    if not role:
        return Answer(
            (), f"job {request.job} neither lends bubbles nor was given any; use sbatch --bubbles=N"
        )
    taken, refusals = [], []
    with page_dir.locked():
        for index in devices:
            lane = page_dir.lane(index)
            refusal = _refusal(lane, role, request)
            if refusal:
                refusals.append(refusal)
                continue
            if not _holds(lane, request):
                lane.admit(Tenant(request.job, request.step, step_of(request.pid)), uid=request.uid)
            taken.append(index)
    if taken:
        return Answer(tuple(taken), "")
    return Answer((), "; ".join(refusals) or "this step was granted no device")


def _refusal(lane: Lane, role: str, request: Request) -> str:
    site = lane.site()
    if not site.is_lent():
        return f"{lane.name} is not lent now"
    if role == "lender" and site.job_id != request.job:
        return f"{lane.name} is lent by job {site.job_id}, not by this one"
    tenant = lane.tenant()
    if tenant is None or _holds(lane, request) or not members(tenant.step):
        return ""
    return f"{lane.name} is held by step {tenant.job_id}.{tenant.step_id}"


def _holds(lane: Lane, request: Request) -> bool:
    tenant = lane.tenant()
    return tenant is not None and (tenant.job_id, tenant.step_id) == (request.job, request.step)


def _is_lent_by(lane: Lane, job_id: int) -> bool:
    site = lane.site()
    return site.is_lent() and site.job_id == job_id


def _close_lane(lane: Lane) -> None:
    if lane.site().is_lent():
        lane.set_gone()


def leave(page_dir: PageDir, request: Request) -> None:
    """Takes its lanes from a step that has ended; the barrier needs them while it has not."""
    with page_dir.locked():
        for lane in page_dir.lanes():
            tenant = lane.tenant()
            if tenant is not None and _holds(lane, request) and not members(tenant.step):
                lane.vacate()


def close(page_dir: PageDir, job_id: int) -> None:
    """Ends what a job lent and what it held: it is over.

    Closing needs no lock (one store, and nobody else lends the job's devices yet), so a program of
    root's that hangs with the lock cannot keep a lane open.
    """
    for lane in page_dir.lanes():
        if _is_lent_by(lane, job_id):
            lane.set_gone()
    page_dir.remove_role(job_id)
    # Slurm has ended its steps; what a killed slurmstepd left behind is ended here.
    tenancies = [(lane, lane.tenant()) for lane in page_dir.lanes()]
    held = [lane for lane, tenant in tenancies if tenant is not None and tenant.job_id == job_id]
    if held:
        evict(page_dir, held, grace_s=0, kill_s=PROLOG_KILL_S)


def evict(page_dir: PageDir, lanes: Sequence[Lane], *, grace_s: float, kill_s: float) -> None:
    """Ends the tenants of closed lanes and vacates them; LaneFileError if one cannot be ended.

    The lock is not held while they end: a closed lane admits nobody.
    """
    tenants = {
        tenant.step: tenant for tenant in (lane.tenant() for lane in lanes) if tenant is not None
    }
    left = end_steps(list(tenants), grace_s=grace_s, kill_s=kill_s)
    with page_dir.locked():
        for lane in lanes:
            tenant = lane.tenant()
            if tenant is not None and tenant.step in tenants and tenant.step not in left:
                lane.vacate()
    if left:
        names = ", ".join(f"{tenants[step].job_id}.{tenants[step].step_id}" for step in left)
        raise LaneFileError(
            f"step {names} could not be killed and still uses a device; reboot the node"
        )


def prolog(page_dir: PageDir, settings: Settings, environment: Mapping[str, str]) -> None:
    """Writes the job's role, and ends every tenant whose lender is gone before the job starts."""
    job_id = _job_id(environment)
    role = role_of(environment, settings)
    if role:
        page_dir.write_role(job_id, role)
    with contextlib.suppress(LaneFileError), page_dir.locked():
        pass  # who is just being admitted is on record from here on
    lanes = page_dir.lanes()
    if settings.job_gpus:
        given = gpu_indexes(environment.get("SLURM_JOB_GPUS", ""))
        lanes = [lane for lane in lanes if lane.index in given and not _is_lent_by(lane, job_id)]
        for lane in lanes:
            _close_lane(lane)
    closed = [lane for lane in lanes if not lane.site().is_lent()]
    evict(page_dir, closed, grace_s=settings.grace_s, kill_s=PROLOG_KILL_S)


def role_of(environment: Mapping[str, str], settings: Settings) -> str:
    """Returns what a job may do, by the partition in its credential and its opt-in; pure."""
    if environment.get("SLURM_JOB_PARTITION") == settings.tenant_partition:
        return "tenant"
    return "lender" if "SPANK_HYDRO_BUBBLE" in environment else ""


def gpu_indexes(text: str) -> list[int]:
    """Returns the indexes in SLURM_JOB_GPUS (`0,2-3`); anything else reads as none; pure."""
    indexes: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", part)
        if match:
            indexes.extend(range(int(match.group(1)), int(match.group(2) or match.group(1)) + 1))
    return indexes


def epilog(page_dir: PageDir, environment: Mapping[str, str]) -> None:
    """Closes what the job lent, before any other job can be given its devices."""
    close(page_dir, _job_id(environment))


def _job_id(environment: Mapping[str, str]) -> int:
    text = environment.get("SLURM_JOB_ID", "")
    if not re.fullmatch(r"[0-9]{1,10}", text):
        raise LaneFileError(
            f"SLURM_JOB_ID={text!r} is not a job; only Slurm runs prolog and epilog"
        )
    return int(text)


def parse_arguments(arguments: Sequence[str]) -> tuple[str, str, Request]:
    """Returns (config path, verb, request); raises SystemExit with the usage."""
    options = {"--config": "", "--job": "0", "--step": "0", "--uid": "0", "--pid": "0"}
    verb, rest = "", list(arguments)
    while rest:
        word = rest.pop(0)
        if word in options and rest:
            options[word] = rest.pop(0)
        elif word in VERBS and not verb:
            verb = word
        else:
            raise SystemExit(USAGE)
    numbers = [options[name] for name in ("--job", "--step", "--uid", "--pid")]
    if (
        not verb
        or not options["--config"]
        or not all(re.fullmatch(r"[0-9]{1,10}", n) for n in numbers)
    ):
        raise SystemExit(USAGE)
    return options["--config"], verb, Request(*(int(number) for number in numbers))


def _answer(
    verb: str, page_dir: PageDir, settings: Settings, request: Request, config: str
) -> Answer:
    problem = constraint_problem(settings, config)
    if problem:
        return Answer((), problem)
    devices = granted_devices(settings, may_open)
    if verb == "lend":
        return lend(page_dir, settings, request, devices)
    return take(page_dir, request, devices)


def run(verb: str, config: str, request: Request, environment: Mapping[str, str]) -> str:
    """Does what the verb says; returns what the SPANK plugin reads, for `lend` and `take`."""
    settings = read_settings(config)
    page_dir = PageDir(settings.page_dir)
    if verb in ("lend", "take"):
        answer = _answer(verb, page_dir, settings, request, config)
        _log(
            page_dir,
            f"{verb} job={request.job} step={request.step} lanes={answer.lanes} {answer.reason}",
        )
        return _answer_text(answer, settings)
    if verb == "leave":
        leave(page_dir, request)
    elif verb == "close":
        close(page_dir, request.job)
    elif verb == "evict":
        closed = [lane for lane in page_dir.lanes() if not lane.site().is_lent()]
        evict(page_dir, closed, grace_s=settings.grace_s, kill_s=PROLOG_KILL_S)
    elif verb == "prolog":
        prolog(page_dir, settings, environment)
    elif verb == "epilog":
        epilog(page_dir, environment)
    return ""


def _answer_text(answer: Answer, settings: Settings) -> str:
    lines = ["HYDRO_LANES=" + ",".join(map(str, answer.lanes))]
    if settings.cpu_cores:
        lines.append("CORES=" + ",".join(str(settings.cpu_cores[index]) for index in answer.lanes))
    if answer.reason:
        lines.append(f"hydro: {answer.reason}")
    return "\n".join(lines) + "\n"


def _log(page_dir: PageDir, line: str) -> None:
    page_dir.append_log(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {line}")


def _report(verb: str, config: str, problem: str) -> None:
    """Tells the system's log, the lanes' own and standard error."""
    syslog.openlog("hydro", 0, syslog.LOG_DAEMON)
    syslog.syslog(syslog.LOG_ERR, f"{verb}: {problem}")
    with contextlib.suppress(SettingsError, LaneFileError):
        _log(PageDir(read_settings(config).page_dir), f"{verb} {problem}")
    print(f"hydro: {problem}", file=sys.stderr)


def main(arguments: Sequence[str]) -> int:
    """Runs one verb; 0 whatever happens to it, since a failing prolog drains its node."""
    config, verb, request = parse_arguments(arguments)
    os.umask(0o022)
    try:
        sys.stdout.write(run(verb, config, request, os.environ))
    except (SettingsError, LaneFileError, OSError) as error:
        _report(verb, config, str(error))
    return 0
