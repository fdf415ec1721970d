"""All of the bubble, none of the primary's time: what windows, gate, guard and watch achieve.

python -m benchmarks.squeeze [--quick] [--out FILE]           (root, on an otherwise idle machine)

Two real stages on two cores; every variant runs a block of a few steps per cycle (`blocks`):

- `flags`: the gang in the ordinary class, so that only the flags hold it back; `lent`: in the
  kernel's idle class; `control`: the same primary while its owner pauses the lending, so that open
  and shut steps differ in nothing;
- `oracle`: the same primary, paused, beside the same bundles without a gate in the idle class: what
  the kernel alone gets out of these bubbles;
- `naive`: flags at every communication call, without prediction; `direct`: no flags, no class;
- `plain`: the same script without Slurm and without us; `alone`: the bundles by themselves.

Estimator: trimmed mean with its 95% interval (Yuen) of log(open / shut), one per shut step with the
two open ones beside it, or one of block means per cycle (`slowdown_direct`).
"""

from __future__ import annotations

import contextlib
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import call_cost, hook_cost, other_engine, watch_cost
from benchmarks.blocks import Seen, as_figure, run_gated, run_plain, within
from benchmarks.guard_replay import false_trips, steps_to_shut
from benchmarks.result_file import Figure, NotTaken, parse_arguments, write_result
from benchmarks.running import (
    TRAIN,
    LentJob,
    Primary,
    UngatedTrials,
    local_primary,
    set_class,
)
from benchmarks.sched_trace import Event, SchedTrace
from benchmarks.window_trace import WindowSeen, used_share, windows_seen
from hydro_hpc.devcluster import Cluster, ClusterSpec
from hydro_hpc.devcluster.state import load_state
from hydro_hpc.report.bubbles import find_bubbles, intervals_of
from hydro_hpc.report.harvest import Harvest, harvest
from hydro_hpc.report.intervals import overlap_ns, union
from hydro_hpc.report.lanes import cluster_lanes
from hydro_hpc.report.recording import LaneRecording
from tests.hydro_hpc.lanes import make_lane

FLAGS_STEPS: Final = 160
LENT_STEPS: Final = 64
CONTROL_STEPS: Final = 64
ORACLE_STEPS: Final = 12
NAIVE_STEPS: Final = 16
PLAIN_STEPS: Final = 4
DIRECT_STEPS: Final = 4
ALONE_S: Final = 1.0
CYCLES: Final = 12
QUICK_CYCLES: Final = 3
SLOTS: Final = 16
STUDY: Final = Path(__file__).parent / "digits_endless.py"
DIRECTORY: Final = Path("/tmp/hydro-benchmark-cluster")
DIGITS: Final = "digits MLP 64-64-64-10"
NO_WINDOWS: Final = "no window of this kind was seen"


class Squeeze:
    """The processes, and what their blocks showed."""

    def __init__(
        self,
        *,
        job: LentJob,
        lent: Primary,
        plain: Primary,
        naive: Primary,
        ungated: UngatedTrials,
        gated: UngatedTrials,
    ) -> None:
        self.job = job
        self.lent = lent
        self.plain = plain
        self.naive = naive
        self.ungated = ungated
        self.gated = gated
        self.seen = {name: Seen() for name in ("flags", "lent", "control", "oracle", "naive")}
        self.direct: list[float] = []  # log(direct / plain)
        self.vs_plain: list[float] = []  # log(open / plain)
        self.alone_rates: list[list[float]] = []  # samples per second of each core
        self.events: dict[str, list[list[Event]]] = {"flags": [], "lent": [], "oracle": []}
        self.workers = job.workers()
        threads = [*lent.ranks.threads(), *self.workers.threads(), *ungated.group.threads()]
        self.trace = SchedTrace([tid for group in threads for tid in group])

    def cycle(self) -> None:
        """One block of each variant."""
        plain_s = [run_plain(self.plain, PLAIN_STEPS)]
        self._lent("flags", FLAGS_STEPS)
        self.vs_plain.append(math.log(self.seen["flags"].open_means_s[-1] / plain_s[0]))
        self._lent("control", CONTROL_STEPS)
        self.ungated.set_class(is_idle=True)
        self.ungated.group.go_on()
        self._lent("oracle", ORACLE_STEPS)
        self.ungated.group.stop()
        self._lent("lent", LENT_STEPS)
        plain_s.append(run_plain(self.plain, PLAIN_STEPS))
        self.ungated.set_class(is_idle=False)
        self.ungated.group.go_on()
        direct_s = run_plain(self.plain, DIRECT_STEPS)
        self.direct.append(math.log(direct_s / statistics.fmean(plain_s)))
        self._alone()
        self.ungated.group.stop()
        self.gated.group.go_on()
        run_gated(self.naive, self.seen["naive"], steps=NAIVE_STEPS)
        self.gated.group.stop()
        self.job.record()

    def _lent(self, variant: str, steps: int) -> None:
        """Runs a block of the primary that lends."""
        is_paused = variant in ("control", "oracle")
        for pid in self.workers.pids:
            set_class(pid, is_idle=variant == "lent")
        self.job.hold(is_held=is_paused)
        events = self.events.get(variant)
        run_gated(
            self.lent,
            self.seen[variant],
            steps=steps,
            trace=None if events is None else self.trace,
            take=(lambda _: None) if events is None else events.append,
        )
        self.job.hold(is_held=True)

    def _alone(self) -> None:
        before = self.ungated.samples()
        started_s = time.monotonic()
        time.sleep(ALONE_S)
        after = self.ungated.samples()
        passed_s = time.monotonic() - started_s
        self.alone_rates.append([(b - a) / passed_s for a, b in zip(before, after, strict=True)])

    def recordings(self, variant: str) -> list[LaneRecording]:
        """Returns what the flight recorders saw of a variant, a stage each."""
        spans = self.seen[variant].spans_ns
        return [within(recorder.recording(), spans) for recorder in self.job.recorders]

    def harvests(self, variant: str) -> list[Harvest]:
        return [harvest(recording) for recording in self.recordings(variant)]

    def windows(self, variant: str) -> list[list[WindowSeen]]:
        """Returns the windows of each stage."""
        found = []
        stages = zip(self.lent.ranks.pids, self.workers.threads(), strict=True)
        for (primary, workers), recording in zip(stages, self.recordings(variant), strict=True):
            seen: list[WindowSeen] = []
            for events in self.events[variant]:
                seen += windows_seen(
                    events,
                    primary=primary,
                    workers=set(workers),
                    waits=recording.waits,
                    runs=recording.runs,
                )
            found.append(seen)
        return found

    def oracle_shares(self) -> list[float]:
        """Returns what the idle class alone used of each stage's bubbles."""
        found = []
        for workers, recording in zip(
            self.ungated.group.threads(), self.recordings("oracle"), strict=True
        ):
            bubbles = intervals_of(find_bubbles(recording.waits))
            found.append(
                statistics.fmean(
                    used_share(events, workers=set(workers), bubbles=bubbles)
                    for events in self.events["oracle"]
                )
            )
        return found

    def alone(self) -> list[float]:
        """Returns samples per second of each core's bundle by itself."""
        return [statistics.median(rates) for rates in zip(*self.alone_rates, strict=True)]

    def throughput_shares(self, variant: str) -> list[float]:
        """Returns each stage's samples per second of open steps / (bubble share x exclusive)."""
        found = []
        accounts = zip(self.recordings(variant), self.harvests(variant), self.alone(), strict=True)
        for recording, account, exclusive in accounts:
            steps = [(s.start_ns, s.end_ns) for s in recording.steps if not s.is_shut]
            inside = union(steps)
            samples = sum(
                run.samples
                for run in recording.runs
                if overlap_ns((run.start_ns, run.end_ns), inside)
            )
            rate = samples / max(account.wall_s, 1e-9)
            found.append(rate / max(account.bubble_share * exclusive, 1e-9))
        return found


def middle(values: Sequence[float], *, unit: str) -> Figure | NotTaken:
    """Returns the median with the quartiles."""
    if len(values) < 4:
        return NotTaken(why=NO_WINDOWS)
    low, median, high = statistics.quantiles(values, n=4)
    return Figure(median=median, low=low, high=high, n=len(values), unit=f"{unit}, quartiles")


def quantile(values: Sequence[float], *, at: float, unit: str) -> Figure | NotTaken:
    """Returns the quantile `at` with its 95% interval, by order statistics."""
    count = len(values)
    if count < 4:
        return NotTaken(why=NO_WINDOWS)
    ordered = sorted(values)
    half = 1.96 * math.sqrt(count * at * (1 - at))
    places = (at * count, at * count - half, at * count + half)
    found, low, high = (ordered[min(count - 1, max(0, int(place)))] for place in places)
    return Figure(median=found, low=low, high=high, n=count, unit=f"{unit}, 95% interval")


def worst(shares: Sequence[float]) -> Figure:
    """Returns the smallest of the stages, with the spread over stages."""
    return Figure(
        median=min(shares), low=min(shares), high=max(shares), n=len(shares), unit="1, by stage"
    )


def figures(done: Squeeze, *, quick: bool) -> dict[str, Figure | NotTaken]:
    flags, lent = as_figure(done.seen["flags"].logs), as_figure(done.seen["lent"].logs)
    shares = [stage.harvest_share for stage in done.harvests("flags")]
    oracle = [ours / theirs for ours, theirs in zip(shares, done.oracle_shares(), strict=True)]
    windows = [window for stage in done.windows("flags") for window in stage]
    resumes = [window.resume_us for window in windows if window.resume_us is not None]
    high = max(flags.high, lent.high)
    control = done.seen["control"].lines
    return {
        "slowdown": lent,
        "slowdown_high": Figure(median=high, low=lent.high, high=flags.high, n=flags.n, unit="1"),
        "slowdown_flags_only": flags,
        "slowdown_direct": as_figure(done.direct),
        "slowdown_naive": as_figure(done.seen["naive"].logs),
        "harvest_share_min": worst(shares),
        "oracle_share_min": worst(oracle),
        "throughput_share": worst(done.throughput_shares("flags")),
        "overrun_us_p99": quantile([w.overrun_us for w in windows], at=0.99, unit="us"),
        "resume_us": middle(resumes, unit="us"),
        "hook_cost": hook_cost.hook_cost(DIGITS, pairs=50 if quick else 500),
        "call_cost_us": call_cost.call_cost_us(),
        "guard_steps_to_shut_10pct": steps_to_shut(control, 0.10),
        "guard_false_trips_per_1000": false_trips(control),
        "watch_core_share_64": watch_cost.watch_core_share(64, seconds=10 if quick else 30),
    }


def rows(done: Squeeze, *, quick: bool) -> list[dict[str, Any]]:
    """One row per variant and stage, and how the figures were taken."""
    found: list[dict[str, Any]] = [
        {"trial": "digits MLP 64-64-64-10, 16 slots, Adam, batch 32, float32"},
        {"primary": "examples/gpt_pipeline/train.py, defaults, two stages, 4 microbatches"},
        {
            "method": "slowdown_high: the larger upper end of flags and lent. overrun: CPU time of "
            "the worker from the wake-up of the primary (sched_waking) to the next opening. "
            "resume: from the primary's switch-out to the first unit of a trial. guard: recorded "
            "steps of `control`, the slowdown multiplied into the open ones, a real guard. watch: "
            "real supervisors, simulated pages, workers that sleep",
        },
        {"variant": "control", "slowdown": vars_of(as_figure(done.seen["control"].logs))},
        {"variant": "flags against plain", "slowdown": vars_of(as_figure(done.vs_plain))},
        {"oracle_share_by_stage": done.oracle_shares()},
        {
            "alone_samples_per_s": [
                statistics.median(r) for r in zip(*done.alone_rates, strict=True)
            ]
        },
    ]
    for variant in ("flags", "lent"):
        stages = zip(
            done.harvests(variant),
            done.windows(variant),
            done.throughput_shares(variant),
            strict=True,
        )
        for account, windows, throughput in stages:
            found.append(
                {
                    "variant": variant,
                    "stage": account.stage,
                    "step_open_ms": 1e3 * statistics.median(done.seen[variant].open_means_s),
                    "bubble_share": account.bubble_share,
                    "open_of_bubble": account.open_s / max(account.bubble_s, 1e-9),
                    "harvest_share": account.harvest_share,
                    "other_of_bubble": account.other_s / max(account.bubble_s, 1e-9),
                    "throughput_share": throughput,
                    "windows": len(windows),
                    "overrun_us": quantiles([w.overrun_us for w in windows]),
                    "delay_us": quantiles([w.delay_us for w in windows]),
                    "resume_us": quantiles(
                        [w.resume_us for w in windows if w.resume_us is not None]
                    ),
                }
            )
    found.append(
        {"guard_steps_to_shut_3pct": vars_of(steps_to_shut(done.seen["control"].lines, 0.03))}
    )
    for name in [name for name in hook_cost.MODELS if name != DIGITS]:
        cost = hook_cost.hook_cost(name, pairs=20 if quick else 200)
        found.append({"hook_cost": name, **vars_of(cost)})
    return found


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Returns the 50th, 90th and 99th percentile and the largest value."""
    ordered = sorted(values)
    if not ordered:
        return {}
    marks = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {
        name: round(ordered[min(len(ordered) - 1, int(part * len(ordered)))], 1)
        for name, part in marks.items()
    }


def vars_of(figure: Figure | NotTaken) -> dict[str, Any]:
    if isinstance(figure, NotTaken):
        return {"why": figure.why}
    return {"median": figure.median, "low": figure.low, "high": figure.high, "n": figure.n}


def run(cycles: int, *, quick: bool) -> tuple[dict[str, Figure | NotTaken], list[Any], str]:
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
        lanes = directory / "lanes"
        for number, core in enumerate(cores):
            make_lane(lanes, number, core=core)
        naive = stack.enter_context(
            local_primary(
                directory, cores, ["-m", "benchmarks.naive_primary"], name="naive", lanes=lanes
            )
        )
        naive.run_block(2, settle=5)
        ungated = UngatedTrials(directory, cores, study=STUDY, slots=SLOTS)
        stack.callback(ungated.close)
        naive.ranks.go_on()
        gated = UngatedTrials(directory, cores, study=STUDY, slots=SLOTS, lanes=lanes)
        stack.callback(gated.close)
        naive.ranks.stop()
        done = Squeeze(job=job, lent=lent, plain=plain, naive=naive, ungated=ungated, gated=gated)
        stack.callback(done.trace.close)
        for number in range(cycles):
            done.cycle()
            if number % 5 == 4:
                say(done, number + 1, cycles)
        found, details = figures(done, quick=quick), rows(done, quick=quick)
    return found, details + other_engine.rows(1 if quick else 6), version


def say(done: Squeeze, number: int, cycles: int) -> None:
    now = as_figure(done.seen["flags"].logs)
    shares = ", ".join(f"{stage.harvest_share:.2f}" for stage in done.harvests("flags"))
    print(
        f"cycle {number}/{cycles}: flags {now.median:+.2%} [{now.low:+.2%}, {now.high:+.2%}], "
        f"harvest {shares}",
        flush=True,
    )


def main() -> int:
    arguments = parse_arguments(__doc__.partition("\n")[0])
    quick = arguments.quick
    found, details, version = run(QUICK_CYCLES if quick else CYCLES, quick=quick)
    write_result("squeeze", figures=found, rows=details, out=arguments.out, slurm=version)
    return 0


if __name__ == "__main__":
    sys.exit(main())
