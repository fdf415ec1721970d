from __future__ import annotations

import json
from pathlib import Path

from hydro_hpc.report.timeline import BUBBLES, STEPS, TRIALS, trace, write_trace
from tests.hydro_hpc.report.recordings import lane, run, shared_steps, step, wait


def test_has_a_process_per_stage_with_three_tracks(tmp_path: Path) -> None:
    path = tmp_path / "timeline.json"
    write_trace([shared_steps(0), shared_steps(1)], path)
    events = json.loads(path.read_text())["traceEvents"]
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["ph"] == "M"}
    assert names[0, 0] == "stage 0 (n1, device 0)"
    assert names[1, TRIALS] == "trials"
    assert {e["tid"] for e in events if e["ph"] == "X"} == {STEPS, BUBBLES, TRIALS}


def test_times_start_with_the_first_record_in_microseconds() -> None:
    recording = lane(
        steps=[step(1000, 1100, number=5, is_shut=True)],
        waits=[wait(1010, 1030, predicted_ms=18, opened_ms=1011)],
        runs=[run(1012, 1020, device_ms=6)],
    )
    spans = {e["tid"]: e for e in trace([recording])["traceEvents"] if e["ph"] == "X"}
    assert spans[STEPS]["name"] == "step 5 (shut)"
    assert (spans[STEPS]["ts"], spans[STEPS]["dur"]) == (0, 100_000)
    assert spans[BUBBLES]["ts"] == 10_000
    assert spans[BUBBLES]["args"] == {"predicted_ms": 18, "opened_after_ms": 1}
    assert spans[TRIALS]["args"] == {"device_ms": 6, "rows": 32}
