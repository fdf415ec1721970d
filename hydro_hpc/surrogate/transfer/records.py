"""What candidates have reached on the target, kept in the study's folder: `targets/<number>.*`.

<number>.json   the value after each epoch, and how it ended
<number>.pt     the training after its last epoch, while it has not ended
<number>.log    what went wrong, with its traceback
lock            held by the process that verifies
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock, Timeout

from hydro_hpc.atomic_write import replacing, write_text
from hydro_hpc.errors import StudyError

State = Literal["in work", "complete", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """`values`: on the test set after each epoch. `epochs` and `batch_size` are the horizon of the
    target for which they were taken, `model` says what the model was, None if that is not known.
    """

    number: int
    epochs: int
    batch_size: int
    model: str | None = None
    values: tuple[float, ...] = ()
    state: State = "in work"
    reason: str = ""  # of a failure

    @property
    def has_ended(self) -> bool:
        return self.state != "in work"


class Records:
    """Of one study's folder. StudyError if another process verifies it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = FileLock(directory / "lock", timeout=0)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout:
            raise StudyError(
                f"{directory} is in use by another hydro transfer; wait until it has ended"
            ) from None
        except OSError as error:
            raise StudyError(_unwritable(directory, error)) from None

    def close(self) -> None:
        self._lock.release()

    def state_of(self, number: int) -> dict[str, Any] | None:
        """Of its training, None if it has not begun or has ended. StudyError if it is spoiled."""
        path = self._directory / f"{number}.pt"
        if not path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(path, weights_only=True)
        except Exception:  # torch has no one error for what it cannot read
            raise StudyError(_unusable(path)) from None
        if not isinstance(state, dict) or not {"values", "epochs", "batch_size"} <= state.keys():
            raise StudyError(_unusable(path))
        return state

    def unusable(self, number: int) -> StudyError:
        """Says that the training which is stored is of another model."""
        return StudyError(_unusable(self._directory / f"{number}.pt"))

    def keep(self, record: Record, state: dict[str, Any] | None) -> None:
        """The state first: on the way, it is what a training goes on from. StudyError if there is
        no room for it.
        """
        try:
            self._keep(record, state)
        except (OSError, RuntimeError) as error:  # the latter is torch's
            raise StudyError(_unwritable(self._directory, error)) from None

    def _keep(self, record: Record, state: dict[str, Any] | None) -> None:
        stored = self._directory / f"{record.number}.pt"
        if state is not None:
            with replacing(stored) as temporary:
                torch.save(state, temporary)
        write_text(self._directory / f"{record.number}.json", json.dumps(asdict(record)))
        if record.has_ended:
            stored.unlink(missing_ok=True)

    def keep_log(self, number: int, text: str) -> Path:
        path = self._directory / f"{number}.log"
        path.write_text(text, encoding="utf-8")
        return path


def known_records(directory: Path) -> dict[int, Record]:
    """By trial; may be read while another process verifies."""
    found = [_read(path) for path in sorted(directory.glob("*.json"))]
    return {record.number: record for record in found}


def _read(path: Path) -> Record:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return Record(**{**facts, "values": tuple(facts["values"])})
    except (OSError, ValueError, KeyError, TypeError):
        raise StudyError(
            f"{path} cannot be read; remove it, and its trial is verified again"
        ) from None


def _unwritable(directory: Path, error: Exception) -> str:
    why = error.strerror if isinstance(error, OSError) else next(iter(str(error).splitlines()), "")
    return (
        f"{directory} cannot be written ({why}); what was kept in it before stands: make room, or "
        "copy the study with its folder to where you may write"
    )


def _unusable(path: Path) -> str:
    return (
        f"{path} holds no training of this study's target as it is now; remove it, and its trial "
        "is verified from its start"
    )
