"""`hydro pause JOB` and `hydro resume JOB`: an owner's switch over what his running job lends.

The command goes to the job's nodes by `srun --overlap` into the job, and writes the owner word of
each of its lanes there. Only the job's user may write it: the page is his file. Trials look at
the word before each unit of work, so they pause within that.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from hydro_hpc.errors import EXIT_DONE, EXIT_FAILED, LaneError, SlurmError
from hydro_hpc.page import BadPageError, Page, page_path
from hydro_hpc.page_layout import PageKind, Word
from hydro_hpc.report.lanes import LanePlace, lanes_here
from hydro_hpc.slurm_command import run_slurm

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

WORDS: Final = {"pause": Word.HOLD, "resume": Word.RUN}


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


def set_owner_word(places: Iterable[LanePlace], job: int, word: Word) -> int:
    """Writes the word on each of this node's lanes that `job` lends; returns how many those are.

    Raises LaneError if there is none, or if this user may not write them.
    """
    changed = 0
    for place in places:
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
    changed = set_owner_word(lanes_here(), arguments.job, WORDS[arguments.verb])
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
    done = run_slurm([*command, verb, "--here", str(job)])
    print(done.stdout, end="")
    print(done.stderr, end="", file=sys.stderr)
    return EXIT_DONE if done.returncode == 0 else EXIT_FAILED


def _num_nodes(job: int) -> int:
    if shutil.which("squeue") is None:
        raise SlurmError("squeue is not on your PATH; run this where Slurm is")
    done = run_slurm(["squeue", "--noheader", f"--jobs={job}", "--states=RUNNING", "--format=%D"])
    if done.returncode:
        raise SlurmError(f"squeue does not tell of job {job}: {done.stderr.strip()}")
    if not done.stdout.strip().isdigit():
        raise SlurmError(f"job {job} does not run; see: squeue --me")
    return int(done.stdout)
