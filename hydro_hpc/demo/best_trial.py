"""Trains a finished study's best trial once more: alone, unfused, in ordinary torch.

`python -m hydro_hpc.demo.best_trial STUDY.py DIRECTORY`, as the study's owner. Prints one JSON
object: the counts of the study, its best trial, and the value that it has alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from hydro_hpc.errors import EXIT_DONE, HydroError, StudyError
from hydro_hpc.study.folder import StudyFolder
from hydro_hpc.study.loading import load_study
from hydro_hpc.study.search import Search


def main() -> int:
    parser = argparse.ArgumentParser(description="Trains a study's best trial alone.")
    parser.add_argument("study", type=Path, metavar="STUDY.py")
    parser.add_argument("directory", type=Path, metavar="DIR", help="where the study's folder is")
    arguments = parser.parse_args()
    try:
        print(json.dumps(best_trial(arguments.study, arguments.directory)))
    except HydroError as error:
        print(f"hydro: {error}", file=sys.stderr)
        return error.exit_code
    return EXIT_DONE


def best_trial(file: Path, directory: Path) -> dict[str, object]:
    """Returns the study's results, with `rerun_value`. Raises StudyError if no trial completed."""
    study = load_study(file)
    search = Search(study.description, StudyFolder(directory, study.name))
    try:
        results = search.results()
    finally:
        search.close()
    if results.best is None:
        raise StudyError(f"study {study.name}: no trial completed; see the logs in its folder")
    value = study.run_alone(results.best.params, results.best.seed)
    return {**dataclasses.asdict(results), "rerun_value": value}


if __name__ == "__main__":
    sys.exit(main())
