"""What a user is told where a bundle's trials train one by one."""

from __future__ import annotations

from typing import Final

from hydro_hpc.fusion.choice import FASTEST, LOOP, NO_TIME
from hydro_hpc.fusion.executor import ExecutorKind
from hydro_hpc.fusion.report import BundleReport

ONE_BY_ONE: Final = "trials train one by one"


def why_not_fused(report: BundleReport) -> str:
    """A sentence; empty if trials are fused, or there is one alone. It calls exact what was seen to
    be.
    """
    if report.executor is not ExecutorKind.LOOP or report.slots == 1:
        return ""
    refusal = next((one.refusal for one in report.candidates if one.name == LOOP.name), None)
    if refusal == NO_TIME:
        return f"{ONE_BY_ONE}, each as a model of its own: no other way was found exact"
    if refusal and refusal.startswith("raised "):
        return f"{ONE_BY_ONE}, since nothing could be verified: the model or the loss {refusal}"
    if refusal:
        what = refusal.removeprefix("differs from separate models ")
        return f"{ONE_BY_ONE}, since the same model run twice does not give the same ({what})"
    if report.reason.startswith(FASTEST):
        return f"{ONE_BY_ONE}, which is exact; together is not faster here"
    return f"{ONE_BY_ONE}, which is exact; not together: {report.reason}"
