"""What a supervisor learns of its lane: whether the lane will open again, who has its page."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from hydro_hpc.errors import LaneError
from hydro_hpc.page import Page, page_path
from hydro_hpc.page_layout import SIZES, PageKind, PrimaryState, TrialState
from hydro_hpc.trial.lane import TenantLane
from tests.hydro_hpc.lanes import stage_page

STILL_NS = 60_000_000_000


@pytest.fixture
def stage(lane: str) -> Page:
    page = stage_page(lane)
    page.set("state", PrimaryState.SHARING)
    page.set("heartbeat_ns", time.monotonic_ns())
    return page


@pytest.mark.usefixtures("stage")
def test_lane_whose_primary_makes_steps_is_not_gone(lane: str) -> None:
    assert TenantLane(lane).why_gone(still_ns=STILL_NS) == ""
    assert TenantLane(lane).not_ready(still_ns=STILL_NS) == ""


@pytest.mark.usefixtures("stage")
@pytest.mark.parametrize("kind", [PageKind.SITE, PageKind.STAGE, PageKind.TRIAL])
def test_truncated_page_is_a_reason_to_go_and_harms_nobody_who_reads(
    lane: str, kind: PageKind
) -> None:
    tenant_lane = TenantLane(lane)
    os.truncate(page_path(lane, kind), 100)
    assert "has been truncated to 100 bytes" in tenant_lane.why_gone(still_ns=STILL_NS)
    with pytest.raises(LaneError, match="has been truncated to 100 bytes"):
        tenant_lane.look(0) if kind != PageKind.TRIAL else tenant_lane.trial_state(1)
    assert not tenant_lane.has_trained()


@pytest.mark.usefixtures("stage")
def test_replaced_page_is_a_reason_to_go(lane: str, tmp_path: Path) -> None:
    tenant_lane = TenantLane(lane)
    other = tmp_path / "other"
    other.write_bytes(bytes(SIZES[PageKind.SITE]))
    other.rename(page_path(lane, PageKind.SITE))
    assert "has been replaced by another file" in tenant_lane.why_gone(still_ns=STILL_NS)


def test_primary_that_has_no_bubbles_any_more_is_a_reason_to_go_after_a_while(
    lane: str, stage: Page
) -> None:
    tenant_lane = TenantLane(lane)
    stage.set("state", PrimaryState.NOT_PIPELINED)
    stage.set("close_ns", time.monotonic_ns())
    assert tenant_lane.why_gone(still_ns=STILL_NS) == ""
    stage.set("close_ns", time.monotonic_ns() - STILL_NS)
    assert tenant_lane.why_gone(still_ns=STILL_NS) == "its primary has had no bubble for 60 s"


def test_primary_that_stands_still_is_a_reason_to_go_unless_it_opens_windows(
    lane: str, stage: Page
) -> None:
    tenant_lane = TenantLane(lane)
    stage.set("heartbeat_ns", time.monotonic_ns() - STILL_NS)
    assert tenant_lane.why_gone(still_ns=STILL_NS) == "its primary has stood still for 60 s"
    assert tenant_lane.not_ready(still_ns=STILL_NS) == "its primary has stood still for 60 s"
    stage.set("close_ns", time.monotonic_ns())  # in one long step
    assert tenant_lane.why_gone(still_ns=STILL_NS) == ""


def test_state_of_a_killed_worker_is_not_its_successors(lane: str) -> None:
    page = Page.map_for_writing(page_path(lane, PageKind.TRIAL), PageKind.TRIAL)
    page.set("state", TrialState.TRAINING)
    assert TenantLane(lane).trial_state(os.getpid()) == TrialState.TRAINING
    assert TenantLane(lane).trial_state(os.getpid() + 1) == TrialState.ABSENT


def test_a_state_that_is_none_reads_as_absent() -> None:
    assert PrimaryState(77) == PrimaryState.ABSENT
    assert TrialState(2**32 - 1) == TrialState.ABSENT
