"""`python -m hydro_hpc.study.describe STUDY.py`: checks a study and prints its description as JSON.

A process of its own for supervisors, which must not import torch or run a user's code. Ends with 2
and one sentence on stderr if the study cannot run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hydro_hpc.errors import EXIT_DONE, StudyError
from hydro_hpc.study.loading import load_study


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m hydro_hpc.study.describe",
        description="Checks a study file and prints its description as JSON.",
    )
    parser.add_argument("study", type=Path, metavar="STUDY.py")
    path = parser.parse_args(arguments).study
    try:
        study = load_study(path)
        study.check()
    except StudyError as error:
        print(f"hydro: {error}", file=sys.stderr)
        return error.exit_code
    print(study.description.to_json())
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
