"""What worker, supervisors and search say to each other: frozen values, one JSON line each.

    worker -> search: AskTrials, TrialsParked, TrialReported, TrialEnded     (by way of supervisors,
                      and MPI)
    search -> worker: TrialsGiven, TrialGivenUp, TrialKept
    worker -> its supervisor: StudyChecked, RankLeaves
    supervisor -> rank 0's: RankLeaves, RankDone
    rank 0's supervisor -> all: LeaveAll

A result is *kept* once it stands in the study's journal; only then may its slot be used again.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal, get_args


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyChecked:
    """The study file can run; `description` is what the search needs of it, as JSON."""

    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AskTrials:
    """`is_first`: a worker that just started; trials its rank was given before come again.

    A `count` of 0 asks only whether every trial of the study has ended.
    """

    count: int
    is_first: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialsGiven:
    """`trials`: dicts with number, seed, params. `is_over`: there will be no more."""

    trials: list[dict[str, Any]]
    is_over: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialsParked:
    """The worker has no memory for these trials now; they are stored, for whoever asks next."""

    numbers: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialEnded:
    number: int
    state: Literal["complete", "pruned", "failed"]
    value: float | None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialReported:
    """A trial's value after an epoch (from 0), for a study that prunes."""

    number: int
    epoch: int
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialGivenUp:
    """The search prunes this trial; its worker ends it as pruned."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialKept:
    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RankLeaves:
    """A rank cannot go on here: lane lost (`exit_code` 75), stopped, or an error (1, 2)."""

    reason: str
    exit_code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RankDone:
    """A rank has no trial left and the study is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaveAll:
    """Every rank checkpoints and ends with `exit_code`."""

    reason: str
    exit_code: int


Message = (
    StudyChecked
    | AskTrials
    | TrialsGiven
    | TrialsParked
    | TrialReported
    | TrialGivenUp
    | TrialEnded
    | TrialKept
    | RankLeaves
    | RankDone
    | LeaveAll
)
_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in get_args(Message)}


def encode(message: Message, *, rank: int) -> bytes:
    """Returns one line; `rank` is the gang rank it comes from or goes to."""
    body = {"kind": type(message).__name__, "rank": rank, **dataclasses.asdict(message)}
    return json.dumps(body).encode() + b"\n"


def decode(line: bytes) -> tuple[int, Message]:
    """Returns (rank, message). Raises ValueError on anything that `encode` did not write."""
    body = json.loads(line)
    kind = _KINDS.get(body.pop("kind", ""))
    if kind is None:
        raise ValueError(f"unknown message: {line[:200]!r}")
    rank = int(body.pop("rank"))
    message: Message = kind(**body)
    return rank, message
