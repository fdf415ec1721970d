"""The squeezer beside a primary of another engine, by the flags alone.

python -m benchmarks.other_engine            (prints; benchmarks/squeeze.py has it among its rows)
"""

from __future__ import annotations

import contextlib
import statistics
import sys
from pathlib import Path
from typing import Any, Final

from benchmarks.blocks import Seen, as_figure, run_gated, within
from benchmarks.running import LentJob, set_class
from hydro_hpc.devcluster import Cluster, ClusterSpec
from hydro_hpc.devcluster.state import load_state
from hydro_hpc.report.harvest import harvest
from hydro_hpc.report.lanes import cluster_lanes

PRIMARY: Final = Path(__file__).parent / "pipelining_primary.py"
STUDY: Final = Path(__file__).parent / "digits_endless.py"
DIRECTORY: Final = Path("/tmp/hydro-benchmark-cluster")
STEPS: Final = 64


def rows(blocks: int) -> list[dict[str, Any]]:
    """Returns slowdown, control and harvest of `blocks` blocks each."""
    cluster = Cluster(ClusterSpec(nodes=2, devices_per_node=1, directory=DIRECTORY))
    flags, control = Seen(), Seen()
    with contextlib.ExitStack() as stack:
        stack.callback(cluster.down)
        cluster.up()
        state = load_state(DIRECTORY)
        assert state is not None
        job = LentJob(cluster, cluster_lanes(state))
        primary = job.submit_primary([], script=PRIMARY)
        job.submit_gang(STUDY)
        for pid in job.workers().pids:
            set_class(pid, is_idle=False)
        for _ in range(blocks):
            for seen, is_held in ((flags, False), (control, True)):
                job.hold(is_held=is_held)
                run_gated(primary, seen, steps=STEPS)
                job.hold(is_held=True)
            job.record()
        lanes = [within(recorder.recording(), flags.spans_ns) for recorder in job.recorders]
    found: list[dict[str, Any]] = [
        {
            "engine": "torch.distributed.pipelining 1F1B",
            "variant": name,
            "slowdown": as_figure(seen.logs).median,
            "low": as_figure(seen.logs).low,
            "high": as_figure(seen.logs).high,
            "pairs": len(seen.logs),
            "step_open_ms": 1e3 * statistics.median(seen.open_means_s),
        }
        for name, seen in (("flags", flags), ("control", control))
    ]
    for account in map(harvest, lanes):
        found.append(
            {
                "engine": "torch.distributed.pipelining 1F1B",
                "variant": "flags",
                "stage": account.stage,
                "bubble_share": account.bubble_share,
                "harvest_share": account.harvest_share,
            }
        )
    return found


def main() -> int:
    for row in rows(4):
        print(row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
