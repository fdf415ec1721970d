"""What a study's journal says on disk, whoever may be writing it: results, each exactly once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.hydro_hpc.growing_file import GrowingFile

SET_PARAM: Final = 5  # Optuna's op codes
SET_STATE: Final = 6
RUNNING: Final = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a trial ended."""

    state: int  # 1: complete
    value: float | None
    lr: float


class StudyLog:
    """The ended trials by number, read while the journal grows."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        self._file = GrowingFile(journal)
        self._rates: dict[int, float] = {}
        self.results: dict[int, Result] = {}

    def read(self) -> dict[int, Result]:
        """Returns all results; one that comes twice fails the test."""
        if not self._journal.exists():  # what it said before is lost
            return {}
        for line in self._file.new_lines():
            self._take(json.loads(line))
        return self.results

    def _take(self, entry: dict[str, Any]) -> None:
        if entry["op_code"] == SET_PARAM:
            self._rates[entry["trial_id"]] = entry["param_value_internal"]
        elif entry["op_code"] == SET_STATE and entry["state"] != RUNNING:
            number = entry["trial_id"]
            assert number not in self.results, f"trial {number} ended twice"
            value = entry["values"][0] if entry["values"] else None
            self.results[number] = Result(state=entry["state"], value=value, lr=self._rates[number])
