"""`hydro pause JOB` and `hydro resume JOB`: a switch over the bubbles of a running job.

Its owner's goes to the job's nodes by `srun --overlap` into the job, and writes the owner word of
each of its lanes there (`owner_word`). Only the job's user may write it: the page is his file.
Trials look at the word before each unit of work, so they pause within that. Anybody else's is
Slurm's suspend of the gangs on the job's devices, which Slurm grants to its admins only.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from typing import TYPE_CHECKING

from hydro_hpc import owner_word
from hydro_hpc.errors import EXIT_DONE, EXIT_FAILED, SlurmError
from hydro_hpc.slurm_command import run_slurm

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_commands(subparsers: Subparsers) -> None:
    """Adds `pause` and `resume`; see `devcluster.commands.add_commands`."""
    helps = {
        "pause": "keep the bubbles of a running job to itself, until `hydro resume`",
        "resume": "lend the bubbles of a running job again",
    }
    for name, text in helps.items():
        parser = subparsers.add_parser(
            name,
            help=text,
            epilog="Of your own job: trials pause, whoever runs them, until you resume. Of another "
            "user's, as an admin: Slurm suspends, or resumes, the gangs that hold its devices now.",
        )
        parser.add_argument("job", type=int, metavar="JOB", help="the job that lends")
        parser.add_argument(
            "--here", action="store_true", help="on this node alone, without asking Slurm"
        )
        parser.add_argument(
            "--partition",
            default="bubble",
            metavar="NAME",
            help="an admin's: the tenant partition (default: bubble)",
        )
        parser.set_defaults(command=_switch, verb=name)


def _switch(arguments: argparse.Namespace) -> int:
    job, verb = arguments.job, arguments.verb
    if arguments.here:
        return owner_word.main([str(job), verb])
    num_nodes, uid = _nodes_and_user(job)
    if uid == os.getuid():
        return _switch_own(verb, job, num_nodes)
    return _switch_gangs(verb, job, arguments.partition)


def _switch_own(verb: str, job: int, num_nodes: int) -> int:
    """Writes the words on every node of the job; what is said there is passed on."""
    command = ["srun", f"--jobid={job}", "--overlap", f"--nodes={num_nodes}"]
    command += [f"--ntasks={num_nodes}", "--ntasks-per-node=1", "--cpu-bind=none", "--mem=0"]
    command += ["--quiet", f"--job-name=hydro-{verb}"]
    done = run_slurm([*command, sys.executable, "-P", "-m", owner_word.__name__, str(job), verb])
    print(done.stdout, end="")
    print(done.stderr, end="", file=sys.stderr)
    return EXIT_DONE if done.returncode == 0 else EXIT_FAILED


def _switch_gangs(verb: str, job: int, partition: str) -> int:
    from slurm_plugin.commandline_client import CommandLineSlurm
    from slurm_plugin.gang_switch import switch_gangs

    gangs = switch_gangs(CommandLineSlurm(partition=partition), verb, job)
    done = {"pause": "suspended", "resume": "resumed"}[verb]
    print(f"on the devices of job {job}, {done}: gang " + ", ".join(map(str, gangs)))
    return EXIT_DONE


def _nodes_and_user(job: int) -> tuple[int, int]:
    """Returns how many nodes a running job has, and its user."""
    if shutil.which("squeue") is None:
        raise SlurmError("squeue is not on your PATH; run this where Slurm is")
    command = ["squeue", "--noheader", f"--jobs={job}", "--states=RUNNING", "--format=%D %U"]
    done = run_slurm(command)
    if done.returncode:
        raise SlurmError(f"squeue does not tell of job {job}: {done.stderr.strip()}")
    words = done.stdout.split()
    if len(words) != 2 or not all(word.isdigit() for word in words):
        raise SlurmError(f"job {job} does not run; see: squeue --me")
    return int(words[0]), int(words[1])
