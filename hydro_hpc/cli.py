"""The command `hydro`: parses, calls, and says errors in one sentence."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from hydro_hpc import owner
from hydro_hpc.demo import command as demo
from hydro_hpc.devcluster import commands as cluster
from hydro_hpc.errors import HydroError
from hydro_hpc.report import commands as report
from hydro_hpc.report import explain
from hydro_hpc.surrogate import check_command as check_surrogate
from hydro_hpc.surrogate import transfer_command as transfer


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code (`hydro_hpc.errors`)."""
    arguments = make_parser().parse_args(argv)
    try:
        return int(arguments.command(arguments))
    except HydroError as error:
        print(f"hydro: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hydro",
        description="Runs and shows Hydro on this machine's Slurm, or on one of its own.",
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for part in (demo, report, explain, check_surrogate, transfer, owner, cluster):
        part.add_commands(subparsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())
