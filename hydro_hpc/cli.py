"""The command `hydro`: parses, calls, and says errors in one sentence."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from hydro_hpc.devcluster.commands import add_commands
from hydro_hpc.errors import HydroError


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code (`hydro_hpc.errors`)."""
    parser = argparse.ArgumentParser(prog="hydro", description=__doc__)
    add_commands(parser.add_subparsers(metavar="COMMAND", required=True))
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.command(arguments))
    except HydroError as error:
        print(f"hydro: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
