"""`hydro pause JOB` and `hydro resume JOB`: an owner's switch over what his running job lends.

The command goes to the job's nodes by `srun --overlap` into the job, and writes the owner word of
each of its lanes there. Only the job's user may write it: the page is his file. Trials look at
the word before each unit of work, so they pause within that.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hydro_hpc.errors import EXIT_DONE, EXIT_FAILED, LaneError, SlurmError
from hydro_hpc.page import BadPageError, Page, PageKind, Word, page_path
from hydro_hpc.report.lanes import DEFAULT_PAGE_DIR, lanes_below

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

WORDS: Final = {"pause": Word.HOLD, "resume": Word.RUN}
SLURM_S: Final = 60.0  # for squeue or srun to answer


def add_commands(subparsers: Subparsers) -> None:
    """Adds `pause` and `resume`; see `devcluster.commands.add_commands`."""
    helps = {
        "pause": "keep the bubbles of your running job to itself, until `hydro resume`",
        "resume": "lend the bubbles of your running job again",
    }
    for name, text in helps.items():
        parser = subparsers.add_parser(name, help=text)
        parser.add_argument("job", type=int, metavar="JOB", help="the job that lends")
        parser.add_argument(
            "--here", action="store_true", help="on this node alone, without asking Slurm"
        )
        parser.set_defaults(command=_switch, verb=name)


def set_owner_word(page_dir: Path, job: int, word: Word) -> int:
    """Writes the word on every lane of this node that `job` lends; returns how many those are.

    Raises LaneError if there is none, or if this user may not write them.
    """
    changed = 0
    for place in lanes_below(page_dir, node=socket.gethostname()):
        try:
            site = Page.read_copy(page_path(place.path, PageKind.SITE), PageKind.SITE)
        except BadPageError:
            continue  # not lent, or just being made
        if site.get("job_id") != job:
            continue
        try:
            stage = Page.map_for_changing(page_path(place.path, PageKind.STAGE), PageKind.STAGE)
        except BadPageError as error:
            raise LaneError(f"job {job} cannot be switched by you: {error}") from None
        if stage.has_writer():  # else the training will set it to RUN when it begins
            stage.words[stage.word_index("owner_word")] = word
            changed += 1
        stage.close()
    if not changed:
        raise LaneError(f"job {job} lends nothing on {socket.gethostname()} yet; see: hydro status")
    return changed


def _switch(arguments: argparse.Namespace) -> int:
    if not arguments.here:
        return _everywhere(arguments.verb, arguments.job)
    page_dir = Path(os.environ.get("HYDRO_PAGE_DIR", DEFAULT_PAGE_DIR))
    changed = set_owner_word(page_dir, arguments.job, WORDS[arguments.verb])
    done = {"pause": "paused", "resume": "resumed"}[arguments.verb]
    print(
        f"{socket.gethostname()}: {changed} device{'s' * (changed != 1)} of job {arguments.job} "
        f"{done}"
    )
    return EXIT_DONE


def _everywhere(verb: str, job: int) -> int:
    """Runs the same command on every node of the job; what it says there is passed on."""
    nodes = _num_nodes(job)
    command = ["srun", f"--jobid={job}", "--overlap", f"--nodes={nodes}", f"--ntasks={nodes}"]
    command += ["--ntasks-per-node=1", "--cpu-bind=none", "--mem=0", "--quiet"]
    command += [f"--job-name=hydro-{verb}", sys.executable, "-m", "hydro_hpc.cli"]
    done = subprocess.run([*command, verb, "--here", str(job)], timeout=SLURM_S, check=False)
    return EXIT_DONE if done.returncode == 0 else EXIT_FAILED


def _num_nodes(job: int) -> int:
    command = ["squeue", "--noheader", f"--jobs={job}", "--states=RUNNING", "--format=%D"]
    try:
        done = subprocess.run(command, timeout=SLURM_S, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        raise SlurmError("squeue is not on your PATH; run this where Slurm is") from None
    if not done.stdout.strip().isdigit():
        raise SlurmError(f"job {job} does not run; see: squeue --me")
    return int(done.stdout)
