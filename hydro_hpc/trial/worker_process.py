"""The process that trains: one per lane, paused by its gate, watched by its supervisor.

It starts in the idle class (imports, data, binding run outside windows, where nothing else would
run), and from its first training step on does nothing on the device without the gate's leave.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Final

import torch

from hydro_hpc.config import load_settings
from hydro_hpc.devices.cpu_memory import CpuMemory, go_first
from hydro_hpc.errors import EXIT_FAILED, HydroError, LaneError
from hydro_hpc.page_layout import TrialState
from hydro_hpc.study.folder import StudyFolder
from hydro_hpc.study.loading import load_study
from hydro_hpc.study.proof import doubts
from hydro_hpc.trial.channel import Channel
from hydro_hpc.trial.gate import LeaveRequested
from hydro_hpc.trial.lane import TenantLane
from hydro_hpc.trial.messages import RankLeaves, StudyChecked
from hydro_hpc.trial.room import Room
from hydro_hpc.trial.worker import Worker

SLOTS: Final = 16


def main() -> int:
    arguments = _parse()
    channel = Channel(socket.socket(fileno=arguments.channel))
    worker = None
    try:
        go_first()
        torch.set_num_threads(1)
        settings = load_settings(os.environ)
        lane = TenantLane(arguments.lane)
        page = lane.trial_page()
        page.set("state", TrialState.STARTING)
        room = Room(
            CpuMemory(),
            spare_bytes=lane.spare_bytes,
            page=page,
            patience_ns=int(settings.patience_s * 1e9),
        )
        gate = lane.gate(settings, trial=page, look=room.look)
        signal.signal(signal.SIGTERM, lambda *_: gate.leave())
        study = load_study(arguments.study)
        folder = StudyFolder(arguments.folder, study.name)
        study.keep_rules(folder.rules)
        study.check()
        lines = [*study.surrogate_lines(), *study.surrogate_warnings()]
        lines += doubts(study, folder, arguments.study)
        if os.environ.get("SLURM_PROCID", "0") == "0":
            for line in lines:
                print(f"hydro-trial: {line}", flush=True)
        channel.send(StudyChecked(description=study.description.to_json()), rank=0)
        unit_ns = int(settings.unit_us * 1000)
        worker = Worker(study, folder, gate, channel, page, room, unit_ns=unit_ns)
        worker.run(arguments.slots or study.slots or SLOTS)
        page.set("state", TrialState.ENDED)
    except LeaveRequested:
        if worker is not None:
            worker.leave()
    except LaneError as error:
        if worker is not None:
            worker.leave()
        return _give_up(channel, str(error), error.exit_code)
    except HydroError as error:
        return _give_up(channel, str(error), error.exit_code)
    except Exception as error:
        traceback.print_exc()
        return _give_up(channel, f"{type(error).__name__}: {error}", EXIT_FAILED)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="hydro-trial worker")
    parser.add_argument("--lane", required=True)
    parser.add_argument("--channel", type=int, required=True, help="file descriptor")
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="where the study's folder is")
    parser.add_argument("--slots", type=int)
    return parser.parse_args()


def _give_up(channel: Channel, reason: str, exit_code: int) -> int:
    channel.send(RankLeaves(reason=reason, exit_code=exit_code), rank=0)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
