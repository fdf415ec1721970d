"""What lending costs a primary, what it yields, and what does the work: all variants in one run.

python -m benchmarks.colocation [--quick] [--out FILE]        (root, on an otherwise idle machine)

Two stages on two cores. Blocks of a few steps alternate, because over minutes a machine drifts by
more than the effect: `lent` (the gang in the kernel's idle class), `flags` (the same gang in the
ordinary class, so that only the flags hold it back), `plain` (the same script without Slurm and
without us), `direct` (the plain primary beside the same bundles without a gate), `alone` (those
bundles by themselves). Whatever a block does not need is stopped. Within `lent` and `flags` the
guard's schedule shuts half of the steps, one at a time.

Estimator: trimmed mean with its 95% interval (Yuen) of log(open / shut), one per shut step with the
two open ones beside it (`slowdown`, `slowdown_flags_only`), or one of block means per cycle
(`slowdown_vs_plain`, `slowdown_direct`).
"""

from __future__ import annotations

import contextlib
import math
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.blocks import Seen, as_figure, run_gated, run_plain, within
from benchmarks.result_file import Figure, NotTaken, parse_arguments, write_result
from benchmarks.running import (
    TRAIN,
    LentJob,
    Primary,
    UngatedTrials,
    local_primary,
    set_class,
)
from benchmarks.sched_trace import Event, SchedTrace, Share, outside_share
from hydro_hpc.devcluster import Cluster, ClusterSpec
from hydro_hpc.devcluster.state import load_state
from hydro_hpc.primary.guard import estimate
from hydro_hpc.report.harvest import Harvest, harvest
from hydro_hpc.report.intervals import overlap_ns, union
from hydro_hpc.report.lanes import cluster_lanes

GATED_STEPS: Final = 32
PLAIN_STEPS: Final = 8
DIRECT_STEPS: Final = 5
ALONE_S: Final = 1.0
CYCLES: Final = 45
QUICK_CYCLES: Final = 12
SLOTS: Final = 16
STUDY: Final = Path(__file__).parent / "digits_endless.py"
DIRECTORY: Final = Path("/tmp/hydro-benchmark-cluster")


class Benchmark:
    """The processes, and what their blocks showed."""

    def __init__(
        self, *, lent: Primary, plain: Primary, job: LentJob, ungated: UngatedTrials
    ) -> None:
        self.lent = lent
        self.plain = plain
        self.job = job
        self.ungated = ungated
        self.seen = {"lent": Seen(), "flags": Seen()}
        self.shares: dict[str, list[list[Share]]] = {"lent": [], "flags": []}  # block, stage
        self.shares_all_threads: dict[str, list[list[Share]]] = {"lent": [], "flags": []}
        self.vs_plain: list[float] = []
        self.direct: list[float] = []
        self.alone_rates: list[float] = []  # samples per second of all cores
        self.workers = job.workers()
        self.trace = self._make_trace()

    def cycle(self) -> None:
        """One block of each variant."""
        lent_s = self._gated("lent", is_idle=True)
        plain_before_s = self._plain(PLAIN_STEPS // 2)
        self._gated("flags", is_idle=False)
        plain_s = statistics.fmean([plain_before_s, self._plain(PLAIN_STEPS // 2)])
        self.vs_plain.append(math.log(lent_s / plain_s))
        self.ungated.group.go_on()
        direct_s = self._plain(DIRECT_STEPS)
        self.direct.append(math.log(direct_s / plain_s))
        before = self.ungated.samples()
        time.sleep(ALONE_S)
        gained = sum(self.ungated.samples()) - sum(before)
        self.alone_rates.append(gained / ALONE_S)
        self.ungated.group.stop()
        self.job.record()

    def _gated(self, variant: str, *, is_idle: bool) -> float:
        """Runs a block of the lent primary; returns the mean of its open steps."""
        for pid in self.workers.pids:
            set_class(pid, is_idle=is_idle)
        seen = self.seen[variant]

        def take(events: list[Event]) -> None:
            self._take_shares(variant, events)

        self.job.hold(is_held=False)
        run_gated(self.lent, seen, steps=GATED_STEPS, trace=self.trace, take=take)
        self.job.hold(is_held=True)
        return seen.open_means_s[-1]

    def _plain(self, steps: int) -> float:
        return run_plain(self.plain, steps)

    def _make_trace(self) -> SchedTrace | None:
        groups = [*self.lent.ranks.threads(), *self.workers.threads()]
        try:
            return SchedTrace([tid for group in groups for tid in group])
        except OSError as error:
            print(f"scheduling events cannot be traced here: {error}", file=sys.stderr)
            return None

    def _take_shares(self, variant: str, events: list[Event]) -> None:
        """Takes the share of each stage, by its training thread and by all threads of the rank."""
        workers = self.workers.threads()

        def shares(ranks: list[set[int]]) -> list[Share]:
            return [
                outside_share(events, primary=rank, workers=set(worker))
                for rank, worker in zip(ranks, workers, strict=True)
            ]

        self.shares[variant].append(shares([{pid} for pid in self.lent.ranks.pids]))
        all_threads = [set(threads) for threads in self.lent.ranks.threads()]
        self.shares_all_threads[variant].append(shares(all_threads))


def share_figure(shares: list[list[Share]]) -> Figure | NotTaken:
    """Returns the worst stage's share of worker CPU time outside the primary's waits, in all."""
    if not shares:
        return NotTaken(why="scheduling events cannot be traced here (tracefs)")
    totals = outside_by_stage(shares)
    return Figure(median=max(totals), low=min(totals), high=max(totals), n=len(shares), unit="1")


def harvests(benchmark: Benchmark, variant: str) -> list[Harvest]:
    spans = benchmark.seen[variant].spans_ns
    recordings = [recorder.recording() for recorder in benchmark.job.recorders]
    return [harvest(within(recording, spans)) for recording in recordings]


def throughput_share(benchmark: Benchmark, variant: str) -> Figure:
    """Returns samples per second of the gang in open steps / of the same bundles alone."""
    alone = statistics.median(benchmark.alone_rates)
    rate = 0.0
    for recorder in benchmark.job.recorders:
        lane = within(recorder.recording(), benchmark.seen[variant].spans_ns)
        steps = [step for step in lane.steps if not step.is_shut]
        seconds = sum(step.end_ns - step.start_ns for step in steps) / 1e9
        inside = union((step.start_ns, step.end_ns) for step in steps)
        samples = sum(
            run.samples for run in lane.runs if overlap_ns((run.start_ns, run.end_ns), inside)
        )
        rate += samples / seconds if seconds else 0.0
    share = rate / alone
    return Figure(median=share, low=share, high=share, n=len(benchmark.alone_rates), unit="1")


def run(cycles: int) -> tuple[dict[str, Figure | NotTaken], list[dict[str, Any]], str]:
    cores = sorted(os.sched_getaffinity(0))[:2]
    cluster = Cluster(ClusterSpec(nodes=2, devices_per_node=1, directory=DIRECTORY))
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.callback(cluster.down)
        version = cluster.up().slurm_version
        state = load_state(DIRECTORY)
        assert state is not None
        job = LentJob(cluster, cluster_lanes(state))
        lent = job.submit_primary([])
        job.submit_gang(STUDY)
        lent.ranks.stop()
        job.hold(is_held=True)
        plain = stack.enter_context(local_primary(directory, cores, [str(TRAIN)]))
        plain.run_block(2, settle=5)
        ungated = UngatedTrials(directory, cores, study=STUDY, slots=SLOTS)
        stack.callback(ungated.close)
        benchmark = Benchmark(lent=lent, plain=plain, job=job, ungated=ungated)
        if benchmark.trace is not None:
            stack.callback(benchmark.trace.close)
        for number in range(cycles):
            benchmark.cycle()
            if number % 5 == 4:
                now = estimate(benchmark.seen["lent"].logs)
                print(f"cycle {number + 1}/{cycles}: slowdown {now.slowdown:+.2%}", flush=True)
        return figures(benchmark), rows(benchmark), version


def figures(benchmark: Benchmark) -> dict[str, Figure | NotTaken]:
    lent = harvests(benchmark, "lent")
    shares = [stage.harvest_share for stage in lent]
    return {
        "slowdown": as_figure(benchmark.seen["lent"].logs),
        "slowdown_vs_plain": as_figure(benchmark.vs_plain),
        "slowdown_direct": as_figure(benchmark.direct),
        "slowdown_flags_only": as_figure(benchmark.seen["flags"].logs),
        "outside_share": share_figure(benchmark.shares["flags"]),
        "harvest_share_min": Figure(
            median=min(shares), low=min(shares), high=max(shares), n=len(shares), unit="1"
        ),
        "throughput_share": throughput_share(benchmark, "lent"),
    }


def rows(benchmark: Benchmark) -> list[dict[str, Any]]:
    """One row per variant and stage, and how the figures were taken."""
    found: list[dict[str, Any]] = [
        {
            "method": "outside_share: sched_switch and sched_waking events (tracefs); a rank waits "
            "while its training thread is blocked; blocks of `flags`; low and high are the stages; "
            "the rows beside it count every thread of the rank, gloo's own too",
        },
        {
            "method": "log of the two open steps over the shut one between them; trimmed mean 10%, "
            "interval of Yuen; logs of block means for vs_plain and direct",
        },
        {"trial": "digits MLP 64-64-64-10, 16 slots, Adam, batch 32, float32"},
        {"primary": "examples/gpt_pipeline/train.py, defaults, two stages, 4 microbatches"},
    ]
    for variant, seen in benchmark.seen.items():
        for stage in harvests(benchmark, variant):
            found.append(
                {
                    "variant": variant,
                    "stage": stage.stage,
                    "step_open_ms": 1e3 * statistics.median(seen.open_means_s),
                    "bubble_share": stage.bubble_share,
                    "open_of_bubble": stage.open_s / stage.bubble_s if stage.bubble_s else None,
                    "harvest_share": stage.harvest_share,
                    "bubble_s": stage.bubble_s,
                    "harvest_s": stage.harvest_s,
                }
            )
        if shares := benchmark.shares[variant]:
            all_threads = benchmark.shares_all_threads[variant]
            found.append(
                {
                    "variant": variant,
                    "outside_share_by_stage": outside_by_stage(shares),
                    "outside_share_all_threads": outside_by_stage(all_threads),
                }
            )
    found.append({"alone_samples_per_s": statistics.median(benchmark.alone_rates)})
    return found


def outside_by_stage(shares: list[list[Share]]) -> list[float]:
    return [
        sum(share.outside_us for share in stage) / max(1.0, sum(s.worker_us for s in stage))
        for stage in zip(*shares, strict=True)
    ]


def main() -> int:
    arguments = parse_arguments(__doc__.partition("\n")[0])
    found, details, version = run(QUICK_CYCLES if arguments.quick else CYCLES)
    write_result("colocation", figures=found, rows=details, out=arguments.out, slurm=version)
    return 0


if __name__ == "__main__":
    sys.exit(main())
