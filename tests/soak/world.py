"""Primary, gang and their node together: made healthy before a fault, looked at after it."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Final

from hydro_hpc.page_layout import RecordKind
from hydro_hpc.study import load_study
from hydro_hpc.study.trial import trial_seed
from tests.hydro_hpc.tiny_study import write_study
from tests.soak.curve import LossFile, Reference
from tests.soak.jobs import GangJob, PrimaryJob, wait_until
from tests.soak.node import TENANT_LANE, Node
from tests.soak.study_log import Result, StudyLog

TRIALS: Final = 1_000_000  # it is never done
EPOCHS: Final = 8
GOES_ON_STEPS: Final = 5
SLOWER_FRAC: Final = 0.25  # open steps against shut ones; on a busy machine less would be noise
JUDGED_STEPS: Final = 200  # of each kind, in all


class World:
    """`heal`, a fault, then the `check_` methods."""

    def __init__(self) -> None:
        self.node = Node()
        directory = self.node.alice.folder("training")
        self.losses = LossFile(directory)
        self._directory = directory
        self._reference = Reference(self.node, self.node.alice.folder("reference"))
        self._reference.loss(0)  # before anybody needs the cores
        self.study = write_study(self.node.bob.home, trials=TRIALS, epochs=EPOCHS)
        self._journal = self.node.bob.home / "tiny.hydro/journal.log"
        self._log = StudyLog(self._journal)
        self._primary: PrimaryJob | None = None
        self._gang: GangJob | None = None
        self._step = -1  # the last that the primary has made
        self._step_ns: dict[bool, list[int]] = {True: [], False: []}  # by whether it was shut
        self._records_read = 0

    @property
    def primary(self) -> PrimaryJob:
        assert self._primary is not None
        return self._primary

    @property
    def gang(self) -> GangJob:
        assert self._gang is not None
        return self._gang

    def end_all(self) -> None:
        """Ends both jobs, whatever state they are in."""
        for role in ("take", "lend"):
            self.node.kill(role)
        for job in (self._gang, self._primary):
            if job is not None:
                job.end()
        self._gang = self._primary = None

    def close(self) -> None:
        self.end_all()
        self.node.close()

    # -- making it healthy ---------------------------------------------------------------------

    def heal(self) -> None:
        """Starts what does not run; returns when the primary lends and the gang trains."""
        if self._primary is None or not self._primary.is_running():
            self.start_primary()
        wait_until(self.primary.is_sharing, "the primary lends its bubbles")
        if self._gang is None or not self._gang.is_running():
            self.start_gang()
        self.wait_for_training()

    def start_primary(self) -> None:
        self._primary = PrimaryJob(self.node, self._directory)
        self._records_read = 0
        assert "HYDRO_LANES=0,1" in self._primary.answer, self._primary.answer

    def start_gang(self) -> None:
        if self._gang is not None:
            self.check_gang_is_gone()
        self._gang = GangJob(self.node)
        assert self._gang.has_lane, self._gang.answer

    def end_gang(self) -> None:
        """What Slurm does after the gang's first process has ended."""
        assert self._gang is not None
        self._gang.leave()
        self._gang.end()
        self._gang = None

    def wait_for_training(self) -> None:
        before = self.gang.samples()
        self._wait_while_gang_runs(lambda: self.gang.samples() not in (0, before))

    def wait_for_result(self) -> None:
        """As `wait_for_training`, whatever the gang's page says."""
        before = len(self.results())
        self._wait_while_gang_runs(lambda: len(self.results()) > before)

    def _wait_while_gang_runs(self, condition: Callable[[], bool]) -> None:
        def is_met() -> bool:
            assert self.gang.is_running(), f"the gang ended: {self.gang_log()}"
            return condition()

        wait_until(is_met, "the gang trains")

    def replace_gang(self, gang: GangJob) -> None:
        """Takes a gang that a fault has started instead of the one that it ended."""
        assert gang.has_lane, gang.answer
        self._gang = gang

    # -- looks ---------------------------------------------------------------------------------

    def gang_log(self) -> str:
        return (self.node.bob.home / "gang.log").read_text()[-2000:]

    def results(self) -> dict[int, Result]:
        """Returns what has been found so far; a result that comes twice fails the test."""
        return dict(self._log.read())

    def seed_of(self, number: int) -> int:
        return trial_seed(load_study(self.study).seed, number)

    def check_curve(self) -> None:
        """Every loss that the primary wrote since the last look is that of the reference."""
        for step, loss in self.losses.read():
            assert loss == self._reference.loss(step), f"the loss of step {step}"
            self._step = step

    def check_primary_goes_on(self) -> None:
        self.check_curve()
        before = self._step

        def has_gone_on() -> bool:
            assert self.primary.is_running(), "the primary has ended"
            self.check_curve()
            return self._step >= before + GOES_ON_STEPS

        wait_until(has_gone_on, f"{GOES_ON_STEPS} more steps of the primary")

    def check_steps(self) -> None:
        """Steps in which the gang may run take no longer than those in which it may not."""
        records = list(self.primary.page(TENANT_LANE).records(self._records_read))
        for number, record in records:
            self._records_read = number + 1
            if record.kind == RecordKind.STEP:
                self._step_ns[bool(record.value)].append(record.end_ns - record.start_ns)
        opened, shut = self._step_ns[False], self._step_ns[True]
        if min(len(opened), len(shut)) >= JUDGED_STEPS:
            slowdown = statistics.median(opened) / statistics.median(shut) - 1
            assert slowdown < SLOWER_FRAC, f"open steps take {slowdown:+.0%}"

    def check_results(self, before: dict[int, Result]) -> None:
        """All that had been found is still there; `StudyLog` checks that nothing is twice."""
        now = StudyLog(self._journal).read()  # all of it anew
        assert {number: now.get(number) for number in before} == before

    def check_gang_is_gone(self) -> None:
        """Nothing of a gang that has ended is left; the plugin has been told."""
        self.end_gang()
        wait_until(lambda: not self.node.processes("take"), "no process of the gang is left", 5)
        files = self.node.lane_files(TENANT_LANE)
        assert files == {"site", "stage"}, files

    def calls_of_slurm(self) -> str:
        """Returns Slurm's commands that were called since the last look."""
        text = self.node.calls.read_text()
        self.node.calls.write_text("")
        return text
