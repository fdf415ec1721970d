"""How each lane is doing now: who lends, who is the tenant, what the guard measures, the bubbles.

Pages are read as copies, whoever wrote them; what cannot be read is said in the lane's `problem`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hydro_hpc.page import BadPageError, Page, page_path
from hydro_hpc.page_layout import PageKind, PrimaryState, TrialState, Word
from hydro_hpc.report.lanes import LanePlace
from hydro_hpc.report.recording import Slowdown, stage_facts


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneStatus:
    """One device. Times are totals since the primary began."""

    node: str
    device: int
    lender_job: int  # 0: the device is not lent
    site: str = ""  # run, hold, gone
    stage: int = 0
    primary: str = ""  # PrimaryState, in small letters
    step: int = 0
    bubble_s: float = 0.0
    open_s: float = 0.0
    slowdown: Slowdown | None = None
    guard: str = ""  # run, hold
    guard_trips: int = 0  # how often the guard has shut the bubbles
    guard_caution: int = 0  # how often what an early end counts was doubled since
    owner: str = ""  # run, hold: `hydro pause`
    tenant_job: int = 0  # 0: no gang holds the device
    trial: str = ""  # TrialState, in small letters
    slots: int = 0
    trials_done: int = 0
    training_s: float = 0.0
    memory_need_bytes: int = 0  # of the tenant's worker; 0: it has not looked yet
    memory_room_bytes: int = 0  # the most that it may hold
    problem: str = ""  # why this says so little


def lane_status(place: LanePlace) -> LaneStatus:
    """Returns the state of one lane; never raises for what is in it."""
    try:
        site = Page.read_copy(page_path(place.path, PageKind.SITE), PageKind.SITE)
    except BadPageError:
        return LaneStatus(node=place.node, device=place.device, lender_job=0)
    lent = LaneStatus(
        node=place.node,
        device=place.device,
        lender_job=site.get("job_id"),
        site=_word(site.get("site_word")),
    )
    try:
        stage = Page.read_copy(page_path(place.path, PageKind.STAGE), PageKind.STAGE)
    except BadPageError as error:
        return replace(lent, problem=str(error))
    facts = stage_facts(stage)
    shared = replace(
        lent,
        stage=facts.stage,
        primary=PrimaryState(facts.state).name.lower(),
        step=stage.get("step"),
        bubble_s=stage.get("bubble_ns") / 1e9,
        open_s=stage.get("open_total_ns") / 1e9,
        slowdown=facts.slowdown,
        guard=_word(stage.get("guard_word")),
        guard_trips=stage.get("guard_trips"),
        guard_caution=stage.get("guard_caution"),
        owner=_word(stage.get("owner_word")),
        problem=stage.writer_problem() or stage.get_text("reason"),
    )
    try:
        tenant, trial = (
            Page.read_copy(page_path(place.path, kind), kind)
            for kind in (PageKind.TENANT, PageKind.TRIAL)
        )
    except BadPageError:  # a lane that nobody has taken yet has neither page
        return shared
    return replace(
        shared,
        tenant_job=tenant.get("job_id"),
        trial=TrialState(trial.get("state")).name.lower(),
        slots=trial.get("num_slots"),
        trials_done=trial.get("trials_done"),
        training_s=trial.get("run_ns") / 1e9,
        memory_need_bytes=trial.get("memory_need_bytes"),
        memory_room_bytes=trial.get("memory_room_bytes"),
    )


def _word(value: int) -> str:
    return Word(value).name.lower() if value in list(Word) else ""


def status_line(lane: LaneStatus) -> str:
    """Returns one lane as a line for people."""
    head = f"{lane.node} device {lane.device}:"
    if not lane.lender_job:
        return f"{head} not lent"
    parts = [f"lent by job {lane.lender_job}"]
    if lane.site != "run":
        parts.append(f"site says {lane.site}")
    if lane.problem:
        parts.append(lane.problem)
    else:
        parts.append(f"stage {lane.stage} {lane.primary}, step {lane.step}")
        parts.append(f"bubbles {lane.bubble_s:.1f} s, {lane.open_s:.1f} s of it opened")
        parts.append(f"slowdown {slowdown_text(lane.slowdown)}")
    if lane.guard == "hold":
        parts.append("the guard holds bubbles shut")
    if lane.guard_trips:
        parts.append(f"guard tripped {lane.guard_trips} times, caution {lane.guard_caution}")
    if lane.owner == "hold":
        parts.append("paused by its owner")
    if lane.tenant_job:
        parts.append(
            f"tenant job {lane.tenant_job} {lane.trial}, {lane.slots} slots, "
            f"{lane.trials_done} trials done, {lane.training_s:.1f} s of training"
        )
        if lane.trial == TrialState.SKIPPING.name.lower():
            need_mb, room_mb = lane.memory_need_bytes // 10**6, lane.memory_room_bytes // 10**6
            parts.append(f"one slot needs {need_mb} MB of memory and {room_mb} MB are left")
    else:
        parts.append("no tenant")
    return f"{head} " + "; ".join(parts)


def slowdown_text(slowdown: Slowdown | None) -> str:
    """Returns e.g. `+0.3% [-0.4, +1.1] of at most 1%, 120 pairs`."""
    if slowdown is None:
        return "not known yet"
    low, high = slowdown.low * 100, slowdown.high * 100
    return (
        f"{slowdown.value * 100:+.1f}% [{low:+.1f}, {high:+.1f}] "
        f"of at most {slowdown.bound * 100:g}%, {slowdown.pairs} pairs"
    )
