"""`hydro-trial --exec`: the process that is a command's parent, and pauses it outside bubbles."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys

from hydro_hpc.config import Settings, load_settings
from hydro_hpc.devices import cpu_core
from hydro_hpc.errors import EXIT_FAILED, EXIT_NOT_FOUND, EXIT_NOT_RUNNABLE, HydroError
from hydro_hpc.page_layout import TrialState
from hydro_hpc.trial.channel import Channel
from hydro_hpc.trial.freezer import Freezer, group_name, make_freezer
from hydro_hpc.trial.job_signals import TO_PASS_ON
from hydro_hpc.trial.lane import TenantLane
from hydro_hpc.trial.messages import RankLeaves
from hydro_hpc.trial.pausing import ON_GPU, Core, Pauser
from hydro_hpc.trial.process_tree import BySignals, ProcessTree
from hydro_hpc.wait import FutexWord


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
    except subprocess.SubprocessError as error:
        why = lane.core_problem() or str(error)
        return _give_up(channel, f"{words[0]} cannot be run: {why}", EXIT_FAILED)
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
    for number in TO_PASS_ON:
        signal.signal(number, lambda told, _: os.kill(process.pid, told))
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
