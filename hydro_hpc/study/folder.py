"""A study's folder on disk, `<directory>/<name>.hydro/`: its paths, its one owner, its identity.

study.json          the description that the results belong to
journal.log         Optuna's journal; `optuna-dashboard journal.log` shows it
trials/<number>.log what went wrong in a trial, with its traceback
checkpoints/        the trials that are in work; what is in there is the worker's
proof.json          what `hydro check-surrogate` said of the surrogates, and of which model
rules/              how surrogates are built and trained, as plain numbers by parameter name
choices/            how bundles run, and why: `hydro explain`; a resumed study repeats it
targets/            how far candidates have come on the target: `hydro transfer --verify`
transfer/           the target's settings, unless `hydro transfer --out` says another place
lock                held by the process that runs the study
"""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout

from hydro_hpc.atomic_write import write_text
from hydro_hpc.errors import StudyError
from hydro_hpc.study.description import StudyDescription


class StudyFolder:
    """Owns the paths. `open` makes this process the one that may write results."""

    def __init__(self, directory: Path, name: str) -> None:
        self.path = directory.absolute() / f"{name}.hydro"
        self.description = self.path / "study.json"
        self.journal = self.path / "journal.log"
        self.trials = self.path / "trials"
        self.checkpoints = self.path / "checkpoints"
        self.choices = self.path / "choices"
        self.rules = self.path / "rules"
        self.proof = self.path / "proof.json"
        self.targets = self.path / "targets"
        self.transfer = self.path / "transfer"
        self._lock = FileLock(self.path / "lock", timeout=0)

    def open(self, description: StudyDescription) -> None:
        """Makes the folder or takes it over from a process that is gone.

        Raises StudyError if another process runs this study, or if it holds another study.
        """
        try:
            self.trials.mkdir(parents=True, exist_ok=True)
            self.checkpoints.mkdir(exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise StudyError(
                f"{self.path} is in use by another process; wait until that run has ended, "
                "or give this study another name"
            ) from None
        except OSError as error:
            raise StudyError(
                f"{self.path} cannot be written ({error.strerror}); use a folder of your own"
            ) from None
        try:
            self._keep_identity(description)
        except StudyError:
            self.close()
            raise
        self._clean_journal()

    def close(self) -> None:
        self._lock.release()

    def log_path(self, number: int) -> Path:
        return self.trials / f"{number}.log"

    def write_log(self, number: int, text: str) -> Path:
        """Stores why a trial failed; returns where."""
        path = self.log_path(number)
        path.write_text(text, encoding="utf-8")
        return path

    def check_identity(self, description: StudyDescription) -> None:
        """Raises StudyError if the folder holds another study; changes nothing."""
        if self.description.exists():
            differences = self._stored().differences(description)
            if differences:
                raise StudyError(
                    f"{self.path} holds a study of another {' and '.join(differences)}; "
                    "give this one another name, or move that folder away"
                )

    def _keep_identity(self, description: StudyDescription) -> None:
        self.check_identity(description)
        write_text(self.description, description.to_json())

    def _clean_journal(self) -> None:
        """Removes what a killed process left: half a line, and Optuna's own lock.

        Optuna would wait 30 s for that lock, or for ever if the folder has moved since. Nobody but
        the owner, who is this process now, holds it for longer than one write.
        """
        self.journal.with_name(self.journal.name + ".lock").unlink(missing_ok=True)
        _drop_torn_line(self.journal)

    def _stored(self) -> StudyDescription:
        try:
            return StudyDescription.from_json(self.description.read_text(encoding="utf-8"))
        except (ValueError, KeyError, TypeError):
            raise StudyError(
                f"{self.description} cannot be read; move the folder away to start the study afresh"
            ) from None


def spoiled(folder: StudyFolder) -> str:
    """What is said of a journal that Optuna cannot read."""
    return (
        f"{folder.journal} cannot be read: a line in it is no JSON; mend the line, or move the "
        "folder away to start the study afresh"
    )


def _drop_torn_line(journal: Path) -> None:
    """Cuts off a last line that a killed process left unfinished: Optuna cannot read past it."""
    if not journal.exists():
        return
    data = journal.read_bytes()
    complete = data.rfind(b"\n") + 1
    if complete < len(data):
        os.truncate(journal, complete)
