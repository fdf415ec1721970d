"""What a user is told is true of what was found."""

from __future__ import annotations

import pytest

from hydro_hpc.fusion.choice import GROUPED, LOOP, NO_TIME, Way, decide
from hydro_hpc.fusion.executor import ExecutorKind
from hydro_hpc.fusion.report import BundleReport, Candidate
from hydro_hpc.trial.not_fused import why_not_fused


def report_of(
    tried: dict[Way, str | None], times: dict[str, float], slots: int = 4
) -> BundleReport:
    way, reason = decide(list(tried.items()), times, None)
    candidates = tuple(Candidate(name=w.name, refusal=why) for w, why in tried.items())
    return BundleReport(slots=slots, executor=way.kind, reason=reason, candidates=candidates)


RAISED = "raised ValueError: a mistake"
NOISY = "differs from separate models in slot 0: loss"


@pytest.mark.parametrize(
    ("tried", "sentence"),
    [
        ({GROUPED: None, LOOP: None}, "which is exact; together is not faster here"),
        ({GROUPED: "it branches", LOOP: None}, "which is exact; not together: it branches"),
        (
            {GROUPED: RAISED, LOOP: RAISED},
            f"since nothing could be verified: the model or the loss {RAISED}",
        ),
        (
            {GROUPED: NOISY, LOOP: NOISY},
            "since the same model run twice does not give the same (in slot 0: loss)",
        ),
        (
            {GROUPED: NOISY, LOOP: NO_TIME},
            "each as a model of its own: no other way was found exact",
        ),
    ],
)
def test_each_reason_is_one_true_sentence(tried: dict[Way, str | None], sentence: str) -> None:
    report = report_of(tried, {"grouped": 2.0, "loop": 1.0})
    assert report.executor is ExecutorKind.LOOP
    assert why_not_fused(report) == f"trials train one by one, {sentence}"


def test_nothing_is_said_of_fused_trials_or_of_one_alone() -> None:
    assert (
        why_not_fused(report_of({GROUPED: None, LOOP: None}, {"grouped": 1.0, "loop": 2.0})) == ""
    )
    assert why_not_fused(report_of({LOOP: None}, {}, slots=1)) == ""


def test_trials_that_were_fused_at_first_are_told_why_no_longer() -> None:
    fused = report_of({GROUPED: None, LOOP: None}, {"grouped": 1.0, "loop": 2.0})
    said = why_not_fused(fused.fallen_to_loop("it raised"))
    assert said == "trials train one by one, which is exact; not together: it raised"
