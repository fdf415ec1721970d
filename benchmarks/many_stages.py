"""The squeezer on one stage of a long pipeline whose other stages are emulated, by the flags alone.

python -m benchmarks.many_stages [--quick] [--out FILE]                  (on an idle machine)

`benchmarks/emulated_primary.py` on two cores: one real stage on its own core lends to a real
`hydro-trial`; seven emulated ones answer in time. First, middle and last stage, one after the
other. Emulated stages never vary, real ones do: prediction is easier here than in a real pipeline.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from benchmarks.blocks import Seen, as_figure, run_gated, within
from benchmarks.result_file import Figure, NotTaken, parse_arguments, write_result
from benchmarks.running import ROOT, local_primary, wait_until
from hydro_hpc.page import Page, page_path
from hydro_hpc.page_layout import PageKind, Word
from hydro_hpc.report.harvest import Harvest, harvest
from hydro_hpc.report.lanes import LanePlace
from hydro_hpc.report.recording import LaneRecorder
from tests.hydro_hpc.lanes import make_lane

STAGES: Final = 8
MICROBATCHES: Final = 8
POSITIONS: Final = {"first": 0, "middle": 3, "last": 7}
STEPS: Final = 32
BLOCKS: Final = 3
QUICK_BLOCKS: Final = 1
STUDY: Final = Path(__file__).parent / "digits_endless.py"
LEAVE_S: Final = 20.0


@contextlib.contextmanager
def trials_beside(directory: Path, lane: str, **settings: str) -> Iterator[None]:
    """`hydro-trial` with the endless study, in one lane without Slurm; inside, it trains."""
    shutil.copy(STUDY, directory / "study.py")
    shutil.copy(ROOT / "examples/digits/study.py", directory / "digits_example.py")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HYDRO_PAGE_DIR": str(Path(lane).parent),
        "HYDRO_LANES": "0",
        "HYDRO_ROLE": "take",
        "HYDRO_IDLE_CLASS": "0",
        "SLURM_JOB_ID": "2",
        **settings,
    }
    command = [sys.executable, "-m", "hydro_hpc.trial.command", "study.py", "--slots", "16"]
    page = Page.map_for_reading(page_path(lane, PageKind.TRIAL), PageKind.TRIAL)
    before = {0, page.get("pid")}
    with (directory / "trial.log").open("w") as log:
        process = subprocess.Popen(command, cwd=directory, env=environment, stdout=log, stderr=log)
    try:
        wait_until(lambda: page.get("pid") not in before and page.get("num_samples") > 0)
        yield
    finally:
        process.terminate()
        try:
            process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def measure(real: int, blocks: int) -> tuple[Seen, Seen, Harvest]:
    """Returns flags, control and harvest of one position of the real stage."""
    core, others = sorted(os.sched_getaffinity(0))[:2]
    flags, control = Seen(), Seen()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        lane = make_lane(directory / "lanes", core=core, tenant_job=2)
        command = ["-m", "benchmarks.emulated_primary"]
        command += ["--real", str(real), "--microbatches", str(MICROBATCHES)]
        primary = stack.enter_context(
            local_primary(
                directory,
                [core if rank == real else others for rank in range(STAGES)],
                command,
                lanes=directory / "lanes",
                lending=(real,),
            )
        )
        primary.run_block(1, settle=5)
        primary.ranks.go_on()
        stack.enter_context(trials_beside(directory, lane))
        recorder = LaneRecorder(place=LanePlace(node="here", device=0, path=lane))
        page = Page.map_for_changing(page_path(lane, PageKind.STAGE), PageKind.STAGE)
        order = [(flags, Word.RUN), (control, Word.HOLD)]
        for _ in range(blocks):
            order.reverse()
            for seen, word in order:
                page.set("owner_word", word)
                run_gated(primary, seen, steps=STEPS)
                page.set("owner_word", Word.HOLD)
            recorder.read()
        page.set("owner_word", Word.RUN)
        primary.ranks.go_on()  # the trials leave in windows
        recording = recorder.recording()
    return flags, control, harvest(within(recording, flags.spans_ns))


def main() -> int:
    arguments = parse_arguments(__doc__.partition("\n")[0])
    blocks = QUICK_BLOCKS if arguments.quick else BLOCKS
    figures: dict[str, Figure | NotTaken] = {}
    rows: list[dict[str, Any]] = [
        {
            "method": f"emulated peers: {STAGES - 1} of {STAGES} stages sleep as long as the real "
            f"one computes; 1F1B, {MICROBATCHES} microbatches; slowdown as in squeeze, flags alone"
        }
    ]
    for name, real in POSITIONS.items():
        started = time.monotonic()
        flags, control, account = measure(real, blocks)
        figures[f"slowdown_{name}"] = as_figure(flags.logs)
        figures[f"control_{name}"] = as_figure(control.logs)
        figures[f"harvest_share_{name}"] = Figure(
            median=account.harvest_share,
            low=account.harvest_share,
            high=account.harvest_share,
            n=len(flags.logs),
            unit="1",
        )
        rows.append(
            {
                "stage": real,
                "step_open_ms": 1e3 * statistics.median(flags.open_means_s),
                "bubble_share": account.bubble_share,
                "open_of_bubble": account.open_s / max(account.bubble_s, 1e-9),
                "took_s": round(time.monotonic() - started),
            }
        )
    write_result("many_stages", figures=figures, rows=rows, out=arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
