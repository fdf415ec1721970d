"""`hydro-trial --exec`: the parent of a command, which pauses it outside bubbles.

It sleeps on the gate word. In a window it looks every 0.2 ms, since the primary wakes nobody when
it closes; that costs the bubble 5%, and the primary nothing. What it takes from a core is in the
ordinary class only inside windows: a batch task that the primary wakes does not push it off.

Not covered: GPU time. On a GPU, kernels that are queued already run on after a pause.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final, NamedTuple

from hydro_hpc.config import Settings, load_settings
from hydro_hpc.devices import cpu_core
from hydro_hpc.errors import EXIT_FAILED, EXIT_NOT_FOUND, EXIT_NOT_RUNNABLE, HydroError
from hydro_hpc.page import Page
from hydro_hpc.page_layout import RecordKind, TrialState
from hydro_hpc.trial.channel import Channel
from hydro_hpc.trial.events import (
    Action,
    AskToEnd,
    DeviceUsed,
    End,
    Event,
    GateSeen,
    LeaveOrdered,
    Pause,
    Run,
)
from hydro_hpc.trial.freezer import Freezer, make_freezer
from hydro_hpc.trial.lane import TenantLane, no_wait
from hydro_hpc.trial.messages import RankLeaves
from hydro_hpc.trial.process_tree import BySignals, ProcessTree, Tree
from hydro_hpc.trial.residency import Residency, advance
from hydro_hpc.trial.runs import EndedRun, RunWriter
from hydro_hpc.wait import FutexWord, Waiter

POLL_S: Final = 200e-6  # in a window
SLEEP_S: Final = 1.0  # outside
LEAVE_LOOK_S: Final = 0.02
LEAVE_NS: Final = 10_000_000_000  # from SIGTERM to SIGKILL
KILL_S: Final = 5.0
LEAST_RUN_NS: Final = 500_000  # a shorter rest of a window is not worth two rounds of signals


class Core(NamedTuple):
    """How this process behaves on the core that it may share with the primary."""

    let_primary_block: Callable[[], None] = no_wait  # after an opening
    stand_ready: Callable[[], None] = no_wait  # in a window, to end it in time
    stand_back: Callable[[], None] = no_wait


ON_GPU: Final = Core()


class Pauser:
    """Lets a tree of processes run in the windows of a lane; it is paused when this begins."""

    def __init__(
        self,
        *,
        lane: TenantLane,
        tree: Tree,
        waiter: Waiter,
        page: Page,
        settings: Settings,
        core: Core = ON_GPU,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._lane = lane
        self._tree = tree
        self._waiter = waiter
        self._page = page
        self._writer = RunWriter(page)
        self._margin_ns = int(settings.margin_us * 1000)
        self._core = core
        self._now_ns = now_ns
        self._state = Residency(
            grace_ns=int(settings.grace_ms * 1e6),
            leave_ns=LEAVE_NS,
            pauses_itself=False,
            is_paused=True,
        )
        self._pausing_ns = 0  # what a pause takes, of late
        self._deadline_ns = 0
        self._is_leaving = False
        self._used_ns = 0
        self._run: EndedRun | None = None  # the open one, or one that is not written yet
        self.ended_because: str | None = None

    def run(self) -> int:
        """Returns the command's exit code (negative: a signal) once nothing of it is left."""
        while self._tree.exit_code() is None and self.ended_because is None:
            self._waiter.wait_change(*self.turn())
        if not self._state.is_paused:
            self._end_run()
        self._write_run()
        self._tree.kill(give_up_s=KILL_S)
        code = self._tree.exit_code()
        return -signal.SIGKILL if code is None else code

    def leave(self) -> None:
        """Ends the command at the next turn; may be called from a signal handler."""
        self._is_leaving = True

    def turn(self) -> tuple[int, float]:
        """Looks, and does what follows; returns the gate word and how long to sleep on it."""
        if self._state.is_paused or self._state.leave_by_ns is not None:
            self._measure()
            self._write_run()
        if self._is_leaving:
            self._is_leaving = False
            self._happened(LeaveOrdered(at_ns=self._now_ns()))
        seen = self._look()
        if seen.permits and self._state.is_paused:
            self._core.let_primary_block()
            seen = self._look()
        self._happened(seen)
        return seen.word, self._sleep_s()

    def _look(self) -> GateSeen:
        """A window counts as shut from its deadline on."""
        seen = self._lane.look(self._now_ns())
        if not seen.is_open:
            return seen
        end_ns = self._lane.window_end_ns(seen.word)
        self._deadline_ns = end_ns - self._margin_ns - self._pausing_ns
        least_ns = LEAST_RUN_NS if self._state.is_paused else 0
        return replace(seen, is_open=seen.at_ns + least_ns < self._deadline_ns)

    def _sleep_s(self) -> float:
        if self._state.leave_by_ns is not None:
            return LEAVE_LOOK_S
        if self._state.is_paused:
            return SLEEP_S
        return max(0.0, min(POLL_S, (self._deadline_ns - self._now_ns()) / 1e9))

    def _measure(self) -> None:
        self._used_ns = self._tree.used_ns()
        self._happened(DeviceUsed(at_ns=self._now_ns(), used_ns=self._used_ns))

    def _happened(self, event: Event) -> None:
        self._state, actions = advance(self._state, event)
        for action in actions:
            self._act(action, event)

    def _act(self, action: Action, event: Event) -> None:
        if isinstance(action, Run) and isinstance(event, GateSeen):
            self._begin_run(event)
            self._core.stand_ready()
            self._tree.resume()
        elif isinstance(action, Pause):
            started_ns = self._now_ns()
            self._tree.pause()
            self._pausing_ns = max(self._now_ns() - started_ns, self._pausing_ns * 9 // 10)
            self._core.stand_back()
            self._end_run()
        elif isinstance(action, AskToEnd):
            self._end_run()
            self._tree.ask_to_end()
        elif isinstance(action, End):
            self.ended_because = action.reason

    def _begin_run(self, seen: GateSeen) -> None:
        self._page.set("ack_word", seen.word)
        self._run = EndedRun(
            kind=RecordKind.RUN,
            word=seen.word,
            step=self._lane.stage.get("step"),
            start_ns=seen.at_ns,
            last_unit_ns=seen.at_ns,
            end_ns=0,
            device_ns=-self._used_ns,
            last_device_ns=0,
            late_ns=0,
            num_samples=0,
        )

    def _end_run(self) -> None:
        """Notes the end; what was used after the close is at least what the time before it cannot
        hold. It is written at the next look: the primary may want its core now.
        """
        run = self._run
        if run is None or run.end_ns:
            return
        end_ns = self._now_ns()
        stage = self._lane.stage
        close_ns = stage.get("close_ns")
        is_late = stage.get("gate_word") != run.word and run.start_ns <= close_ns < end_ns
        self._used_ns = self._tree.used_ns()
        device_ns = self._used_ns + run.device_ns
        after_ns = max(0, device_ns - (close_ns - run.start_ns)) if is_late else 0
        self._run = replace(
            run,
            last_unit_ns=close_ns if is_late else run.start_ns,
            end_ns=end_ns,
            device_ns=device_ns,
            last_device_ns=after_ns if is_late else device_ns,
            late_ns=end_ns - close_ns if is_late else 0,
        )

    def _write_run(self) -> None:
        if self._run is not None and self._run.end_ns:
            self._writer.write(self._run, margin_ns=self._margin_ns + self._pausing_ns)
            self._run = None
        self._page.set("heartbeat_ns", self._now_ns())


def main() -> int:
    arguments = _parse()
    channel = Channel(socket.socket(fileno=arguments.channel))
    try:
        settings = load_settings(os.environ)
        lane = TenantLane(arguments.lane)
        return _run(lane, settings, arguments.words, channel)
    except HydroError as error:
        return _give_up(channel, str(error), error.exit_code)


def _run(lane: TenantLane, settings: Settings, words: list[str], channel: Channel) -> int:
    page = lane.trial_page()
    page.set("state", TrialState.STARTING)
    cpu_core.adopt_orphans()
    freezer = make_freezer(group_name(os.getpid()))
    try:
        process, freezer = _start(lane, settings, words, freezer)
    except OSError as error:
        code = EXIT_NOT_FOUND if isinstance(error, FileNotFoundError) else EXIT_NOT_RUNNABLE
        return _give_up(channel, f"{words[0]} cannot be run: {error.strerror}", code)
    pausing = freezer or BySignals(os.getpid())
    pausing.pause()
    pauser = Pauser(
        lane=lane,
        tree=ProcessTree(os.getpid(), pausing, first_pid=process.pid),
        waiter=FutexWord(lane.stage, "gate_word"),
        page=page,
        settings=settings,
        core=ON_GPU if lane.cpu_core() is None else _on_core(lane),
    )
    signal.signal(signal.SIGTERM, lambda *_: pauser.leave())
    page.set("state", TrialState.TRAINING)
    process.returncode = code = pauser.run()  # reaped there, not by Popen
    page.set("state", TrialState.ENDED)
    if freezer is not None:
        freezer.close()
    if pauser.ended_because:
        return _give_up(channel, f"the command was ended: {pauser.ended_because}", EXIT_FAILED)
    return code if code >= 0 else 128 - code


def _start(
    lane: TenantLane, settings: Settings, words: list[str], freezer: Freezer | None
) -> tuple[subprocess.Popen[bytes], Freezer | None]:
    """Returns the command's process, and the freezer if it is in there. Raises OSError."""

    def before_exec() -> None:
        cpu_core.die_with_parent()
        if freezer is not None:
            freezer.join()
        lane.confine(settings)

    try:
        process = subprocess.Popen(words, start_new_session=True, preexec_fn=before_exec)
    except subprocess.SubprocessError:
        if freezer is None:
            raise
        freezer.close()
        return _start(lane, settings, words, None)
    return process, freezer


def _on_core(lane: TenantLane) -> Core:
    cpu_core.enter_batch_class()
    return Core(
        let_primary_block=lane.let_primary_block,
        stand_ready=cpu_core.enter_ordinary_class,
        stand_back=cpu_core.enter_batch_class,
    )


def group_name(pid: int) -> str:
    """Returns the name of the cgroup that the pauser of this pid makes."""
    return f"hydro-{pid}"


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="hydro-trial pauser")
    parser.add_argument("--lane", required=True)
    parser.add_argument("--channel", type=int, required=True, help="file descriptor")
    parser.add_argument("words", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    arguments.words = arguments.words[1:]  # without the --
    return arguments


def _give_up(channel: Channel, reason: str, exit_code: int) -> int:
    channel.send(RankLeaves(reason=reason, exit_code=exit_code), rank=0)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
