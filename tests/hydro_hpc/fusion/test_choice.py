"""Which of the exact executors a bundle takes, and how that reads."""

from __future__ import annotations

import pytest

from hydro_hpc.fusion import ExecutorKind, bind, choice
from hydro_hpc.fusion.report import PartTime
from tests.hydro_hpc.fusion.architectures import mlp, vectors

GROUPED, VMAP, LOOP = (choice.Way(kind=kind) for kind in ExecutorKind)
MIXED = choice.Way(kind=ExecutorKind.GROUPED, one_by_one={"conv": "faster"})
FASTEST = "the fastest that equals separate models"


@pytest.mark.parametrize(
    ("tried", "times", "wanted", "expected"),
    [
        ({GROUPED: None, LOOP: None}, (1.0, 2.0), None, (GROUPED, FASTEST)),
        ({GROUPED: None, LOOP: None}, (2.0, 1.0), None, (LOOP, FASTEST)),
        ({GROUPED: None, LOOP: None}, (0.97, 1.0), None, (LOOP, FASTEST)),
        ({GROUPED: None, VMAP: None}, (1.0, 0.97), None, (GROUPED, FASTEST)),
        ({MIXED: None, GROUPED: None, LOOP: None}, (1.0, 2.0, 3.0), None, (MIXED, FASTEST)),
        ({LOOP: None}, (), LOOP, (LOOP, "asked for")),
        ({MIXED: None}, (), MIXED, (MIXED, "asked for")),
        ({GROUPED: "why", VMAP: "no", LOOP: None}, (), None, (LOOP, "why")),
        ({GROUPED: "why", VMAP: "no", LOOP: None}, (), GROUPED, (LOOP, "why")),
        (
            {GROUPED: "why", VMAP: "no", LOOP: "odd"},
            (),
            None,
            (LOOP, "none equals separate models; loop: odd"),
        ),
        (
            {GROUPED: "why", VMAP: None, LOOP: None},
            (1.0, 2.0),
            GROUPED,
            (VMAP, f"{FASTEST}; grouped: why"),
        ),
        (
            {GROUPED: None, LOOP: "odd"},
            (),
            None,
            (GROUPED, "the only one that equals separate models"),
        ),
        (
            {GROUPED: None, LOOP: choice.NO_TIME, VMAP: choice.NO_TIME},
            (),
            None,
            (GROUPED, "the only one that equals separate models"),
        ),
    ],
)
def test_the_fastest_exact_executor_is_chosen(
    tried: dict[choice.Way, str | None],
    times: tuple[float, ...],
    wanted: choice.Way | None,
    expected: tuple[choice.Way, str],
) -> None:
    exact = [way.name for way, reason in tried.items() if reason is None]
    timed = dict(zip(exact, times, strict=True)) if times else {}
    assert choice.decide(list(tried.items()), timed, wanted) == expected


def test_one_model_alone_runs_as_it_is() -> None:
    report = bind([mlp()], example=vectors().float()).report
    assert report.candidates[0].name == "loop"
    assert not report.times


def test_modules_run_one_by_one_only_where_the_whole_gains() -> None:
    small = PartTime(path="a", kind="Linear", grouped_ms=2.0, per_slot_ms=1.0)
    large = PartTime(path="b", kind="Linear", grouped_ms=50.0, per_slot_ms=60.0)
    assert list(choice.faster_one_by_one([small])) == ["a"]
    assert not choice.faster_one_by_one([small, large])


def test_a_report_reads_as_text() -> None:
    text = str(bind([mlp(), mlp()], example=vectors().float()).report)
    assert text.startswith("2 slots, ")
    assert "grouped: equals separate models, " in text
    assert "ms a step" in text
