"""One trial as every process sees it: what the search hands out, and how it can end."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from hydro_hpc.study.space import Params

Outcome = Literal["complete", "pruned", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Everything that a trial's result is a function of, beside the study file itself."""

    number: int
    seed: int
    params: Params


class TrialFailedError(Exception):
    """One trial cannot go on (its loss is not finite); the study does. The text is the reason."""


def trial_seed(study_seed: int, number: int) -> int:
    """Returns the seed of a trial: 31 bits, the same on every machine, unrelated between trials."""
    digest = hashlib.sha256(f"{study_seed}:{number}".encode()).digest()
    return int.from_bytes(digest[:4], "little") & 0x7FFFFFFF
