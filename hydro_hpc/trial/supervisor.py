"""One rank of a gang: waits for the lane, starts worker and search, watches, passes messages on.

It is never paused and never waits for anybody: one loop that sleeps between looks. It runs beside
the primary on the same core (CPU devices), so a look must be cheap; most of its messages wake it
at once.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from hydro_hpc.config import Settings
from hydro_hpc.devices import cpu_core
from hydro_hpc.errors import EXIT_DONE, EXIT_FAILED, EXIT_TRY_LATER, HydroError, LaneError
from hydro_hpc.trial import job_signals
from hydro_hpc.trial.channel import Channel
from hydro_hpc.trial.events import Action, End, Leave, Report
from hydro_hpc.trial.freezer import group_name, make_freezer
from hydro_hpc.trial.gang import Gang
from hydro_hpc.trial.job import CommandJob, Job, StudyJob
from hydro_hpc.trial.lane import TenantLane, local_environment
from hydro_hpc.trial.messages import LeaveAll, Message, RankDone, RankLeaves, StudyChecked
from hydro_hpc.trial.pausing import KILL_S
from hydro_hpc.trial.process_tree import BySignals, ProcessTree
from hydro_hpc.trial.resident import Resident

LOOK_S: Final = 0.05
TRUSTING_LOOK_S: Final = 4.0  # at a worker that keeps to its windows, when nobody sends messages
QUIET_S: Final = 3.0  # without a message
STOPPED_LOOK_S: Final = 0.002  # a stopped worker is continued in the next window
ARRIVAL_LOOK_S: Final = 0.1
SETTLE_S: Final = 20.0
WORKER_RESTARTS: Final = 3


@dataclass(slots=True)
class Child:
    """A process of this rank, and the channel to it."""

    process: subprocess.Popen[bytes]
    channel: Channel


class Supervisor:
    """The loop of one rank. `run` returns (exit code, reason)."""

    def __init__(self, *, gang: Gang, lane: TenantLane, job: Job, settings: Settings) -> None:
        self._gang = gang
        self._lane = lane
        self._job = job
        self._settings = settings
        self._still_ns = int(settings.arrival_s * 1e9)
        self._worker: Child | None = None
        self._search: Child | None = None
        self._resident: Resident | None = None  # the worker, watched
        self._early: list[tuple[int, Message]] = []  # for the search, before it was started
        self._search_code = EXIT_DONE
        self._command_code = EXIT_DONE
        self._pauser_pid = 0
        self._restarts = 0
        self._ranks_done: set[int] = set()
        self._leaving: LeaveAll | None = None
        self._signalled = 0
        self._message_s = 0.0  # when the last one came

    def run(self) -> tuple[int, str]:
        """Runs this rank until the study is over, or the gang has to leave."""
        job_signals.handle(leave=self._note_signal, pass_on=self._pass_on)
        if self._lane.cpu_core() is not None:
            cpu_core.enter_batch_class()  # its looks wait until the primary does
        try:
            with self._lane.lease():
                if isinstance(self._job, StudyJob):
                    self._start_worker(self._job)  # its imports need no window
                self._wait_for_primary()
                if isinstance(self._job, CommandJob) and self._leaving is None:
                    self._start_pauser(self._job)
                self._serve()
        except HydroError as error:
            self._report(RankLeaves(reason=str(error), exit_code=error.exit_code))
            self._settle()
        finally:
            self._end_children()
            job_signals.suspend_nothing()
        assert self._leaving is not None
        if self._leaving.exit_code == EXIT_DONE and self._search_code == EXIT_FAILED:
            return EXIT_FAILED, "the study is over, and no trial of it completed"
        if self._leaving.exit_code == EXIT_DONE:
            return self._command_code, ""
        return self._leaving.exit_code, self._leaving.reason

    def _why_signalled(self) -> RankLeaves:
        """A lane that is gone sends the gang elsewhere; otherwise somebody wants the job to end."""
        try:
            self._lane.not_ready(still_ns=self._still_ns)
        except LaneError as error:
            return RankLeaves(reason=str(error), exit_code=error.exit_code)
        name = signal.Signals(self._signalled).name
        return RankLeaves(
            reason=f"stopped by {name}; {self._job.going_on}",
            exit_code=128 + self._signalled,
        )

    def _note_signal(self, number: int, _frame: object) -> None:
        self._signalled = number

    def _pass_on(self, number: int, _frame: object) -> None:
        """To the command, by its parent; a study has no use for it."""
        if self._pauser_pid and self._worker is not None:
            os.kill(self._pauser_pid, number)

    def _wait_for_primary(self) -> None:
        """Waits for a writer that shows bubbles, while the gang may change its mind."""
        give_up_s = time.monotonic() + self._settings.arrival_s
        while self._leaving is None and (problem := self._lane.not_ready(still_ns=self._still_ns)):
            self._look_at_children()
            if time.monotonic() > give_up_s:
                waited = f"{self._settings.arrival_s:.0f} s"
                raise LaneError(f"the lent device's primary did not come up in {waited}: {problem}")
            self._look_for_messages(ARRIVAL_LOOK_S)

    def _serve(self) -> None:
        """The loop proper: until all ranks are told to leave and this rank's worker has ended."""
        while True:
            self._look_for_messages(self._look_s())
            self._look_at_children()
            if self._leaving is not None and self._worker is None:
                return
            if self._resident is not None:
                for action in self._resident.look():
                    self._act(action)

    def _look_s(self) -> float:
        """Returns how long to sleep: 64 supervisors of one node share its cores with primaries."""
        if self._resident is None:
            return LOOK_S
        if self._resident.is_paused:
            return STOPPED_LOOK_S
        is_quiet = time.monotonic() - self._message_s > QUIET_S
        is_calm = is_quiet and self._leaving is None and self._resident.is_trusted
        return TRUSTING_LOOK_S if is_calm else LOOK_S

    def _settle(self) -> None:
        """Waits until rank 0 has told everybody to leave."""
        give_up_s = time.monotonic() + SETTLE_S
        while self._leaving is None and time.monotonic() < give_up_s:
            self._look_for_messages(ARRIVAL_LOOK_S)
        if self._leaving is None:
            self._leave(
                LeaveAll(reason="rank 0 of the gang does not answer", exit_code=EXIT_FAILED)
            )

    # -- messages ------------------------------------------------------------------------------

    def _look_for_messages(self, timeout_s: float) -> None:
        """Sleeps up to `timeout_s`, and passes on what has come."""
        if self._signalled and self._leaving is None:
            self._report(self._why_signalled())
            self._signalled = 0
        children = [child for child in (self._worker, self._search) if child is not None]
        channels = [child.channel for child in children if child.channel.is_open]
        ready = select.select(channels, [], [], timeout_s)[0]
        for channel in ready:
            from_search = self._search is not None and channel is self._search.channel
            for about, message in channel.receive():
                self._message_s = time.monotonic()
                if from_search:
                    self._to_worker(about, message)
                else:
                    self._to_search(self._gang.rank, message)
        for about, message in self._gang.receive():
            self._message_s = time.monotonic()
            self._from_gang(about, message)

    def _from_gang(self, about: int, message: Message) -> None:
        if isinstance(message, LeaveAll):
            self._leave(message)
        elif isinstance(message, RankLeaves | RankDone):
            self._note_rank(about, message)
        elif about == self._gang.rank and self._gang.rank != 0:
            self._to_worker(about, message)
        else:
            self._to_search(about, message)

    def _to_search(self, about: int, message: Message) -> None:
        if isinstance(message, RankLeaves | RankDone):
            self._report(message)
        elif isinstance(message, StudyChecked):
            if self._gang.rank == 0 and self._search is None and isinstance(self._job, StudyJob):
                self._start_search(self._job, message.description)
        elif self._gang.rank != 0:
            self._gang.send(0, message, about=about)
        elif self._search is not None:
            self._search.channel.send(message, rank=about)
        else:
            self._early.append((about, message))

    def _to_worker(self, about: int, message: Message) -> None:
        if isinstance(message, RankLeaves):
            self._report(message)
        elif about != self._gang.rank:
            self._gang.send(about, message, about=about)
        elif self._worker is not None:
            self._worker.channel.send(message, rank=about)

    def _report(self, message: RankLeaves | RankDone) -> None:
        """Tells rank 0 how this rank stands."""
        if self._gang.rank == 0:
            self._note_rank(0, message)
        else:
            self._gang.send(0, message, about=self._gang.rank)

    def _note_rank(self, about: int, message: RankLeaves | RankDone) -> None:
        """Rank 0 only: when one rank leaves, or all are done, everybody goes."""
        if self._leaving is not None:
            return
        if isinstance(message, RankLeaves):
            order = LeaveAll(reason=message.reason, exit_code=message.exit_code)
        else:
            self._ranks_done.add(about)
            if len(self._ranks_done) < self._gang.size:
                return
            order = LeaveAll(reason="", exit_code=0)
        for rank in range(1, self._gang.size):
            self._gang.send(rank, order, about=rank)
        self._leave(order)

    def _leave(self, order: LeaveAll) -> None:
        """Asks the worker to checkpoint and end; the search ends with its channel."""
        if self._leaving is not None:
            return
        self._leaving = order
        if self._resident is not None:
            self._resident.order_leave()

    # -- children ------------------------------------------------------------------------------

    def _start_search(self, job: StudyJob, description: str) -> None:
        arguments = ["--folder", str(job.directory), "--description", description]
        module = "hydro_hpc.trial.searcher"
        self._search = self._start(module, arguments, before_exec=self._before_exec)
        for about, message in self._early:
            self._search.channel.send(message, rank=about)
        self._early.clear()

    def _start_worker(self, job: StudyJob) -> None:
        """In the idle class from its first instruction on."""
        self._worker = self._start(job.module, job.arguments(), before_exec=self._before_exec)
        self._watch(self._worker, is_gated=True)

    def _start_pauser(self, job: CommandJob) -> None:
        cpu_core.adopt_orphans()  # of a pauser that is killed
        self._worker = self._start(
            job.module,
            job.arguments(),
            before_exec=lambda: cpu_core.die_with_parent(signal.SIGTERM),
            stdin=None,
        )
        self._pauser_pid = self._worker.process.pid
        self._watch(self._worker, is_gated=False)

    def _watch(self, worker: Child, *, is_gated: bool) -> None:
        self._resident = Resident(
            worker.process,
            self._lane,
            grace_ns=int(self._settings.grace_ms * 1e6),
            leave_ns=int(self._settings.leave_s * 1e9),
            still_ns=self._still_ns,
            is_gated=is_gated,
        )

    def _start(
        self,
        module: str,
        arguments: list[str],
        *,
        before_exec: Callable[[], None],
        stdin: int | None = subprocess.DEVNULL,
    ) -> Child:
        """Starts a process of this rank; `stdin` None: ours."""
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-m", module]  # not what the user has in his directory
        command += ["--lane", self._lane.path, "--channel", str(theirs.fileno()), *arguments]
        try:
            process = subprocess.Popen(
                command,
                stdin=stdin,
                pass_fds=[theirs.fileno()],
                env=local_environment(os.environ),
                start_new_session=True,
                preexec_fn=before_exec,
            )
        except (OSError, subprocess.SubprocessError) as error:
            ours.close()
            why = self._lane.core_problem() or str(error)
            raise LaneError(f"the {module.rpartition('.')[2]} cannot be started: {why}") from None
        finally:
            theirs.close()
        return Child(process, Channel(ours))

    def _before_exec(self) -> None:
        """In the child, before exec."""
        cpu_core.die_with_parent()
        self._lane.confine(self._settings)

    def _look_at_children(self) -> None:
        """Notices children that have ended."""
        worker, search = self._worker, self._search
        if worker is not None and (code := worker.process.poll()) is not None:
            self._worker_ended(worker, code)
        if search is not None and (code := search.process.poll()) is not None:
            self._drain(search)
            self._search = None
            self._report_death("the search", code)

    def _drain(self, child: Child) -> None:
        """Passes on a dead child's last words, its reason for going among them."""
        for about, message in child.channel.receive():
            if child is self._search:
                self._to_worker(about, message)
            else:
                self._to_search(self._gang.rank, message)
        child.channel.close()

    def _act(self, action: Action) -> None:
        """Does what a look at the worker leaves for the gang to do."""
        rank = self._gang.rank
        if isinstance(action, End) and action.reason:
            reason = f"the worker of rank {rank} was ended: {action.reason}"
            self._report(RankLeaves(reason=reason, exit_code=EXIT_FAILED))
        elif isinstance(action, Leave):
            self._report(RankLeaves(reason=action.reason, exit_code=EXIT_TRY_LATER))
        elif isinstance(action, Report):
            print(f"hydro-trial: the worker of rank {rank}: {action.text}", file=sys.stderr)

    def _worker_ended(self, worker: Child, code: int) -> None:
        """A worker that was killed is started again; one that gave up takes the gang with it."""
        self._drain(worker)
        self._worker = self._resident = None
        if self._leaving is not None or self._gang.rank in self._ranks_done:
            return
        if isinstance(self._job, CommandJob) and code >= 0:
            self._command_code = code
            self._report(RankDone())
        elif code == 0:
            self._report(RankDone())
        elif (
            isinstance(self._job, StudyJob)
            and code < 0
            and self._restarts < WORKER_RESTARTS
            and not self._lane.why_gone(still_ns=self._still_ns)
        ):
            self._restarts += 1
            self._start_worker(self._job)
        else:
            name = self._job.module.rpartition(".")[2]
            self._report_death(f"the {name} of rank {self._gang.rank}", code)

    def _report_death(self, who: str, code: int) -> None:
        """A child that was killed because its lane went away (a page that somebody truncates kills
        who has it mapped) sends the gang elsewhere.
        """
        gone = self._lane.why_gone(still_ns=self._still_ns) if code < 0 else ""
        if gone:
            self._report(RankLeaves(reason=gone, exit_code=EXIT_TRY_LATER))
        else:
            exit_code = code if code > 0 else EXIT_FAILED
            self._report(RankLeaves(reason=f"{who} ended with {code}", exit_code=exit_code))

    def _end_children(self) -> None:
        for child in (self._worker, self._search):
            if child is None:
                continue
            child.channel.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(timeout=3.0 if child is self._search else 0.0)
            if child.process.poll() is None:
                child.process.kill()
                child.process.wait()
            if child is self._search:
                self._search_code = child.process.returncode
        if self._pauser_pid:
            self._end_left_behind()

    def _end_left_behind(self) -> None:
        """Kills what a pauser that was killed itself left to us; under Slurm MPI starts nobody."""
        freezer = make_freezer(group_name(self._pauser_pid))
        ProcessTree(os.getpid(), freezer or BySignals(os.getpid())).kill(give_up_s=KILL_S)
        if freezer is not None:
            freezer.close()
